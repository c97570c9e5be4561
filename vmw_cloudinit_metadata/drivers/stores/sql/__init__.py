"""The store `sql`: instance data in PostgreSQL, MariaDB, MySQL or SQLite."""

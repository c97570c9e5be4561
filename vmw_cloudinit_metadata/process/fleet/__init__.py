"""The fleet: what servers behind a balancer share, in PostgreSQL."""

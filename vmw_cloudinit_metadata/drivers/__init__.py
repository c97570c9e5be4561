"""Sources of instance data: the interface of drivers, and the file driver."""

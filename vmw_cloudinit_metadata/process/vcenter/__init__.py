"""The process that reads vCenter, and what the server knows by it."""

"""What any value of instance data may be, and how it is written. Pure."""

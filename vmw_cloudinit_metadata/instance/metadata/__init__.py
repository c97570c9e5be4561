"""What meta-data may hold, and which VM a file is for. Pure."""

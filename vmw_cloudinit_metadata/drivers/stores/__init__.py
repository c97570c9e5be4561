"""Stores that are installed with the server, each an optional extra."""

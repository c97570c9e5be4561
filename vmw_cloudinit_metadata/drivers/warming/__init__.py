"""Answers that the process of the catalogue prepares: made there, kept and found in the server."""

"""The directory of instance files: which files it has, their status, and their changes."""

"""The directory of instance files: which files it has, how they look, and when they change."""

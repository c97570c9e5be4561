"""Stores that come with this package: each needs the libraries of an optional extra."""

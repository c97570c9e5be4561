"""Finds what is wrong with instance files, and why a VM has none: for `validate` and the log."""

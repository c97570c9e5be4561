"""The bytes of an instance file -> its text -> a mapping with lines. Pure."""

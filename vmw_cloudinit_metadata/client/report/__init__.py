"""The result of a load test as one HTML page, without scripts or network access.

Pure, except that the style sheet is read from its file on import.
"""

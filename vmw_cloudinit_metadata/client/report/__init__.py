"""What a load test found, as one HTML page that needs no network and holds no script.

Pure, but that the style is read from the file beside the code when that is imported.
"""

"""In place of the catalogue's process: writes what its options say, and waits for the end."""

import os
import sys

import ujson

work = ujson.loads(sys.stdin.buffer.readline())
piece = work["options"]["piece"].encode("latin-1")
for _ in range(work["options"].get("times", 1)):
    os.write(1, piece)
os.write(2, work["options"].get("error", "").encode())
if not work["options"].get("ends"):
    sys.stdin.buffer.read()

"""Text of others, made safe for journals and consoles. Pure."""

import re

MAX_PRINTED_CHARS = 200


def printable(text: object) -> str:
    """Return the text as one short line of ASCII, safe for consoles and journals."""
    clean = re.sub(r"[^ -~]", "?", str(text))
    return clean if len(clean) <= MAX_PRINTED_CHARS else clean[:MAX_PRINTED_CHARS] + "..."

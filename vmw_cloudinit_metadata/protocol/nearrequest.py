"""Lines that are almost a request: `!!REQUEST_USER-DATA#`, `!request_metadata`. Pure.

The guest that wrote one waits for an answer in vain, so the operator is told what it meant.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from difflib import get_close_matches

_WORD = b"REQUEST"
_MAX_MARKS = 4
_MAX_REST = 64  # bytes behind the word that are read, and shown

_MARKS = re.compile(rb"!+[ \t]*\Z")
_REST = re.compile(rb"([_-]?)[ \t:.]{0,2}([A-Za-z][A-Za-z0-9_.-]{0,31})[ \t]{0,2}(#?)")
_NO_LETTER = re.compile(r"[^A-Z0-9]")


@dataclass(frozen=True, slots=True)
class NearRequest:
    found: str  # printable, and nothing but the request: the rest of the line may be a secret
    document: str  # which was probably meant: "USERDATA"

    def expected(self, known: Sequence[str]) -> str:
        """Return what to write, for the nearest of the known documents or a further one."""
        close = get_close_matches(self.document, known, 1, 0.75)
        request = f"!!REQUEST_{close[0] if close else self.document}#"
        return f"nothing or base64 behind {request}" if request == self.found else request


def near_request(line: bytes) -> NearRequest | None:
    """Return what a line, which is no packet, almost is; None: no request at all.

    Consoles are full of the word: only what begins or ends like a packet counts.
    """
    place = line.upper().rfind(_WORD)
    if place < 0:
        return None
    marks = _MARKS.search(line[max(place - _MAX_MARKS, 0) : place])
    behind = line[place + len(_WORD) :]
    rest = _REST.match(behind[:_MAX_REST])
    if rest is None:
        return None
    separator, document, end = rest.groups()
    is_alone = place == 0 and rest.end() == len(behind.rstrip(b" \t\0"))
    if not ((marks and end) or (separator and (marks or end or is_alone))):
        return None
    begin = place - len(marks[0]) if marks else place
    found = line[begin : place + len(_WORD) + rest.end()].decode("ascii").strip()
    return NearRequest(found, _NO_LETTER.sub("", document.decode().upper()))

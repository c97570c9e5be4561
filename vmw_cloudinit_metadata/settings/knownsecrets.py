"""KnownSecrets: texts that no message may show, such as the values of a driver's options. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from urllib.parse import quote, unquote

from vmw_cloudinit_metadata.settings.masking import HIDDEN

MIN_CHARACTERS = 4  # a shorter one is part of too many words
_LINE_CHARACTERS = 16  # of a line that is hidden by itself, as of a private key
_SEARCHED_CHARACTERS = 100_000  # more than is ever shown

# A part of an address or a connection string is quoted by itself.
_TO_LAST_AT = re.compile(r"://[^/\s:@]{0,256}:(\S{1,1024})@")  # where a password has slashes
_PARTS = re.compile(
    r"://[^/\s:@]{0,256}:([^/\s]{1,1024})@"
    r"|(?:pass(?:word|wd)?|pwd|secret|token|key)[=:]\s?([^\s&;,]+)",
    re.IGNORECASE,
)


class KnownSecrets:
    def __init__(self, texts: Iterable[str] = ()) -> None:
        forms = {form for text in texts for form in _forms(text) if len(form) >= MIN_CHARACTERS}
        longest_first = sorted(forms, key=len, reverse=True)
        self._pattern = re.compile("|".join(map(re.escape, longest_first))) if forms else None

    def hide(self, text: str) -> str:
        """Return the text, cut to a bounded length, with HIDDEN in place of each secret."""
        text = text[:_SEARCHED_CHARACTERS]
        return self._pattern.sub(HIDDEN, text) if self._pattern else text


def parts_of(text: str) -> Iterator[str]:
    """Yield the passwords in an address or a connection string."""
    for found in _PARTS.finditer(text):
        yield found[1] or found[2]
    for found in _TO_LAST_AT.finditer(text):
        yield found[1]


def _forms(text: str) -> Iterator[str]:
    """Yield a secret as messages may quote it."""
    for part in (text, text.strip(), *parts_of(text)):
        yield from (part, repr(part)[1:-1], quote(part), quote(part, safe=""), unquote(part))
    lines = text.splitlines()
    if len(lines) > 1:
        yield from (line.strip() for line in lines if len(line.strip()) >= _LINE_CHARACTERS)

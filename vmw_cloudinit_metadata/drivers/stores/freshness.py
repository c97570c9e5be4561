"""How long an answer of HTTP holds, and how to ask whether it has changed. Pure.

RFC 9111 (Cache-Control), RFC 9110 (ETag, Last-Modified).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import datetime, timedelta
from email.utils import parsedate_to_datetime

KEPT_S = 0.8  # without max-age: a cached answer may be older by 0.15 s, and none by more than 1 s
MAX_AGE_S = 3600.0  # whatever a server says: a change that nobody tells is found then

_MAX_AGE = re.compile(r'max-age="?([0-9]{1,9})"?')
_MAX_CHARACTERS = 4096
# What was modified so short a time before it was sent may change again in the same second, and keep
# its Last-Modified (RFC 9110, 8.8.2.2), or an ETag that is made of that, as nginx does.
_SETTLED = timedelta(seconds=2)


def age_s(headers: Mapping[str, str], before_s: float = KEPT_S) -> float:
    """Return for how long an answer holds; `before_s` if it does not say."""
    control = headers.get("cache-control", "")[:_MAX_CHARACTERS].lower()
    parts = [part.strip() for part in control.split(",")]
    if "no-store" in parts or "no-cache" in parts:
        return 0.0
    found = next(filter(None, map(_MAX_AGE.fullmatch, parts)), None)
    if not found:
        return before_s
    age = headers.get("age", "").strip()[:10]
    return min(max(float(found[1]) - (int(age) if age.isdecimal() else 0), 0.0), MAX_AGE_S)


def conditions(headers: Mapping[str, str]) -> dict[str, str]:
    """Return the header fields that ask whether an answer has changed; {} if it has no sign of
    that which can be relied on."""
    modified, sent = (_time(headers.get(name, "")) for name in ("last-modified", "date"))
    if modified and (not sent or sent - modified < _SETTLED):
        return {}
    found = {}
    for sign, field in (("etag", "if-none-match"), ("last-modified", "if-modified-since")):
        value = headers.get(sign, "")
        if value and len(value) <= _MAX_CHARACTERS and value.isascii() and value.isprintable():
            found[field] = value
    return found


def _time(text: str) -> datetime | None:
    try:
        found = parsedate_to_datetime(text[:100])
    except (ValueError, OverflowError):  # the latter for a year or zone of very many digits
        return None
    return found if found.tzinfo else None

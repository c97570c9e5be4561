"""Times of the API, which are UTC, as a person reads them: local, with the zone named."""

from __future__ import annotations

import re
from datetime import datetime

_UTC = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(?:\.\d{1,6})?Z", re.ASCII)


def local(time: str) -> str:
    """Return `2026-03-04 11:11:12 CET` for `2026-03-04T10:11:12.345Z`; other texts as they are."""
    if not _UTC.fullmatch(time):
        return time
    try:
        moment = datetime.fromisoformat(time).astimezone()
    except (ValueError, OverflowError, OSError):
        return time
    return f"{moment:%Y-%m-%d %H:%M:%S %Z}"

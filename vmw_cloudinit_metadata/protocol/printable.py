"""Makes hostile text safe for logs and terminals. Pure."""

from __future__ import annotations


def one_line(text: str) -> str:
    """Return `text` with everything that could start a line or move a cursor escaped."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)


def shortened(text: str, limit: int = 1000) -> str:
    """Return `text`, cut to `limit` characters."""
    return text if len(text) <= limit else f"{text[:limit]}..."


def quoted(text: str, limit: int = 200) -> str:
    """Return text of a peer: in quotes, on one line, cut to `limit` characters."""
    return repr(text) if len(text) <= limit else f"{text[:limit]!r}..."

"""Hostile text for logs and terminals: the one place that makes it safe. Pure."""

from __future__ import annotations


def one_line(text: str) -> str:
    """`text` with everything that could begin a line or move a cursor written as an escape."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)


def shortened(text: str, limit: int = 1000) -> str:
    """`text`, or as much of it as a reader wants."""
    return text if len(text) <= limit else f"{text[:limit]}..."


def quoted(text: str, limit: int = 200) -> str:
    """`text` from a peer: in quotes, on one line, and not longer than a reader wants."""
    return repr(text) if len(text) <= limit else f"{text[:limit]!r}..."

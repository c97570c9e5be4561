"""Numbers of things, in words. Pure."""

from __future__ import annotations

from collections.abc import Sequence

_NAMED = 3


def counted(count: int, one: str, many: str = "") -> str:
    """`1 file`, `2 files`; `many` is the plural of a noun that takes no `s`."""
    return f"{count} {one if count == 1 else many or f'{one}s'}"


def characters(count: int) -> str:
    return f"{count:,} character{'' if count == 1 else 's'}"


def first_of(names: Sequence[str], count: int | None = None) -> str:
    """`a, b, c and 4 more`: the first of `count` names, or of as many as are given."""
    shown = names[:_NAMED]
    further = (len(names) if count is None else count) - len(shown)
    return f"{', '.join(shown)} and {further} more" if further else ", ".join(shown)

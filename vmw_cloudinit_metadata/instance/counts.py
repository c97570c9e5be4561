"""Counts in words: `1 fault`, `2,000 bytes`, `a, b, c and 4 more`. Pure."""

from __future__ import annotations

from collections.abc import Sequence

_NAMED = 3


def counted(count: int, one: str, many: str = "") -> str:
    """Return `1 file` or `2000 files`; `many` is the plural of a noun that takes no `s`."""
    return f"{count} {one if count == 1 else many or f'{one}s'}"


def amount(count: int, unit: str) -> str:
    """Return `1 byte` or `2,000 bytes`."""
    return f"{count:,} {unit}{'' if count == 1 else 's'}"


def characters(count: int) -> str:
    return amount(count, "character")


def first_of(names: Sequence[str], count: int | None = None) -> str:
    """Return `a, b, c and 4 more`: the first of `count` names, of which `names` may have some."""
    shown = names[:_NAMED]
    further = (len(names) if count is None else count) - len(shown)
    return f"{', '.join(shown)} and {further} more" if further else ", ".join(shown)

"""Strings and lists of them in instance data, as pydantic types. Pure."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import BeforeValidator


def as_text(value: Any) -> Any:
    """Return a string; an integer from a driver is converted (files have strings already)."""
    if isinstance(value, str):
        return value
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value)
    raise ValueError("a string")


# More in one list is a mistake; checking each would take as long as a whole file may.
MAX_ITEMS = 4000

_LISTS = (list, tuple)

Text = Annotated[str, BeforeValidator(as_text)]


def listed(value: Any) -> Any:
    """Return a list; a single value becomes a list of one."""
    items = value if isinstance(value, _LISTS) else [value]
    if len(items) > MAX_ITEMS:
        raise ValueError(f"at most {MAX_ITEMS:,} items")
    return items


def listed_words(value: Any) -> Any:
    """Like `listed`, but a string is split at spaces and commas."""
    return listed(value.replace(",", " ").split() if isinstance(value, str) else value)


def dashed(name: str) -> str:
    """Return a field's name as files have it: `local_hostname` is `local-hostname`."""
    return name.replace("_", "-")

"""Texts that operators write, as pydantic types. Pure."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import BeforeValidator


def as_text(value: Any) -> Any:
    """A number that a driver hands over for a text is that text (a file has text already)."""
    if isinstance(value, str):
        return value
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value)
    raise ValueError("a string")


# More in one list is a mistake; to check each costs what the whole file may cost.
MAX_ITEMS = 4000

_LISTS = (list, tuple)

Text = Annotated[str, BeforeValidator(as_text)]


def listed(value: Any) -> Any:
    """One value stands for a list of one."""
    items = value if isinstance(value, _LISTS) else [value]
    if len(items) > MAX_ITEMS:
        raise ValueError(f"at most {MAX_ITEMS:,} items")
    return items


def listed_words(value: Any) -> Any:
    """A text of words, with spaces or commas between them, stands for a list of these."""
    return listed(value.replace(",", " ").split() if isinstance(value, str) else value)


def dashed(name: str) -> str:
    """A field's name as it stands in a file: `local_hostname` is `local-hostname`."""
    return name.replace("_", "-")

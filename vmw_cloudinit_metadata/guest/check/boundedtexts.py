"""Reads files of configuration within bounds: 100 KiB of YAML take a second."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from vmw_cloudinit_metadata.guest.agent import texts
from vmw_cloudinit_metadata.guest.image.tree import Tree
from vmw_cloudinit_metadata.settings.errors import ConfigError

MAX_FILES = 1000
MAX_CHARACTERS = 512 * 1024  # of all files together; of a value with its aliases expanded
MAX_NUMBER_BITS = 10_000  # Python prints no number of more than 4300 digits


def read_texts(tree: Tree, places: Sequence[str]) -> dict[str, str]:
    """Return the text of each regular file, "" for anything else; raise ConfigError."""
    found: dict[str, str] = {}
    left = MAX_CHARACTERS
    for place in places:
        text = tree.text(place) if tree.is_file(place) else ""
        left -= len(text)
        if left < 0 or len(found) == MAX_FILES:
            raise ConfigError(
                f"{tree.root}{place}: not checked, since this kind of file has more than"
                f" {MAX_FILES} files or {MAX_CHARACTERS} characters together"
            )
        found[place] = text
    return found


def load_yaml(place: str, text: str) -> Any:
    """Parse the YAML of a file; raise ValueError, or ConfigError if its value is too large."""
    value = texts.load_yaml(text)
    if not _is_bounded(value):
        raise ConfigError(
            f"{place}: not checked, since its YAML has more than {MAX_CHARACTERS} characters with"
            f" aliases expanded, or a number of more than {MAX_NUMBER_BITS} bits"
        )
    return value


def _is_bounded(value: Any) -> bool:
    """Return whether its text would be bounded: a few aliases make one of any size."""
    left, values = MAX_CHARACTERS, [value]
    while values and left >= 0:
        item = values.pop()
        if isinstance(item, int) and item.bit_length() > MAX_NUMBER_BITS:
            return False
        if isinstance(item, dict):
            values += [*item, *item.values()]
        elif isinstance(item, (list, tuple, set)):
            values += item
        left -= len(item) if isinstance(item, (dict, list, tuple, set, str, bytes)) else 1
    return left >= 0

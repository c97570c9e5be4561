"""Reads files of configuration within bounds: 100 KiB of YAML take a second."""

from __future__ import annotations

from collections.abc import Sequence

from vmw_cloudinit_metadata.guest.image.tree import Tree
from vmw_cloudinit_metadata.settings.errors import ConfigError

MAX_FILES = 1000
MAX_CHARACTERS = 512 * 1024  # of all files together


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

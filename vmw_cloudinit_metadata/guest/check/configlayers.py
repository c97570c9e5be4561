"""cloud-init's own configuration in an image, merged over all files as cloud-init does it.

Later files of cloud.cfg.d win, mappings are merged, and the kernel command line (`cc:`) wins over
all files. A file that is not YAML has no effect. Reads files through the tree.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Self
from urllib.parse import unquote

from vmw_cloudinit_metadata.guest.agent.texts import load_yaml
from vmw_cloudinit_metadata.guest.image.tree import Tree

MAIN = "/etc/cloud/cloud.cfg"
MAX_FILES = 1000
_CC = re.compile(r"(?:^|\s)cc:(.*?)(?:end_cc|\Z)", re.DOTALL)


@dataclass(frozen=True, slots=True)
class Set:
    """A value and the place that sets it."""

    place: str
    value: Any


@dataclass(frozen=True, slots=True)
class CloudConfig:
    """Layers of configuration: a place and its mapping, the strongest first."""

    layers: Sequence[tuple[str, Mapping[Any, Any]]]
    unreadable: Sequence[str] = field(default=())

    @classmethod
    def read(cls, tree: Tree) -> Self:
        """Return what the files of an image set."""
        main = _load(tree, MAIN)
        directory = (main or {}).get("conf_d", f"{MAIN}.d")
        names = tree.glob(f"{str(directory).strip()}/*.cfg") if directory else []
        places = [*names[::-1], MAIN]
        loaded = [(place, _load(tree, place)) for place in places[-MAX_FILES:]]
        return cls(
            [(place, mapping) for place, mapping in loaded if mapping],
            [place for place, mapping in loaded if mapping is None],
        )

    def with_command_line(self, text: str, place: str) -> Self:
        """Return it with what the command line sets after `cc:`."""
        cloud_config = "\n".join(
            unquote(found.lstrip()).replace("\\n", "\n") for found in _CC.findall(text)
        )
        mapping = _mapping(cloud_config)
        return type(self)([(place, mapping), *self.layers], self.unreadable) if mapping else self

    def get(self, *path: str) -> list[Set]:
        """Return what sets the value at a path: the strongest, or each mapping that is merged."""
        found = [Set(place, mapping) for place, mapping in self.layers]
        for key in path:
            found = _merged(
                Set(one.place, one.value[key])
                for one in found
                if isinstance(one.value, Mapping) and key in one.value
            )
        return found

    def is_true(self, key: str, *, default: bool = False) -> Set | None:
        """Return what sets a yes or no to the contrary of the default, or None."""
        for found in self.get(key)[:1]:
            value = str(found.value).strip().lower() in ("true", "1", "on", "yes")
            return found if value is not default else None
        return None


def _merged(found: Iterable[Set]) -> list[Set]:
    """Keep the strongest, and merge weaker mappings into a mapping, as cloud-init's mergers do.

    They also prefer a weaker mapping to a text or list.
    """
    kept: list[Set] = []
    for one in found:
        if not kept:
            kept = [one]
        elif isinstance(one.value, Mapping):
            if isinstance(kept[0].value, Mapping):
                kept.append(one)
            elif isinstance(kept[0].value, (str, list)):
                kept = [one]
    return kept


def _load(tree: Tree, place: str) -> Mapping[Any, Any] | None:
    """Return a file's mapping, empty if there is no such file; None if cloud-init rejects it."""
    return _mapping(tree.text(place)) if tree.is_file(place) else {}


def _mapping(text: str) -> Mapping[Any, Any] | None:
    try:
        value = load_yaml(text)
    except ValueError:
        return None
    if value is None:
        return {}
    return value if isinstance(value, dict) else None

"""cloud-init's own configuration in an image, merged over all files as cloud-init does it.

Later files of cloud.cfg.d win, mappings are merged, and the kernel command line (`cc:`) wins over
all files. A file that is not a YAML mapping has no effect; one that is not UTF-8 ends cloud-init.
Of a template, all branches count. Reads files through the tree.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Self
from urllib.parse import unquote

from vmw_cloudinit_metadata.guest.check.boundedtexts import load_yaml, read_texts
from vmw_cloudinit_metadata.guest.image.tree import Tree

MAIN = "/etc/cloud/cloud.cfg"
_TEMPLATE = re.compile(r"##[ \t]*template:", re.IGNORECASE)
_STATEMENT = re.compile(r"\{[%#][^\n]{0,1000}?[%#]\}")
_EXPRESSION = re.compile(r"\{\{[^\n]{0,1000}?\}\}")
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
    ignored: Sequence[str] = field(default=())  # files that are not YAML mappings
    undecodable: Sequence[str] = field(default=())

    @classmethod
    def read(cls, tree: Tree) -> Self:
        """Return what the files of an image set."""
        main = _mapping(MAIN, _rendered(read_texts(tree, [MAIN])[MAIN]))
        directory = (main or {}).get("conf_d", f"{MAIN}.d")
        names = tree.glob(f"{str(directory).strip()}/*.cfg") if directory else []
        texts = read_texts(tree, names[::-1])
        mappings = {place: _mapping(place, _rendered(text)) for place, text in texts.items()}
        texts, mappings = texts | read_texts(tree, [MAIN]), mappings | {MAIN: main}
        return cls(
            [(place, mapping) for place, mapping in mappings.items() if mapping],
            [place for place, mapping in mappings.items() if mapping is None],
            [place for place, text in texts.items() if not _is_utf_8(text)],
        )

    def with_command_line(self, text: str, place: str) -> Self:
        """Return it with what the command line sets after `cc:`."""
        cloud_config = "\n".join(
            unquote(found.lstrip()).replace("\\n", "\n") for found in _CC.findall(text)
        )
        mapping = _mapping(place, cloud_config)
        return replace(self, layers=[(place, mapping), *self.layers]) if mapping else self

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


def _rendered(text: str) -> str:
    return _EXPRESSION.sub("x", _STATEMENT.sub("", text)) if _TEMPLATE.match(text) else text


def _is_utf_8(text: str) -> bool:
    return not any("\udc80" <= character <= "\udcff" for character in text)


def _mapping(place: str, text: str) -> Mapping[Any, Any] | None:
    """Return the mapping, empty for an empty text; None for what cloud-init ignores."""
    try:
        value = load_yaml(place, text)
    except ValueError:
        return None
    if value is None:
        return {}
    return value if isinstance(value, dict) else None

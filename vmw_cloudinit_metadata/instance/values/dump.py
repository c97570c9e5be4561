"""Values -> texts that PyYAML, which cloud-init reads with, turns into the same values. Pure."""

from __future__ import annotations

import re
from typing import Any

import ujson
import yaml

_JSON = frozenset({str, int, bool, type(None)})

# What PyYAML does not take as it is, takes as a line break, or takes as a byte order mark.
_UNREADABLE = re.compile("[\x7f-\x9f\u2028\u2029\ufeff\ufffe\uffff]")


# YAML knows a key by its colon, for which it looks no further than 1024 characters; escaped, each
# of ours can be six.
_KEY_CHARACTERS = 128


class _Dumper(yaml.CSafeDumper):
    def ignore_aliases(self, _data: Any) -> bool:
        return True


def json_text(value: Any, indent: int = 0) -> str:
    """JSON, in one line unless indented. Astral characters stay: PyYAML does not join escaped
    surrogate pairs."""
    text = ujson.dumps(value, ensure_ascii=False, escape_forward_slashes=False, indent=indent)
    if text.isascii() and "\x7f" not in text:  # as nearly always
        return text
    return _UNREADABLE.sub(lambda character: f"\\u{ord(character[0]):04x}", text)


def document_text(value: Any) -> str:
    """JSON for people, which is YAML and quick to write; YAML for what JSON would change."""
    return json_text(value, indent=1) + "\n" if _is_json(value) else yaml_text(value)


def _is_json(value: Any) -> bool:
    """Whether all of it is what JSON has, and each key short enough for YAML."""
    kind = type(value)
    if kind is dict:
        for key in value:
            if type(key) is not str or len(key) > _KEY_CHARACTERS:
                return False
        items = value.values()
    elif kind is list:
        items = value
    else:
        return kind in _JSON
    for item in items:
        if type(item) in _JSON:
            continue
        if not _is_json(item):
            return False
    return True


def yaml_text(value: Any) -> str:
    """A block of YAML, ASCII only; raises yaml.YAMLError for what YAML has no form for."""
    text: str = yaml.dump(value, Dumper=_Dumper, sort_keys=False)
    return text

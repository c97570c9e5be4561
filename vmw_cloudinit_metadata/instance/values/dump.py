"""Values -> JSON or YAML that PyYAML, cloud-init's reader, turns into the same values. Pure."""

from __future__ import annotations

import re
from functools import lru_cache
from typing import Any

import ujson
import yaml

_JSON = frozenset({str, int, bool, type(None)})

# Characters that PyYAML rejects, or reads as a line break or byte order mark.
_UNREADABLE = re.compile("[\x7f-\x9f\u2028\u2029\ufeff\ufffe\uffff]")


# YAML looks at most 1024 characters ahead for a key's colon; an escaped character has up to six.
_KEY_CHARACTERS = 128

# What many VMs share, such as vendor-data of a layer, is of this size.
_SHARED_CHARACTERS = 2048


class _Dumper(yaml.CSafeDumper):
    def ignore_aliases(self, _data: Any) -> bool:
        return True


def json_text(value: Any, indent: int = 0) -> str:
    """Return JSON, on one line unless indented.

    Characters beyond U+FFFF are not escaped: PyYAML does not join surrogate pairs.
    """
    text = ujson.dumps(value, ensure_ascii=False, escape_forward_slashes=False, indent=indent)
    if text.isascii() and "\x7f" not in text:  # as nearly always
        return text
    return _UNREADABLE.sub(lambda character: f"\\u{ord(character[0]):04x}", text)


def document_text(value: Any) -> str:
    """Return indented JSON, which is YAML and fast to write; YAML for what JSON would change."""
    return json_text(value, indent=1) + "\n" if _is_json(value) else yaml_text(value)


def _is_json(value: Any) -> bool:
    """Return whether JSON can represent all of it, and each key is short enough for YAML."""
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


def block_text(value: Any) -> str:
    """Return block YAML, as people read it; raise yaml.YAMLError for what YAML cannot represent."""
    if _is_json(value):
        text = json_text(value)
        if len(text) <= _SHARED_CHARACTERS:
            return _block_of(text)
    return yaml_text(value)


@lru_cache(maxsize=64)  # 5 instead of 80 us, of the 700 of a first read with layers
def _block_of(json: str) -> str:
    return yaml_text(ujson.loads(json))


def yaml_text(value: Any) -> str:
    """Return block YAML in ASCII; raise yaml.YAMLError for what YAML cannot represent."""
    text: str = yaml.dump(value, Dumper=_Dumper, sort_keys=False)
    return text

"""FileLayer: one parsed document of those that make an answer, and the place of its faults."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

from vmw_cloudinit_metadata.instance.documents import USER_DATA_KEYS
from vmw_cloudinit_metadata.instance.fault import Fault, Faults, Key, kind_of
from vmw_cloudinit_metadata.instance.keys import (
    DOCUMENTS,
    FILE_LEVEL,
    canonical,
    misplaced_faults,
)
from vmw_cloudinit_metadata.instance.layering.patch import APPENDS, Patch, patch_of
from vmw_cloudinit_metadata.instance.layering.substitution import BEGINS
from vmw_cloudinit_metadata.instance.parsing import encoding, jsontext, seed

MAX_FILE_BYTES = 4 * 1024 * 1024

# How user-data begins. Only such a file is checked for being another file's user-data.
_LIKE_USER_DATA = re.compile(
    r"\s*(?:#!|#cloud-|#include|#part-handler|## template:|content-type:|mime-version:)",
    re.IGNORECASE,
)
_JSON = ".json"
_BEGINS_LIKE_JSON = re.compile(r"\s*\{")
_NO_SEED = seed.read("")
_USER_DATA = {(key,) for key in USER_DATA_KEYS}


@dataclass(frozen=True)
class FileLayer:
    """The usable keys of one file, and the faults of the others."""

    path: str
    seed: seed.Seed
    mapping: dict[str, Any]
    faults: tuple[Fault, ...]
    is_like_user_data: bool = False
    has_references: bool = False  # to values that are put in later, perhaps
    has_appended: bool = False  # a `key+`, perhaps
    is_secret: bool = False  # so that no answer with it is written to disk

    @cached_property
    def patch(self) -> Patch:
        """The same keys, to be merged."""
        return patch_of(self.mapping)[0]


def parse(path: str, content: bytes | None, known: Collection[str] = FILE_LEVEL) -> FileLayer:
    """Parse what was read of a file, None if it is no regular file; `known` keys may be in it."""
    text = text_of(path, content)
    if isinstance(text, Fault):
        return unusable(text)
    text = as_yaml(path, text)
    if isinstance(text, Fault):
        return unusable(text)
    found = seed.read(text)
    return of_seed(path, found, text, known)


def as_yaml(path: str, text: str) -> str | Fault:
    """The text, or if it is JSON, YAML of the same values."""
    if path.endswith(_JSON) or _BEGINS_LIKE_JSON.match(text):
        fault = jsontext.fault_of(text)
        if fault is None:
            return jsontext.as_yaml(text)
        if path.endswith(_JSON):
            return replace(fault, file=path)
    return text


def located(fault: Fault, layers: Sequence[FileLayer]) -> Fault:
    """Return the fault with file and line: in the layer that has the key, else in the first."""
    key: Key = fault.key
    is_user_data = key[:1] in _USER_DATA
    if is_user_data or key[:1] == ("network",):  # text, or a missing key
        while len(key) > 1 and not _has_any(layers, key):
            key = key[:-1]
    if is_user_data and len(key) == 1 and not _has_any(layers, key):
        key = (f"{key[0]}-file",)
    layer = next((layer for layer in layers if layer.seed.has(key)), layers[0])
    return replace(layer.seed.located(replace(fault, key=key), layer.path), key=fault.key)


def _has_any(layers: Sequence[FileLayer], key: Key) -> bool:
    return any(layer.seed.has(key) for layer in layers)


def unusable(fault: Fault) -> FileLayer:
    return FileLayer(fault.file, _NO_SEED, {}, (fault,))


def text_of(path: str, content: bytes | None) -> str | Fault:
    if content is None:
        return Fault((), "a directory, pipe or device", "a regular file", path, 1)
    if len(content) > MAX_FILE_BYTES:
        return Fault((), "a larger file", f"at most {MAX_FILE_BYTES:,} bytes", path, 1)
    text = encoding.text_of(content)
    return replace(text, file=path) if isinstance(text, Fault) else text


def of_seed(
    path: str, found: seed.Seed, text: str, known: Collection[str] = FILE_LEVEL
) -> FileLayer:
    """The layer that a parsed text makes."""
    has_appended = may_have(APPENDS, text)
    faults = Faults()
    faults.extend(found.faults)
    mapping: dict[str, Any] = {}
    if isinstance(found.value, dict):
        mapping, twice = canonical(found.value)
        faults.extend(twice)
        faults.extend(misplaced_faults(mapping, known))
        both = list(_both_faults(mapping))
        faults.extend(both)
        mapping = {key: value for key, value in mapping.items() if key in known}
        for fault in both:
            del mapping[str(fault.key[0])]
        if has_appended:
            faults.extend(patch_of(mapping)[1])
    elif not faults.found:
        needs_metadata = "serve" not in known
        expected = "a mapping with the key metadata" if needs_metadata else "a mapping"
        kind = kind_of(found.value)  # the text itself may be user-data
        faults.add(Fault((), kind, expected))
    with_place = tuple([found.located(fault, path) for fault in faults.all()])
    is_like_user_data = not mapping and _LIKE_USER_DATA.match(text) is not None
    has_references = may_have(BEGINS, text)
    return FileLayer(
        path, found, mapping, with_place, is_like_user_data, has_references, has_appended
    )


def may_have(mark: str, text: str) -> bool:
    """Whether a key or value of a file with this text can have the mark: `\\x24` is a `$`."""
    return mark in text or "\\" in text


def _both_faults(mapping: Mapping[str, Any]) -> Iterator[Fault]:
    for name in DOCUMENTS:
        if mapping.get(name) is not None and mapping.get(f"{name}-file") is not None:
            yield Fault((f"{name}-file",), f"both {name} and {name}-file", "one of them")

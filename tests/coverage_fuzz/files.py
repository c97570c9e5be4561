"""Target: the reader of instance files and settings, beside libyaml's loader."""

from __future__ import annotations

import re
from typing import Any

import yaml

from tests.coverage_fuzz.law import is_same
from vmw_cloudinit_metadata.instance.parsing import seed

# What PyYAML lets out of its constructors beside YAMLError.
_ODD = (ValueError, LookupError, TypeError, AttributeError, ArithmeticError, RecursionError)


class _Loader(yaml.CSafeLoader):
    """libyaml's safe loader, for which timestamps are text."""


_Loader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in rows if not tag.endswith(":timestamp")]
    for first, rows in yaml.CSafeLoader.yaml_implicit_resolvers.items()
}


def seed_reader(data: bytes) -> None:
    """Never raises; a text without a fault is what libyaml's loader says, if that takes it too."""
    text = data.decode("utf-8", "replace")
    _is_bounded(seed.read(text))
    plain = seed.read(text, None)  # without a schema no key and no value is text
    _is_bounded(plain)
    loaded = _loaded(text)
    if not plain.faults and loaded is not _REFUSED:
        assert is_same(plain.value, loaded), f"{plain.value!r}, libyaml: {loaded!r}"


def _is_bounded(read: seed.Seed) -> None:
    assert all(fault.line >= 1 for fault in read.faults)
    assert all(str(fault).isprintable() for fault in read.faults), read.faults
    assert len(read.marks) <= seed.MAX_EVENTS


_REFUSED = object()
_SAID_TO_BE_TEXT = re.compile(r"!(?=[\s,\]}]|\Z)")  # YAML: `! 8` is text; PyYAML reads a number


def _loaded(text: str) -> Any:
    if _SAID_TO_BE_TEXT.search(text):
        return _REFUSED
    try:
        return yaml.load(text, _Loader)
    except (yaml.YAMLError, *_ODD):
        return _REFUSED

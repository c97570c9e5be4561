"""The bytes that a fact holds, and how a long fact is cut. Pure.

A happening is kept in several places, and sent to another process.
"""

from __future__ import annotations

from itertools import islice
from sys import getsizeof
from typing import Any, NamedTuple, get_args, get_type_hints

from vmw_cloudinit_metadata.monitoring.digests import first_digests
from vmw_cloudinit_metadata.monitoring.facts import Fact

# Facts that hold more than this, such as the digests of 1,000 documents, are cut.
MAX_FACT_BYTES = 8 * 1024
CUT_TEXT_BYTES = 1024  # then of each text
_CUT_COUNT = 24  # and of documents and sources

LONG_DIGEST = 4 * 1024  # only with a longer one is a fact weighed before it is reported

_FLOAT_BYTES = 24  # a time, or a number
_COLLECTED_BYTES = 64  # what the collector adds to a fact and two collections in it
_STRING_BYTES = 88  # a string of its own with three dots, however wide


def bounded(fact: Fact) -> Fact:
    """Return the fact, or as much of it as a happening may carry."""
    return fact if bytes_of(fact) <= MAX_FACT_BYTES else cut(fact, CUT_TEXT_BYTES, _CUT_COUNT)


def bytes_of(fact: Fact) -> int:
    """Return the bytes of memory that a fact holds."""
    fields: tuple[Any, ...] = fact
    size, texts, collections = _SHAPES[type(fact)]
    # getsizeof would take three times as long, and only adds what the collector needs.
    for place in texts:
        size += fields[place].__sizeof__()
    for place in collections:
        size += fields[place].__sizeof__()
        for part in fields[place]:
            size += _FLOAT_BYTES + part.__sizeof__()
    return size


class _Shape(NamedTuple):
    """The fields of a kind of fact."""

    own_bytes: int  # of each, without its texts and collections
    texts: tuple[int, ...]  # their places
    collections: tuple[int, ...]


def _shape(kind: type[Fact]) -> _Shape:
    types = list(enumerate(get_type_hints(kind).values()))
    texts = tuple(place for place, of_field in types if of_field is str)
    collections = tuple(place for place, of_field in types if of_field not in (str, float))
    floats = len(types) - len(texts) - len(collections)
    own_bytes = kind._make([None] * len(types)).__sizeof__() + _FLOAT_BYTES * floats
    return _Shape(_COLLECTED_BYTES + own_bytes, texts, collections)


_SHAPES = {kind: _shape(kind) for kind in get_args(Fact)}


def cut(fact: Fact, text_bytes: int, most: int) -> Fact:
    """Return the fact with shorter texts, and at most `most` documents, sources and host keys,
    these whole; `more` holds how many were left out."""
    fields = fact._asdict()
    more = dict(fields.pop("more", {}))
    for name, value in list(fields.items()):
        left_out = 0
        if name == "digest" and value:
            name = "documents"
            fields["digest"], left_out = first_digests(value, most)
        elif isinstance(value, str):
            fields[name] = within(value, text_bytes)
        elif isinstance(value, dict):
            fields[name] = dict(islice(value.items(), most))
            left_out = len(value) - most
        elif name == "host_keys":  # one that is cut is no key
            whole = [key for key in value if getsizeof(key) <= text_bytes][:most]
            fields[name] = tuple(whole)
            left_out = len(value) - len(whole)
        elif isinstance(value, tuple):
            fields[name] = tuple(within(str(one), text_bytes) for one in value[:most])
            left_out = len(value) - most
        if left_out > 0:
            more[name] = more.get(name, 0) + left_out
    if more:
        fields["more"] = more
    return fact._replace(**fields)


def within(text: str, most_bytes: int) -> str:
    """Return `text`, or as much of its beginning as this memory holds."""
    if getsizeof(text) <= most_bytes:
        return text
    room = most_bytes - _STRING_BYTES
    return f"{text[: room if text.isascii() else room // 4]}..."

"""What targets share: how a stream is cut, what a parser keeps, what is equal."""

from __future__ import annotations

import math
import zlib
from collections.abc import Callable, Iterator, Sequence
from itertools import pairwise
from random import Random
from typing import Any

Pieces = Sequence[bytes]


def chance(data: bytes) -> Random:
    """Random numbers that depend on `data` alone: so an input can be run again."""
    return Random(zlib.crc32(data))


def ways_to_cut(data: bytes) -> Iterator[Pieces]:
    """Whole, byte by byte, and at random."""
    yield [data]
    yield [data[i : i + 1] for i in range(len(data))]
    random = chance(data)
    places = sorted(random.randrange(len(data) + 1) for _ in range(random.randrange(1, 8)))
    yield [data[a:b] for a, b in pairwise([0, *places, len(data)])]


def pumped(data: bytes, size: int) -> bytes:
    """`data` with a piece of it repeated, up to `size` bytes: shows what is not linear."""
    random = chance(data)
    begin = random.randrange(len(data) + 1)
    end = min(begin + random.randrange(1, 9), len(data))
    piece = data[begin:end]
    times = max((size - len(data)) // len(piece), 1) if piece else 1
    return data[:begin] + piece * times + data[end:]


def same_for_all_cuts(data: bytes, read: Callable[[Pieces], object]) -> None:
    """`read` must return the same, however `data` is cut."""
    whole, *others = [read(pieces) for pieces in ways_to_cut(data)]
    for other in others:
        assert other == whole, f"depends on how the bytes are cut: {other!r}, whole: {whole!r}"


def kept_bytes(machine: object) -> int:
    """The bytes in the attributes of a small machine, whatever they are called."""
    names = getattr(type(machine), "__slots__", None) or vars(machine)
    values = [getattr(machine, name) for name in names]
    return sum(len(value) for value in values if isinstance(value, bytes | bytearray))


def is_same(one: Any, other: Any) -> bool:
    """Equal in value and type all the way down; NaN is NaN."""
    if type(one) is not type(other):
        return False
    match one:
        case dict():
            # 1 and True are one key of a dict
            names = {name: (type(name), name) for name in other}
            return len(one) == len(other) and all(
                names.get(name) == (type(name), name) and is_same(value, other[name])
                for name, value in one.items()
            )
        case list():
            return len(one) == len(other) and all(map(is_same, one, other))
        case float():
            return one == other or (math.isnan(one) and math.isnan(other))
        case _:
            return bool(one == other)

"""Target: what a worker tells its parent."""

from __future__ import annotations

import json
from contextlib import suppress
from datetime import UTC, datetime

import ujson

from tests.coverage_fuzz.law import chance
from vmw_cloudinit_metadata.figures import Figures
from vmw_cloudinit_metadata.happenings import LEVELS, Happening, pack, unpack
from vmw_cloudinit_metadata.protocol.vmware import Machine

# What a message that is none may raise. The parent has to catch these, all of them.
DOCUMENTED = (ValueError, TypeError, LookupError, AttributeError, OverflowError, OSError)


def worker_messages(data: bytes) -> None:
    """What is packed comes back; what is no message raises nothing undocumented."""
    happening = _happening(data)
    carried = unpack(ujson.loads(ujson.dumps(pack(happening))))
    assert carried == happening, (carried, happening)
    assert str(carried) == str(happening)
    with suppress(*DOCUMENTED):
        _decode(data)


def _decode(message: bytes) -> None:
    told = ujson.loads(message)
    for packed in told.get("happenings", ()):
        unpack(packed)
    if "figures" in told:
        Figures.unpack(told["figures"])


def packed(data: bytes) -> object:
    """A happening of `data` as it travels."""
    return json.loads(ujson.dumps(pack(_happening(data))))


def _happening(data: bytes) -> Happening:
    """One whose texts are of `data`."""
    random, text = chance(data), data[:3000].decode("utf-8", "replace")
    name, uri, remark = (text[random.randrange(len(text) + 1) :] for _ in range(3))
    kind = random.choice(list(LEVELS))
    since = datetime.fromtimestamp(random.randrange(2**31), UTC)
    machine = Machine(name=name or None, service_uri=uri, connected_since=since)
    details = {"documents": [name, uri], "bytes": random.randrange(2**40)}
    return Happening(
        *(kind, LEVELS[kind], float(random.randrange(2**31)), "1-1", "10.0.0.1:1", "10.0.0.1"),
        *(machine if random.random() < 0.8 else None, remark, text, details),
    )

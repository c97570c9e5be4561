"""Target: what a worker sends to its parent."""

from __future__ import annotations

import json
from contextlib import suppress
from datetime import UTC, datetime

import ujson

from tests.coverage_fuzz.law import chance
from tests.facts import BY_KIND, fact_of
from vmw_cloudinit_metadata.monitoring.facts import KINDS
from vmw_cloudinit_metadata.monitoring.happenings import Happening
from vmw_cloudinit_metadata.monitoring.packed import pack
from vmw_cloudinit_metadata.process import channel
from vmw_cloudinit_metadata.protocol.vmware import Machine


def worker_messages(data: bytes) -> None:
    """What is packed comes back; what is no message raises InvalidMessage, and nothing else."""
    happening = _happening(data)
    report = channel.decode(channel.together([channel.of_happening(happening)]))
    (carried,) = report.happenings
    assert carried == happening, (carried, happening)
    assert str(carried) == str(happening)
    with suppress(channel.InvalidMessage):
        channel.decode(data)


def packed(data: bytes) -> object:
    """A happening of `data` as it travels."""
    return json.loads(ujson.dumps(pack(_happening(data))))


def _happening(data: bytes) -> Happening:
    """One whose texts are of `data`."""
    random, text = chance(data), data[:3000].decode("utf-8", "replace")
    name, uri, remark = (text[random.randrange(len(text) + 1) :] for _ in range(3))
    kind = random.choice(list(BY_KIND))
    since = datetime.fromtimestamp(random.randrange(2**31), UTC)
    machine = Machine(name=name or None, service_uri=uri, connected_since=since)
    fact = fact_of(kind, text, name, random.randrange(2**31))
    return Happening(
        *(fact, KINDS[type(fact)].level, float(random.randrange(2**31))),
        *("1-1", "10.0.0.1:1", "10.0.0.1", machine if random.random() < 0.8 else None, remark),
    )

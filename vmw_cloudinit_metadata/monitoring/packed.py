"""Happenings in the form in which JSON carries them from a worker to its parent. No I/O.

Received ones are checked against the declared fields, so a defective worker harms no other process.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from sys import intern
from typing import Any, get_args, get_type_hints

from vmw_cloudinit_metadata.monitoring.facts import KINDS, Fact
from vmw_cloudinit_metadata.monitoring.happenings import Happening
from vmw_cloudinit_metadata.monitoring.jsonobject import LEVEL_NAMES
from vmw_cloudinit_metadata.protocol.identitytoken import Proof
from vmw_cloudinit_metadata.protocol.vmware import Machine

_MAX_TIME_S = 253_402_300_000.0  # 9999-12-31: datetime has no later year
_UUID = re.compile("[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", re.ASCII)


def pack(happening: Happening) -> list[Any]:
    """Return a form for JSON, unless a driver has put in values that JSON cannot represent."""
    packed: list[Any] = list(happening)
    packed[0] = [happening.kind, *happening.fact]
    if machine := happening.machine:
        since = machine.connected_since
        packed[6] = [
            *(machine.name, machine.vc_uuid, machine.bios_uuid, machine.location_uuid),
            *(machine.service_uri, machine.direction, machine.peer_address),
            *(since and since.timestamp(), machine.proof.value),
        ]
    return packed


def unpack(packed: Any) -> Happening:
    """Return the happening that `pack` has packed, after JSON; raise ValueError for anything
    else."""
    if not isinstance(packed, list) or tuple(map(type, packed)) not in _FIELDS:
        raise ValueError("a happening has other fields")
    fact, level, at_s, connection, peer, host, machine, remark = packed
    if level not in LEVEL_NAMES or not _is_time(at_s):
        raise ValueError("a happening with an unknown level or a wrong time")
    # The same in all happenings of a connection.
    about = intern(connection), intern(peer), intern(host)
    found = None if machine is None else _machine_in(machine)
    return Happening(_fact_in(fact), level, at_s, *about, found, remark)


def _fact_in(packed: list[Any]) -> Fact:
    match packed:
        case [str(kind), *values] if kind in _FACTS:
            fact, checks = _FACTS[kind]
        case _:
            raise ValueError("a happening of an unknown kind")
    if len(values) != len(checks):
        raise ValueError("a fact has other fields")
    if not all(check(value) for check, value in zip(checks, values, strict=True)):
        raise ValueError("a fact with a wrong value")
    values = [tuple(value) if isinstance(value, list) else value for value in values]
    made: Fact = fact._make(values)
    return made


def _machine_in(packed: list[Any]) -> Machine:
    if tuple(map(type, packed[4:])) not in _FURTHER:
        raise ValueError("a machine has other fields")
    name, *uuids = packed[:4]
    if not all(uuid is None or _is_uuid(uuid) for uuid in uuids):
        raise ValueError("a machine has a wrong UUID")
    if not (name is None or isinstance(name, str)):
        raise ValueError("a machine has a wrong name")
    since = packed[7]
    if since is not None:
        if not _is_time(since):
            raise ValueError("a machine is connected since a wrong time")
        packed[7] = datetime.fromtimestamp(since, UTC)
    packed[8] = Proof(packed[8])
    return Machine(*packed)


# The types of a happening's fields in JSON, and of a machine's behind its identity.
_FIELDS = {(list, int, float, str, str, str, machine, str) for machine in (list, type(None))}
_FURTHER = {(str, str, str, since, str) for since in (float, type(None))}


def _is_uuid(value: object) -> bool:
    return isinstance(value, str) and _UUID.fullmatch(value) is not None


def _is_time(value: object) -> bool:
    return isinstance(value, (int, float)) and 0 <= value < _MAX_TIME_S


def _is_seconds(value: object) -> bool:
    return isinstance(value, (int, float)) and -_MAX_TIME_S < value < _MAX_TIME_S


def _is_text(value: object) -> bool:
    return isinstance(value, str)


def _are_texts(value: object) -> bool:
    return isinstance(value, list) and all(map(_is_text, value))


def _are_times(value: object) -> bool:
    return isinstance(value, dict) and all(map(_is_time, value.values()))


def _is_count(value: object) -> bool:
    return type(value) is int and 0 < value < _MAX_TIME_S


def _are_counts(value: object) -> bool:
    return isinstance(value, dict) and all(map(_is_count, value.values()))


# By the declared type of a field.
_CHECKS: Mapping[object, Callable[[object], bool]] = {
    str: _is_text,
    float: _is_seconds,
    tuple[str, ...]: _are_texts,
    Mapping[str, float]: _are_times,
    Mapping[str, int]: _are_counts,
}
_FACTS = {
    KINDS[fact].name: (fact, [_CHECKS[field] for field in get_type_hints(fact).values()])
    for fact in get_args(Fact)
}

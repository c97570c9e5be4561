"""Happenings as they are kept: long names and texts cut, and their bytes counted. No I/O."""

from __future__ import annotations

from dataclasses import replace
from hashlib import sha256
from sys import getsizeof

from vmw_cloudinit_metadata.monitoring.bounded import (
    CUT_TEXT_BYTES,
    MAX_FACT_BYTES,
    bounded,
    bytes_of,
    within,
)
from vmw_cloudinit_metadata.monitoring.happenings import Happening
from vmw_cloudinit_metadata.protocol.vmware import Machine

_SURELY_SHORT = 200  # characters
_OWN_BYTES = 270  # a Happening without its fact; its time, peer and connection
_NAME_BYTES = 400  # of a name or service URI that is kept; vCenter allows 80 characters
_MACHINE_BYTES = 512  # a Machine without its name and service URI
MAX_MACHINE_BYTES = _MACHINE_BYTES + 2 * _NAME_BYTES  # that is kept
_HASH = 12  # digits


def kept(happening: Happening) -> tuple[Happening, int]:
    """Return the happening in the form that is kept, and its bytes without its machine, which
    others may share."""
    fact, machine = happening.fact, happening.machine
    size = _OWN_BYTES + bytes_of(fact)
    is_short = len(fact.text) <= _SURELY_SHORT and size <= MAX_FACT_BYTES
    if is_short and (machine is None or len(machine.service_uri) + len(machine.name or "") < 100):
        return happening, size
    fact = bounded(fact)
    fact = fact._replace(text=within(fact.text, CUT_TEXT_BYTES))
    happening = happening._replace(machine=machine and short_machine(machine), fact=fact)
    return happening, _OWN_BYTES + bytes_of(fact)


def short_machine(machine: Machine) -> Machine:
    name, uri = machine.name and short_name(machine.name), short_name(machine.service_uri)
    return replace(machine, name=name, service_uri=uri)


def short_name(name: str) -> str:
    """Return the name; if it is long, its beginning and a hash, which no other name has."""
    if getsizeof(name) <= _NAME_BYTES:
        return name
    digits = sha256(name.encode("utf-8", "replace")).hexdigest()[:_HASH]
    return within(name, _NAME_BYTES - 4 * _HASH) + digits


def bytes_of_machine(machine: Machine | None) -> int:
    if machine is None:
        return 0
    return _MACHINE_BYTES + machine.name.__sizeof__() + machine.service_uri.__sizeof__()

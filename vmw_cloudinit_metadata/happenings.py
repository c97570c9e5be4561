"""What happens, told once: to the log, and to whoever else listens.

A happening costs each listener little, so that one for each boot is cheap: nothing is formatted
before somebody wants to read it.
"""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from functools import lru_cache
from itertools import count
from typing import Any, NamedTuple

import ujson

from vmw_cloudinit_metadata.news import key_of
from vmw_cloudinit_metadata.printable import shortened
from vmw_cloudinit_metadata.protocol import packet
from vmw_cloudinit_metadata.protocol.vmware import Machine

log = logging.getLogger(__name__)

# Every kind of happening, and how loud it is where its teller does not say otherwise.
LEVELS = {
    "identified": logging.INFO,
    "untold": logging.WARNING,  # its host does not say which VM it is
    "changed": logging.WARNING,  # another identity on the same connection
    "rival": logging.WARNING,  # two connections with one identity
    "served": logging.INFO,  # documents were answered
    "failed": logging.WARNING,  # a request was answered with an error
    "stale": logging.WARNING,  # the last good answer was given
    "shared source": logging.WARNING,  # two machines get the same file
    "refused": logging.WARNING,  # a VM, or a connection
    "closed": logging.WARNING,  # by us
    "move begun": logging.INFO,
    "move declined": logging.WARNING,
    "move aborted": logging.INFO,
    "move expired": logging.WARNING,
    "moved": logging.INFO,
    "left": logging.DEBUG,  # the connection of an identified machine is gone
}
_NO_DETAILS: Mapping[str, Any] = {}  # one for all: of connected machines there are many
_NOTHING: tuple[Any, ...] = (None, "", (), [])

LEVEL_NAMES = {
    logging.DEBUG: "debug",
    logging.INFO: "info",
    logging.WARNING: "warning",
    logging.ERROR: "error",
    logging.CRITICAL: "critical",
}


class Peer(NamedTuple):
    """Where a happening is from."""

    name: str  # `10.0.0.1:4567`
    host: str  # the address of the ESXi host
    connection: str = ""  # its id; "" for none


class Happening(NamedTuple):
    """One fact; `str` is its line of the log."""

    kind: str  # a key of LEVELS
    level: int
    at_s: float  # since the epoch
    connection: str  # its id; "" for none
    peer: str  # `10.0.0.1:4567`
    host: str  # the address of the ESXi host
    machine: Machine | None  # None as long as nothing is known of it
    remark: str  # of the machine: "" or "older connection"
    text: str  # safe for a log
    details: Mapping[str, Any]

    def __str__(self) -> str:
        if self.machine is None:
            return f"{self.peer}: {self.text}"
        remark = f", {self.remark}" if self.remark else ""
        return f"{self.peer}: {self.machine}{remark}: {self.text}"

    @property
    def key(self) -> str:
        """What tells its machine from others; "" without one."""
        return key_of(self.machine) if self.machine else ""


Listener = Callable[[Happening], None]


def to_log(happening: Happening) -> None:
    """The listener that is always there; the command line program has one that costs less."""
    log.log(happening.level, "%s", happening)


class Happenings:
    """Tells all `listeners` what happens in this process."""

    def __init__(self) -> None:
        self.listeners: list[Listener] = [to_log]  # the log's is the first
        self._process = os.getpid()
        self._numbers = count(1)

    def connection_id(self) -> str:
        """An id that no other connection has, also none of the other workers."""
        return f"{self._process}-{next(self._numbers)}"

    def tell(
        self,
        kind: str,
        text: str,
        peer: Peer,
        machine: Machine | None = None,
        remark: str = "",
        *,
        level: int | None = None,
        **details: Any,
    ) -> None:
        happening = Happening(
            kind,
            LEVELS[kind] if level is None else level,
            time.time(),
            peer.connection,
            peer.name,
            peer.host,
            machine,
            remark,
            shortened(text),
            details or _NO_DETAILS,
        )
        for listener in self.listeners:
            listener(happening)


def pack(happening: Happening) -> list[Any]:
    """As JSON can carry it to another process."""
    packed: list[Any] = list(happening)
    if machine := happening.machine:
        since = machine.connected_since
        packed[6] = [*_identity_of(machine), since and since.timestamp()]
    return packed


def unpack(packed: list[Any]) -> Happening:
    if told := packed[6]:
        told[-1] = told[-1] and datetime.fromtimestamp(told[-1], UTC)
        packed[6] = Machine(*told)
    return Happening(*packed)


def _identity_of(machine: Machine) -> tuple[str | None, ...]:
    return (
        machine.name,
        machine.vc_uuid,
        machine.bios_uuid,
        machine.location_uuid,
        machine.service_uri,
        machine.direction,
        machine.peer_address,
    )


def timestamp(at_s: float) -> str:
    """`2026-03-04T10:11:12.345Z`"""
    return datetime.fromtimestamp(at_s, UTC).isoformat(timespec="milliseconds")[:-6] + "Z"


def fields(happening: Happening) -> dict[str, Any]:
    """The happening as one JSON object, for log, API and events; what is unknown is left out."""
    machine = happening.machine
    told = {
        "time": timestamp(happening.at_s),
        "level": LEVEL_NAMES[happening.level],
        "event": happening.text,
        "kind": happening.kind,
        "machine_name": machine and machine.name,
        "vc_uuid": machine and machine.vc_uuid,
        "esxi_host": happening.host,
        "connection_id": happening.connection,
        "peer": happening.peer,
        "remark": happening.remark,
    }
    details = dict(happening.details)
    if digest := details.pop("digest", None):
        details["documents"] = digests_in(digest)
    return {name: value for name, value in (told | details).items() if value not in _NOTHING}


@lru_cache(maxsize=1024)  # many VMs get the same, and each asks again
def digests_in(response: str) -> dict[str, Any]:
    """What a RESPONSE_DIGEST tells: {"METADATA": {"size": …, "sha256": …}}."""
    found = packet.parse(response.rstrip().encode())
    digests = ujson.loads(found.body) if found else {}
    return {
        name: {"size": digest["length"], "sha256": digest["sha256"]}
        for name, digest in digests.items()
    }

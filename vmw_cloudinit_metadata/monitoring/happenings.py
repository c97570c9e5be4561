"""What happens, told once: to the log, and to whoever else listens.

A happening costs each listener little, so that one for each boot is cheap: nothing is formatted
before somebody wants to read it.
"""

from __future__ import annotations

import logging
import os
import re
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from datetime import UTC, datetime
from functools import lru_cache
from hashlib import sha256
from itertools import count, islice
from sys import getsizeof, intern
from typing import Any, NamedTuple

import ujson

from vmw_cloudinit_metadata.monitoring.news import key_of
from vmw_cloudinit_metadata.protocol import packet
from vmw_cloudinit_metadata.protocol.printable import shortened
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
    "duplicate": logging.WARNING,  # its data has a value that another VM's has too
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

# A happening is kept in several places, and told to another process. Details that hold more than
# this, such as the digests of 1,000 documents, are cut before.
MAX_DETAILS_BYTES = 8 * 1024
_CUT_TEXT_BYTES = 1024  # then of each text
_CUT_COUNT = 24  # and of documents and sources
_NAME_BYTES = 400  # of a name or service URI that is kept; vCenter allows 80 characters
_SURELY_SHORT = 200  # characters
_LONG_DIGEST = 4 * 1024
_FLOAT_BYTES = 24
_COLLECTED_BYTES = 48  # what the collector adds to a mapping and two collections in it
_STRING_BYTES = 88  # a string of its own with three dots, however wide
_HASH = 12  # digits
_OWN_BYTES = 350  # a Happening without its text and details; its time, peer and connection
_MACHINE_BYTES = 512  # a Machine without its name and service URI
MAX_MACHINE_BYTES = _MACHINE_BYTES + 2 * _NAME_BYTES  # that is kept
_REMEMBERED_BYTES = 2048  # of a RESPONSE_DIGEST

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
            bounded(details)
            if len(details.get("digest", "")) > _LONG_DIGEST
            else details or _NO_DETAILS,
        )
        for listener in self.listeners:
            listener(happening)


def bounded(details: Mapping[str, Any]) -> Mapping[str, Any]:
    """The details, or as much of them as a happening carries."""
    if bytes_of(details) <= MAX_DETAILS_BYTES:
        return details
    return cut(details, _CUT_TEXT_BYTES, _CUT_COUNT)


def bytes_of(details: Mapping[str, Any]) -> int:
    """The memory that they hold, without the names of the details: those are constants."""
    answered = details.get("answered") or ()
    parts = [details, *details.values(), *answered, *(details.get("sources") or ())]
    # getsizeof would take three times as long, and only adds what the collector needs.
    sizes: list[int] = [part.__sizeof__() for part in parts]
    return sum(sizes, _COLLECTED_BYTES + _FLOAT_BYTES * len(answered))


def kept(happening: Happening) -> tuple[Happening, int]:
    """The happening as it is kept, without the ends of long names and texts; and the bytes that it
    holds, without its machine, which others may have too."""
    machine, text, details = happening.machine, happening.text, happening.details
    size = _OWN_BYTES + text.__sizeof__()
    if details:
        size += bytes_of(details)
    is_short = len(text) <= _SURELY_SHORT and size <= MAX_DETAILS_BYTES
    if is_short and (machine is None or len(machine.service_uri) + len(machine.name or "") < 100):
        return happening, size
    happening = happening._replace(
        machine=machine and short_machine(machine),
        text=within(text, _CUT_TEXT_BYTES),
        details=bounded(details),
    )
    return happening, _OWN_BYTES + getsizeof(happening.text) + bytes_of(happening.details)


def short_machine(machine: Machine) -> Machine:
    name, uri = machine.name and short_name(machine.name), short_name(machine.service_uri)
    return replace(machine, name=name, service_uri=uri)


def short_name(name: str) -> str:
    """The name, or, of a long one, a shorter that no other has."""
    if getsizeof(name) <= _NAME_BYTES:
        return name
    digits = sha256(name.encode("utf-8", "replace")).hexdigest()[:_HASH]
    return within(name, _NAME_BYTES - 4 * _HASH) + digits


def bytes_of_machine(machine: Machine | None) -> int:
    if machine is None:
        return 0
    return _MACHINE_BYTES + machine.name.__sizeof__() + machine.service_uri.__sizeof__()


def cut(details: Mapping[str, Any], text_bytes: int, most: int) -> dict[str, Any]:
    """The details with shorter texts, and at most so many documents and sources. How many were left
    out is told as `more_documents`, `more_answered` and `more_sources`."""
    told = dict(details)
    for name, value in details.items():
        more = 0
        if name == "digest":
            name = "documents"
            told["digest"], more = _first_digests(value, most)
        elif isinstance(value, str):
            told[name] = within(value, text_bytes)
        elif isinstance(value, dict):
            told[name] = dict(islice(value.items(), most))
            more = len(value) - most
        elif isinstance(value, tuple | list):
            told[name] = tuple(within(str(one), text_bytes) for one in value[:most])
            more = len(value) - most
        if more > 0:
            told[f"more_{name}"] = more + details.get(f"more_{name}", 0)
    return told


def within(text: str, most_bytes: int) -> str:
    """`text`, or the beginning of it that takes no more memory than this."""
    if getsizeof(text) <= most_bytes:
        return text
    room = most_bytes - _STRING_BYTES
    return f"{text[: room if text.isascii() else room // 4]}..."


def pack(happening: Happening) -> list[Any]:
    """As JSON can carry it to another process, if a driver has put nothing else into it."""
    packed: list[Any] = list(happening)
    if machine := happening.machine:
        since = machine.connected_since
        packed[6] = [*_identity_of(machine), since and since.timestamp()]
    return packed


def unpack(packed: Any) -> Happening:
    """What `pack` has made, after JSON; raises ValueError for anything else."""
    if not isinstance(packed, list) or tuple(map(type, packed)) not in _FIELDS:
        raise ValueError("a happening has other fields")
    happening = Happening._make(packed)
    if happening.kind not in LEVELS or happening.level not in LEVEL_NAMES:
        raise ValueError("a happening of an unknown kind or level")
    if not _is_time(happening.at_s) or not _are_details(happening.kind, happening.details):
        raise ValueError("a happening with a wrong time or wrong details")
    if packed[6] is not None:
        packed[6] = _machine_in(packed[6])
    for place in (0, 3, 4, 5):  # the same in all happenings of a connection
        packed[place] = intern(packed[place])
    return Happening._make(packed)


def _machine_in(told: list[Any]) -> Machine:
    if tuple(map(type, told[4:])) not in _FURTHER:
        raise ValueError("a machine has other fields")
    name, *uuids = told[:4]
    if not all(uuid is None or _is_uuid(uuid) for uuid in uuids):
        raise ValueError("a machine has a wrong UUID")
    if not (name is None or isinstance(name, str)):
        raise ValueError("a machine has a wrong name")
    since = told[7]
    if since is not None:
        if not _is_time(since):
            raise ValueError("a machine is connected since a wrong time")
        told[7] = datetime.fromtimestamp(since, UTC)
    return Machine(*told)


# The types of a happening's fields in JSON, and of a machine's behind its identity.
_FIELDS = {
    (str, int, float, str, str, str, machine, str, str, dict) for machine in (list, type(None))
}
_FURTHER = {(str, str, str, since) for since in (float, type(None))}


def _is_uuid(value: object) -> bool:
    return isinstance(value, str) and _UUID.fullmatch(value) is not None


_UUID = re.compile("[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", re.ASCII)


def _is_time(value: object) -> bool:
    return isinstance(value, (int, float)) and 0 <= value < _MAX_TIME_S


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float)) and -_MAX_TIME_S < value < _MAX_TIME_S


def _are_details(kind: str, details: Mapping[str, Any]) -> bool:
    """Whether they are what listeners look for: all of that, and of the right types."""
    has_all = all(name in details for name in _NEEDED.get(kind, ()))
    return has_all and all(_DETAILS.get(name, _is_plain)(value) for name, value in details.items())


def _is_text(value: object) -> bool:
    return isinstance(value, str)


def _are_texts(value: object) -> bool:
    return isinstance(value, list) and all(map(_is_text, value))


def _are_times(value: object) -> bool:
    return isinstance(value, dict) and all(map(_is_time, value.values()))


def _is_plain(value: object) -> bool:
    """Whether JSON has it without nesting: what else a happening may tell."""
    parts = value if isinstance(value, list) else [value]
    if isinstance(value, dict):
        parts = list(value.values())
    return all(isinstance(part, (str, int, float, type(None))) for part in parts)


_NEEDED = {"served": ("answered",), "failed": ("document", "error")}
_DETAILS: Mapping[str, Callable[[object], bool]] = {
    "answered": _are_times,
    "sources": _are_texts,
    "seconds": _is_number,  # negative, if the clock was set back
    **dict.fromkeys(("digest", "matched_by", "problem", "document", "error", "reason"), _is_text),
}
_MAX_TIME_S = 253_402_300_000.0  # 9999-12-31: datetime has no later year


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


def digests_in(response: str) -> dict[str, Any]:
    """What a RESPONSE_DIGEST tells: {"METADATA": {"size": …, "sha256": …}}; {} if it is none."""
    return _remembered(response) if len(response) <= _REMEMBERED_BYTES else _digests_in(response)


def _digests_in(response: str) -> dict[str, Any]:
    try:
        return {
            name: {"size": digest["length"], "sha256": digest["sha256"]}
            for name, digest in _digests(response).items()
        }
    except (ValueError, TypeError, LookupError, AttributeError):  # of a worker that is out of order
        return {}


# Many VMs get the same, and each asks again. What it holds is bounded by both numbers.
_remembered = lru_cache(maxsize=256)(_digests_in)


def _digests(response: str) -> dict[str, Any]:
    found = packet.parse(response.rstrip().encode("utf-8", "replace"))
    digests: dict[str, Any] = ujson.loads(found.body) if found else {}
    return digests


def _first_digests(response: str, most: int) -> tuple[str, int]:
    """A RESPONSE_DIGEST with the first `most` documents only, and how many more it had."""
    digests = _digests(response)
    first = ujson.dumps(dict(islice(digests.items(), most)))
    cut_response = packet.serialize(packet.Packet("RESPONSE_DIGEST", first.encode()))
    return cut_response.decode(), len(digests) - most

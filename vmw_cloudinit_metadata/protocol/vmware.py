"""VMWARE-TELNET-EXT, telnet option 232: its suboptions, and the identity of a VM.

Follows VMware's "Using a Proxy with vSphere Virtual Serial Ports" (EN-001415). "VM" is the ESXi
side, "us" the proxy. Pure.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from enum import IntEnum
from typing import Any
from urllib.parse import parse_qsl

from vmw_cloudinit_metadata.protocol import identitytoken
from vmw_cloudinit_metadata.protocol.identitytoken import Proof
from vmw_cloudinit_metadata.protocol.printable import quoted
from vmw_cloudinit_metadata.protocol.state import (
    Form,
    InvalidState,
    State,
    listed,
    mapping,
    one_of,
    text,
)
from vmw_cloudinit_metadata.protocol.telnet import Option, Subnegotiation
from vmw_cloudinit_metadata.protocol.testmark import is_marked, without_mark


class Suboption(IntEnum):
    KNOWN_SUBOPTIONS_1 = 0  # VM: the codes that it knows
    KNOWN_SUBOPTIONS_2 = 1  # us: the codes that we know
    UNKNOWN_SUBOPTION_RCVD_1 = 2  # VM: the code of ours that it does not know
    UNKNOWN_SUBOPTION_RCVD_2 = 3  # us: the code of its that we do not know
    VMOTION_BEGIN = 40  # VM, source host: sequence
    VMOTION_GOAHEAD = 41  # us: sequence, secret
    VMOTION_NOTNOW = 43  # us: sequence
    VMOTION_PEER = 44  # VM, target host: sequence, secret
    VMOTION_PEER_OK = 45  # us: sequence
    VMOTION_COMPLETE = 46  # VM, target host: sequence
    VMOTION_ABORT = 48  # VM, source host
    DO_PROXY = 70  # VM: direction, service URI
    WILL_PROXY = 71  # us
    WONT_PROXY = 73  # us
    VM_VC_UUID = 80  # VM; each GET is ours and one above what it asks for
    GET_VM_VC_UUID = 81
    VM_NAME = 82
    GET_VM_NAME = 83
    VM_BIOS_UUID = 84
    GET_VM_BIOS_UUID = 85
    VM_LOCATION_UUID = 86
    GET_VM_LOCATION_UUID = 87


# Question -> answer, in the order in which we ask.
IDENTITY = {
    Suboption.GET_VM_VC_UUID: Suboption.VM_VC_UUID,
    Suboption.GET_VM_NAME: Suboption.VM_NAME,
    Suboption.GET_VM_BIOS_UUID: Suboption.VM_BIOS_UUID,
    Suboption.GET_VM_LOCATION_UUID: Suboption.VM_LOCATION_UUID,
}

DIRECTIONS = {b"C": "client", b"S": "server"}

# vCenter's own limit is 80 characters, before it writes / \ % as three.
MAX_NAME_BYTES = 1024
MAX_URI_BYTES = 1024
MAX_CARDS = 32
MAC_CHARACTERS = 17

NIL_UUID = "00000000-0000-0000-0000-000000000000"  # RFC 9562: of no VM

# Sixteen pairs, written out: counting them takes twice as long.
_UUID = re.compile(b"[ -]?+".join([b"[0-9a-fA-F][0-9a-fA-F]"] * 16))
_LOWER = bytes(range(256)).lower()


def suboption(code: int, argument: bytes = b"") -> Subnegotiation:
    return Subnegotiation(Option.VMWARE_TELNET_EXT, bytes([code]) + argument)


def named(code: Suboption) -> str:
    """Return the name as the document writes it: VM-VC-UUID."""
    return code.name.replace("_", "-")


def parse_uuid(text: str) -> str | None:
    """Return the canonical form (lower case, 8-4-4-4-12) of a UUID in any usual form, or None."""
    return parse_sent_uuid(text.encode("ascii", "replace"))


def parse_sent_uuid(argument: bytes) -> str | None:
    """Do the same for one that a VM's host has sent.

    VMware writes 16 hex pairs: `01 23 45 67 89 ab cd ef-fe dc ba 98 00 00 00 00`.
    """
    if not _UUID.fullmatch(argument):
        return None
    digits = argument.translate(_LOWER, b" -").decode()
    return f"{digits[:8]}-{digits[8:12]}-{digits[12:16]}-{digits[16:20]}-{digits[20:]}"


def parse_name(argument: bytes) -> str | None:
    """Return a VM's name, or None if it is empty, longer than MAX_NAME_BYTES, or not UTF-8."""
    if not 0 < len(argument) <= MAX_NAME_BYTES:
        return None
    try:
        return argument.decode()
    except UnicodeDecodeError:
        return None


# Each returns the identity that an answer holds, or None if it is unusable.
PARSERS = {**dict.fromkeys(IDENTITY.values(), parse_sent_uuid), Suboption.VM_NAME: parse_name}


def serves(service_uri: str, uris: frozenset[str]) -> bool:
    """Return whether a service URI, with or without its query, is one of `uris`; a token and the
    mark of a test in it do not count."""
    if service_uri.partition("?")[0] in uris:
        return True
    return without_mark(identitytoken.without_token(service_uri)) in uris


@dataclass(frozen=True, slots=True)
class Machine:
    """The identity of a VM, as the ESXi host sent it.

    UUIDs are canonical (lower case, 8-4-4-4-12); None stands for one that was not sent or is
    unusable. Two machines are equal if they agree in all but `connected_since`.
    """

    name: str | None = None
    vc_uuid: str | None = None  # vCenter's config.instanceUuid: unique in that vCenter
    bios_uuid: str | None = None  # config.uuid: clones and restores can share it
    location_uuid: str | None = None
    service_uri: str = ""  # as the VM has it, with its query; an identity token is hidden: `t=…`
    direction: str = "client"  # or "server"
    peer_address: str = ""  # of the ESXi host
    connected_since: datetime | None = field(default=None, compare=False)
    proof: Proof = Proof.UNASKED  # of its identity
    macs: tuple[str, ...] = ()  # of its network cards, in their order, as vCenter has them
    # Whether an administrator plays the VM (testmark.py); each happening asks for it.
    is_test: bool = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "is_test", is_marked(self.service_uri))

    @property
    def query(self) -> Mapping[str, str]:
        """The service URI's query: {"profile": "web"} for `my-metadata?profile=web`; without the
        identity token and the mark of a test."""
        query = without_mark(identitytoken.without_token(self.service_uri)).partition("?")[2]
        return dict(parse_qsl(query, keep_blank_values=True)) if query else {}

    @property
    def is_anonymous(self) -> bool:
        """Whether nothing is known by which the VM could be found."""
        return not (self.name or self.vc_uuid or self.bios_uuid or self.location_uuid)

    def __str__(self) -> str:
        """Return a text for logs, safe whatever the VM's name is."""
        parts = [quoted(self.name)] if self.name else []
        parts += [f"VC UUID {self.vc_uuid}"] if self.vc_uuid else []
        if not parts:
            parts = [f"BIOS UUID {self.bios_uuid}"] if self.bios_uuid else ["a VM without identity"]
        return ", ".join(parts)


def _write_time(moment: datetime | None) -> float | None:
    return moment.timestamp() if moment else None


def _read_time(value: object) -> datetime | None:
    try:
        if isinstance(value, float) and value >= 0:
            return datetime.fromtimestamp(value, UTC)
    except (OverflowError, ValueError, OSError):
        pass
    raise InvalidState("expected a time")


def _read_uuid(value: object) -> str | None:
    if value is None or (isinstance(value, str) and parse_uuid(value) == value):
        return value
    raise InvalidState("expected a UUID")


def _read_macs(value: object) -> tuple[str, ...]:
    return tuple(_MACS.read(value))


_MACS = listed(text(MAC_CHARACTERS), MAX_CARDS)
_UUID_OR_NONE = Form(None, str, _read_uuid)
_FIELDS: Mapping[str, Form] = {
    "name": text(MAX_NAME_BYTES, None),
    **dict.fromkeys(("vc_uuid", "bios_uuid", "location_uuid"), _UUID_OR_NONE),
    "service_uri": text(MAX_URI_BYTES),
    "direction": one_of({direction: direction for direction in DIRECTIONS.values()}, "client"),
    "peer_address": text(64),
    "connected_since": Form(None, _write_time, _read_time),
    "proof": identitytoken.PROOF,
    "macs": Form((), list, _read_macs),
}


def _write_machine(machine: Machine) -> State:
    values = {name: getattr(machine, name) for name in _FIELDS}
    return {
        name: _FIELDS[name].write(value)
        for name, value in values.items()
        if value != _FIELDS[name].new
    }


def _read_machine(value: Any) -> Machine:
    state = mapping(value)
    if state.keys() - _FIELDS.keys():
        raise InvalidState("a machine has other fields")
    return Machine(**{name: _FIELDS[name].read(value) for name, value in state.items()})


MACHINE = Form(None, _write_machine, _read_machine)


def machine_called(text: str) -> Machine:
    """Return the machine with this VC UUID, or else this name, of which nothing more is known."""
    uuid = parse_uuid(text)
    return Machine(vc_uuid=uuid) if uuid else Machine(name=text)

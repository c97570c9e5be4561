"""The events that a session reports to its owner: values only.

A move is identified by its number, the same at its source and its target.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from vmw_cloudinit_metadata.protocol.nearrequest import NearRequest
from vmw_cloudinit_metadata.protocol.packet import GuestRequest
from vmw_cloudinit_metadata.protocol.vmware import Machine

RefusalKind = Literal[
    "another service URI", "without TLS", "VMOTION-PEER", "plain bytes before TLS"
]

# Every `kind` of a Violation.
VIOLATION_KINDS = (
    "line that is almost a request",
    "line that is no request",
    "line too long",
    "subnegotiation too long",
    "subnegotiation without an option",
    "suboption without a code",
    "too many requests before the identity",
    "too much before VMOTION-COMPLETE",
    "too much behind VMOTION-COMPLETE",
    "too much before the end of AUTHENTICATION",
    "unexpected AUTHENTICATION",
    "unexpected DO-PROXY",
    "unexpected GET-VM-BIOS-UUID",
    "unexpected GET-VM-LOCATION-UUID",
    "unexpected GET-VM-NAME",
    "unexpected GET-VM-VC-UUID",
    "unexpected KNOWN-SUBOPTIONS-2",
    "unexpected UNKNOWN-SUBOPTION-RCVD-2",
    "unexpected VMOTION-ABORT",
    "unexpected VMOTION-COMPLETE",
    "unexpected VMOTION-GOAHEAD",
    "unexpected VMOTION-NOTNOW",
    "unexpected VMOTION-PEER",
    "unexpected VMOTION-PEER-OK",
    "unexpected WILL-PROXY",
    "unexpected WONT-PROXY",
    "unexpected subnegotiation",
    "unknown suboption",
    "unknown telnet command",
    "unterminated subnegotiation",
    "unusable VM-BIOS-UUID",
    "unusable VM-LOCATION-UUID",
    "unusable VM-NAME",
    "unusable VM-VC-UUID",
)


@dataclass(frozen=True, slots=True)
class IdentityAsked:
    """The VM was asked for its identity, or should send it by itself; `identity_overdue` ends
    that."""

    again: bool = False  # it was identified before


@dataclass(frozen=True, slots=True)
class IdentityMissing:
    """The VM's host has not sent what determines the VM.

    Until it does, each request is answered with the error `timeout`. The VM is asked again at each
    `identity_overdue`.
    """

    missing: str  # for the operator
    is_first: bool  # not a repetition


@dataclass(frozen=True, slots=True)
class Identified:
    """The VM is identified, or something of its identity has changed."""

    machine: Machine


@dataclass(frozen=True, slots=True)
class Refused:
    """The VM is not served; the session is mute."""

    kind: RefusalKind
    reason: str  # for the operator, safe for a log
    is_attack: bool = False  # then the connection is to be closed at once


@dataclass(frozen=True, slots=True)
class NotHypervisor:
    """The peer is not an ESXi host. The session is mute, and has sent a line that says so."""

    what: str  # "an HTTP client"
    advice: str = ""  # for the operator

    def __str__(self) -> str:
        advice = f"; {self.advice}" if self.advice else ""
        return f"peer is {self.what}, not an ESXi host{advice}"


@dataclass(frozen=True, slots=True)
class TlsAccepted:
    """When `data_to_send` is sent, the TLS handshake begins. The session is mute."""


@dataclass(frozen=True, slots=True)
class MoveBegun:
    """The server sent VMOTION-GOAHEAD: nothing may be sent to the guest from now on."""

    number: int
    instead_of: int | None = None  # an abandoned move, which has made room
    token: bytes = field(default=b"", repr=False)  # a secret: its target is known by it


@dataclass(frozen=True, slots=True)
class MoveDeclined:
    """The host announced a move and got VMOTION-NOTNOW."""

    reason: str
    is_of_rate: bool = False


@dataclass(frozen=True, slots=True)
class MoveAborted:
    """The move failed: the VM stays at this host, and may be sent answers again."""


@dataclass(frozen=True, slots=True)
class MoveClaimed:
    """The target host's connection of a move from another process, with a secret that is right.

    It is asked whether this is the first use of it; `settle_claim` says so.
    """

    token: bytes = field(repr=False)  # a secret


@dataclass(frozen=True, slots=True)
class MoveArrived:
    """This is the target host's connection of a move, and got VMOTION-PEER-OK."""

    number: int | None  # None: the source is connected to another process


@dataclass(frozen=True, slots=True)
class MoveCompleted:
    """The VM runs at this host now.

    The owner passes on to the source's session what has arrived there, and calls `take_over` here.
    """

    number: int | None


@dataclass(frozen=True, slots=True)
class TakenOver:
    """The session has become that of the moved VM, and continues where the source stopped."""

    number: int | None


@dataclass(frozen=True, slots=True)
class Violation:
    """The peer sent something that the protocol does not allow."""

    kind: str  # one of VIOLATION_KINDS


Event = (
    IdentityAsked
    | IdentityMissing
    | Identified
    | GuestRequest  # its VM is identified, or overdue
    | Refused
    | NotHypervisor
    | TlsAccepted
    | MoveBegun
    | MoveDeclined
    | MoveAborted
    | MoveClaimed
    | MoveArrived
    | MoveCompleted
    | TakenOver
    | Violation
    | NearRequest
)

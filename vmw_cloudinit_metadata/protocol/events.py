"""What a session tells its owner. Values, and nothing else."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from vmw_cloudinit_metadata.protocol.vmware import Machine

if TYPE_CHECKING:
    from vmw_cloudinit_metadata.protocol.session import Session

RefusalKind = Literal[
    "another service URI", "without TLS", "VMOTION-PEER", "plain bytes before TLS"
]

# Every `kind` of a Fault.
VIOLATION_KINDS = (
    "line that is no request",
    "line too long",
    "subnegotiation too long",
    "subnegotiation without an option",
    "suboption without a code",
    "too many requests before the identity",
    "too much before VMOTION-COMPLETE",
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
    """The VM was asked who it is, or should tell by itself; `identity_overdue` ends that."""

    again: bool = False  # it has told before


@dataclass(frozen=True, slots=True)
class IdentityUntold:
    """Its host has not told what decides which VM it is: until it does, each request is answered
    with the error `timeout`. It is asked again after each `identity_overdue`."""

    missing: str  # for the operator
    is_news: bool


@dataclass(frozen=True, slots=True)
class Identified:
    """The VM has told who it is, or has changed it, or has told it again."""

    machine: Machine


@dataclass(frozen=True, slots=True)
class Requested:
    """The guest asks for a document, "METADATA"; its VM is identified, or `is_untold`."""

    document: str


@dataclass(frozen=True, slots=True)
class Refused:
    """The peer is not served, and the session is mute from here on."""

    kind: RefusalKind
    reason: str  # for the operator, safe for a log
    is_attack: bool = False  # then the connection is to be closed at once


@dataclass(frozen=True, slots=True)
class Strange:
    """The peer is no hypervisor; the session is mute, and has said so where that helps."""

    reason: str


@dataclass(frozen=True, slots=True)
class TlsAccepted:
    """When what is to be sent is sent, the TLS handshake begins; the session is mute."""


@dataclass(frozen=True, slots=True)
class MoveBegun:
    """The VM was given VMOTION-GOAHEAD: nothing may be said to its guest from now on."""

    instead_of: Session | None = None  # the source of an abandoned move that has made room


@dataclass(frozen=True, slots=True)
class MoveDeclined:
    """The VM wished to move to another host and got VMOTION-NOTNOW."""

    reason: str
    is_of_rate: bool = False


@dataclass(frozen=True, slots=True)
class MoveAborted:
    """The move failed: the VM goes on where it is, and may be talked to again."""


@dataclass(frozen=True, slots=True)
class MoveArrived:
    """This is the target host's connection of a move, and got VMOTION-PEER-OK."""

    source: Session | None  # None: of a move that another process knows


@dataclass(frozen=True, slots=True)
class MoveCompleted:
    """The VM is here now: the owner hands what the source has still heard to it, and then says
    `take_over` to this session."""

    source: Session | None


@dataclass(frozen=True, slots=True)
class Fault:
    """The peer sent something that is not the protocol; `kind` is one of VIOLATION_KINDS."""

    kind: str


Event = (
    IdentityAsked
    | IdentityUntold
    | Identified
    | Requested
    | Refused
    | Strange
    | TlsAccepted
    | MoveBegun
    | MoveDeclined
    | MoveAborted
    | MoveArrived
    | MoveCompleted
    | Fault
)

"""Every kind of happening: its name, level and fields. Pure.

The log, the audit log, the list of machines, the messages of workers and docs/admin.md follow
these declarations. A fact has a `text` for people; its other fields are keys of the JSON log.
Named tuples: one takes half the time of a frozen dataclass to make (522 and 1,014 ns).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import NamedTuple, TypeVar

DEBUG, INFO, WARNING = 10, 20, 30  # logging's numbers

F = TypeVar("F")


class Kind(NamedTuple):
    name: str  # `kind` in the JSON log
    level: int  # unless the report says otherwise


KINDS: dict[type, Kind] = {}


def _kind(name: str, level: int) -> Callable[[type[F]], type[F]]:
    def declare(fact: type[F]) -> type[F]:
        KINDS[fact] = Kind(name, level)
        return fact

    return declare


@_kind("identified", INFO)
class VmIdentified(NamedTuple):
    """A VM is identified."""

    text: str


@_kind("untold", WARNING)
class VmUnidentified(NamedTuple):
    """A host does not send which VM it is."""

    text: str


@_kind("changed", WARNING)
class IdentityChanged(NamedTuple):
    """A VM has another identity on the same connection."""

    text: str


@_kind("unproved", WARNING)
class IdentityUnproved(NamedTuple):
    """A VM is served although nothing proves its identity."""

    text: str


@_kind("rival", WARNING)
class RivalConnected(NamedTuple):
    """Two connections have one identity."""

    text: str


@_kind("served", INFO)
class DocumentsServed(NamedTuple):
    """A guest has received documents."""

    text: str
    answered: Mapping[str, float]  # document: when, in seconds since 1970
    seconds: float  # from the first request; negative if the clock was set back
    digest: str  # the RESPONSE_DIGEST; in JSON `documents`, with size and SHA-256 of each
    sources: tuple[str, ...]
    matched_by: str
    problem: str  # why the last good answer was given
    more: Mapping[str, int] = {}  # how many were left out of a long list: `more_answered` in JSON


@_kind("boot report", INFO)
class BootReported(NamedTuple):
    """A guest has reported how its boot ended. All but `hosts` and `seconds` is what it says."""

    text: str
    status: str  # done, degraded or error
    errors: tuple[str, ...]
    stages: Mapping[str, float]  # of cloud-init, in seconds
    seconds: float  # from its meta-data to the report
    instance_id: str
    boot_id: str
    hosts: tuple[str, ...]  # names and addresses in its data
    host_keys: tuple[str, ...]  # none, if it is uncertain which VM this is
    more: Mapping[str, int] = {}


@_kind("misspelled", WARNING)
class RequestMisspelled(NamedTuple):
    """A guest has sent a line that is almost a request."""

    text: str


@_kind("failed", WARNING)
class RequestFailed(NamedTuple):
    """A request was answered with an error."""

    text: str
    document: str
    error: str
    reason: str


@_kind("window closed", INFO)
class WindowClosed(NamedTuple):
    """A VM that has had its user-data asks for it after its window."""

    text: str
    document: str
    reason: str


@_kind("window reopened", INFO)
class WindowReopened(NamedTuple):
    """The window of a VM's user-data is open again, by an operator's command."""

    text: str


@_kind("stale", WARNING)
class StaleServed(NamedTuple):
    """A guest has received the last good answer."""

    text: str
    sources: tuple[str, ...]
    more: Mapping[str, int] = {}


@_kind("shared source", WARNING)
class SourceShared(NamedTuple):
    """Two VMs get the same file."""

    text: str
    sources: tuple[str, ...]
    more: Mapping[str, int] = {}


@_kind("duplicate", WARNING)
class ValueDuplicated(NamedTuple):
    """The data of two VMs have the same value."""

    text: str
    sources: tuple[str, ...]
    more: Mapping[str, int] = {}


@_kind("refused", WARNING)
class PeerRejected(NamedTuple):
    """A VM or a connection is not served."""

    text: str
    reason: str


@_kind("closed", WARNING)
class ConnectionClosed(NamedTuple):
    """The server closes a connection."""

    text: str
    reason: str


@_kind("move begun", INFO)
class VmotionBegun(NamedTuple):
    """A vMotion begins."""

    text: str


@_kind("move declined", WARNING)
class VmotionDeclined(NamedTuple):
    """The server declines a vMotion."""

    text: str


@_kind("move aborted", INFO)
class VmotionAborted(NamedTuple):
    """The source host aborts a vMotion."""

    text: str


@_kind("move expired", WARNING)
class VmotionExpired(NamedTuple):
    """A vMotion was neither completed nor aborted in time."""

    text: str


@_kind("moved", INFO)
class VmMoved(NamedTuple):
    """A vMotion has completed: the VM is on this connection now."""

    text: str


@_kind("left", DEBUG)
class VmLeft(NamedTuple):
    """The connection of an identified VM has ended."""

    text: str


Fact = (
    VmIdentified
    | VmUnidentified
    | IdentityChanged
    | IdentityUnproved
    | RivalConnected
    | DocumentsServed
    | BootReported
    | RequestFailed
    | RequestMisspelled
    | StaleServed
    | SourceShared
    | ValueDuplicated
    | PeerRejected
    | ConnectionClosed
    | VmotionBegun
    | VmotionDeclined
    | VmotionAborted
    | VmotionExpired
    | VmMoved
    | VmLeft
    | WindowClosed
    | WindowReopened
)

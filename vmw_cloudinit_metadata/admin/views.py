"""Machines in the API: a row of the list, or all that is known of one."""

from __future__ import annotations

import sys
from collections.abc import Callable, Collection
from typing import Any

from vmw_cloudinit_metadata.admin.machinerecord import (
    LEFT,
    MISSING,
    STATES,
    TEST,
    TROUBLE,
    MachineRecord,
    problem_of,
)
from vmw_cloudinit_metadata.admin.nextstep import next_step
from vmw_cloudinit_metadata.admin.vcenterview import vcenter_of
from vmw_cloudinit_metadata.monitoring.digests import digests_in
from vmw_cloudinit_metadata.monitoring.facts import (
    BootReported,
    DocumentsServed,
    Fact,
    RequestFailed,
)
from vmw_cloudinit_metadata.monitoring.happenings import Happening
from vmw_cloudinit_metadata.monitoring.jsonobject import fields, timestamp
from vmw_cloudinit_metadata.process.vcenter.vcenterlink import VcenterLink
from vmw_cloudinit_metadata.protocol.printable import shortened

MAX_REASON = 300  # characters, in the list

# What a filter may say beside a state.
GROUPS: dict[str, Callable[[MachineRecord], bool]] = {
    "trouble": lambda entry: entry.state in TROUBLE,
    "connected": lambda entry: entry.is_connected,
    LEFT: lambda entry: not entry.is_connected and entry.state not in (MISSING, TEST),
}
FILTERS = (*STATES, *(name for name in GROUPS if name not in STATES))


def row(entry: MachineRecord, vcenter: VcenterLink | None = None) -> dict[str, Any]:
    """Return one line of the list."""
    machine = entry.machine
    return {
        "id": entry.key,
        "name": machine.name,
        "vc_uuid": machine.vc_uuid,
        "esxi_host": entry.host or None,
        "state": entry.state,
        "connected": entry.is_connected,
        "connected_since": _since(entry),
        "changed": _time(entry.changed_s),
        "served": timestamp(entry.served.at_s) if entry.served else None,
        "ports": entry.port_count,
        "last_error": _error(entry.trouble, MAX_REASON),
        "vcenter": vcenter_of(entry, vcenter),
    }


def story(entry: MachineRecord, vcenter: VcenterLink | None = None) -> dict[str, Any]:
    """Return everything known of one machine."""
    machine = entry.machine
    return row(entry, vcenter) | {
        "last_error": _error(entry.trouble),
        "bios_uuid": machine.bios_uuid,
        "location_uuid": machine.location_uuid,
        "left": None if entry.is_connected else _time(entry.left_s),
        "next": next_step(entry.state, entry.problem),
        "ports": [_port(connection, came) for connection, came in entry.ports.items()],
        "asked": [
            {"document": document, "time": timestamp(at_s), "outcome": outcome}
            for document, at_s, outcome in entry.answers()
        ],
        **_served(entry.served and entry.served.fact),
        "outcome": _outcome(entry.outcome),
        "moves": [fields(happening) for happening in entry.moves],
        "story": [fields(happening) | {"times": times} for happening, times, _ in entry.story],
    }


def _served(fact: Fact | None) -> dict[str, Any]:
    if not isinstance(fact, DocumentsServed):
        return {"matched_by": None, "files": [], "documents": {}, "more_documents": 0}
    return {
        "matched_by": fact.matched_by or None,
        "files": list(fact.sources),
        "documents": digests_in(fact.digest),
        "more_documents": fact.more.get("documents", 0),
    }


def _outcome(reported: Happening | None) -> dict[str, Any] | None:
    """Return what the guest has said of its last boot."""
    if reported is None or not isinstance(reported.fact, BootReported):
        return None
    fact = reported.fact
    return {
        "time": timestamp(reported.at_s),
        "status": fact.status,
        "errors": list(fact.errors),
        "stages": dict(fact.stages),
        "seconds": fact.seconds,
        "instance_id": fact.instance_id,
        "boot_id": fact.boot_id or None,
        "hosts": list(fact.hosts),
        "host_keys": list(fact.host_keys),
        "more_errors": fact.more.get("errors", 0),
        "more_host_keys": fact.more.get("host_keys", 0),
    }


def _port(connection: str, came: Happening) -> dict[str, Any]:
    assert came.machine
    return {
        "connection_id": connection,
        "peer": came.peer,
        "service_uri": came.machine.service_uri,
        "direction": came.machine.direction,
        "proof": came.machine.proof.value or None,
        "connected_since": _connected(came),
    }


def _since(entry: MachineRecord) -> str | None:
    return min(map(_connected, entry.ports.values()), default=None)


def _connected(came: Happening) -> str:
    since = came.machine and came.machine.connected_since
    return timestamp(since.timestamp() if since else came.at_s)


def _error(trouble: Happening | None, most: int = sys.maxsize) -> dict[str, Any] | None:
    if trouble is None:
        return None
    document, reason = None, trouble.text
    if isinstance(trouble.fact, RequestFailed):
        document, reason = trouble.fact.document, trouble.fact.reason
    return {
        "time": timestamp(trouble.at_s),
        "error": problem_of(trouble),
        "document": document,
        "reason": shortened(reason, most),
    }


def _time(at_s: float) -> str | None:
    return timestamp(at_s) if at_s else None


def matches(entry: MachineRecord, state: str, words: Collection[str]) -> bool:
    """Return whether it is in that state or group, and all `words`, in lower case, occur in it."""
    if state and state != entry.state and not (state in GROUPS and GROUPS[state](entry)):
        return False
    return not words or all(word in _about(entry) for word in words)


def _about(entry: MachineRecord) -> str:
    machine = entry.machine
    reason = entry.trouble.text if entry.trouble else ""
    about = (machine.name, machine.vc_uuid, machine.bios_uuid, entry.host, entry.state, reason)
    return " ".join(filter(None, about)).lower()

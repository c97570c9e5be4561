"""What a server tells its fleet: machines as they are, and how boots ended, as JSON. No I/O.

Nearly every boot is the last that a machine was served with. Then it is told with its machine, and
the fleet process takes both apart; other boots are told for themselves.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import Any, NamedTuple

import ujson

from vmw_cloudinit_metadata.admin import views
from vmw_cloudinit_metadata.admin.machinerecord import MachineRecord, problem_of
from vmw_cloudinit_metadata.monitoring.facts import (
    KINDS,
    BootReported,
    DocumentsServed,
    Fact,
    PeerRejected,
    RequestFailed,
    VmIdentified,
)
from vmw_cloudinit_metadata.monitoring.happenings import Happening
from vmw_cloudinit_metadata.process.fleet import machinestory
from vmw_cloudinit_metadata.process.fleet.machinerows import (
    MAX_REASON,
    ToldAnswers,
    ToldBoot,
    ToldEnd,
    ToldMachine,
    ToldTrouble,
)
from vmw_cloudinit_metadata.process.fleet.outcomerows import ToldOutcome

log = logging.getLogger(__name__)

# The facts that may end a boot.
ENDING = frozenset({DocumentsServed, RequestFailed, PeerRejected, BootReported})

_QUOTING_URIS = {KINDS[VmIdentified].name, KINDS[PeerRejected].name}


class EndedBoot(NamedTuple):
    """A boot, or an attempt of one, that has ended and is not told yet."""

    number: int  # no other boot of this server has it
    key: str  # of its machine
    happening: Happening  # its end

    @property
    def told(self) -> ToldBoot:
        """The boot as the fleet is told it for itself."""
        fact, machine = self.happening.fact, self.happening.machine
        assert machine
        first_s = at_s = self.happening.at_s
        document: str | None = None
        served = None
        if isinstance(fact, DocumentsServed):
            at_s = _ended_s(fact)
            first_s, served = at_s - fact.seconds, _served(self.happening, fact)
            outcome, reason = "stale" if fact.problem else "served", fact.problem
        else:
            outcome = problem_of(self.happening)
            document, reason = _document_and_reason(fact)
        return ToldBoot(
            self.number,
            self.key,
            machine.name,
            machine.vc_uuid,
            self.happening.host,
            _since(self.happening, 0.0),
            first_s,
            at_s,
            outcome,
            document,
            reason,
            served,
        )


def boot_of(happening: Happening, numbers: Iterator[int]) -> EndedBoot | None:
    """Return the boot, or the attempt of one, that has ended so; None if none has."""
    fact, machine = happening.fact, happening.machine
    match fact:
        case DocumentsServed():
            is_end = "METADATA" in fact.answered
        case RequestFailed():
            # Neither says anything about the VM.
            is_end = fact.error != "unknown-request" and fact.document != "STATUS"
        case _:
            is_end = type(fact) in ENDING
    if not is_end or machine is None or machine.is_test:
        return None
    key = happening.key
    return EndedBoot(next(numbers), key, happening) if key else None


def outcome_of(happening: Happening, numbers: Iterator[int]) -> ToldOutcome | None:
    """Return what a guest has reported of its boot, if it has."""
    machine, fact = happening.machine, happening.fact
    if not isinstance(fact, BootReported) or machine is None or machine.is_test:
        return None
    return ToldOutcome(
        next(numbers),
        happening.key,
        machine.name,
        machine.vc_uuid,
        happening.host,
        happening.at_s,
        fact.seconds,
        fact.status,
        fact.instance_id,
        fact.boot_id,
        fact.errors,
        dict(fact.stages),
        fact.hosts,
        fact.host_keys,
        machine.proof.value,
    )


def told_machine(
    record: MachineRecord, ended: Mapping[str, EndedBoot] = MappingProxyType({})
) -> ToldMachine:
    """Return a machine as the fleet is told it; and with it what is missing of its boot among those
    that have `ended`, by key, if that is what it was served last."""
    machine, trouble, served = record.machine, record.trouble, record.served
    since_s = 0.0
    if record.port_count:
        since_s = min(
            (_since(came, came.at_s) for came in record.ports.values()), default=record.changed_s
        )
    answers = end = None
    if served and isinstance(served.fact, DocumentsServed):
        answers = _served(served, served.fact)
        boot, fact = ended.get(record.key), served.fact
        is_all = served.machine is machine and served.host == record.host
        if boot and is_all and boot.happening.fact is fact:
            since = machine.connected_since
            identified_s = since.timestamp() if since else 0.0
            end = ToldEnd(boot.number, identified_s, _ended_s(fact), fact.problem)
    return ToldMachine(
        record.key,
        machine.name,
        machine.vc_uuid,
        machine.bios_uuid,
        machine.location_uuid,
        record.host,
        machine.service_uri,
        machine.direction,
        machine.proof.value,
        record.state,
        record.problem,
        record.port_count,
        since_s,
        record.changed_s,
        _trouble(trouble) if trouble else None,
        answers,
        end,
    )


def told_story(record: MachineRecord) -> dict[str, Any]:
    """Return what only this server knows of a machine."""
    story = views.story(record)
    for port in story["ports"]:
        port["service_uri"] = port["service_uri"].partition("?")[0]
    for event in story["story"]:
        if event["kind"] in _QUOTING_URIS:
            event["event"] = _without_query(event["event"])
    return {name: story[name] for name in machinestory.PARTS}


def dumped(told: Sequence[ToldMachine | ToldBoot | ToldOutcome]) -> Iterator[bytes]:
    """Yield them as JSON, several together; leave out one in which a driver, which is foreign code,
    has put what JSON cannot represent."""
    if not told:
        return
    try:
        yield ujson.dumps(told, escape_forward_slashes=False)[1:-1].encode()
    except (TypeError, ValueError, OverflowError):
        if len(told) == 1:
            log.debug("fleet: what a driver said of %r cannot be told", told[0].key, exc_info=True)
            return
        for one in told:
            yield from dumped([one])


def _without_query(text: str) -> str:
    """Cut a text that may quote a service URI, whose query may hold secrets of other parties."""
    before, mark, _ = text.partition("?")
    return f"{before}?..." if mark else text


def _since(happening: Happening, otherwise_s: float) -> float:
    """Return since when its machine is connected."""
    since = happening.machine and happening.machine.connected_since
    return since.timestamp() if since else otherwise_s


def _ended_s(served: DocumentsServed) -> float:
    return max(served.answered.values())


def _document_and_reason(fact: Fact) -> tuple[str | None, str]:
    if isinstance(fact, RequestFailed):
        return fact.document, fact.reason[:MAX_REASON]
    return None, _without_query(fact.text)[:MAX_REASON]


def _trouble(happening: Happening) -> ToldTrouble:
    about = _document_and_reason(happening.fact)
    return ToldTrouble(happening.at_s, problem_of(happening), *about)


def _served(happening: Happening, fact: DocumentsServed) -> ToldAnswers:
    return ToldAnswers(
        happening.at_s,
        fact.seconds,
        fact.digest,
        fact.sources,
        fact.matched_by,
        fact.more.get("documents", 0),
    )

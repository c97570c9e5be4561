"""Machines and boots: as the hub tells them to the fleet's process, and as rows of the database.
Pure.

The hub packs lists, which cost it least, and tells a boot with its machine if it can; what is long
or hostile is cut and cleaned here, in another process. Times become ages, which the database takes
from its own clock.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from hashlib import sha256
from typing import Any, NamedTuple

from vmw_cloudinit_metadata.monitoring.digests import digests_in
from vmw_cloudinit_metadata.process.fleet.fleetpart import storable

MAX_KEY = 400  # characters of what identifies a machine
MAX_NAME = 400
MAX_WORD = 80  # of a state, a problem, or a document's name
MAX_REASON = 300
MAX_FILE = 1000
MAX_FILES = 24
MAX_DOCUMENTS = 24
_HASH = 12  # digits
_MAX_AGE_S = 10 * 365 * 86_400.0
_MAX_COUNT = 2**31 - 1
_MAX_NUMBER = 2**63 - 1
_MAX_SECONDS = 1e9

_UUID = re.compile("[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", re.ASCII)


class ToldTrouble(NamedTuple):
    """The last problem of a machine, also one that is over."""

    at_s: float
    problem: str  # "not-found", "refused: another service URI"
    document: str | None
    reason: str


class ToldAnswers(NamedTuple):
    """What a guest has received last."""

    at_s: float
    seconds: float
    digest: str  # the RESPONSE_DIGEST
    sources: Sequence[str]
    matched_by: str
    more_documents: int


class ToldEnd(NamedTuple):
    """What a boot has that its machine, which is told with it, has not."""

    number: int  # no other boot of this server has it
    identified_s: float  # 0: unknown
    at_s: float  # when the guest had its last document
    problem: str  # why the last good answer was given; "" for none


class ToldMachine(NamedTuple):
    """A machine as it is now. Times are seconds since 1970, 0 for none."""

    key: str
    name: str | None
    vc_uuid: str | None
    bios_uuid: str | None
    location_uuid: str | None
    esxi_host: str
    service_uri: str
    direction: str
    proof: str
    state: str
    problem: str  # now; "" for none
    ports: int
    since_s: float  # 0: not connected
    changed_s: float
    trouble: ToldTrouble | None
    served: ToldAnswers | None
    end: ToldEnd | None = None  # of its last boot, if that is not told yet


class ToldBoot(NamedTuple):
    """The outcome of a boot, or of an attempt."""

    number: int  # no other boot of this server has it
    key: str
    name: str | None
    vc_uuid: str | None
    esxi_host: str
    identified_s: float  # 0: unknown
    first_s: float  # the time of the first request
    at_s: float  # when the guest had its last document, or the error
    outcome: str  # "served", "stale", or the error
    document: str | None  # that was answered with an error
    reason: str
    served: ToldAnswers | None


Row = Mapping[str, Any]


def rows_of(
    told: object, row: Callable[[Sequence[Any], float], Row], now_s: float
) -> tuple[list[Row], int]:
    """Return the rows of all that was told, and how many were no such lists."""
    rows: list[Row] = []
    invalid = 0
    for one in told if isinstance(told, list) else ():
        try:
            rows.append(row(one, now_s))
        except (TypeError, ValueError, OverflowError, AttributeError):
            invalid += 1
    return rows, invalid


def machine_row(packed: Sequence[Any], now_s: float) -> Row:
    """Return a row of the table `machine`; raise ValueError or TypeError for anything else than a
    ToldMachine."""
    told = ToldMachine(*packed)
    trouble = None if told.trouble is None else ToldTrouble(*told.trouble)
    name = optional_text(told.name, MAX_NAME)
    host = storable(told.esxi_host, MAX_WORD)
    uuids = [uuid_or_none(uuid) for uuid in (told.vc_uuid, told.bios_uuid, told.location_uuid)]
    error = storable(trouble.problem, MAX_WORD) if trouble else None
    document = optional_text(trouble.document, MAX_WORD) if trouble else None
    reason = storable(trouble.reason, MAX_REASON) if trouble else None
    about = (name, *uuids[:2], host, error, document, reason)
    return {
        "key": key_text(told.key),
        "name": name,
        **dict(zip(("vc_uuid", "bios_uuid", "location_uuid"), uuids, strict=True)),
        "esxi_host": host or None,
        # Without its query, which may hold secrets of other parties.
        "service_uri": storable(told.service_uri, MAX_FILE).partition("?")[0],
        "direction": storable(told.direction, MAX_WORD),
        "proof": storable(told.proof, MAX_WORD) or None,
        "state": storable(told.state, MAX_WORD),
        "problem": storable(told.problem, MAX_WORD) or None,
        "ports": count(told.ports),
        "since_age": age(told.since_s, now_s) if told.since_s else None,
        "changed_age": age(told.changed_s, now_s),
        "error_age": age(trouble.at_s, now_s) if trouble else None,
        "error": error,
        "error_document": document,
        "error_reason": reason,
        **_served_columns(told.served, now_s),
        "about": " ".join(filter(None, about)).lower(),
    }


def boot_row(packed: Sequence[Any], now_s: float) -> Row:
    """Return a row of the table `boot`; raise ValueError or TypeError for anything else than a
    ToldBoot."""
    told = ToldBoot(*packed)
    served = None if told.served is None else ToldAnswers(*told.served)
    found = digests_in(served.digest) if served else {}
    return {
        "number": min(int(told.number), _MAX_NUMBER),
        "key": key_text(told.key),
        "name": optional_text(told.name, MAX_NAME),
        "vc_uuid": uuid_or_none(told.vc_uuid),
        "esxi_host": storable(told.esxi_host, MAX_WORD) or None,
        "identified_age": age(told.identified_s, now_s) if told.identified_s else None,
        "first_age": age(told.first_s, now_s),
        "age": age(told.at_s, now_s),
        "outcome": storable(told.outcome, MAX_WORD),
        "document": optional_text(told.document, MAX_WORD),
        "reason": storable(told.reason, MAX_REASON) or None,
        "document_count": len(found) + (count(served.more_documents) if served else 0),
        "document_bytes": sum(count(one["size"]) for one in found.values()),
        "matched_by": storable(served.matched_by, MAX_WORD) or None if served else None,
        "files": texts(served.sources) if served else None,
    }


def boots_of(told: object) -> list[object]:
    """Return what was told of machines with the end of a boot, for `boot_row_of`."""
    fields = len(ToldMachine._fields)
    return [
        one
        for one in (told if isinstance(told, list) else ())
        if isinstance(one, list) and len(one) == fields and one[-1] is not None
    ]


def boot_row_of(packed: Sequence[Any], now_s: float) -> Row:
    """Return the row of the boot that a machine was told with; raise ValueError or TypeError for
    anything else than a ToldMachine with one."""
    told = ToldMachine(*packed)
    if told.end is None or told.served is None:
        raise ValueError("a machine without a boot")
    end, served = ToldEnd(*told.end), ToldAnswers(*told.served)
    boot = ToldBoot(
        end.number,
        told.key,
        told.name,
        told.vc_uuid,
        told.esxi_host,
        end.identified_s,
        end.at_s - served.seconds,
        end.at_s,
        "stale" if end.problem else "served",
        None,
        end.problem,
        served,
    )
    return boot_row(boot, now_s)


def _served_columns(packed: Sequence[Any] | None, now_s: float) -> Row:
    if packed is None:
        return _NOT_SERVED
    served = ToldAnswers(*packed)
    found = digests_in(served.digest)
    first = dict(list(found.items())[:MAX_DOCUMENTS])
    return {
        "served_age": age(served.at_s, now_s),
        "served_seconds": min(max(0.0, float(served.seconds)), _MAX_SECONDS),
        "matched_by": storable(served.matched_by, MAX_WORD) or None,
        "files": texts(served.sources),
        "documents": {
            storable(name, MAX_WORD): {
                "size": count(digest["size"]),
                "sha256": storable(digest["sha256"], MAX_WORD),
            }
            for name, digest in first.items()
        },
        "more_documents": count(served.more_documents + len(found) - len(first)),
    }


_NOT_SERVED: Row = dict.fromkeys(
    ("served_age", "served_seconds", "matched_by", "files", "documents", "more_documents")
)


# Values


def optional_text(value: str | None, most: int) -> str | None:
    return None if value is None else storable(value, most)


def texts(values: Iterable[str]) -> list[str]:
    return [storable(value, MAX_FILE) for value in list(values)[:MAX_FILES]]


def key_text(key: str) -> str:
    """Return the key as the database has it: one that it cannot hold gets a hash, which no other
    key has."""
    held = storable(key, MAX_KEY)
    if held == key:
        return key
    digits = sha256(key.encode("utf-8", "surrogatepass")).hexdigest()[:_HASH]
    return f"{held[: MAX_KEY - _HASH]}{digits}"


def uuid_or_none(value: str | None) -> str | None:
    return value if value is not None and _UUID.fullmatch(value) else None


def age(at_s: float, now_s: float) -> float:
    """Return how long ago a moment was, in seconds; never less than 0."""
    return min(max(0.0, now_s - float(at_s)), _MAX_AGE_S)  # 0 for NaN too


def count(value: int) -> int:
    return min(max(int(value), 0), _MAX_COUNT)

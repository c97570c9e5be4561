"""Every counter of the server, and the metric that it is part of. Pure.

A declaration registers the metric and returns the key to count with, or the keys by label value:
`counters[BOOTS] += 1`, `counters[REFUSED[kind]] += 1`. The type checker rejects any other text. At
run time a key is a plain `str`, since a dict looks up a subclass of it more slowly.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Literal, NewType, TypeVar, get_args

from vmw_cloudinit_metadata.instance.documents import STANDARD
from vmw_cloudinit_metadata.instance.layering.secretreference import SecretProblem
from vmw_cloudinit_metadata.protocol.bootreport import BootStatus
from vmw_cloudinit_metadata.protocol.events import VIOLATION_KINDS, RefusalKind
from vmw_cloudinit_metadata.protocol.identitytoken import Proof
from vmw_cloudinit_metadata.protocol.packet import WITH_ARGUMENT, ErrorCode
from vmw_cloudinit_metadata.protocol.vcentercheck import VmVerdict

Key = NewType("Key", str)
Value = TypeVar("Value", bound=str)


@dataclass(frozen=True, slots=True)
class Family:
    """One metric, and the keys that it is made of."""

    name: str  # "" for what only the log and /api/status show
    help: str
    labels: tuple[str, ...]
    keys: Mapping[tuple[str, ...], str]  # by the values of the labels


FAMILIES: list[Family] = []  # of the server
ADMIN_FAMILIES: list[Family] = []  # of the admin port, which counts by itself


def _plain(name: str, text: str, key: str) -> Key:
    FAMILIES.append(Family(name, text, (), {(): key}))
    return Key(key)


def _labelled(
    name: str,
    text: str,
    label: str,
    values: Iterable[Value],
    form: str = "{}",
    families: list[Family] = FAMILIES,
) -> Mapping[Value, Key]:
    keys = {value: Key(form.format(value)) for value in values}
    families.append(Family(name, text, (label,), {(value,): key for value, key in keys.items()}))
    return keys


# Connections

CONNECTIONS = _plain("connections_accepted", "Connections accepted.", "connections")

RefusalReason = Literal[
    "network", "host", "full", "PROXY header", "rate", "handshake rate", RefusalKind
]
REFUSED: Mapping[RefusalReason, Key] = _labelled(
    "connections_refused",
    "Connections and VMs that were refused.",
    "reason",
    get_args(RefusalReason),
    "refused: {}",
)
VMS_REFUSED = _plain("", "VMs that were refused.", "refused")

Closing = Literal[
    "strangers", "unidentified", "stalled", "TLS failed", "made room", "memory budget", "upgrade"
]
CLOSED: Mapping[Closing, Key] = _labelled(
    "connections_closed", "Connections that the server has closed.", "reason", get_args(Closing)
)

RECEIVED_BYTES = _plain("received_bytes", "Bytes received from ESXi hosts.", "bytes received")
SENT_BYTES = _plain("sent_bytes", "Bytes sent to ESXi hosts.", "bytes sent")

_labelled("tls_handshakes", "TLS handshakes that succeeded.", "version", ("TLSv1.2", "TLSv1.3"))


def tls_handshake(version: str) -> Key:
    """Return the key of a TLS version, as OpenSSL names it; a newer version is part of no
    metric."""
    return Key(version)


_plain("tls_failures", "TLS handshakes that failed.", CLOSED["TLS failed"])

VIOLATIONS = _labelled(
    "protocol_faults",
    "Protocol violations of peers.",
    "kind",
    VIOLATION_KINDS,
    "fault: {}",
)


# Requests

BOOTS = _plain("boots", "Boots: a guest has received its documents, including METADATA.", "boots")

REQUESTS = _plain("", "Requests that arrived.", "requests")
ANSWERED = _plain("", "Requests answered with a document.", "answered")
ANSWERED_OLDER = _plain(
    "", "Requests answered on an older connection.", "answered on an older connection"
)
ANSWERED_WITH = _labelled(
    "", "Requests answered with an error.", "error", get_args(ErrorCode), "answered {}"
)

SECRETS_UNAVAILABLE: Mapping[SecretProblem, Key] = _labelled(
    "secrets_unavailable",
    "Requests that failed because a secret that the data refers to could not be had.",
    "reason",
    get_args(SecretProblem),
    "secret {}",
)

Document = NewType("Document", str)  # a label value
OTHER_DOCUMENT = Document("other")
_DOCUMENTS = {
    code: Document(code)
    for code in (*(row.code for row in STANDARD), "DIGEST", *sorted(WITH_ARGUMENT))
}
Outcome = Literal["answered", ErrorCode]
OUTCOMES: Mapping[tuple[Document, Outcome], Key] = {
    (document, outcome): Key(f"{document} {outcome}")
    for document in (*_DOCUMENTS.values(), OTHER_DOCUMENT)
    for outcome in get_args(Outcome)
}
FAMILIES.append(
    Family(
        "requests",
        "Requests of guests, by document and outcome.",
        ("document", "outcome"),
        dict(OUTCOMES.items()),
    )
)


def document_label(document: str) -> Document:
    """Return the label value of a document; "other" for names that a guest invents."""
    return _DOCUMENTS.get(document, OTHER_DOCUMENT)


BOOT_OUTCOMES: Mapping[BootStatus, Key] = _labelled(
    "boot_outcomes",
    "Boots whose guest has reported how they ended; degraded: cloud-init went on after errors.",
    "status",
    get_args(BootStatus),
    "boots reported: {}",
)
Unreported = Literal["not served", "another instance", "too soon", "invalid"]
REPORTS_REFUSED: Mapping[Unreported, Key] = _labelled(
    "boot_reports_refused",
    "Reports of boots that were not taken.",
    "reason",
    get_args(Unreported),
    "reports refused: {}",
)

CACHE_HITS = _plain("cache_hits", "Requests answered from the cache.", "answers kept")
CACHE_MISSES = _plain("cache_misses", "Requests that needed a look-up.", "answers looked up")
CACHE_UNCHECKED = _plain(
    "cache_unchecked",
    "Requests for a cached answer that the driver did not confirm in time.",
    "answers unchecked",
)
CACHE_PREPARED = _plain(
    "cache_prepared",
    "Answers that the catalogue had prepared, and that were given without a look-up.",
    "answers prepared before",
)


# Machines

Move = Literal[
    "completed",
    "from elsewhere",
    "handed over",
    "continued",
    "aborted",
    "declined",
    "replaced",
    "expired",
    "overdue",
    "declined by rate",
    "made room",
]
MOVES: Mapping[Move, Key] = _labelled(
    "vmotions", "vMotions, by how they ended.", "outcome", get_args(Move), "vMotions {}"
)

Conflict = Literal["rival", "shared source", "duplicate", "changed", "untold"]
CONFLICTS: Mapping[Conflict, Key] = {
    "rival": Key("rival connections"),
    "shared source": Key("shared sources"),
    "duplicate": Key("duplicates"),
    "changed": Key("identities changed"),
    "untold": Key("identities untold"),
}
FAMILIES.append(
    Family(
        "identity_conflicts",
        "Machines whose identity is shared, has changed, or is missing.",
        ("kind",),
        {(kind,): key for kind, key in CONFLICTS.items()},
    )
)

PROOFS: Mapping[str, Key] = _labelled(
    "identity_proofs",
    "Identified VMs by what proves their identity, or why nothing does.",
    "proof",
    [proof.value for proof in Proof if proof is not Proof.UNASKED],
    "proof: {}",
)


# The server itself

Dropped = Literal["requests", "output", "events", "log lines", "lines of busy hosts", "audit lines"]
DROPPED: Mapping[Dropped, Key] = _labelled(
    "dropped",
    "Items dropped because of a slow reader or a busy host.",
    "what",
    get_args(Dropped),
    "{} dropped",
)

OnDisk = Literal["written", "read", "removed", "withheld", "dropped", "shed", "failed", "unusable"]
LAST_GOOD_ON_DISK: Mapping[OnDisk, Key] = _labelled(
    "last_good_on_disk",
    "Last good answers in the directory of --last-good-dir, by what was done with them.",
    "what",
    get_args(OnDisk),
    "last good answers {}",
)

Recorded = Literal["first", "used", "failed", "given back", "opened"]
LEDGER: Mapping[Recorded, Key] = _labelled(
    "ledger_claims",
    "Claims of documents that are served once; failed: the claim could not be recorded.",
    "outcome",
    get_args(Recorded),
    "claims: {}",
)

# What a process keeps because of its peers: the tables of its memory budget.
TABLES = (
    "host keys",
    "outcome hooks",
    "program",
    "connections",
    "unsent answers",
    "kept answers",
    "prepared answers",
    "last good answers",
    "answers to be written",
    "answers to be read",
    "look-ups waiting",
    "look-ups running",
    "readings",
    "machines",
    "events",
    "values compared",
    "file names",
    "inventories",
    "layers",
    "secrets",
    "catalogue",
    "fleet",
    "vcenter",
    "boots",
)
_MEMORY_SHED = "memory shed: {}"
_labelled(
    "memory_shed",
    "Entries dropped because the memory budget was used up.",
    "table",
    TABLES,
    _MEMORY_SHED,
)


def memory_shed(table: str) -> Key:
    """Return the key of a table; one that is not in TABLES, such as a driver's, is part of no
    metric."""
    return Key(_MEMORY_SHED.format(table))


INTERNAL_ERRORS = _plain(
    "internal_errors", "Internal errors; each closes a connection.", "internal errors"
)
CATALOGUE_RESTARTS = _plain(
    "catalogue_restarts", "Processes of the catalogue that died.", "catalogue restarted"
)
WORKER_RESTARTS = _plain(
    "worker_restarts", "Workers that died and were restarted.", "workers restarted"
)

FLEET_STATEMENTS = _plain(
    "fleet_statements", "Statements sent to the fleet's database.", "fleet statements"
)
FLEET_FAILED = _plain(
    "fleet_failed", "Statements that the fleet's database refused.", "fleet statements failed"
)
FLEET_RECONNECTS = _plain(
    "fleet_reconnects", "Connects to the fleet's database after the first.", "fleet reconnects"
)
FLEET_RESTARTS = _plain(
    "fleet_restarts", "Fleet processes that died and were restarted.", "fleet restarted"
)
FleetDropped = Literal["tells", "asks", "asks late", "notices"]
FLEET_DROPPED: Mapping[FleetDropped, Key] = _labelled(
    "fleet_dropped",
    "What was not shared with the fleet, or came too late: its database was out of reach or slow.",
    "what",
    get_args(FleetDropped),
    "fleet {} dropped",
)

VCENTER_RECONNECTS = _plain(
    "vcenter_reconnects", "Connects to vCenter after the first.", "vCenter reconnects"
)
VCENTER_RESTARTS = _plain(
    "vcenter_restarts", "vCenter processes that died and were restarted.", "vCenter restarted"
)
VCENTER_SHED = _plain(
    "vcenter_shed", "VMs and hosts of vCenter for which there was no room.", "vCenter shed"
)
VCENTER_CHECKS: Mapping[str, Key] = _labelled(
    "vcenter_checks",
    "VMs that requested data, by what vCenter says of them.",
    "verdict",
    [verdict.value for verdict in VmVerdict],
    "vCenter: {}",
)


# The admin port

AdminShed = Literal[
    "waiting",
    "readers",
    "followers",
    "slow readers",
    "without descriptor",
    "events",
    "stories",
    "machines",
    "boots",
    "host keys",
]
Hooked = Literal["accepted", "refused", "invalid", "failed"]
WEBHOOKS: Mapping[Hooked, Key] = _labelled(
    "webhooks",
    "Webhooks that tell changes; refused: the signature is wrong.",
    "outcome",
    get_args(Hooked),
    "webhooks {}",
    ADMIN_FAMILIES,
)
HookOutcome = Literal["delivered", "retried", "refused", "expired", "dropped"]
OUTCOME_HOOKS: Mapping[HookOutcome, Key] = _labelled(
    "outcome_hooks",
    "Webhooks of how boots ended; dropped: too many waited.",
    "outcome",
    get_args(HookOutcome),
    "outcome hooks {}",
    ADMIN_FAMILIES,
)
ADMIN_SHED: Mapping[AdminShed, Key] = _labelled(
    "admin_shed",
    "What the admin port dropped to stay within its limits.",
    "what",
    get_args(AdminShed),
    families=ADMIN_FAMILIES,
)

"""Every gauge and timing of the server, and its metric. Pure; see counters.py."""

from __future__ import annotations

from typing import NewType

from vmw_cloudinit_metadata.monitoring.counters import TABLES, Family

Gauge = NewType("Gauge", str)
TimingKey = NewType("TimingKey", str)

GAUGES: list[Family] = []
TIMINGS: dict[TimingKey, Family] = {}


def _gauge(name: str, text: str, key: str) -> Gauge:
    GAUGES.append(Family(name, text, (), {(): key}))
    return Gauge(key)


def _timing(name: str, text: str, key: str) -> TimingKey:
    TIMINGS[TimingKey(key)] = Family(name, text, (), {(): key})
    return TimingKey(key)


CONNECTIONS = _gauge("connections", "Current connections.", "connections")
UNIDENTIFIED = _gauge(
    "connections_unidentified",
    "Current connections that have not identified a VM yet, or were refused.",
    "connections unidentified",
)
MAX_CONNECTIONS = _gauge("connections_limit", "The limit of connections.", "connections at most")
LOOKUPS_WAITING = _gauge(
    "lookups_waiting", "Look-ups without a place in the pool.", "look-ups waiting"
)
LOOKUPS_RUNNING = _gauge("lookups_running", "Look-ups that run in the driver.", "look-ups running")
PREPARED = _gauge(
    "answers_prepared", "Answers that the catalogue has prepared.", "answers prepared"
)
ANSWERS = _gauge(
    "answers_under_way",
    "Look-ups, and answers that their guests have not read yet.",
    "answers under way",
)
MOVES = _gauge(
    "vmotions_under_way", "vMotions that have begun and not ended.", "vMotions under way"
)
DESCRIPTORS = _gauge("open_fds", "Open descriptors of all serving processes.", "descriptors")
MAX_DESCRIPTORS = _gauge("max_fds", "The limit of descriptors.", "descriptors at most")
MEMORY_BUDGET = _gauge(
    "memory_budget_bytes", "The memory budget of all processes.", "memory budget"
)

FLEET_CONNECTED = _gauge(
    "fleet_connected",
    "1 while the fleet's database is reached; else, and without --fleet, 0.",
    "fleet connected",
)
FLEET_FAILING = _gauge(
    "fleet_failing_since_seconds",
    "Since when the fleet's database is out of reach, in seconds since 1970; else 0.",
    "fleet out of reach since",
)

VCENTER_CONNECTED = _gauge(
    "vcenter_connected",
    "1 while all VMs of vCenter are known and its changes are heard; else, and without --vcenter, "
    "0.",
    "vCenter connected",
)
VCENTER_FAILING = _gauge(
    "vcenter_failing_since_seconds",
    "Since when vCenter is out of reach, in seconds since 1970; else 0.",
    "vCenter out of reach since",
)
VCENTER_VMS = _gauge("vcenter_vms", "VMs that vCenter has told of.", "vCenter VMs")


def memory(table: str) -> Gauge:
    """Return the key of a table of the memory budget; see counters.memory_shed."""
    return Gauge(f"memory: {table}")


GAUGES.append(
    Family(
        "memory_bytes",
        "What counts against the memory budget.",
        ("table",),
        {(table,): memory(table) for table in TABLES},
    )
)

LOOKUP_WAITED = _timing(
    "lookup_wait_seconds", "How long look-ups waited for a place in the pool.", "look-up waited"
)
LOOKUP_RAN = _timing("lookup_run_seconds", "How long the driver took for a look-up.", "look-up ran")
BOOT = _timing("boot_seconds", "From a guest's first request to the last of its documents.", "boot")
OUTCOME = _timing(
    "boot_outcome_seconds",
    "From a guest's meta-data to its report that the boot has ended.",
    "boot outcome",
)

"""FleetProcess: keeps the fleet process of a server running, and says how the fleet is.

The server never waits for it: VMs are served as ever while it, or the database, is away.
"""

from __future__ import annotations

import logging
import secrets
import time
from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field

import ujson

from vmw_cloudinit_metadata.monitoring.counters import (
    FLEET_DROPPED,
    FLEET_FAILED,
    FLEET_RECONNECTS,
    FLEET_RESTARTS,
    FLEET_STATEMENTS,
    Key,
)
from vmw_cloudinit_metadata.monitoring.gauges import FLEET_CONNECTED, FLEET_FAILING, Gauge
from vmw_cloudinit_metadata.monitoring.jsonobject import timestamp
from vmw_cloudinit_metadata.monitoring.onceaminute import OnceAMinute
from vmw_cloudinit_metadata.process.fleet.fleetlink import FleetLink
from vmw_cloudinit_metadata.process.fleet.fleetstate import PAUSE, STOP, FleetState
from vmw_cloudinit_metadata.process.keptprogram import KeptProgram
from vmw_cloudinit_metadata.protocol.printable import one_line
from vmw_cloudinit_metadata.protocol.state import State

log = logging.getLogger(__name__)

PROGRAM = "vmw_cloudinit_metadata.process.fleet.fleetchild"

STOP_S = 3.0  # for what waits, and the mark that the server has stopped

# What the fleet process counts, and its metrics.
_COUNTED: Mapping[str, Key] = {
    "statements": FLEET_STATEMENTS,
    "failed": FLEET_FAILED,
    "tells dropped": FLEET_DROPPED["tells"],
    "notices dropped": FLEET_DROPPED["notices"],
}


@dataclass(frozen=True, slots=True)
class FleetSettings:
    url: str = field(repr=False)  # may have a password
    name: str  # of this server
    retention_days: int  # of what the database keeps
    forget_failed_s: float = 24 * 3600.0  # of machines in trouble, after they have disconnected


@dataclass(frozen=True, slots=True)
class FleetIdentity:
    """Who a server is to the fleet and to its own processes; an upgrade in place keeps it."""

    server: str = field(default_factory=lambda: secrets.token_hex(8))  # the id of this start
    # Of the links: the name of an abstract socket.
    address: str = field(default_factory=lambda: f"vmw-cloudinit-metadata-{secrets.token_hex(16)}")
    started_s: float = field(default_factory=time.monotonic)  # which all programs here share

    @classmethod
    def read(cls, state: State) -> FleetIdentity:
        """Return the one whose `asdict` was the state."""
        server, address = str(state["server"]), str(state["address"])
        return cls(server, address, float(state["started_s"]))


def namesake_text(name: str, since: str) -> str:
    """Say that two servers have one name."""
    return (
        f"another server runs with the name {name}, since {since}: machines of both are shown as "
        "one server's; give each a --server-name of its own"
    )


class FleetProcess:
    """Owned by the parent of workers, or by the only process; `link` is the owner's own."""

    def __init__(self, settings: FleetSettings, before: State | None = None) -> None:
        """Go on with `before`, the state of the program before an upgrade."""
        self._identity = FleetIdentity.read(before) if before else FleetIdentity()
        self.address, self.server = self._identity.address, self._identity.server
        self.name = settings.name
        self.link = FleetLink(self.address)
        self.link.when_state_changes(self._heard_state)
        work = {
            "url": settings.url,
            "address": self.address,
            "server": self.server,
            "name": settings.name,
            "started_s": self._identity.started_s,
            "retention_days": settings.retention_days,
            "forget_failed_s": settings.forget_failed_s,
        }
        line = ujson.dumps(work, escape_forward_slashes=False).encode() + b"\n"
        self._program = KeptProgram(PROGRAM, line, lambda: self.link.heard_s, self._has_ended)
        self._ended: Counter[str] = Counter()  # counts of processes that are gone
        self._failing_since_s = time.time()
        self._is_logged = True  # that it fails; the first connect is logged too
        self._fault = ""
        self._namesake = ""
        self.is_leaving = False  # the next program of this server takes part in no fleet
        self._once = OnceAMinute()

    @property
    def pid(self) -> int | None:
        return self._program.pid

    @property
    def state(self) -> FleetState:
        return self.link.state

    def named(self) -> State:
        """What the fleet process of the next program goes on with."""
        return asdict(self._identity)

    def start(self) -> None:
        self._program.start()
        self.link.start()

    def stop(self) -> None:
        """Mark the server as stopped, if the database takes that in time, and end the process."""
        self.link.close()
        self._program.stop(STOP, STOP_S)

    def pause(self) -> None:
        """End the process; `start` starts another one. For the fleet the server runs on,
        unless it is leaving."""
        self.link.pause()
        counts = self.state.counts
        self._program.pause(STOP if self.is_leaving else PAUSE, STOP_S)
        self._ended += Counter(dict(counts))
        self.link.lose("")

    def let_go(self) -> None:
        """Close what is the parent's, in a forked child."""
        self._program.let_go()
        self.link.let_go()

    def counted(self) -> Counter[Key]:
        """The counts of the fleet process and of its owner's link."""
        counts = self._ended + Counter(dict(self.state.counts))
        found = Counter({key: counts[name] for name, key in _COUNTED.items()})
        found[FLEET_RECONNECTS] = max(counts["connects"] - 1, 0)
        found[FLEET_RESTARTS] = self._program.restarts
        return found + self.link.counted()

    def gauges(self) -> dict[Gauge, float]:
        failing_s = 0.0 if self.link.is_connected else self._failing_since_s
        return {FLEET_CONNECTED: float(self.link.is_connected), FLEET_FAILING: failing_s}

    def summary(self) -> dict[str, object]:
        """What the status shows."""
        state = self.state
        return {
            "state": state.name,
            "since": timestamp(state.since_s if state.is_connected else self._failing_since_s),
            "problem": state.problem,
            "database": state.place,
            "server": self.server,
            "namesake": state.namesake,
        }

    def _has_ended(self, reason: str) -> None:
        self._ended += Counter(dict(self.state.counts))
        self.link.lose(one_line(f"the fleet process: {reason}"))

    def _heard_state(self, state: FleetState) -> None:
        if state.is_connected:
            self._program.is_well()
            if self._failing_since_s and self._is_logged:
                log.info("fleet: connected to %s", state.place)
            self._failing_since_s, self._is_logged = 0.0, False
        else:
            self._failing_since_s = self._failing_since_s or time.time()
            self._is_logged = self._log_problem(state.problem) or self._is_logged
        if state.namesake != self._namesake:
            self._namesake = state.namesake
            if state.namesake:
                log.warning("fleet: %s", namesake_text(self.name, state.namesake))
        if state.fault != self._fault:
            self._fault = state.fault
            more = self._once.passes("fault", state.fault)
            if more is not None and state.fault:
                log.error("fleet: a statement failed: %s%s", state.fault, more)

    def _log_problem(self, problem: str) -> bool:
        """Log it once a minute; return whether it was logged."""
        if not problem:
            return False
        more = self._once.passes(problem)
        if more is None:
            return False
        since = timestamp(self._failing_since_s)
        log.error("fleet: out of reach since %s: %s; VMs are served%s", since, problem, more)
        return True

"""VcenterProcess: keeps the vCenter process of a server running, and says how vCenter is.

The server never waits for it: without it, VMs are served as `--vcenter-check` says.
"""

from __future__ import annotations

import logging
import secrets
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from vmw_cloudinit_metadata.monitoring.counters import (
    VCENTER_RECONNECTS,
    VCENTER_RESTARTS,
    VCENTER_SHED,
    Key,
)
from vmw_cloudinit_metadata.monitoring.gauges import (
    VCENTER_CONNECTED,
    VCENTER_FAILING,
    VCENTER_VMS,
    Gauge,
)
from vmw_cloudinit_metadata.monitoring.jsonobject import timestamp
from vmw_cloudinit_metadata.monitoring.onceaminute import OnceAMinute
from vmw_cloudinit_metadata.process.keptprogram import KeptProgram
from vmw_cloudinit_metadata.process.vcenter.vcenterlink import VcenterLink
from vmw_cloudinit_metadata.process.vcenter.vcentertable import VcenterState
from vmw_cloudinit_metadata.process.vcenter.vcenterwork import VcenterWork
from vmw_cloudinit_metadata.protocol.printable import one_line
from vmw_cloudinit_metadata.settings.values import Address

log = logging.getLogger(__name__)

PROGRAM = "vmw_cloudinit_metadata.guest.vsphere.vcenterchild"
AGAIN = b"again\n"


@dataclass(frozen=True, slots=True)
class VcenterSettings:
    address: Address
    user: str
    password_file: Path | None  # None: the environment has the password
    ca_file: Path | None = None
    thumbprint: str | None = None


class VcenterProcess:
    """Owned by the parent of workers, or by the only process; `link` is the owner's own."""

    def __init__(self, settings: VcenterSettings, address: str | None = None) -> None:
        """`address` is that of the links, where they know it from before an upgrade."""
        self.address = address or f"vmw-cloudinit-metadata-{secrets.token_hex(16)}"
        self.link = VcenterLink(self.address)
        self.link.on_state = self._heard_state
        work = VcenterWork(
            address=self.address,
            host=settings.address.host,
            port=settings.address.port,
            user=settings.user,
            password_file=str(settings.password_file) if settings.password_file else None,
            ca_file=str(settings.ca_file) if settings.ca_file else None,
            thumbprint=settings.thumbprint,
        )
        heard = self._heard_s
        self._program = KeptProgram(PROGRAM, work.line(), heard, self._has_ended)
        self._failing_since_s = time.time()
        self._is_logged = True  # that it fails; the first connect is logged too
        self._ended: Counter[Key] = Counter()  # counts of processes that are gone
        self._once = OnceAMinute()

    @property
    def pid(self) -> int | None:
        return self._program.pid

    @property
    def state(self) -> VcenterState:
        return self.link.state

    def start(self) -> None:
        self._program.start()
        self.link.start()

    def stop(self) -> None:
        self.link.stop()
        self._program.stop()

    def pause(self) -> None:
        """End the process; `start` starts another one."""
        self.link.pause()
        self._ended += self._counts()
        self._program.pause()
        self.link.lose("")

    def let_go(self) -> None:
        """Close what is the parent's, in a forked child."""
        self._program.let_go()
        self.link.let_go()

    def again(self) -> None:
        """Log in again now, if vCenter is not connected: the password may have changed."""
        self._program.write(AGAIN)

    def counted(self) -> Counter[Key]:
        return self._ended + self._counts() + Counter({VCENTER_RESTARTS: self._program.restarts})

    def gauges(self) -> dict[Gauge, float]:
        return {
            VCENTER_CONNECTED: float(self.state.is_connected),
            VCENTER_FAILING: 0.0 if self.state.is_connected else self._failing_since_s,
            VCENTER_VMS: float(self.link.count),
        }

    def summary(self) -> dict[str, object]:
        """What the status shows."""
        state = self.state
        return {
            "state": state.name,
            "since": timestamp(state.since_s if state.is_connected else self._failing_since_s),
            "problem": state.problem,
            "address": state.place,
            "vms": self.link.count,
        }

    def _heard_s(self) -> float:
        return self.link.heard_s

    def _counts(self) -> Counter[Key]:
        state = self.state
        return Counter({VCENTER_RECONNECTS: state.reconnects, VCENTER_SHED: state.shed})

    def _has_ended(self, reason: str) -> None:
        self._ended += self._counts()
        self.link.lose(one_line(f"the vCenter process: {reason}"))

    def _heard_state(self, state: VcenterState) -> None:
        if state.is_connected:
            self._program.is_well()
            if self._failing_since_s and self._is_logged:
                log.info("vCenter: connected to %s, %d VMs", state.place, self.link.count)
            self._failing_since_s, self._is_logged = 0.0, False
        else:
            self._failing_since_s = self._failing_since_s or time.time()
            self._is_logged = self._log_problem(state.problem) or self._is_logged

    def _log_problem(self, problem: str) -> bool:
        """Log it once a minute; return whether it was logged."""
        if not problem:
            return False
        more = self._once.passes(problem)
        if more is None:
            return False
        since = timestamp(self._failing_since_s)
        log.error("vCenter: out of reach since %s: %s%s", since, problem, more)
        return True

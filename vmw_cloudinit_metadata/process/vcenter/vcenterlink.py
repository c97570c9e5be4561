"""VcenterLink: what a process of the server hears from the vCenter process. Belongs to its hub."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping

import gevent

from vmw_cloudinit_metadata.process.deadlines import RunningClock
from vmw_cloudinit_metadata.process.fleet.fleetlink import FleetLink
from vmw_cloudinit_metadata.process.fleet.frames import Fields
from vmw_cloudinit_metadata.process.vcenter.vcentertable import VcenterState, VcenterTable
from vmw_cloudinit_metadata.protocol.vcentercheck import VcenterVm

log = logging.getLogger(__name__)

UNHEARD_S = 5.0  # without a state: then what is known may be old
TICK_S = 1.0  # as often as the process tells its state


class VcenterLink:
    """Keeps the table of one process."""

    def __init__(self, address: str) -> None:
        self._link = FleetLink(address, "vCenter")
        self._table = VcenterTable()
        self._clock = RunningClock(TICK_S)
        self._state_s = self.now_s()  # of the last state
        self._timer = gevent.get_hub().loop.timer(TICK_S, repeat=TICK_S)  # reads the clock
        handlers: Mapping[str, Callable[[Fields, bytes], None]] = {
            "begin": lambda _fields, _payload: self._table.begin(),
            "rows": lambda _fields, payload: self._take(payload),
            "complete": lambda _fields, _payload: self._table.complete(),
            "state": lambda fields, _payload: self._take_state(fields),
        }
        for kind, handler in handlers.items():
            self._link.on(kind, handler)
        self.on_state: Callable[[VcenterState], None] = lambda _: None

    @property
    def revision(self) -> int:
        """The number of changes of what it knows."""
        return self._table.revision

    @property
    def state(self) -> VcenterState:
        return self._table.state

    @property
    def is_current(self) -> bool:
        """Whether what it knows is what vCenter has now."""
        return self._table.is_current and self.now_s() - self._state_s < UNHEARD_S

    def now_s(self) -> float:
        """Return the time by which waits for vCenter are judged; time in which this process is
        stopped does not count."""
        return self._clock.now_s()

    @property
    def heard_s(self) -> float:
        """When the process was last heard of, by time.monotonic()."""
        return self._link.heard_s

    @property
    def count(self) -> int:
        """The number of VMs that it knows."""
        return len(self._table)

    @property
    def kept_bytes(self) -> int:
        return self._table.kept_bytes

    def find(self, vc_uuid: str | None) -> VcenterVm | None:
        return self._table.find(vc_uuid)

    def start(self) -> None:
        self._timer.start(self.now_s)
        self._link.start()

    def pause(self) -> None:
        """Disconnect until `start`."""
        self._timer.stop()
        self._link.pause()

    def stop(self) -> None:
        self._close_timer()
        self._link.close()

    def let_go(self) -> None:
        """Close what is the parent's, in a forked child."""
        self._close_timer()
        self._link.let_go()

    def _close_timer(self) -> None:
        self._timer.stop()
        self._timer.close()

    def lose(self, reason: str) -> None:
        """The vCenter process has ended, and why."""
        before = self._table.state
        since_s = time.time() if before.is_connected else before.since_s
        self._set(VcenterState(since_s=since_s, problem=reason, place=before.place))

    def _take(self, payload: bytes) -> None:
        try:
            self._table.take(payload)
        except ValueError as error:
            log.error("vCenter: its process sent %s", error)

    def _take_state(self, fields: Fields) -> None:
        try:
            self._set(VcenterState.unpack(fields))
            self._state_s = self.now_s()
        except ValueError as error:
            log.error("vCenter: its process sent %s", error)

    def _set(self, state: VcenterState) -> None:
        self._table.take_state(state)
        self.on_state(state)

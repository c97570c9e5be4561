"""What a process of the server hands over to the next program: its server, its admin port."""

from __future__ import annotations

import logging
import os
import socket
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from vmw_cloudinit_metadata import __version__
from vmw_cloudinit_metadata.admin.adminport import AdminPort
from vmw_cloudinit_metadata.drivers.warming.preparedlog import FollowedLog
from vmw_cloudinit_metadata.monitoring import logs
from vmw_cloudinit_metadata.monitoring.audit import Audit
from vmw_cloudinit_metadata.monitoring.counters import Key
from vmw_cloudinit_metadata.monitoring.gauges import Gauge
from vmw_cloudinit_metadata.process import upgradereport
from vmw_cloudinit_metadata.process.collector import collector_off
from vmw_cloudinit_metadata.process.fleet.fleetprocess import FleetProcess
from vmw_cloudinit_metadata.process.upgradefile import Handed
from vmw_cloudinit_metadata.process.upgradereport import UpgradeOutcome
from vmw_cloudinit_metadata.process.upgradingworkers import upgrade_all
from vmw_cloudinit_metadata.process.vcenter.vcenterprocess import VcenterProcess
from vmw_cloudinit_metadata.process.workers import Parent
from vmw_cloudinit_metadata.protocol.state import State, octets
from vmw_cloudinit_metadata.serving.answerregister import AnswerRegister
from vmw_cloudinit_metadata.serving.reporter import Reporter
from vmw_cloudinit_metadata.serving.server import MetadataServer
from vmw_cloudinit_metadata.serving.surveyprocess import SurveyProcess
from vmw_cloudinit_metadata.settings.values import Address

_KEY = octets(1024 * 1024)

start_log = logging.getLogger(f"{__name__}.start")  # logged at every --log-level


@dataclass(frozen=True, slots=True)
class Children:
    """The child processes, which are not handed over: the next program starts others."""

    survey: SurveyProcess | None
    fleet: FleetProcess | None
    vcenter: VcenterProcess | None

    def end(self, admin: AdminPort | None) -> None:
        """End them, and save the state file; may wait."""
        if self.survey:
            self.survey.pause()
        if admin:
            admin.save()
            admin.pause()
        if self.fleet:
            self.fleet.pause()
        if self.vcenter:
            self.vcenter.pause()

    def join(
        self,
        counted: list[Callable[[], Mapping[Key, int]]],
        gauged: list[Callable[[], Mapping[Gauge, float]]],
    ) -> None:
        """Add what they count to the counters and gauges of the server."""
        for part in (self.fleet, self.vcenter):
            if part:
                counted.append(part.counted)
                gauged.append(part.gauges)

    def read_again(self) -> None:
        """Read data and vCenter again: the operator has asked for it."""
        if self.survey:
            self.survey.ask()
        if self.vcenter:
            self.vcenter.again()

    def let_go(self) -> None:
        """Close what is the parent's, in a forked child."""
        for part in (self.survey, self.fleet, self.vcenter):
            if part:
                part.let_go()

    def start(self, admin: AdminPort | None) -> None:
        """Start them again: there was no upgrade."""
        if admin:
            admin.go_on()
        if self.survey:
            self.survey.start()
        if self.fleet:
            self.fleet.start()
        if self.vcenter:
            self.vcenter.start()


class Alone:
    """The only process: it serves VMs, and has the admin port."""

    def __init__(
        self,
        server: MetadataServer,
        admin: AdminPort | None,
        children: Children,
        audit: Audit | None,
    ) -> None:
        self._server = server
        self._admin = admin
        self._children = children
        self._audit = audit

    @property
    def is_stopping(self) -> bool:
        return self._server.is_stopping

    def prepare(self) -> None:
        self._server.pause()
        self._children.end(self._admin)

    def state(self) -> tuple[State, list[int]]:
        served, descriptors = self._server.state()
        state: State = {"server": served}
        if fleet := self._children.fleet:
            state["fleet"] = fleet.named()
        if self._admin:
            state["admin"], further = self._admin.state()
            descriptors += further
        if self._audit:
            self._audit.flush()
        logs.flush()
        return state, descriptors

    def go_on(self) -> None:
        self._server.go_on()
        self._children.start(self._admin)


class OneWorker:
    """A worker, which its parent asks to upgrade."""

    def __init__(
        self, server: MetadataServer, reporter: Reporter, audit: Audit | None, about: WorkerState
    ) -> None:
        self._server = server
        self._reporter = reporter
        self._audit = audit
        self._about = about

    @property
    def is_stopping(self) -> bool:
        return self._server.is_stopping

    def prepare(self) -> None:
        self._server.pause()

    def state(self) -> tuple[State, list[int]]:
        served, descriptors = self._server.state()
        self._reporter.send_all()
        if self._audit:
            self._audit.flush()
        logs.flush()
        worker, further = self._about.written()
        return {"server": served, "worker": worker}, descriptors + further

    def go_on(self) -> None:
        self._server.go_on()


class WholeParent:
    """The parent of workers, which are upgraded before it."""

    def __init__(
        self,
        parent: Parent,
        admin: AdminPort | None,
        children: Children,
        about: WorkerState,
        drain_s: Callable[[], float],
    ) -> None:
        self._parent = parent
        self._admin = admin
        self._children = children
        self._about = about
        self._drain_s = drain_s

    @property
    def is_stopping(self) -> bool:
        return self._parent.is_stopping

    def prepare(self) -> None:
        upgrade_all(self._parent.workers, self._drain_s())
        self._children.end(self._admin)

    def state(self) -> tuple[State, list[int]]:
        parent, descriptors = self._parent.state()
        about, further = self._about.written()
        state: State = {"parent": parent | about}
        if fleet := self._children.fleet:
            state["fleet"] = fleet.named()
        descriptors += further
        if self._admin:
            state["admin"], further = self._admin.state()
            descriptors += further
        logs.flush()
        return state, descriptors

    def go_on(self) -> None:
        self._children.start(self._admin)


@dataclass(frozen=True, slots=True)
class WorkerState:
    """What workers are started with, or go on with after an upgrade."""

    count: int
    addresses: Sequence[Address]
    vmotion_key: bytes  # of moves between workers, without --vmotion-key-file
    register: AnswerRegister
    prepared: FollowedLog | None = None
    fleet: str | None = None  # the address of the fleet process
    vcenter: str | None = None  # and of the vCenter process
    pair: socket.socket | None = None  # a worker's end, with its parent
    number: int = 0  # of a worker

    def written(self) -> tuple[State, list[int]]:
        """Return this as JSON has it, and the descriptors in it."""
        state: State = {
            "count": self.count,
            "addresses": [list(address) for address in self.addresses],
            "vmotion_key": _KEY.write(self.vmotion_key),
            "register": [[*self.register.parts], _KEY.write(self.register.secret)],
            "fleet": self.fleet,
            "vcenter": self.vcenter,
            "number": self.number,
        }
        descriptors = [*self.register.parts]
        if self.prepared:
            state["prepared"] = [*self.prepared]
            descriptors.append(self.prepared.file)
        if self.pair:
            state["pair"] = self.pair.fileno()
            descriptors.append(self.pair.fileno())
        return state, descriptors

    def changed(self, count: int, listen: Sequence[Address]) -> list[str]:
        """Return the options that are other ones now, which workers cannot take."""
        real = [
            Address(one.host, one.port or here.port)
            for one, here in zip(listen, self.addresses, strict=False)
        ]
        has_moved = len(listen) != len(self.addresses) or real != [*self.addresses]
        return ["--workers"] * (count != self.count) + ["--listen"] * has_moved

    def added(self, fleet: FleetProcess | None, vcenter: VcenterProcess | None) -> str:
        """Say which options of now workers of before do not take part in; "": none."""
        options = ["--fleet"] * bool(fleet and not self.fleet)
        options += ["--vcenter"] * bool(vcenter and not self.vcenter)
        late = "; for workers, {} takes effect at the next start"
        return late.format(" and ".join(options)) if options else ""

    @classmethod
    def read(cls, state: State) -> WorkerState:
        pair = prepared = None
        if "pair" in state:
            os.set_inheritable(state["pair"], False)
            pair = socket.socket(fileno=state["pair"])
        if "prepared" in state:
            file, limit_bytes = state["prepared"]
            os.set_inheritable(file, False)
            prepared = FollowedLog(int(file), int(limit_bytes))
        parts, secret = state["register"]
        for part in parts:
            os.set_inheritable(part, False)
        return cls(
            state["count"],
            [Address(str(host), int(port)) for host, port in state["addresses"]],
            _KEY.read(state["vmotion_key"]),
            AnswerRegister([*parts], _KEY.read(secret)),
            prepared,
            state["fleet"],
            state["vcenter"],
            pair,
            state["number"],
        )


def begin(server: MetadataServer, before: Handed | None) -> str:
    """Start the server, and go on with what the program before has left, if there was one; return
    what was taken over, for the operator."""
    if before is None:
        server.start()
        return ""
    state = before["server"]
    server.start(state["listeners"])
    with collector_off():
        count, failed = server.restore(state)
    lost = f", {failed} could not and were closed" if failed else ""
    return f"{from_to(before)}: {count} connections go on{lost}"


def from_to(before: Handed) -> str:
    """Return from which version to which one, and in which time."""
    seconds = time.time() - before["began_s"]
    return f"upgraded from version {before['version']} to {__version__} in {seconds:.2f} s"


def report(text: str) -> None:
    """Report an upgrade that is done."""
    start_log.info("%s", text)
    upgradereport.tell(UpgradeOutcome(is_done=True, text=text))

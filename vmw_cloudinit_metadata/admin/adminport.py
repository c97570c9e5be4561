"""AdminPort: listens, saves the state file, and never blocks a VM."""

from __future__ import annotations

import logging
import os
import time
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Protocol

import gevent

from vmw_cloudinit_metadata import __version__
from vmw_cloudinit_metadata.admin import chroniclestate, remembered
from vmw_cloudinit_metadata.admin.access import Access
from vmw_cloudinit_metadata.admin.app import App
from vmw_cloudinit_metadata.admin.chronicle import MISSING_S, Chronicle
from vmw_cloudinit_metadata.admin.eventstream import Events
from vmw_cloudinit_metadata.admin.fleetrecorder import FleetRecorder
from vmw_cloudinit_metadata.admin.fleetview import FleetView
from vmw_cloudinit_metadata.admin.http import HttpServer
from vmw_cloudinit_metadata.admin.knownhosts import HostEntry, KnownHosts
from vmw_cloudinit_metadata.admin.machinerecord import STATES
from vmw_cloudinit_metadata.admin.metrics import Metrics, Scene
from vmw_cloudinit_metadata.admin.pulse import COUNTED, Pulse
from vmw_cloudinit_metadata.admin.statefile import SAVE_S, StateFile
from vmw_cloudinit_metadata.monitoring import gauges
from vmw_cloudinit_metadata.monitoring.counters import Key
from vmw_cloudinit_metadata.monitoring.facts import BootReported
from vmw_cloudinit_metadata.monitoring.figures import Figures
from vmw_cloudinit_metadata.monitoring.happenings import Happening
from vmw_cloudinit_metadata.monitoring.jsonobject import timestamp
from vmw_cloudinit_metadata.monitoring.kept import kept
from vmw_cloudinit_metadata.monitoring.sourcestate import UNCHECKED, SourceState
from vmw_cloudinit_metadata.process.budget import Budget, Fixed
from vmw_cloudinit_metadata.process.collector import collector_off
from vmw_cloudinit_metadata.process.fleet.fleetprocess import FleetProcess
from vmw_cloudinit_metadata.process.listener import listen_on, name_of
from vmw_cloudinit_metadata.process.outcomes.outcomehooks import (
    OutcomeHooks,
    OutcomeHookSettings,
)
from vmw_cloudinit_metadata.process.vcenter.vcenterprocess import VcenterProcess
from vmw_cloudinit_metadata.protocol.identitydocument import IdentityIssuer
from vmw_cloudinit_metadata.protocol.state import SECONDS, State
from vmw_cloudinit_metadata.protocol.vmware import parse_uuid
from vmw_cloudinit_metadata.protocol.webhook import Taken, Webhook
from vmw_cloudinit_metadata.serving.catalogue import Catalogue
from vmw_cloudinit_metadata.settings.errors import ConfigError
from vmw_cloudinit_metadata.settings.values import Address

log = logging.getLogger(__name__)

STOP_S = 1.0  # for answers under way, once the server stops
RETRY_S = 5.0  # between two attempts to listen
FORGET_FAILED_S = 24 * 3600.0  # after it has disconnected
HOST_KEYS_S = 10.0  # the longest age of their file

# Recording many happenings together costs less than one by one.
HEARD_S = 0.1  # the longest wait of a happening
TOGETHER = 500


class TakesWebhooks(Protocol):
    def give(self, hook: Webhook) -> Taken:
        """Give a webhook to whoever takes it, and wait for what becomes of it."""


class Serving(Protocol):
    """The serving side: a server in this process, or the parent of several workers."""

    @property
    def source(self) -> SourceState: ...

    @property
    def figures(self) -> Figures: ...

    @property
    def problem(self) -> str: ...

    @property
    def is_stopping(self) -> bool: ...

    @property
    def hooks(self) -> TakesWebhooks: ...


@dataclass(frozen=True, slots=True)
class AdminSettings:
    listen: Address | None  # None: nowhere, but a fleet is told of the machines
    is_chosen: bool = True  # not the default: the operator expects it
    token: bytes | None = None
    state_file: Path | None = None
    issuer: Callable[[], IdentityIssuer | None] = lambda: None  # of identity documents, now
    forget_failed_s: float = FORGET_FAILED_S
    outcome_hook: OutcomeHookSettings | None = None
    expects_outcomes: bool = False  # of boots, also of VMs that have never reported one
    # What the operator has set, for the page; it changes with HUP.
    shown: Callable[[], Mapping[str, Any]] = dict


class AdminPort:
    """The admin port; `hear` listens for happenings. Raises ConfigError if the state file is
    unusable."""

    def __init__(self, settings: AdminSettings, before: State | None = None) -> None:
        """Go on with `before`, the state of the program before an upgrade."""
        self._settings = settings
        self._before = before or {}
        self._serving: Serving | None = None
        self._started_s = time.time()
        self.chronicle = Chronicle()
        self.chronicle.awaited.expects_all = settings.expects_outcomes
        self.known_hosts = KnownHosts()
        hook = settings.outcome_hook
        self._hooks = OutcomeHooks(hook) if hook else None
        self._pulse = Pulse()
        self._events = Events()
        self._server: HttpServer | None = None
        self._shed: Counter[Key] = Counter()
        self._greenlets: list[gevent.Greenlet[..., Any]] = []
        self._heard: list[Happening] = []  # and not recorded yet
        self._soon = gevent.get_hub().loop.timer(HEARD_S, repeat=HEARD_S)
        self._budget: Budget | None = None
        self._catalogue: Catalogue | None = None
        self._fleet: FleetProcess | None = None  # None: the server is alone
        self._recorder: FleetRecorder | None = None
        self.vcenter: VcenterProcess | None = None  # None: nothing is known of any vCenter
        if before:
            self._restore(before)
        self._files = _state_files(settings.state_file, self.chronicle, self.known_hosts)
        if not before:
            for state_file in self._files:
                state_file.load()

    def hear(self, happening: Happening) -> None:
        heard = self._heard
        if not heard:
            self._soon.again(self._learn)
        heard.append(happening)
        if len(heard) == TOGETHER:
            self._learn()

    def _learn(self) -> None:
        self._soon.stop()
        heard, self._heard = self._heard, []
        weighed = []
        for happening in heard:
            try:
                one = kept(happening)
                self.chronicle.take(*one)
                kind = type(happening.fact)
                if kind in COUNTED:
                    self._pulse.hear(one[0])
                elif kind is BootReported:
                    self._hear_outcome(happening)  # whose host keys are whole
            except Exception:  # a timer's callback: the others are still recorded
                log.exception("the list of machines cannot record a happening")
            else:
                weighed.append(one)
        self.chronicle.settle()
        self._events.take(weighed)
        if self._recorder:
            self._recorder.take(weighed)
        if self._budget:
            self._budget.keep()

    def _hear_outcome(self, happening: Happening) -> None:
        self.known_hosts.hear(happening)
        if self._hooks:
            self._hooks.hear(happening)

    def keep_within(self, budget: Budget) -> None:
        """Count machines and events against `budget`."""
        self._budget = budget
        budget.add("machines", self.chronicle)
        budget.add("events", self._events)
        budget.add("host keys", self.known_hosts)
        if hooks := self._hooks:
            budget.add("outcome hooks", Fixed(lambda: hooks.kept_bytes))

    def show(self, catalogue: Catalogue) -> None:
        """Show what is known of the data, from the start."""
        self._catalogue = catalogue

    def join(self, fleet: FleetProcess) -> None:
        """Tell the fleet of the machines here, and show those of all its servers."""
        self._fleet = fleet
        self._recorder = FleetRecorder(self.chronicle, fleet.link)
        self._recorder.restore(self._before.pop("boots", []))
        if self._budget:
            self._budget.add("boots", self._recorder)

    def process_is_gone(self, process: int) -> None:
        """Handle the end of a worker, whose connections have ended unreported."""
        self._learn()
        self.chronicle.process_is_gone(process, time.time())

    def start(self, serving: Serving) -> None:
        """Listen, now or as soon as the address is available."""
        self._serving = serving
        if self._recorder:
            self._recorder.start()
        if self._hooks:
            self._hooks.start()
        self._greenlets.append(gevent.spawn(self._keep_list))
        if self._settings.listen and not self._listen(is_first=True):
            self._greenlets.append(gevent.spawn(self._keep_trying))

    def stop(self) -> None:
        """End answers and events."""
        for greenlet in self._greenlets:
            greenlet.kill()
        self._learn()
        if self._recorder:
            self._recorder.stop()
        if self._hooks:
            self._hooks.stop()
        for file in self._files:
            file.end()
        self._soon.close()
        self._events.end()
        if self._server:
            self._server.stop(STOP_S)

    def save(self) -> None:
        """Save the state file now, and wait for it, but not long: a disk may hang."""
        self._learn()
        for file in self._files:
            file.save()

    def pause(self) -> None:
        """End the process that sends webhooks; `go_on` starts another one."""
        if self._hooks:
            self._hooks.pause()

    def go_on(self) -> None:
        """Go on as before: there was no upgrade."""
        if self._hooks:
            self._hooks.start()

    def _keep_list(self) -> None:
        """Forget what counts no more, and save which machines there are."""
        while True:
            gevent.sleep(SAVE_S)
            self._learn()
            now_s = time.time()
            self.chronicle.age(now_s - self._settings.forget_failed_s)
            if now_s - self._started_s > MISSING_S:
                self.chronicle.forget_missing()
            if self._settings.listen and not self._is_stopping:
                for file in self._files:
                    file.save_changes()

    @property
    def _is_stopping(self) -> bool:
        return self._serving is None or self._serving.is_stopping

    def let_go(self) -> None:
        """Close, in a forked child, what belongs to the parent; none of its greenlets runs here."""
        if self._hooks:
            self._hooks.let_go()
        if self._server:
            self._server.let_go()

    # Listening

    def _keep_trying(self) -> None:
        while not self._listen(is_first=False):
            gevent.sleep(RETRY_S)

    def _listen(self, *, is_first: bool) -> bool:
        assert self._settings.listen
        try:
            open_ones, self._before = self._before.get("listeners", {}), {}
            (listener,) = listen_on([self._settings.listen], open_ones=open_ones)
        except ConfigError as error:
            if is_first:
                level = logging.ERROR if self._settings.is_chosen else logging.WARNING
                again = f"retrying every {RETRY_S:g} s; VMs are served"
                log.log(level, "--admin-listen: %s: no admin port; %s", error, again)
            return False
        self._server = HttpServer(listener, self._app(), self._shed)
        self._server.start()
        log.info("admin on http://%s", name_of(listener))
        return True

    def _app(self) -> App:
        assert self._serving
        return App(
            Access(self._settings.token),
            self.chronicle,
            self._events,
            self.known_hosts,
            readiness=partial(_readiness, self._serving),
            remark=lambda: _remark(("fleet", self._fleet), ("vCenter", self.vcenter)),
            status=self._status,
            metrics_text=Metrics(self._scene).text,
            catch_up=self._learn,
            catalogue=self._catalogue,
            vcenter=self.vcenter.link if self.vcenter else None,
            hook=self._serving.hooks.give,
            issuer=self._settings.issuer,
            fleet=FleetView(self._fleet.link, self._fleet.name) if self._fleet else None,
        )

    # What it shows

    def _scene(self) -> Scene:
        assert self._serving
        states, now_s = self.chronicle.states, time.time()
        return Scene(
            self._serving.figures,
            not _readiness(self._serving),
            {state: states[state] for state in STATES},
            self.chronicle.in_trouble(now_s),
            self._started_s,
            self._counts(),
            self._hooks.waiting_count if self._hooks else 0,
            self._hooks.oldest_s(now_s) if self._hooks else 0.0,
            self.chronicle.awaited.count_late(now_s),
            self._catalogue.files if self._catalogue else None,
            self._serving.source,
        )

    def _counts(self) -> Counter[Key]:
        """Return what the admin port has counted by itself."""
        hooked = self._server.app.hooked if self._server else Counter[Key]()
        told = self._recorder.shed_counts if self._recorder else Counter[Key]()
        shed = self._shed + self.chronicle.shed_counts + self._events.shed_counts
        sent = self._hooks.counts if self._hooks else Counter[Key]()
        return shed + self.known_hosts.shed_counts + hooked + told + sent

    def _status(self) -> dict[str, Any]:
        assert self._serving
        figures, states = self._serving.figures, self.chronicle.states
        source = self._serving.source
        since = timestamp(source.failing_since_s) if source.is_failing else None
        now_s = time.time()
        is_draining = self._serving.is_stopping
        return {
            "state": "draining" if is_draining else "failing" if self._serving.problem else "ready",
            "problem": self._serving.problem,
            "source": {"name": source.name, "failing_since": since},
            "time": timestamp(now_s),
            "started": timestamp(self._started_s),
            "version": __version__,
            "process": os.getpid(),
            "under_way": _under_way(figures),
            "settings": dict(self._settings.shown()),
            "machines": {state: states[state] for state in STATES},
            "total": len(self.chronicle),
            "revision": self.chronicle.revision,
            "problems": {name: count for name, count in self.chronicle.problems.items() if count},
            "followers": self._events.follower_count,
            "gauges": dict(figures.gauges),
            "counters": dict(figures.counters),
            "instance_files": self._catalogue.summary() if self._catalogue else {"state": "off"},
            "fleet": self._fleet.summary() if self._fleet else {"state": "off"},
            "outcome_hook": self._hooks.summary() if self._hooks else {"state": "off"},
            "vcenter": self.vcenter.summary() if self.vcenter else {"state": "off"},
            "pulse": self._pulse.picture(now_s),
        }

    # Upgrade

    def state(self) -> tuple[State, list[int]]:
        """Return what the admin port of the next program needs, and the descriptors in it. Readers
        and followers are disconnected."""
        self._learn()
        listeners = {str(self._settings.listen): self._server.listening} if self._server else {}
        state: State = {
            "listeners": listeners,
            "started_s": self._started_s,
            "machines": chroniclestate.state_of(self.chronicle),
            "pulse": self._pulse.state(),
            "host_keys": [*self.known_hosts.lines()],
            "outcome_hooks": self._hooks.state() if self._hooks else [],
        }
        if self._recorder:
            state["boots"] = self._recorder.state()
        return state, [*listeners.values()]

    def _restore(self, state: State) -> None:
        self._started_s = SECONDS.read(state["started_s"])
        self._pulse.restore(state["pulse"])
        self.known_hosts.restore(state.get("host_keys", []))
        if self._hooks:
            self._hooks.restore(state.get("outcome_hooks", []))
        with collector_off():
            lost = chroniclestate.restore(self.chronicle, state["machines"])
        if lost:
            log.warning("upgrade: %d machines are missing in the list", lost)


def _state_files(path: Path | None, chronicle: Chronicle, known: KnownHosts) -> list[StateFile]:
    if path is None:
        return []
    return [
        StateFile(
            path,
            chronicle.expected,
            parse_uuid,
            lambda lines: chronicle.expect(remembered.vc_uuids_in(lines)),
            lambda: chronicle.revision,
        ),
        StateFile(
            remembered.host_keys_beside(path),
            known.lines,
            HostEntry.of,
            known.restore,
            lambda: known.revision,
            HOST_KEYS_S,
            at_end=True,
        ),
    ]


def _under_way(figures: Figures) -> dict[str, Any]:
    """Return what a restart would interrupt."""
    answers, moves = (int(figures.gauges.get(key, 0)) for key in (gauges.ANSWERS, gauges.MOVES))
    return {"answers": answers, "moves": moves, "is_safe_to_restart": not answers and not moves}


def _readiness(serving: Serving) -> str:
    """Return the readiness without its reason, which may quote anything: this needs no
    token."""
    if serving.is_stopping:
        return "draining"
    if serving.problem == UNCHECKED:
        return f"not ready: {UNCHECKED}"
    source = serving.source
    since = ""
    if source.is_failing:
        since = f" since {timestamp(source.failing_since_s)}, because of {source.name}"
    text = f"not ready{since}: /api/status has the reason"
    return text if serving.problem else ""


def _remark(*parts: tuple[str, FleetProcess | VcenterProcess | None]) -> str:
    """Return what a server that is ready lacks, without its reason: this needs no token."""
    away = [(name, part) for name, part in parts if part and not part.state.is_connected]
    return "; ".join(f"{name}: out of reach since {part.summary()['since']}" for name, part in away)

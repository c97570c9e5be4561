"""AdminPort: listens, saves the state file, and never blocks a VM."""

from __future__ import annotations

import logging
import time
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from threading import Thread
from typing import Any, Protocol

import gevent

from vmw_cloudinit_metadata import __version__
from vmw_cloudinit_metadata.admin import remembered
from vmw_cloudinit_metadata.admin.access import Access
from vmw_cloudinit_metadata.admin.app import App
from vmw_cloudinit_metadata.admin.chronicle import MISSING_S, Chronicle
from vmw_cloudinit_metadata.admin.eventstream import Events
from vmw_cloudinit_metadata.admin.http import HttpServer
from vmw_cloudinit_metadata.admin.machinerecord import STALE, STATES
from vmw_cloudinit_metadata.admin.metrics import Metrics, Scene
from vmw_cloudinit_metadata.admin.pulse import Pulse
from vmw_cloudinit_metadata.monitoring.counters import Key
from vmw_cloudinit_metadata.monitoring.figures import Figures
from vmw_cloudinit_metadata.monitoring.happenings import Happening
from vmw_cloudinit_metadata.monitoring.jsonobject import timestamp
from vmw_cloudinit_metadata.monitoring.kept import kept
from vmw_cloudinit_metadata.monitoring.sourcestate import SourceState
from vmw_cloudinit_metadata.process.budget import Budget
from vmw_cloudinit_metadata.process.listener import listen_on, name_of
from vmw_cloudinit_metadata.protocol.webhook import Taken, Webhook
from vmw_cloudinit_metadata.serving.catalogue import Catalogue
from vmw_cloudinit_metadata.settings.errors import ConfigError
from vmw_cloudinit_metadata.settings.values import Address

log = logging.getLogger(__name__)

STOP_S = 1.0  # for answers under way, once the server stops
RETRY_S = 5.0  # between two attempts to listen
SAVE_S = 1.0  # the longest age of the state file

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
    listen: Address
    is_chosen: bool = True  # not the default: the operator expects it
    token: bytes | None = None
    state_file: Path | None = None


class AdminPort:
    """The admin port; `hear` listens for happenings. Raises ConfigError if the state file is
    unusable."""

    def __init__(self, settings: AdminSettings) -> None:
        self._settings = settings
        self._serving: Serving | None = None
        self._started_s = time.time()
        self.chronicle = Chronicle()
        self._pulse = Pulse()
        self._events = Events()
        self._server: HttpServer | None = None
        self._shed: Counter[Key] = Counter()
        self._greenlets: list[gevent.Greenlet[..., Any]] = []
        self._heard: list[Happening] = []  # and not recorded yet
        self._soon = gevent.get_hub().loop.timer(HEARD_S, repeat=HEARD_S)
        self._budget: Budget | None = None
        self._catalogue: Catalogue | None = None
        self._is_file_reported = False
        self._saver: Thread | None = None
        self._load()
        self._saved_revision = self.chronicle.revision

    def hear(self, happening: Happening) -> None:
        heard = self._heard
        heard.append(happening)
        if len(heard) == 1:
            self._soon.again(self._learn)
        elif len(heard) == TOGETHER:
            self._learn()

    def _learn(self) -> None:
        self._soon.stop()
        heard, self._heard = self._heard, []
        weighed = []
        for happening in heard:
            try:
                one = kept(happening)
                self.chronicle.take(*one)
                self._pulse.hear(one[0])
            except Exception:  # a timer's callback: the others are still recorded
                log.exception("the list of machines cannot record a happening")
            else:
                weighed.append(one)
        self.chronicle.settle()
        self._events.take(weighed)
        if self._budget:
            self._budget.keep()

    def keep_within(self, budget: Budget) -> None:
        """Count machines and events against `budget`."""
        self._budget = budget
        budget.add("machines", self.chronicle)
        budget.add("events", self._events)

    def show(self, catalogue: Catalogue) -> None:
        """Show what is known of the data, from the start."""
        self._catalogue = catalogue

    def process_is_gone(self, process: int) -> None:
        """Handle the end of a worker, whose connections have ended unreported."""
        self._learn()
        self.chronicle.process_is_gone(process, time.time())

    def start(self, serving: Serving) -> None:
        """Listen, now or as soon as the address is available."""
        self._serving = serving
        if not self._listen(is_first=True):
            self._greenlets.append(gevent.spawn(self._keep_trying))
        if self._settings.state_file:
            self._greenlets.append(gevent.spawn(self._keep_file))

    def stop(self) -> None:
        """End answers and events."""
        for greenlet in self._greenlets:
            greenlet.kill()
        self._learn()
        self._soon.close()
        self._events.end()
        if self._server:
            self._server.stop(STOP_S)

    def let_go(self) -> None:
        """Close, in a forked child, what belongs to the parent; none of its greenlets runs here."""
        if self._server:
            self._server.let_go()

    # Listening

    def _keep_trying(self) -> None:
        while not self._listen(is_first=False):
            gevent.sleep(RETRY_S)

    def _listen(self, *, is_first: bool) -> bool:
        try:
            (listener,) = listen_on([self._settings.listen])
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
            readiness=self._readiness,
            status=self._status,
            metrics_text=Metrics(self._scene).text,
            catch_up=self._learn,
            catalogue=self._catalogue,
            hook=self._serving.hooks.give,
        )

    # What it shows

    def _readiness(self) -> str:
        """Return the readiness without its reason, which may quote anything: this needs no
        token."""
        assert self._serving
        if self._serving.is_stopping:
            return "draining"
        source = self._serving.source
        since = ""
        if source.is_failing:
            since = f" since {timestamp(source.failing_since_s)}, because of {source.name}"
        text = f"not ready{since}: /api/status has the reason"
        return text if self._serving.problem else ""

    def _scene(self) -> Scene:
        assert self._serving
        states = self.chronicle.states
        return Scene(
            self._serving.figures,
            not self._readiness(),
            {state: states[state] for state in STATES},
            states[STALE],
            self._started_s,
            self._counts(),
            self._catalogue.files if self._catalogue else None,
            self._serving.source,
        )

    def _counts(self) -> Counter[Key]:
        """Return what the admin port has counted by itself."""
        hooked = self._server.app.hooked if self._server else Counter[Key]()
        return self._shed + self.chronicle.shed_counts + self._events.shed_counts + hooked

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
            "machines": {state: states[state] for state in STATES},
            "total": len(self.chronicle),
            "revision": self.chronicle.revision,
            "problems": {name: count for name, count in self.chronicle.problems.items() if count},
            "followers": self._events.follower_count,
            "gauges": dict(figures.gauges),
            "counters": dict(figures.counters),
            "instance_files": self._catalogue.summary() if self._catalogue else {"state": "off"},
            "pulse": self._pulse.picture(now_s),
        }

    # The state file

    def _load(self) -> None:
        path = self._settings.state_file
        if not path:
            return
        try:
            self.chronicle.expect(remembered.load(path))
            remembered.save(path, self.chronicle.expected())
        except OSError as error:
            raise ConfigError(f"--state-file: {path}: {error.strerror or error}") from error

    def _keep_file(self) -> None:
        while True:
            gevent.sleep(SAVE_S)
            if time.time() - self._started_s > MISSING_S:
                self.chronicle.forget_missing()
            self._learn()
            is_new = self.chronicle.revision != self._saved_revision
            if is_new and self._serving and not self._serving.is_stopping:
                self._begin_to_save()

    def _begin_to_save(self) -> None:
        """Save in a thread that ends afterwards, since the parent of workers may have none when it
        forks. A thread that hangs with its file system delays neither the next one nor the end of
        the process."""
        path = self._settings.state_file
        assert path
        if self._saver and self._saver.is_alive():
            return
        expected = list(self.chronicle.expected())
        saver = Thread(target=self._save, args=(path, expected), name="state file", daemon=True)
        try:
            saver.start()
        except RuntimeError:  # the system has no thread left: retried in a second
            return
        self._saver = saver
        self._saved_revision = self.chronicle.revision

    def _save(self, path: Path, vc_uuids: Iterable[str]) -> None:
        try:
            remembered.save(path, vc_uuids)
        except OSError as error:
            if not self._is_file_reported:
                log.error("--state-file: %s: %s; retrying", path, error.strerror or error)
            self._is_file_reported = True
        else:
            self._is_file_reported = False

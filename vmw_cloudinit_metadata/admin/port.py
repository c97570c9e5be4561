"""AdminPort: listens, and never stands in the way of a VM."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any, Protocol

import gevent
from gevent.pool import Pool
from gevent.pywsgi import LoggingLogAdapter, WSGIHandler, WSGIServer

from vmw_cloudinit_metadata import __version__
from vmw_cloudinit_metadata.admin import remembered
from vmw_cloudinit_metadata.admin.access import Access
from vmw_cloudinit_metadata.admin.app import App
from vmw_cloudinit_metadata.admin.chronicle import MISSING_S, STALE, STATES, Chronicle
from vmw_cloudinit_metadata.admin.events import Events
from vmw_cloudinit_metadata.admin.metrics import Metrics, Scene
from vmw_cloudinit_metadata.admin.pulse import Pulse
from vmw_cloudinit_metadata.config import Address
from vmw_cloudinit_metadata.errors import ConfigError
from vmw_cloudinit_metadata.figures import Figures
from vmw_cloudinit_metadata.happenings import Happening, timestamp
from vmw_cloudinit_metadata.listener import listen_on, name_of

log = logging.getLogger(__name__)

MAX_CONNECTIONS = 64
MAX_HEADER_BYTES = 16 * 1024
REQUEST_S = 10.0  # for a request to arrive
IDLE_S = 60.0  # between two of one connection, and for a reader to take some of an answer
RETRY_S = 5.0  # between two attempts to listen
SAVE_S = 1.0  # the state file is at most so old

# To learn of many happenings in a row costs less than of each by itself.
HEARD_S = 0.1  # so long one waits at most
TOGETHER = 500


class Serving(Protocol):
    """Who serves the VMs: a server in this process, or the parent of several."""

    @property
    def figures(self) -> Figures: ...

    @property
    def problem(self) -> str: ...

    @property
    def is_stopping(self) -> bool: ...


@dataclass(frozen=True, slots=True)
class AdminSettings:
    listen: Address
    is_chosen: bool = True  # not the default: somebody relies on it
    token: bytes | None = None
    state_file: Path | None = None


class AdminPort:
    """`hear` is a listener for happenings. Raises ConfigError if the state file cannot be used."""

    def __init__(self, settings: AdminSettings) -> None:
        self._settings = settings
        self._serving: Serving | None = None
        self._started_s = time.time()
        self._chronicle = Chronicle()
        self._pulse = Pulse()
        self._events = Events()
        self._server: _Server | None = None
        self._greenlets: list[gevent.Greenlet[..., Any]] = []
        self._heard: list[Happening] = []  # and not learned yet
        self._soon = gevent.get_hub().loop.timer(HEARD_S, repeat=HEARD_S)
        self._is_file_told = False
        self._load()
        self._saved_revision = self._chronicle.revision

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
        for happening in heard:
            try:
                self._chronicle.hear(happening)
                self._pulse.hear(happening)
            except Exception:  # in a timer's callback: the others are learned, and later ones too
                log.exception("a happening that the list of machines cannot take in")
        self._events.hear(heard)

    def process_is_gone(self, process: int) -> None:
        """A worker has died without a word about its connections."""
        self._learn()
        self._chronicle.process_is_gone(process, time.time())

    def start(self, serving: Serving) -> None:
        """Listens, now or as soon as the address can be had."""
        self._serving = serving
        if not self._listen(is_first=True):
            self._greenlets.append(gevent.spawn(self._keep_trying))
        if self._settings.state_file:
            self._greenlets.append(gevent.spawn(self._keep_file))

    def stop(self) -> None:
        """Who follows events sees their end."""
        for greenlet in self._greenlets:
            greenlet.kill()
        self._learn()
        self._soon.close()
        self._events.end()
        if self._server:
            self._server.stop(timeout=1)

    def let_go(self) -> None:
        """In a forked child: closes what is the parent's, and runs none of its greenlets."""
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
                again = f"tried again every {RETRY_S:g} s; VMs are served"
                log.log(level, "--admin-listen: %s: no admin port; %s", error, again)
            return False
        self._server = _Server(listener, self._app())
        self._server.start()
        log.info("admin on http://%s", name_of(listener))
        return True

    def _app(self) -> App:
        return App(
            Access(self._settings.token),
            self._chronicle,
            self._events,
            readiness=self._readiness,
            status=self._status,
            metrics_text=Metrics(self._scene).text,
            catch_up=self._learn,
        )

    # What is told

    def _readiness(self) -> str:
        """Without the reason: everyone may ask."""
        assert self._serving
        if self._serving.is_stopping:
            return "draining"
        return "not ready: /api/status has the reason" if self._serving.problem else ""

    def _scene(self) -> Scene:
        assert self._serving
        states = self._chronicle.states
        return Scene(
            self._serving.figures,
            not self._readiness(),
            {state: states[state] for state in STATES},
            states[STALE],
            self._started_s,
        )

    def _status(self) -> dict[str, Any]:
        assert self._serving
        figures, states = self._serving.figures, self._chronicle.states
        now_s = time.time()
        is_draining = self._serving.is_stopping
        return {
            "state": "draining" if is_draining else "failing" if self._serving.problem else "ready",
            "problem": self._serving.problem,
            "time": timestamp(now_s),
            "started": timestamp(self._started_s),
            "version": __version__,
            "machines": {state: states[state] for state in STATES},
            "total": len(self._chronicle),
            "revision": self._chronicle.revision,
            "problems": {name: count for name, count in self._chronicle.problems.items() if count},
            "followers": self._events.follower_count,
            "gauges": dict(figures.gauges),
            "counters": dict(figures.counters),
            "pulse": self._pulse.picture(now_s),
        }

    # The state file

    def _load(self) -> None:
        path = self._settings.state_file
        if not path:
            return
        try:
            self._chronicle.expect(remembered.load(path))
            remembered.save(path, self._chronicle.expected())
        except OSError as error:
            raise ConfigError(f"--state-file: {path}: {error.strerror or error}") from error

    def _keep_file(self) -> None:
        while True:
            gevent.sleep(SAVE_S)
            if time.time() - self._started_s > MISSING_S:
                self._chronicle.forget_missing()
            self._learn()
            is_new = self._chronicle.revision != self._saved_revision
            if is_new and self._serving and not self._serving.is_stopping:
                self._saved_revision = self._chronicle.revision
                self._save()

    def _save(self) -> None:
        path = self._settings.state_file
        assert path
        try:
            remembered.save(path, self._chronicle.expected())
        except OSError as error:
            if not self._is_file_told:
                log.error("--state-file: %s: %s; tried again", path, error.strerror or error)
            self._is_file_told = True
        else:
            self._is_file_told = False


class _Handler(WSGIHandler):
    """Takes no longer, and reads no more, for a request than one needs."""

    def read_requestline(self) -> str:
        with _no_longer_than(IDLE_S):
            line: str = super().read_requestline()
            return line

    def MessageClass(self, *_: object) -> Any:  # noqa: N802 - gevent's name
        with _no_longer_than(REQUEST_S):
            return super().MessageClass(BytesIO(self._read_header()))

    def _read_header(self) -> bytes:
        header = b""
        while True:
            line = self.rfile.readline(MAX_HEADER_BYTES)
            header += line
            if len(header) > MAX_HEADER_BYTES:
                raise ValueError("the header is too long")
            if line in (b"\r\n", b"\n", b""):
                return header

    def read_request(self, raw_requestline: str) -> Any:
        is_read = super().read_request(raw_requestline)
        if self.content_length or self.headers.get("transfer-encoding"):
            raise ValueError("no request has a body here")
        return is_read


@contextmanager
def _no_longer_than(seconds: float) -> Iterator[None]:
    with gevent.Timeout(seconds, TimeoutError("the request does not come")):
        yield


class _Server(WSGIServer):
    handler_class = _Handler

    def __init__(self, listener: Any, app: App) -> None:
        errors = LoggingLogAdapter(log, logging.DEBUG)
        super().__init__(listener, app, spawn=Pool(MAX_CONNECTIONS), log=None, error_log=errors)
        self._connected: set[Any] = set()

    def do_read(self) -> Any:
        accepted = super().do_read()
        if accepted:
            self._connected.add(accepted[0])
        return accepted

    def handle(self, sock: Any, address: Any) -> None:
        sock.settimeout(IDLE_S)
        try:
            super().handle(sock, address)
        finally:
            self._connected.discard(sock)

    def let_go(self) -> None:
        for sock in (self.socket, *self._connected):
            if sock.fileno() >= 0:
                os.close(sock.fileno())

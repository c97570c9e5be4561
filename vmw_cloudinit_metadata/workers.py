"""Several processes on one port: a small parent starts and watches them, and serves no VM itself.

The workers accept with SO_REUSEPORT. Each tells the parent over a socket pair when it is ready, or
why not, what it has counted, and what happens; when the parent is gone, the pair is closed and they
stop. The parent has no threads, and forks in its main greenlet only: a child destroys the hub that
it has inherited, and begins with one of its own.
"""

from __future__ import annotations

import logging
import os
import signal
import socket
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from typing import Any

import gevent
import ujson
from gevent.event import Event

from vmw_cloudinit_metadata import notify
from vmw_cloudinit_metadata.config import Address
from vmw_cloudinit_metadata.errors import ConfigError
from vmw_cloudinit_metadata.figures import Figures
from vmw_cloudinit_metadata.happenings import Listener, unpack
from vmw_cloudinit_metadata.listener import listen_on, name_of

log = logging.getLogger(__name__)

RESTART_S = 0.5  # from the end of a worker to the start of the next
RETRY_S = 5.0  # the same, if it could not even start
READY_S = 60.0  # for a worker to load its driver and to listen
_TURN_S = 0.1
MESSAGE_BYTES = 128 * 1024
_TURN_MESSAGES = 4  # of one worker, before the others and the admin port have their turn

_READABLE = 1  # libev's EV_READ
_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)

Work = Callable[[socket.socket, Sequence[Address]], int]


class Worker:
    """A process, as its parent sees it."""

    def __init__(self, pid: int, pair: socket.socket, listeners: Sequence[Listener]) -> None:
        self.pid = pid
        self.pair = pair
        self.is_ready = False
        self._is_stale = False  # settings were changed while it was starting
        self.failure: str | None = None
        self.problem = ""  # why its driver cannot be used
        self.figures = Figures()
        self._listeners = listeners
        self._watcher = gevent.get_hub().loop.io(pair.fileno(), _READABLE)

    def watch(self, told: Callable[[], None]) -> None:
        """Calls `told` whenever the worker has told something."""

        def readable() -> None:
            self._receive()
            told()

        self._watcher.start(readable)

    def bury(self) -> None:
        """Takes in its last words."""
        while self._receive():
            pass
        self.forget()

    def forget(self) -> None:
        self._watcher.stop()
        self._watcher.close()
        self.pair.close()

    def _receive(self) -> bool:
        """Takes in a turn's messages; whether there may be more."""
        for _ in range(_TURN_MESSAGES):
            try:
                message = self.pair.recv(MESSAGE_BYTES)
            except BlockingIOError:
                return False
            if not message:  # it has ended
                self._watcher.stop()
                return False
            self._take(ujson.loads(message))
        return True

    def _take(self, told: dict[str, Any]) -> None:
        if "ready" in told:
            self.is_ready = True
            if self._is_stale:
                self.reload()
        self.failure = told.get("failed", self.failure)
        if "figures" in told:
            self.figures = Figures.unpack(told["figures"])
            self.problem = told["problem"]
        for packed in told.get("happenings", ()):
            happening = unpack(packed)
            for listener in self._listeners:
                listener(happening)

    def reload(self) -> None:
        """HUP, as soon as it is obeyed: before, it would end the worker."""
        self._is_stale = not self.is_ready
        if self.is_ready:
            self.signal(signal.SIGHUP)

    def signal(self, number: int) -> None:
        with suppress(ProcessLookupError):
            os.kill(self.pid, number)


class Parent:
    """Runs `work` in `count` processes until TERM or INT; HUP is passed on to them, where
    `may_reload` says so."""

    def __init__(
        self,
        count: int,
        listen: Sequence[Address],
        work: Work,
        may_reload: Callable[[], bool] = lambda: True,
    ) -> None:
        self._count = count
        self._work = work
        self._may_reload = may_reload
        self._listeners: list[Listener] = []
        self._on_end: Callable[[int], None] = lambda _: None
        self._let_go: Callable[[], None] = lambda: None
        self.addresses = free_addresses(listen)
        self._workers: dict[int, Worker] = {}  # by process id
        self._due_s: list[float] = []  # when workers are to be started
        self._ended = Figures()  # of those that are gone
        self._is_started = False
        self.is_stopping = False
        self.counted_beside: list[Callable[[], Mapping[str, int]]] = []  # counters of this process
        self._woken = Event()
        self._handlers: list[Any] = []

    def is_heard_by(
        self, listener: Listener, *, on_end: Callable[[int], None], let_go: Callable[[], None]
    ) -> None:
        """From now on `listener` hears what happens in the workers, and `on_end` the process id of
        one that has ended. A child calls `let_go` first: to close what else the parent has open."""
        self._listeners.append(listener)
        self._on_end = on_end
        self._let_go = let_go

    @property
    def figures(self) -> Figures:
        """Of all workers, also those that are gone, and of the parent."""
        beside = [Figures(Counter(count())) for count in self.counted_beside]
        return sum([*(worker.figures for worker in self._workers.values()), *beside], self._ended)

    @property
    def problem(self) -> str:
        """Why no VM can be served now, or ""."""
        ready = [worker for worker in self._workers.values() if worker.is_ready]
        if not ready:
            return "no worker accepts"
        return next((worker.problem for worker in ready if worker.problem), "")

    def start(self) -> None:
        """Returns when all workers accept, or no more are to, after TERM or INT; raises ConfigError
        with the reason if one cannot."""
        actions = zip(_SIGNALS, (self._stop, self._stop, self._reload), strict=True)
        self._handlers = [gevent.signal_handler(number, action) for number, action in actions]
        for _ in range(self._count):  # one first: a wrong setting is told once
            if not self.is_stopping:
                self._wait_until_ready(self._fork())
        self._is_started = True

    def watch(self) -> None:
        """Returns when all workers have ended, after TERM or INT."""
        while self._workers or not self.is_stopping:
            self._turn()

    def _stop(self) -> None:
        self.is_stopping = True
        notify.stopping()
        for worker in self._workers.values():
            worker.signal(signal.SIGTERM)

    def _reload(self) -> None:
        notify.reloading()
        if self._may_reload():
            for worker in self._workers.values():
                worker.reload()
        notify.reloaded()

    def _wait_until_ready(self, worker: Worker) -> None:
        end_s = time.monotonic() + READY_S
        while not worker.is_ready and not self.is_stopping:
            self._turn()
            if self.is_stopping:
                return
            if worker.failure is not None or worker.pid not in self._workers:
                self._give_up()
                raise ConfigError(worker.failure or "a worker ended before it was ready")
            if time.monotonic() > end_s:
                self._give_up()
                raise ConfigError(f"a worker was not ready within {READY_S:g} s")

    def _give_up(self) -> None:
        self._stop()
        while self._workers:
            self._turn()

    def _turn(self) -> None:
        self._woken.wait(_TURN_S)
        self._woken.clear()
        self._reap()
        self._start_due()

    def _reap(self) -> None:
        for pid in list(self._workers):
            ended, status = os.waitpid(pid, os.WNOHANG)
            if ended:
                self._buried(self._workers.pop(pid), os.waitstatus_to_exitcode(status))

    def _buried(self, worker: Worker, code: int) -> None:
        worker.bury()
        self._ended += worker.figures.past()
        self._on_end(worker.pid)
        if self._is_started and not self.is_stopping:
            self._replace(worker, code)

    def _replace(self, worker: Worker, code: int) -> None:
        wait_s = RESTART_S if worker.is_ready else RETRY_S
        self._due_s.append(time.monotonic() + wait_s)
        if worker.is_ready:
            log.error("worker %d has ended with %d: another one is started", worker.pid, code)
            self._ended.counters["workers restarted"] += 1
        else:
            reason = worker.failure or f"it has ended with {code}"
            log.error("a worker cannot start: %s; tried again in %g s", reason, wait_s)

    def _start_due(self) -> None:
        now_s = time.monotonic()
        due = [due_s for due_s in self._due_s if due_s <= now_s]
        self._due_s = [due_s for due_s in self._due_s if due_s > now_s]
        for _ in due:
            if not self.is_stopping:
                self._fork()

    def _fork(self) -> Worker:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        ours.setblocking(False)
        # One that arrives while the child still has the parent's handlers would be lost.
        signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)
        pid = os.fork()
        if pid == 0:
            self._be_worker(ours, theirs)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, _SIGNALS)
        theirs.close()
        worker = self._workers[pid] = Worker(pid, ours, self._listeners)
        worker.watch(self._woken.set)
        return worker

    def _be_worker(self, ours: socket.socket, theirs: socket.socket) -> None:
        """In the child: runs the work, and never returns."""
        code = 1
        try:
            self._leave_parent(ours)
            code = self._work(theirs, self.addresses)
        except ConfigError as error:
            theirs.send(ujson.dumps({"failed": str(error)}).encode())
            code = 2
        except Exception:
            log.exception("a worker fails")
        finally:
            try:
                logging.shutdown()
            finally:
                os._exit(code)

    def _leave_parent(self, ours: socket.socket) -> None:
        """Lets go of all that is the parent's, above all its ends of the pairs: else nobody would
        see that the parent is gone."""
        gevent.reinit()
        for handler in self._handlers:
            handler.cancel()
        ours.close()
        for worker in self._workers.values():
            worker.forget()
        self._let_go()
        gevent.get_hub().destroy(destroy_loop=True)
        for number in _SIGNALS:
            signal.signal(number, signal.SIG_DFL)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, _SIGNALS)


def free_addresses(listen: Sequence[Address]) -> list[Address]:
    """The addresses, with real ports for port 0; raises ConfigError if another program has one.

    Bound once without SO_REUSEPORT, with which a second server would share the port unnoticed.
    """
    listeners = listen_on(listen)
    addresses = [
        Address(address.host, name_of(listener).port)
        for address, listener in zip(listen, listeners, strict=True)
    ]
    for listener in listeners:
        listener.close()
    return addresses

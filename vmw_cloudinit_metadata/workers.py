"""Several processes on one port: a small parent starts and watches them, and serves no VM itself.

The workers accept with SO_REUSEPORT. Each tells the parent over a socket pair when it is ready, or
why not, and what it has counted; when the parent is gone, the pair is closed and they stop. No
gevent in the parent: it forks, and a hub must not be forked.
"""

from __future__ import annotations

import logging
import os
import selectors
import signal
import socket
import time
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any

import ujson

from vmw_cloudinit_metadata import notify
from vmw_cloudinit_metadata.config import Address
from vmw_cloudinit_metadata.errors import ConfigError
from vmw_cloudinit_metadata.listener import listen_on, name_of

log = logging.getLogger(__name__)

RESTART_S = 0.5  # from the end of a worker to the start of the next
RETRY_S = 5.0  # the same, if it could not even start
READY_S = 60.0  # for a worker to load its driver and to listen
_TURN_S = 0.1
_MESSAGE_BYTES = 128 * 1024

Work = Callable[[socket.socket, Sequence[Address]], int]


class Worker:
    """A process, as its parent sees it."""

    def __init__(self, pid: int, pair: socket.socket) -> None:
        self.pid = pid
        self.pair = pair
        self.is_ready = False
        self._is_stale = False  # settings were changed while it was starting
        self.failure: str | None = None
        self.counters: Counter[str] = Counter()

    def receive(self) -> None:
        """Takes in what the worker has told."""
        with suppress(BlockingIOError):
            while message := self.pair.recv(_MESSAGE_BYTES):
                self._take(ujson.loads(message))

    def _take(self, told: dict[str, Any]) -> None:
        if "ready" in told:
            self.is_ready = True
            if self._is_stale:
                self.reload()
        self.failure = told.get("failed", self.failure)
        self.counters = Counter(told.get("counters", self.counters))

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
        self.addresses = free_addresses(listen)
        self._workers: dict[int, Worker] = {}  # by process id
        self._due_s: list[float] = []  # when workers are to be started
        self._ended: Counter[str] = Counter()  # what those have counted that are gone
        self._is_started = False
        self._is_stopping = False
        self._is_reload_asked = False
        self._selector = selectors.DefaultSelector()
        self._wakeup, self._alarm = socket.socketpair()

    @property
    def counters(self) -> Counter[str]:
        """What all workers have counted, also those that are gone."""
        return sum((worker.counters for worker in self._workers.values()), self._ended)

    def start(self) -> None:
        """Returns when all workers accept; raises ConfigError with the reason if one cannot."""
        self._watch_signals()
        for _ in range(self._count):  # one first: a wrong setting is told once
            worker = self._fork()
            self._wait_until_ready(worker)
        self._is_started = True

    def watch(self) -> None:
        """Returns when all workers have ended, after TERM or INT."""
        while self._workers or not self._is_stopping:
            self._turn()

    def _watch_signals(self) -> None:
        for end in (self._wakeup, self._alarm):
            end.setblocking(False)
        signal.set_wakeup_fd(self._alarm.fileno())
        self._selector.register(self._wakeup, selectors.EVENT_READ)
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._stop)
        signal.signal(signal.SIGHUP, self._ask_to_reload)
        signal.signal(signal.SIGCHLD, lambda *_: None)  # wakes the loop

    def _stop(self, *_: object) -> None:
        self._is_stopping = True
        notify.stopping()
        for worker in self._workers.values():
            worker.signal(signal.SIGTERM)

    def _ask_to_reload(self, *_: object) -> None:
        self._is_reload_asked = True

    def _reload(self) -> None:
        self._is_reload_asked = False
        notify.reloading()
        if self._may_reload():
            for worker in self._workers.values():
                worker.reload()
        notify.reloaded()

    def _wait_until_ready(self, worker: Worker) -> None:
        end_s = time.monotonic() + READY_S
        while not worker.is_ready and not self._is_stopping:
            self._turn()
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
        for key, _ in self._selector.select(_TURN_S):
            if key.data is None:
                with suppress(BlockingIOError):
                    self._wakeup.recv(4096)
            else:
                key.data.receive()
        self._reap()
        self._start_due()
        if self._is_reload_asked:
            self._reload()

    def _reap(self) -> None:
        for pid in list(self._workers):
            ended, status = os.waitpid(pid, os.WNOHANG)
            if ended:
                self._buried(self._workers.pop(pid), os.waitstatus_to_exitcode(status))

    def _buried(self, worker: Worker, code: int) -> None:
        worker.receive()  # its last words
        self._selector.unregister(worker.pair)
        worker.pair.close()
        self._ended += worker.counters
        if self._is_started and not self._is_stopping:
            self._replace(worker, code)

    def _replace(self, worker: Worker, code: int) -> None:
        wait_s = RESTART_S if worker.is_ready else RETRY_S
        self._due_s.append(time.monotonic() + wait_s)
        if worker.is_ready:
            log.error("worker %d has ended with %d: another one is started", worker.pid, code)
            self._ended["workers restarted"] += 1
        else:
            reason = worker.failure or f"it has ended with {code}"
            log.error("a worker cannot start: %s; tried again in %g s", reason, wait_s)

    def _start_due(self) -> None:
        now_s = time.monotonic()
        due = [due_s for due_s in self._due_s if due_s <= now_s]
        self._due_s = [due_s for due_s in self._due_s if due_s > now_s]
        for _ in due:
            if not self._is_stopping:
                self._fork()

    def _fork(self) -> Worker:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        ours.setblocking(False)
        pid = os.fork()
        if pid == 0:
            self._be_worker(ours, theirs)
        theirs.close()
        worker = self._workers[pid] = Worker(pid, ours)
        self._selector.register(ours, selectors.EVENT_READ, worker)
        return worker

    def _be_worker(self, ours: socket.socket, theirs: socket.socket) -> None:
        """In the child: runs the work, and never returns."""
        signal.set_wakeup_fd(-1)
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGCHLD):
            signal.signal(number, signal.SIG_DFL)
        # The parent's ends alone: else nobody would see that the parent is gone.
        for end in (ours, self._wakeup, self._alarm, *(w.pair for w in self._workers.values())):
            end.close()
        self._selector.close()
        code = 1
        try:
            code = self._work(theirs, self.addresses)
        except ConfigError as error:
            theirs.send(ujson.dumps({"failed": str(error)}).encode())
            code = 2
        except Exception:
            log.exception("a worker fails")
        finally:
            logging.shutdown()
            os._exit(code)


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

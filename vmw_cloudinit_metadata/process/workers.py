"""Several processes on one port: a small parent starts and watches them, and serves no VM itself.

The workers accept with SO_REUSEPORT. Each reports to the parent over a socket pair (channel.py) why
it cannot start, or its figures and happenings. When the parent ends, the pair is closed and the
workers stop. A worker that is silent for too long is killed and replaced, because its hub hangs.
Nothing that a worker sends ends the parent: invalid messages are dropped and counted.

The parent forks in its main greenlet only, and not while one of its threads reads settings: a child
destroys the hub that it inherits, and creates its own.
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
from dataclasses import replace
from typing import NoReturn, Protocol

import gevent
from gevent.event import Event

from vmw_cloudinit_metadata.monitoring.counters import DROPPED, WORKER_RESTARTS, Key
from vmw_cloudinit_metadata.monitoring.figures import Figures
from vmw_cloudinit_metadata.monitoring.gauges import Gauge
from vmw_cloudinit_metadata.monitoring.happenings import Listener
from vmw_cloudinit_metadata.monitoring.sourcestate import UNCHECKED, SourceState
from vmw_cloudinit_metadata.process import channel, notify
from vmw_cloudinit_metadata.process.budget import Budget
from vmw_cloudinit_metadata.process.deadlines import RunningClock
from vmw_cloudinit_metadata.process.hookrelay import HookRelay
from vmw_cloudinit_metadata.process.listener import listen_on, name_of
from vmw_cloudinit_metadata.process.signals import ALL, STOPPING, Signals
from vmw_cloudinit_metadata.process.upgradereport import UPGRADE, UpgradeOutcome
from vmw_cloudinit_metadata.protocol.state import State
from vmw_cloudinit_metadata.settings.errors import ConfigError
from vmw_cloudinit_metadata.settings.values import Address

log = logging.getLogger(__name__)

RESTART_S = 0.5  # from the end of a worker to the start of the next
RETRY_S = 5.0  # the same, if it could not even start
READY_S = 60.0  # for a worker to load its driver and to listen
UNHEARD_S = 3.0  # of silence: then not all VMs may be served
SILENT_S = 10.0  # of silence: then a worker is killed
_TURN_S = 0.1
_TURN_MESSAGES = 4  # of one worker, before the others and the admin port have their turn
_LAST_MESSAGES = 1024  # of one that is gone; the kernel keeps fewer

_READABLE = 1  # libev's EV_READ

Work = Callable[[socket.socket, int], int]  # with the worker's end of the pair, and its number


class Rereading(Protocol):
    """The handling of HUP."""

    @property
    def is_in_time(self) -> bool:
        """Whether a thread is reading settings and has not exceeded its time."""

    def ask(self) -> None: ...


class Upgrading(Protocol):
    """The handling of USR2."""

    @property
    def is_under_way(self) -> bool: ...

    def ask(self) -> None: ...


class Worker:
    """A worker process, as its parent sees it."""

    def __init__(
        self,
        pid: int,
        number: int,
        pair: socket.socket,
        listeners: Sequence[Listener],
        relay: HookRelay,
    ) -> None:
        self.pid = pid
        self.number = number
        self._relay = relay
        self._pair = pair
        self.is_ready = False
        self.is_killed = False
        self.failure: str | None = None
        self.problem = ""  # why its driver cannot be used
        self.source = SourceState()
        self.silent_s = 0.0  # while the parent listened
        self.is_upgrading = False
        self.upgraded: UpgradeOutcome | None = None  # its last upgrade
        self._figures = Figures()
        self._dropped = 0  # of its messages
        self._listeners = listeners
        self._watcher = gevent.get_hub().loop.io(pair.fileno(), _READABLE)

    @property
    def figures(self) -> Figures:
        """The worker's figures, with the number of its invalid messages."""
        return self._figures + Figures(Counter({DROPPED["events"]: self._dropped}))

    @property
    def descriptor(self) -> int:
        """Our end of the pair."""
        return self._pair.fileno()

    def adopted(self, figures: Figures) -> None:
        """Go on with what the program before an upgrade knew of it."""
        self.is_ready, self._figures = True, figures

    def watch(self, on_message: Callable[[], None]) -> None:
        """Call `on_message` whenever the worker has sent something."""

        def readable() -> None:
            self._receive(_TURN_MESSAGES)
            on_message()

        self._watcher.start(readable)

    def bury(self) -> None:
        """Receive its last messages."""
        self._receive(_LAST_MESSAGES)
        self.forget()

    def forget(self) -> None:
        self._watcher.stop()
        self._watcher.close()
        self._pair.close()

    def signal(self, number: int) -> None:
        with suppress(ProcessLookupError):
            os.kill(self.pid, number)

    def send(self, message: bytes) -> bool:
        """Send it a message; return whether there was room."""
        try:
            self._pair.send(message)
        except OSError:
            return False
        return True

    def kill(self) -> None:
        """Kill a silent worker."""
        self.is_killed = True
        if not self.is_ready:
            self.failure = f"not ready within {READY_S:g} s: its driver may hang"
        self.signal(signal.SIGKILL)

    def _receive(self, most: int) -> None:
        """Receive some of its messages. Never raises: gevent would stop to watch the pair."""
        for _ in range(most):
            try:
                message, _, flags, _ = self._pair.recvmsg(channel.MESSAGE_BYTES)
            except BlockingIOError:
                return
            except OSError:
                message = b""
            if not message:  # it has ended
                self._watcher.stop()
                return
            if flags & socket.MSG_TRUNC:
                self._drop(1, "too long")
            else:
                self._take(message)

    def _take(self, message: bytes) -> None:
        try:
            report = channel.decode(message)
        except channel.InvalidMessage as error:
            self._drop(1, str(error))
            return
        self.silent_s = 0.0
        self.failure = report.failure or self.failure
        self.upgraded = report.upgraded or self.upgraded
        if report.figures:
            self.is_ready = True
            self._figures, self.problem = report.figures, report.problem
            self.source = report.source
        if report.hook is not None and report.taken:
            self._relay.take(self.pid, report.hook, report.taken)
        for happening in report.happenings:
            for listener in self._listeners:
                try:
                    listener(happening)
                except Exception:  # a watcher's callback: gevent would stop the watcher
                    log.exception("worker %d: cannot process a happening", self.pid)
        if report.invalid:
            self._drop(report.invalid, "an invalid happening")

    def _drop(self, count: int, reason: str) -> None:
        if not self._dropped:
            text = "worker %d: invalid message: %s; such messages are dropped and counted"
            log.error(text, self.pid, reason)
        self._dropped += count


class Parent:
    """Runs `work` in `count` processes until TERM or INT; `drain_s` returns how long they may then
    take. `work` gets its number, which is free again when the process has ended. It starts with HUP
    blocked, and must unblock it."""

    def __init__(
        self,
        count: int,
        addresses: Sequence[Address],  # with real ports
        work: Work,
        drain_s: Callable[[], float],
        memory_budget: int,  # bytes, of the parent alone
    ) -> None:
        self._count = count
        self._work = work
        self._drain_s = drain_s
        self._listeners: list[Listener] = []
        self._on_end: Callable[[int], None] = lambda _: None
        self._let_go: list[Callable[[], None]] = []
        self.addresses = addresses
        self.workers: dict[int, Worker] = {}  # by process id
        self._due_s: list[float] = []  # when workers are to be started
        self._ended = Figures()  # of those that are gone
        self.budget = Budget(memory_budget, self._count_one)
        self.hooks = HookRelay(lambda: list(self.workers.values()))
        self._is_started = False
        self.is_stopping = False
        self.counted_beside: list[Callable[[], Mapping[Key, int]]] = []  # counters of this process
        self.shared: list[Callable[[], Mapping[Gauge, float]]] = []  # gauges of what workers share
        self._drained_s = 0.0  # when the workers are to have stopped
        self._clock = RunningClock(_TURN_S)
        self._rereading: Rereading | None = None
        self._woken = Event()
        self._upgrading: Upgrading | None = None

    def is_heard_by(self, listener: Listener, *, on_end: Callable[[int], None]) -> None:
        """Report the workers' happenings to `listener`, and the process id of an ended one to
        `on_end`."""
        self._listeners.append(listener)
        self._on_end = on_end

    def lets_go(self, let_go: Callable[[], None]) -> None:
        """Call it first in each child, to close what else the parent has open."""
        self._let_go.append(let_go)

    @property
    def figures(self) -> Figures:
        """The figures of the parent and of all workers, including ended ones."""
        beside = [_counters_of(count) for count in self.counted_beside]
        beside.append(Figures(gauges=self.budget.gauges))
        found = sum([*(worker.figures for worker in self.workers.values()), *beside], self._ended)
        shared = {key: value for gauges in self.shared for key, value in gauges().items()}
        return replace(found, gauges={**found.gauges, **shared})

    def _count_one(self, key: Key) -> None:
        self._ended.counters[key] += 1

    @property
    def problem(self) -> str:
        """Why no VM can be served now, or ""."""
        ready = [worker for worker in self.workers.values() if worker.is_ready]
        if not ready:
            return "no worker accepts"
        for worker in ready:
            if worker.silent_s > UNHEARD_S:
                return f"worker {worker.pid} has been silent for {worker.silent_s:.0f} s"
        checked = [worker.problem for worker in ready if worker.problem != UNCHECKED]
        return next(filter(None, checked), "") if checked else UNCHECKED

    @property
    def source(self) -> SourceState:
        """Where data comes from, and since when a worker has failed to take it."""
        every = [one.source for one in self.workers.values() if one.is_ready]
        failing = [one for one in every if one.is_failing]
        first = min(failing, key=lambda one: one.failing_since_s, default=None)
        return first or next(iter(every), SourceState())

    def state(self) -> tuple[State, list[int]]:
        """Return the state for the parent of the next program, which adopts the workers, and the
        descriptors in it."""
        workers = [
            [worker.pid, worker.number, worker.descriptor, worker.figures.pack()]
            for worker in self.workers.values()
        ]
        state = {
            "workers": workers,
            "ended": sum(map(_counters_of, self.counted_beside), self._ended).pack(),
        }
        return state, [worker.descriptor for worker in self.workers.values()]

    def adopt(self, state: State) -> None:
        """Go on with the workers of the program before an upgrade."""
        self._ended = Figures.unpack(state["ended"])
        for pid, number, descriptor, figures in state["workers"]:
            os.set_inheritable(descriptor, False)
            worker = self._watch(pid, number, socket.socket(fileno=descriptor))
            worker.adopted(Figures.unpack(figures))

    def start(self, rereading: Rereading, upgrading: Upgrading, signals: Signals) -> None:
        """Start all workers; return when they accept, or after TERM or INT. Raise ConfigError with
        the reason if one cannot start. From then on `rereading` handles HUP, `upgrading` USR2."""
        self.lets_go(signals.let_go)
        signals.handle(dict.fromkeys(STOPPING, self._stop))
        missing = self._count - len(self.workers)
        if self.workers:  # adopted
            self._due_s += [time.monotonic()] * missing
        else:
            for _ in range(missing):  # one first, so that a wrong setting is reported once
                if not self.is_stopping:
                    self._wait_until_ready(self._fork())
        self._is_started = True
        self._rereading, self._upgrading = rereading, upgrading
        signals.handle({signal.SIGHUP: rereading.ask, UPGRADE: upgrading.ask})

    def watch(self) -> None:
        """Replace workers that end; return when all have ended, after TERM or INT."""
        while self.workers or not self.is_stopping:
            self._turn()

    def reload(self) -> None:
        """Send HUP to all workers. Starting ones have it blocked until they can handle it."""
        for worker in self.workers.values():
            worker.signal(signal.SIGHUP)

    def _stop(self) -> None:
        """Stop all workers; the second time, end the drain at once."""
        drain_s = 0.0 if self.is_stopping else self._drain_s()
        self._drained_s = time.monotonic() + drain_s
        self.is_stopping = True
        notify.stopping()
        for worker in self.workers.values():
            worker.signal(signal.SIGTERM)

    def _wait_until_ready(self, worker: Worker) -> None:
        while not worker.is_ready and not self.is_stopping:
            self._turn()
            if self.is_stopping:
                return
            if worker.failure is not None or worker.pid not in self.workers:
                self._give_up()
                raise ConfigError(worker.failure or "a worker ended before it was ready")

    def _give_up(self) -> None:
        self._stop()
        while self.workers:
            self._turn()

    def _turn(self) -> None:
        self._woken.wait(_TURN_S)
        self._woken.clear()
        self._reap()
        self._kill_silent()
        self._start_due()

    def _kill_silent(self) -> None:
        """Kill silent workers. Only the time in which the parent listened counts: no worker is
        silent while the parent is stopped or the machine sleeps, nor one that drains, until its
        time is over."""
        listened_s = self._clock.passed_s()
        for worker in self.workers.values():
            worker.silent_s += listened_s
            is_begun = worker.is_ready and not worker.is_upgrading
            is_over = worker.silent_s > (SILENT_S if is_begun else READY_S)
            may_drain = self.is_stopping and time.monotonic() < self._drained_s
            if is_over and not may_drain and not worker.is_killed:
                log.error(
                    "worker %d has been silent for %.0f s: killed", worker.pid, worker.silent_s
                )
                worker.kill()

    def _reap(self) -> None:
        for pid in list(self.workers):
            ended, status = os.waitpid(pid, os.WNOHANG)
            if ended:
                self._buried(self.workers.pop(pid), os.waitstatus_to_exitcode(status))

    def _buried(self, worker: Worker, code: int) -> None:
        try:
            worker.bury()
            self._on_end(worker.pid)
        except Exception:  # the main loop of the parent: the other workers serve on
            log.exception("worker %d: internal error when it ended", worker.pid)
        self._ended += worker.figures.past()
        if self._is_started and not self.is_stopping:
            self._replace(worker, code)

    def _replace(self, worker: Worker, code: int) -> None:
        wait_s = RESTART_S if worker.is_ready else RETRY_S
        self._due_s.append(time.monotonic() + wait_s)
        if worker.is_ready:
            log.error("worker %d has ended with %d: starting another one", worker.pid, code)
            self._ended.counters[WORKER_RESTARTS] += 1
        else:
            reason = worker.failure or f"it has ended with {code}"
            log.error("a worker cannot start: %s; retrying in %g s", reason, wait_s)

    def _start_due(self) -> None:
        if self._rereading and self._rereading.is_in_time:
            return  # no fork beside a thread that has locks; one that hangs in a file has none
        if self._upgrading and self._upgrading.is_under_way:
            return
        now_s = time.monotonic()
        due = [due_s for due_s in self._due_s if due_s <= now_s]
        self._due_s = [due_s for due_s in self._due_s if due_s > now_s]
        for _ in due:
            if not self.is_stopping:
                self._fork()

    def _fork(self) -> Worker:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        ours.setblocking(False)
        ours.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4 * channel.MESSAGE_BYTES)
        theirs.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4 * channel.MESSAGE_BYTES)
        number = min(set(range(self._count)) - {one.number for one in self.workers.values()})
        # One that arrives while the child still has the parent's handlers would be lost.
        before = signal.pthread_sigmask(signal.SIG_BLOCK, ALL)
        pid = os.fork()
        if pid == 0:
            self._be_worker(ours, theirs, number)
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
        theirs.close()
        return self._watch(pid, number, ours)

    def _watch(self, pid: int, number: int, pair: socket.socket) -> Worker:
        worker = self.workers[pid] = Worker(pid, number, pair, self._listeners, self.hooks)
        worker.watch(self._woken.set)
        return worker

    def _be_worker(self, ours: socket.socket, theirs: socket.socket, number: int) -> None:
        """Run the work in the child; never return."""

        def work(pair: socket.socket) -> int:
            self._leave_parent(ours)
            return self._work(pair, number)

        run_worker(theirs, work)

    def _leave_parent(self, ours: socket.socket) -> None:
        """Close everything of the parent's, above all its ends of the pairs: otherwise no worker
        would notice the end of the parent."""
        gevent.reinit()
        ours.close()
        for worker in self.workers.values():
            worker.forget()
        for let_go in self._let_go:
            let_go()
        gevent.get_hub().destroy(destroy_loop=True)
        for number in ALL:
            signal.signal(number, signal.SIG_DFL)
        # The others stay blocked until the work obeys them: they would end the worker.
        signal.pthread_sigmask(signal.SIG_UNBLOCK, STOPPING)


def run_worker(pair: socket.socket, work: Callable[[socket.socket], int]) -> NoReturn:
    """Run the work of a worker, with its end of the pair; never return."""
    code = 1
    try:
        code = work(pair)
    except ConfigError as error:
        with suppress(OSError):
            pair.send(channel.of_failure(str(error)))
        code = 2
    except Exception:  # the last frame of the process
        log.exception("internal error in a worker")
    finally:
        try:
            logging.shutdown()
        finally:
            os._exit(code)


def _counters_of(count: Callable[[], Mapping[Key, int]]) -> Figures:
    return Figures(Counter(count()))


def free_addresses(listen: Sequence[Address]) -> list[Address]:
    """Return the addresses, with real ports for port 0; raise ConfigError if one is in use.

    Each is bound once without SO_REUSEPORT, with which a second server would share the port
    unnoticed.
    """
    listeners = listen_on(listen)
    addresses = [
        Address(address.host, name_of(listener).port)
        for address, listener in zip(listen, listeners, strict=True)
    ]
    for listener in listeners:
        listener.close()
    return addresses

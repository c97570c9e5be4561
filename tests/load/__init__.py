"""Shared by the load programs: a server process with leak checks, and the report of a run."""

from __future__ import annotations

import json
import os
import re
import signal
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import gevent
from gevent import monkey

from tests.process import ServerProcess, with_constants

INTERRUPTED = 130  # exit code, as of a shell
MAX_FAULTS_SHOWN = 20
PROGRESS_S = 5.0
NOTICED_S = 0.2  # how soon a run notices that it should stop
GROWTH = 1.10  # allowed growth of the server's memory

# Prepended to the command line program: on USR1 the server prints how many objects are alive.
_CENSUS = """\
import gc, json, signal, sys
import gevent, greenlet

ALIVE = ("Connection", "Line", "Session", "Dialogue", "Journey", "Move", "Passage")
garbage = 0

def count(phase, found):
    global garbage
    if phase == "stop":
        garbage += found["collected"]

def root(one):
    while one.parent:
        one = one.parent
    return one

def census():
    gc.collect()
    alive = dict.fromkeys((*ALIVE, "greenlets"), 0)
    here = root(greenlet.getcurrent())
    for one in gc.get_objects():  # a named list would contain itself, and stay alive
        name = type(one).__name__
        if name in ALIVE:
            alive[name] += 1
        # Without those of the threads of the look-up pool, which grows on demand.
        elif isinstance(one, greenlet.greenlet) and root(one) is here:
            alive["greenlets"] += 1
        elif name == "Greenlets":  # and without those that wait for a connection
            alive["greenlets"] -= one.idle
    counts = {"garbage": garbage, "alive": alive}
    print("census:", json.dumps(counts), file=sys.stderr, flush=True)

gc.callbacks.append(count)
gevent.signal_handler(signal.SIGUSR1, census)
"""


@dataclass(frozen=True)
class Level:
    """What a server process uses at one moment."""

    descriptors: int
    rss_bytes: int
    alive: Mapping[str, int]  # objects by class, and greenlets
    garbage: int  # objects that only the garbage collector could free, since the start

    def holds_as_much_as(self, before: Level) -> bool:
        """Return whether as many descriptors and objects are in use; memory does not count."""
        return (self.descriptors, self.alive) == (before.descriptors, before.alive)

    def __str__(self) -> str:
        alive = ", ".join(f"{name} {count}" for name, count in self.alive.items() if count)
        return f"{self.rss_bytes / 2**20:.1f} MiB, {self.descriptors} descriptors, {alive}"


class WatchedServer(ServerProcess):
    """A server process that reports its live objects; constants as in `with_constants`."""

    def __init__(
        self,
        directory: Path,
        *options: str,
        env: Mapping[str, str] | None = None,
        **constants: float,
    ) -> None:
        interpreter, flag, program, *command = with_constants(**constants)
        self._seen_lines = 0
        watched = [interpreter, flag, _CENSUS + program, *command]
        super().__init__(directory, *options, command=watched, env=env)

    @property
    def rss_bytes(self) -> int:
        status = Path(f"/proc/{self.pid}/status").read_text()
        found = re.search(r"VmRSS:\s+(\d+) kB", status)
        assert found, "the server has ended"
        return int(found[1]) * 1024

    @property
    def descriptors(self) -> int:
        return len(os.listdir(f"/proc/{self.pid}/fd"))

    @property
    def cpu_s(self) -> float:
        fields = Path(f"/proc/{self.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    @property
    def is_alive(self) -> bool:
        return self._process.poll() is None

    def level(self) -> Level:
        seen = len(self.lines)
        self.signal(signal.SIGUSR1)
        census = json.loads(self._wait_for_line(r"census: (.*)", seen))
        return Level(self.descriptors, self.rss_bytes, **census)

    def _wait_for_line(self, pattern: str, seen: int, limit_s: float = 60.0) -> str:
        """Wait for a log line after the first `seen` ones; return the group of `pattern`."""
        end_s = time.monotonic() + limit_s
        while time.monotonic() < end_s:
            lines = self.lines[seen:]
            seen += len(lines)
            for line in lines:
                if found := re.search(pattern, line):
                    return found[1]
            assert lines or self.is_alive or self._reader.is_alive(), "the server has died"
            gevent.sleep(0.01)
        raise AssertionError(f"no {pattern!r} in the log")

    def returns_to(self, before: Level, limit_s: float) -> Level:
        """Wait up to `limit_s` until no more is alive than before; return the last level."""
        end_s = time.monotonic() + limit_s
        while True:
            now = self.level()
            if now.holds_as_much_as(before) or time.monotonic() > end_s:
                return now
            gevent.sleep(0.5)

    def new_errors(self) -> list[str]:
        """Return log lines since the last call that no server should write."""
        lines, self._seen_lines = self.lines[self._seen_lines :], len(self.lines)
        return [line.rstrip() for line in lines if re.search(r"Traceback| ERROR | CRITICAL ", line)]

    def stop(self) -> Counter[str]:
        """Stop the server as an operator does; return its counters."""
        self.signal(signal.SIGTERM)
        assert self.wait(60) == 0, "the server did not exit with 0"
        totals = self._wait_for_line(r"stopped; (.*)", 0)
        pairs = (part.rpartition(": ") for part in totals.split(", ") if ": " in part)
        return Counter({name: int(count) for name, _, count in pairs})


class Run:
    """One run of a load program: duration, counts, times and faults."""

    def __init__(self, name: str) -> None:
        monkey.patch_socket()  # so that tests.vm.Vm does not block other greenlets
        self._name = name
        self.is_stopped = False  # start nothing more: interrupted, or the server has ended
        self.is_interrupted = False
        self.counts: Counter[str] = Counter()
        self.times: dict[str, list[float]] = {}
        self.faults: list[str] = []
        self.rows: list[tuple[str, str]] = []
        self.begun_s = time.monotonic()
        for number in (signal.SIGINT, signal.SIGTERM):
            gevent.signal_handler(number, self._interrupt)

    def _interrupt(self) -> None:
        self.is_interrupted = self.is_stopped = True

    @property
    def elapsed_s(self) -> float:
        return time.monotonic() - self.begun_s

    def pause(self, seconds: float) -> bool:
        """Wait; return whether the run continues."""
        end_s = time.monotonic() + seconds
        while not self.is_stopped and (left_s := end_s - time.monotonic()) > 0:
            gevent.sleep(min(left_s, NOTICED_S))
        return not self.is_stopped

    def fault(self, text: str) -> None:
        if not self.is_interrupted:  # the server may end before its clients then
            self.faults.append(text)

    @contextmanager
    def against(self, server: WatchedServer) -> Iterator[None]:
        """Stop the server at the end of the run, also if it fails."""
        print(f"{self._name}: server {server.pid} on port {server.port}", flush=True)
        try:
            yield
        except (AssertionError, OSError) as error:
            self.fault(f"{type(error).__name__}: {str(error)[:300]}")
        finally:
            server.end()

    @contextmanager
    def checking(self, what: str) -> Iterator[None]:
        """Count a success and its time; record an exception as a fault."""
        begun_s = time.monotonic()
        try:
            yield
        except (AssertionError, OSError, ValueError) as error:
            self.fault(f"{what} failed: {type(error).__name__}: {str(error)[:300]}")
        else:
            self.counts[what] += 1
            self.took(what, time.monotonic() - begun_s)

    def took(self, what: str, seconds: float) -> None:
        self.times.setdefault(what, []).append(seconds)

    def expect(self, is_so: bool, otherwise: str) -> None:
        if not is_so:
            self.fault(otherwise)

    def watch(self, server: WatchedServer, progress: Callable[[], str]) -> None:
        """Print progress and check the server every few seconds. Runs in a greenlet."""
        while self.pause(PROGRESS_S) and self.look_at(server):
            size = f"server {server.rss_bytes / 2**20:.0f} MiB, {server.descriptors} descriptors"
            print(f"{self._name}: {self.elapsed_s:.0f} s, {progress()}, {size}", flush=True)

    def look_at(self, server: WatchedServer) -> bool:
        """Return whether the server is alive; record unexpected log lines as faults."""
        for line in server.new_errors():
            self.fault(f"in the server's log: {line[:300]}")
        if not server.is_alive:
            self.fault("the server has died")
            self.is_stopped = True
        return server.is_alive

    def compare(self, before: Level, after: Level, rss_bytes: int) -> None:
        """Compare the levels before and after the load, and the memory with that when warm."""
        growth = after.rss_bytes / rss_bytes
        self.row("server before", str(before))
        self.row("server after", f"{after}: {growth:.3f} times its memory when warm")
        self.expect(
            growth <= GROWTH,
            f"the server's memory has grown to {growth:.3f} times its size when warm",
        )
        self.expect(after.holds_as_much_as(before), f"leak: {after}; before: {before}")
        # The server's garbage collector runs rarely, because no cycles are expected.
        garbage = after.garbage - before.garbage
        self.expect(not garbage, f"{garbage} objects were left in reference cycles")

    def row(self, name: str, value: str) -> None:
        self.rows.append((name, value))

    def time_rows(self) -> None:
        for what, times_s in self.times.items():
            ordered = sorted(times_s)
            p50, p99, most = (
                1000 * ordered[int(share * (len(ordered) - 1))] for share in (0.5, 0.99, 1)
            )
            self.row(what, f"{len(ordered)}: p50 {p50:.1f} ms, p99 {p99:.1f} ms, max {most:.1f} ms")

    def end(self) -> int:
        """Print the table; return the exit code."""
        width = max(len(name) for name, _ in self.rows) if self.rows else 0
        for name, value in self.rows:
            print(f"  {name:<{width}}  {value}")
        for fault in self.faults[:MAX_FAULTS_SHOWN]:
            print(f"  FAULT: {fault}")
        if len(self.faults) > MAX_FAULTS_SHOWN:
            print(f"  and {len(self.faults) - MAX_FAULTS_SHOWN} more")
        outcome = "interrupted" if self.is_interrupted else "FAILED" if self.faults else "passed"
        print(f"{self._name}: {outcome} in {self.elapsed_s:.0f} s", flush=True)
        return 1 if self.faults else INTERRUPTED if self.is_interrupted else 0

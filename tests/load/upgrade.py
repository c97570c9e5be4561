"""Upgrade a server in place while it holds many lines and VMs boot; check each line and each boot.

python -m tests.load.upgrade --lines 14000 --boots 100 --upgrades 10
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
import tempfile
import time
from itertools import count
from pathlib import Path

import gevent
from gevent.pool import Pool

from tests.load import Run, WatchedServer
from tests.load.vm import Instance
from tests.vm import ALWAYS_KNOWN, BINARY, Vm, suboption

OPENED_TOGETHER = 100
GROWTH = 1.05  # of memory, from the second upgrade to the last one
HALF = 9  # bytes of a request that an upgrade meets
ASK = b"!!REQUEST_METADATA#\n"
IDENTITY = BINARY + b"\xff\xfb\xe8" + suboption(0, ALWAYS_KNOWN + bytes([80, 81, 82, 83]))
NAMED = suboption(82, b"web1") + suboption(70, b"Cmy-metadata")
UNLIMITED = tuple(
    word for name in ("connection", "handshake", "move") for word in (f"--max-{name}-rate", "0")
)


class Held:
    """A line, whose VM is told from all others by its instance-id, which is its VC UUID."""

    def __init__(self, port: int, instance: Instance) -> None:
        self._instance = instance
        self.vm = Vm(port, silent=True)
        self.vm.send(IDENTITY + suboption(80, instance.vc_uuid.encode()) + NAMED)

    def check(self) -> None:
        digits = self._instance.vc_uuid.replace(" ", "").replace("-", "")
        found = self.vm.answer()[1]
        assert digits in found.decode().replace("-", ""), (digits, found)

    def ask(self) -> None:
        self.vm.send(ASK)
        self.check()


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--lines", type=int, default=14_000)
    parser.add_argument("--boots", type=int, default=100, help="a second, during the upgrades")
    parser.add_argument("--upgrades", type=int, default=3)
    parser.add_argument("--workers", type=int, default=1)
    arguments = parser.parse_args()
    run = Run("upgrade")
    with tempfile.TemporaryDirectory() as directory:
        (Path(directory) / "web1.yaml").write_text("metadata: {hostname: web}\n")
        # All lines ask at once behind an upgrade, and nothing is cached: on a busy machine that
        # takes longer than look-ups usually may.
        options = (
            "--lookup-timeout",
            "60",
            "--max-per-host",
            "30000",
            "--workers",
            str(arguments.workers),
            *UNLIMITED,
        )
        server = WatchedServer(Path(directory), *options)
        with run.against(server):
            _run(run, server, arguments)
    return run.end()


def _run(run: Run, server: WatchedServer, arguments: argparse.Namespace) -> None:
    pool, numbers = Pool(OPENED_TOGETHER), count(1)
    begun_s = time.monotonic()

    def open_one(number: int) -> Held:
        held = Held(server.port, Instance(number))
        held.ask()
        return held

    lines = pool.map(open_one, [next(numbers) for _ in range(arguments.lines)])
    run.rows.append(("lines opened in", f"{time.monotonic() - begun_s:.1f} s"))
    levels = []
    for number in range(1, arguments.upgrades + 1):
        for held in lines:
            held.vm.send(ASK[:HALF])
        boots = gevent.spawn(_boot_on, run, server, numbers, arguments.boots)
        gap = gevent.spawn(_longest_wait, run, lines[0], number)
        took = _upgrade(server, arguments.workers)
        gap.join()
        for held in lines[1:]:
            held.vm.send(ASK[HALF:])
        for held in lines[1:]:
            with run.checking("line that goes on"):
                held.check()
        boots.kill()
        run.rows.append((f"upgrade {number}", took))
        gevent.sleep(2)
        if arguments.workers == 1:
            levels.append(server.level())
    if len(levels) > 2:
        first, last = levels[1], levels[-1]
        run.expect(last.holds_as_much_as(first), f"more is alive: {last}, at first {first}")
        run.expect(last.rss_bytes < GROWTH * first.rss_bytes, f"memory grows: {first}, {last}")
        run.rows.append(("after the second upgrade", str(first)))
        run.rows.append(("after the last one", str(last)))
    for held in lines:
        held.vm.close()
    counted = server.stop()
    run.expect(counted["closed: upgrade"] == 0, "lines were closed")
    run.faults += server.new_errors()


def _upgrade(server: WatchedServer, workers: int) -> str:
    """Upgrade the server; return what it says of that."""
    seen = len(server.lines)
    os.kill(server.pid, signal.SIGUSR2)
    while True:
        assert server.is_alive, "the server has ended"
        lines, seen = server.lines[seen:], len(server.lines)
        for line in lines:
            assert " ERROR " not in line, line
            if "upgraded from" in line and (workers == 1 or "workers go on" in line):
                return line.partition("upgraded ")[2].rstrip()
        gevent.sleep(0.01)


def _longest_wait(run: Run, held: Held, number: int) -> None:
    """Ask again and again on one line, until some time after the upgrade."""
    held.vm.send(ASK[HALF:])
    held.check()
    longest_s, end_s = 0.0, time.monotonic() + 600
    is_over = False
    while time.monotonic() < end_s and not (is_over and longest_s):
        asked_s = time.monotonic()
        with run.checking("request during an upgrade"):
            held.ask()
        longest_s = max(longest_s, time.monotonic() - asked_s)
        is_over = longest_s > 0.3
        gevent.sleep(0.01)
    run.rows.append((f"longest wait of a guest, upgrade {number}", f"{longest_s:.2f} s"))


def _boot_on(run: Run, server: WatchedServer, numbers: count[int], per_s: int) -> None:
    """Let VMs connect, ask, and go."""

    def boot(number: int) -> None:
        with run.checking("boot during an upgrade"):
            held = Held(server.port, Instance(number))
            held.ask()
            held.vm.close()

    pool = Pool(2000)
    while per_s:
        pool.spawn(boot, next(numbers))
        gevent.sleep(1 / per_s)


if __name__ == "__main__":
    sys.exit(main())

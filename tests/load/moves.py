"""Run 50 vMotions and 200 boots a second; check each move and each boot.

python -m tests.load.moves --seconds 10 --boots 200 --moves 50
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Callable
from itertools import cycle
from pathlib import Path
from random import Random

import gevent
from gevent.pool import Group
from gevent.queue import Queue

from tests.load import Run, WatchedServer
from tests.load.vm import Instance, Traveller, boot, write_instances

INSTANCES = 1000
MAX_TRAVELLERS = 500  # VMs that move; at 50 moves a second each moves every 10 s
RATE_TO_REACH = 0.9
GRACE_S = 15.0  # for moves and boots that are pending at the end


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=10)
    parser.add_argument("--boots", type=int, default=200, help="a second")
    parser.add_argument("--moves", type=int, default=50, help="a second")
    parser.add_argument("--seed", type=int, default=1)
    arguments = parser.parse_args()
    run = Run("moves")
    with tempfile.TemporaryDirectory() as directory:
        instances = write_instances(Path(directory), INSTANCES)
        server = WatchedServer(Path(directory))
        with run.against(server):
            _load(run, server, instances, arguments)
    return run.end()


def _load(
    run: Run, server: WatchedServer, instances: list[Instance], arguments: argparse.Namespace
) -> None:
    rng = Random(arguments.seed)
    machines = cycle(instances[MAX_TRAVELLERS:])
    travellers: Queue[Traveller] = Queue()
    count = min(MAX_TRAVELLERS, int(arguments.seconds * arguments.moves))
    for instance in instances[:count]:
        travellers.put(Traveller(server.port, instance, rng))

    def boot_one() -> None:
        with run.checking("boot"):
            boot(server.port, next(machines))

    def move_one() -> None:
        traveller = travellers.get()
        with run.checking("move"):
            run.took("BEGIN to GOAHEAD", traveller.move())
            travellers.put(traveller)

    begun_s, client_s, server_s = time.monotonic(), time.process_time(), server.cpu_s
    watcher = gevent.spawn(run.watch, server, lambda: _progress(run))
    rates = {
        "boot": (boot_one, arguments.boots),
        "move": (move_one, arguments.moves),
    }
    steady = [
        gevent.spawn(_steadily, run, what, work, rate, arguments.seconds)
        for what, (work, rate) in rates.items()
    ]
    gevent.joinall(steady)
    elapsed_s = time.monotonic() - begun_s
    watcher.kill()
    share = f"client {(time.process_time() - client_s) / elapsed_s:.0%} of a processor"
    run.row("load", f"{share}, server {(server.cpu_s - server_s) / elapsed_s:.0%}")
    run.time_rows()
    for one in steady:
        what, asked, took_s = one.get()
        _, rate = rates[what]
        achieved = run.counts[what] / took_s
        run.row(f"{what}s", f"{run.counts[what]} of {asked}, {achieved:.1f} a second")
        run.expect(run.counts[what] == asked, f"{asked - run.counts[what]} {what}s were lost")
        run.expect(
            achieved >= RATE_TO_REACH * rate, f"{achieved:.1f} {what}s a second instead of {rate}"
        )
    run.look_at(server)


def _steadily(
    run: Run, what: str, work: Callable[[], None], rate: int, seconds: float
) -> tuple[str, int, float]:
    """Start `work` `rate` times a second, however long it takes.

    Returns `what`, how often it was started, and the seconds until all were done.
    """
    group, begun_s, asked = Group(), time.monotonic(), int(rate * seconds)
    for number in range(asked):
        if not run.pause(begun_s + number / rate - time.monotonic()):
            break
        group.start(gevent.Greenlet(work))
    group.join(timeout=GRACE_S)
    took_s = max(time.monotonic() - begun_s, seconds)
    group.kill()
    return what, asked, took_s


def _progress(run: Run) -> str:
    return f"{run.counts['boot']} boots, {run.counts['move']} moves, {len(run.faults)} failed"


if __name__ == "__main__":
    sys.exit(main())

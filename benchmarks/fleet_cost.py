"""What a fleet costs: CPU per cached boot with and without --fleet, in turns, and the database's.

    python benchmarks/fleet_cost.py [--turns 8]

Needs PostgreSQL (Debian: postgresql), which it starts and ends itself. The limits are those of the
project: a boot at most 1.10 times, the database a tenth of a core at 100 boots/s. A storm shows the
boot; a steady rate shows what each boot costs when all of them are told.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from urllib.request import urlopen

import ujson

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE), str(HERE.parent)]

from bench import LOAD_CORE, OURS, QUICK, Bench, Server, complete, load  # noqa: E402 - by this path

from tests.process import tree_of  # noqa: E402
from tests.servers.postgresql import PostgresqlBackend  # noqa: E402

BOOT_LIMIT, DATABASE_LIMIT = 1.10, 0.1
STORM, TOGETHER = 3000, 200
RATE, STEADY_S, NAMES = 100, 10, 5000
TICKS_S = os.sysconf("SC_CLK_TCK")
FIELDS = 11, 13  # user and system time, behind the name in /proc/PID/stat


@dataclass
class Cost:
    """CPU in ms a boot: the server's own, and of the processes beside it."""

    server_ms: float
    fleet_ms: float = 0.0
    database_cores: float = 0.0
    statements_per_s: float = 0.0


def cpu_s(*pids: int) -> float:
    total = 0
    for pid in pids:
        try:
            stat = Path(f"/proc/{pid}/stat").read_text()
        except OSError:
            continue
        first, end = FIELDS
        total += sum(map(int, stat.rpartition(")")[2].split()[first:end]))
    return total / TICKS_S


def counter(server: Server, name: str) -> float:
    with urlopen(f"http://127.0.0.1:{server.admin_port}/api/status", timeout=30) as answer:
        return float(ujson.loads(answer.read())["counters"].get(name, 0))


def storm(server: Server) -> Cost:
    before_s = server.cpu_s()
    complete(load(server, "storm", STORM, TOGETHER, names=NAMES), OURS, boots=STORM)
    return Cost(1000 * (server.cpu_s() - before_s) / STORM)


def steady(server: Server, database: int) -> Cost:
    """Boot RATE VMs at the begin of each second."""
    beside = [pid for pid in tree_of(server.pid) if pid != server.pid]
    before_s, beside_s, database_s = server.cpu_s(), cpu_s(*beside), cpu_s(*tree_of(database))
    statements, begun_s = counter(server, "fleet statements"), time.monotonic()
    for second in range(1, STEADY_S + 1):
        first = second * RATE % NAMES
        complete(
            load(server, "storm", RATE, 20, names=NAMES - first, first=first), OURS, boots=RATE
        )
        time.sleep(max(0.0, begun_s + second - time.monotonic()))
    took_s, boots = time.monotonic() - begun_s, RATE * STEADY_S
    return Cost(
        1000 * (server.cpu_s() - before_s) / boots,
        1000 * (cpu_s(*beside) - beside_s) / boots,
        (cpu_s(*tree_of(database)) - database_s) / took_s,
        (counter(server, "fleet statements") - statements) / took_s,
    )


def in_turns(
    measure: Callable[[Server], Cost], alone: Server, fleet: Server, turns: int
) -> list[tuple[Cost, Cost]]:
    """Measure both servers, one after the other; the one that began ends the next turn."""
    pairs = []
    for turn in range(turns):
        if turn % 2:
            second, first = measure(fleet), measure(alone)
        else:
            first, second = measure(alone), measure(fleet)
        pairs.append((first, second))
    return pairs


@contextmanager
def database() -> Iterator[tuple[str, int]]:
    """Start a database with the schema; yield its URL and its process."""
    with PostgresqlBackend() as backend:
        program = Path(sys.executable).parent / "vmw-cloudinit-metadata"
        environment = {**os.environ, "PYTHONPATH": str(HERE.parent)}
        command = [str(program), "fleet", "init", "--url", backend.url]
        subprocess.run(command, check=True, env=environment, stdout=subprocess.DEVNULL)
        found = (backend.data / "postmaster.pid").read_text().split()[0]
        yield backend.url, int(found)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--turns", type=int, default=8, help="2 or more")
    turns = parser.parse_args().turns
    os.sched_setaffinity(0, {LOAD_CORE})  # the database too: it is another machine's
    with ExitStack() as stack:
        url, postmaster = stack.enter_context(database())
        bench = Bench(stack, QUICK)
        alone = stack.enter_context(bench.ours())
        fleet = stack.enter_context(bench.ours("--fleet", url, "--server-name", "bench"))
        for server in (alone, fleet):
            complete(load(server, "storm", NAMES, 100, names=NAMES), OURS, boots=NAMES)
        storms = in_turns(storm, alone, fleet, turns)
        time.sleep(8)  # until all of the storm is told
        steadies = in_turns(partial(steady, database=postmaster), alone, fleet, turns)
    missed = 0
    for name, pairs in (("storm", storms), (f"{RATE} boots/s", steadies)):
        ratios = [with_.server_ms / without.server_ms for without, with_ in pairs]
        ratio, error = statistics.mean(ratios), statistics.stdev(ratios) / len(ratios) ** 0.5
        shown = ", ".join(f"{a.server_ms:.3f}/{b.server_ms:.3f}" for a, b in pairs)
        print(
            f"{name}: {ratio:.2f} times the CPU of a boot without (standard error {error:.2f}; "
            f"{shown} ms); {BOOT_LIMIT:.2f}"
        )
        missed += ratio > BOOT_LIMIT
    cores = statistics.median(with_.database_cores for _, with_ in steadies)
    child_ms = statistics.median(with_.fleet_ms for _, with_ in steadies)
    statements = max(with_.statements_per_s for _, with_ in steadies)
    print(f"the fleet process: {child_ms:.3f} ms a boot; {statements:.1f} statements/s")
    print(f"the database at {RATE} boots/s: {cores:.3f} of a core; {DATABASE_LIMIT}")
    return int(missed > 0 or cores > DATABASE_LIMIT)


if __name__ == "__main__":
    sys.exit(main())

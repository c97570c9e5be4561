"""Simulate a million VMs after a power cut: hosts return, dial, are refused, and dial again.

    python benchmarks/powercut.py [--redial 1,10,60,300] [--dies-at SECONDS] [--svg FILE]

Power returns at second 0. Servers and hosts boot; each host starts its VMs one after the other. A
host dials when it starts a VM, and again some time after it was refused or cut. A VM's guest asks
for its data once it has booted, and is served as soon as its line is open. Cells know nothing of
each other: each has its own balancer (as conf/haproxy.cfg) and servers, some of which are dead.

How soon ESXi dials again is not known: it is the parameter. Other inputs are MEASURED (costs of a
server, docs/fleet.md says how), CONFIGURED (conf/haproxy.cfg, the server's defaults) or ASSUMED
(when hosts and guests boot); --help says which is which. The same seed gives the same result.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections import Counter
from collections.abc import Iterable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field, replace
from functools import partial
from heapq import heapify, heappop, heappush
from itertools import islice
from math import inf
from pathlib import Path
from random import Random
from xml.etree.ElementTree import Element, tostring

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parent))

from vmw_cloudinit_metadata.client.redial import EARLIEST  # noqa: E402
from vmw_cloudinit_metadata.client.report.nodes import element  # noqa: E402
from vmw_cloudinit_metadata.client.report.scale import round_step  # noqa: E402
from vmw_cloudinit_metadata.client.report.words import brief  # noqa: E402

# MEASURED, of a serving process on one core (docs/fleet.md): CPU to open and identify a line, and
# to answer the three documents of a VM for the first time; memory of a line, and of the process.
LINE_MS = {False: 0.18, True: 0.69}  # without and with TLS
ANSWERS_MS = {False: 0.83, True: 0.89}
LINE_KB = {False: 14, True: 34}
START_MB = 45

# CONFIGURED
BACKLOG = 4096  # connections that wait to be accepted
NOTICED_S = 4.0  # two checks, 2 s apart: until a balancer knows that a server is dead or back
TRIED_S = 3.0  # how long a balancer tries a dead machine before it takes another one

DIAL, AGAIN, OPEN, ASK, SERVED, DEATH = range(6)  # kinds of events
Range = tuple[float, float]


@dataclass(frozen=True)
class World:
    """The inputs: seconds since power returned, or durations in seconds."""

    redial_s: float = 10.0
    vms: int = 40_000  # of one cell
    servers: int = 3
    dead: int = 1
    dies_at_s: float | None = None  # None: the dead ones never return
    tls: bool = False
    ports: int = 28_232  # of one address of a balancer to one server
    servers_back_s: Range = (300.0, 600.0)
    hosts_back_s: Range = (180.0, 420.0)
    vms_per_host: int = 40
    vm_every_s: float = 5.0  # from one VM of a host to the next
    guest_s: Range = (15.0, 60.0)  # from power-on until the guest asks
    gives_up_s: float = 300.0  # `first-boot-timeout` of the agent


@dataclass
class Outcome:
    """What came of one or more cells."""

    asked_s: list[float] = field(default_factory=list)  # since power returned
    served_s: list[float] = field(default_factory=list)  # likewise
    waited_s: list[float] = field(default_factory=list)  # since the guest asked
    opened: Counter[int] = field(default_factory=Counter)  # lines, by second
    refused: int = 0
    cut: int = 0
    never: int = 0  # VMs for which no server will ever have room
    longest_queue: int = 0  # connections and guests that wait for one server
    most_work_s: float = 0.0  # that waits for one server
    most_lines: int = 0  # of one server

    def add(self, other: Outcome) -> None:
        self.asked_s += other.asked_s
        self.served_s += other.served_s
        self.waited_s += other.waited_s
        self.opened.update(other.opened)
        self.refused += other.refused
        self.cut += other.cut
        self.never += other.never
        self.longest_queue = max(self.longest_queue, other.longest_queue)
        self.most_work_s = max(self.most_work_s, other.most_work_s)
        self.most_lines = max(self.most_lines, other.most_lines)

    def sort(self) -> None:
        for times_s in (self.asked_s, self.served_s, self.waited_s):
            times_s.sort()

    def late(self, gives_up_s: float) -> int:
        return sum(waited_s > gives_up_s for waited_s in self.waited_s)


def percentile(values: Sequence[float], percent: int) -> float:
    """Return the value that `percent` of the sorted `values` do not exceed; 0 if there are none."""
    return values[max(-(-len(values) * percent // 100) - 1, 0)] if values else 0.0


@dataclass
class Server:
    back_s: float  # when the balancer uses it
    ports: int
    lines: int = 0
    waiting: int = 0
    busy_until_s: float = 0.0
    died_s: float | None = None

    def has_room_s(self, now_s: float) -> float:
        """Return the earliest time at which it may take a line; no line ends."""
        is_useless = self.died_s is not None or self.lines >= self.ports
        return inf if is_useless else max(self.back_s, now_s)

    def work(self, now_s: float, ms: float) -> float:
        """Queue so much work; return when it is done."""
        self.busy_until_s = max(now_s, self.busy_until_s) + ms / 1000
        return self.busy_until_s


class Cell:
    """One vCenter with its balancer and servers."""

    def __init__(self, world: World, chance: Random) -> None:
        self._world = world
        self._chance = chance
        self.outcome = Outcome()
        self._line_ms, self._answers_ms = LINE_MS[world.tls], ANSWERS_MS[world.tls]
        never_back = world.dead if world.dies_at_s is None else 0
        self._servers = [
            Server(chance.uniform(*world.servers_back_s) + NOTICED_S, world.ports)
            for _ in range(world.servers - never_back)
        ]
        self._server: list[Server | None] = [None] * world.vms  # of each VM's line
        self._epoch = [0] * world.vms  # of each VM's line: it was cut so often
        self._is_open = [False] * world.vms
        self._asked_s: list[float | None] = [None] * world.vms  # None: not yet, or served
        self._events: list[tuple[float, int, int, int]] = []  # when, kind, VM, epoch
        for vm, on_s in enumerate(self._power_on(chance)):
            self._events.append((on_s, DIAL, vm, 0))
            self._events.append((on_s + chance.uniform(*world.guest_s), ASK, vm, 0))
        if world.dies_at_s is not None:
            self._events += [(world.dies_at_s, DEATH, number, 0) for number in range(world.dead)]
        heapify(self._events)

    def _power_on(self, chance: Random) -> Iterable[float]:
        """Return when each VM is powered on: those of a host follow each other."""
        every_s, hosts = self._world.vm_every_s, -(-self._world.vms // self._world.vms_per_host)
        back = [chance.uniform(*self._world.hosts_back_s) for _ in range(hosts)]
        each = (on_s + n * every_s for n in range(self._world.vms_per_host) for on_s in back)
        return islice(each, self._world.vms)

    def run(self) -> Outcome:
        acts = {
            DIAL: self._dial,
            AGAIN: self._dial_again,
            OPEN: self._open,
            ASK: self._ask,
            SERVED: self._served,
            DEATH: self._die,
        }
        while self._events:
            now_s, kind, vm, epoch = heappop(self._events)
            acts[kind](now_s, vm, epoch)
        return self.outcome

    def _dial(self, now_s: float, vm: int, epoch: int) -> None:
        if any(
            server.died_s is not None and now_s < server.died_s + NOTICED_S
            for server in self._servers
        ):  # it has the fewest lines, and is tried first
            heappush(self._events, (now_s + TRIED_S, AGAIN, vm, epoch))
        else:
            self._dial_again(now_s, vm, epoch)

    def _dial_again(self, now_s: float, vm: int, epoch: int) -> None:
        able = [
            server
            for server in self._servers
            if server.back_s <= now_s
            and server.died_s is None
            and server.waiting < BACKLOG
            and server.lines < server.ports
        ]
        if not able:
            self._refuse(now_s, vm, epoch)
            return
        server = min(able, key=lambda server: server.lines)  # balance leastconn
        server.lines += 1
        self.outcome.most_lines = max(self.outcome.most_lines, server.lines)
        self._server[vm] = server
        heappush(self._events, (self._queue(server, now_s, self._line_ms), OPEN, vm, epoch))

    def _queue(self, server: Server, now_s: float, ms: float) -> float:
        server.waiting += 1
        done_s = server.work(now_s, ms)
        outcome = self.outcome
        outcome.longest_queue = max(outcome.longest_queue, server.waiting)
        outcome.most_work_s = max(outcome.most_work_s, done_s - now_s)
        return done_s

    def _refuse(self, now_s: float, vm: int, epoch: int) -> None:
        """Dial again later. Dials that cannot succeed are counted, but not simulated."""
        self.outcome.refused += 1
        room_s = min((server.has_room_s(now_s) for server in self._servers), default=inf)
        if room_s == inf:
            self.outcome.never += 1
            return
        again_s, average_s = self._again(now_s), self._world.redial_s * (EARLIEST + 1) / 2
        if (left := int((room_s - again_s) / average_s)) > 0:
            self.outcome.refused += left
            again_s += left * average_s
        heappush(self._events, (again_s, DIAL, vm, epoch))

    def _again(self, now_s: float) -> float:
        return now_s + self._world.redial_s * self._chance.uniform(EARLIEST, 1)

    def _open(self, now_s: float, vm: int, epoch: int) -> None:
        server = self._server[vm]
        if server is None or epoch != self._epoch[vm]:
            return  # its server has died
        server.waiting -= 1
        self._is_open[vm] = True
        self.outcome.opened[int(now_s)] += 1
        if self._asked_s[vm] is not None:
            self._answer(server, now_s, vm)

    def _ask(self, now_s: float, vm: int, _epoch: int) -> None:
        self._asked_s[vm] = now_s
        server = self._server[vm]
        if server is not None and self._is_open[vm]:
            self._answer(server, now_s, vm)

    def _answer(self, server: Server, now_s: float, vm: int) -> None:
        done_s = self._queue(server, now_s, self._answers_ms)
        heappush(self._events, (done_s, SERVED, vm, self._epoch[vm]))

    def _served(self, now_s: float, vm: int, epoch: int) -> None:
        server, asked_s = self._server[vm], self._asked_s[vm]
        if server is None or asked_s is None or epoch != self._epoch[vm]:
            return  # its server has died
        server.waiting -= 1
        self._asked_s[vm] = None
        self.outcome.asked_s.append(asked_s)
        self.outcome.served_s.append(now_s)
        self.outcome.waited_s.append(now_s - asked_s)

    def _die(self, now_s: float, number: int, _epoch: int) -> None:
        dead = self._servers[number]
        dead.died_s = now_s
        for vm, server in enumerate(self._server):
            if server is dead:
                self.outcome.cut += 1
                self._server[vm], self._is_open[vm] = None, False
                self._epoch[vm] += 1
                heappush(self._events, (self._again(now_s), DIAL, vm, self._epoch[vm]))


def run_cell(world: World, seed: int, cell: int) -> Outcome:
    return Cell(world, Random(f"{seed}.{cell}")).run()


def simulate(world: World, cells: int, seed: int, processes: int) -> Outcome:
    """Return the sum of all cells."""
    total = Outcome()
    with ProcessPoolExecutor(processes) as pool:
        for outcome in pool.map(partial(run_cell, world, seed), range(cells)):
            total.add(outcome)
    total.sort()
    return total


# The table

TITLES = (
    *("redial", "50 % served at", "99 %", "100 %", "waited p50", "p99", "max"),
    *("gave up", "never", "refused", "cut", "queue", "work", "lines", "memory"),
)


def row(world: World, outcome: Outcome) -> tuple[str, ...]:
    served, waited = outcome.served_s, outcome.waited_s
    memory_mb = START_MB + outcome.most_lines * LINE_KB[world.tls] / 1000
    return (
        f"{world.redial_s:g} s",
        *(f"{percentile(served, percent):,.0f} s" for percent in (50, 99, 100)),
        *(f"{percentile(waited, percent):,.1f} s" for percent in (50, 99, 100)),
        f"{outcome.late(world.gives_up_s):,}",
        *(f"{count:,}" for count in (outcome.never, outcome.refused, outcome.cut)),
        f"{outcome.longest_queue:,}",
        f"{outcome.most_work_s:.2f} s",
        f"{outcome.most_lines:,}",
        f"{memory_mb:,.0f} MB",
    )


def table(rows: Iterable[Sequence[str]]) -> str:
    """Return a table in Markdown."""
    lines = [TITLES, tuple("---:" for _ in TITLES), *rows]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


# The picture

WIDTH, HEIGHT, LEFT, RIGHT = 760, 470, 70, 20
SHARES, OPENED = (50, 230), (290, 420)  # top and bottom of the two charts
COLOURS = ("#2b5fc7", "#18794e", "#e08a1e", "#c62f35", "#7b4fb5", "#586374")
POINTS = 300  # of a curve
STYLE = (
    "text{font:13px system-ui,sans-serif;fill:#1b2330}.soft{fill:#586374}.end{text-anchor:end}"
    ".middle{text-anchor:middle}.grid{stroke:#e1e5ea}polyline{fill:none;stroke-width:2}"
)


def picture(title: str, runs: Sequence[tuple[World, Outcome]]) -> str:
    """Return an SVG: which share was served until when, and how many lines opened when."""
    end_s = max(outcome.served_s[-1] for _, outcome in runs)
    peak = max(max(outcome.opened.values()) for _, outcome in runs)
    shapes = [
        element("style", STYLE),
        element("rect", width=WIDTH, height=HEIGHT, fill="#fff"),
        _text(LEFT, 20, title),
        _text(LEFT, SHARES[0] - 12, "VMs that were served", "soft"),
        _text(LEFT, OPENED[0] - 12, "lines opened a second, in all cells", "soft"),
        *_rows(SHARES, [(part, f"{part:.0%}") for part in (0, 0.25, 0.5, 0.75, 1)]),
        *_rows(OPENED, _counts(peak)),
        *_seconds(end_s),
    ]
    asked = [(at_s / end_s, part) for at_s, part in _shares(runs[0][1].asked_s)]
    shapes.append(_text(LEFT + 12, SHARES[0] + 16, "dashed: guests that have asked", "soft"))
    shapes.append(_curve(SHARES, asked, "#586374;stroke-width:1;stroke-dasharray:4 3"))
    for number, (world, outcome) in enumerate(runs):
        colour = COLOURS[number % len(COLOURS)]
        shares = [(at_s / end_s, part) for at_s, part in _shares(outcome.served_s)]
        opened = [(at_s / end_s, count / peak) for at_s, count in _opened(outcome.opened, end_s)]
        shapes += [_curve(SHARES, shares, colour), _curve(OPENED, opened, colour)]
        y = SHARES[0] + 34 + 18 * number
        shapes.append(_text(LEFT + 12, y, f"redial after {world.redial_s:g} s", fill=colour))
    box = {"viewBox": f"0 0 {WIDTH} {HEIGHT}", "width": WIDTH, "height": HEIGHT}
    names = {"xmlns": "http://www.w3.org/2000/svg", "role": "img", "aria_label": title}
    return tostring(element("svg", *shapes, **names, **box), encoding="unicode") + "\n"


def _text(x: float, y: float, text: str, kind: str = "", fill: str = "") -> Element:
    style = {"style": f"fill:{fill}"} if fill else {}
    return element("text", text, x=f"{x:.1f}", y=f"{y:.1f}", class_=kind, **style)


def _x(part: float) -> float:
    return LEFT + part * (WIDTH - LEFT - RIGHT)


def _y(chart: tuple[int, int], part: float) -> float:
    top, bottom = chart
    return bottom - part * (bottom - top)


def _rows(chart: tuple[int, int], marks: Iterable[tuple[float, str]]) -> Iterable[Element]:
    for part, text in marks:
        y = _y(chart, part)
        across = {"x1": LEFT, "x2": WIDTH - RIGHT}
        yield element("line", **across, y1=f"{y:.1f}", y2=f"{y:.1f}", class_="grid")
        yield _text(LEFT - 8, y + 4, text, "soft end")


def _counts(peak: int) -> Iterable[tuple[float, str]]:
    step = round_step(peak / 4)
    return [(n * step / peak, brief(n * step)) for n in range(int(peak / step) + 1)]


def _seconds(end_s: float) -> Iterable[Element]:
    step_s = round_step(end_s / 8)
    for n in range(int(end_s / step_s) + 1):
        x = _x(n * step_s / end_s)
        yield _text(x, OPENED[1] + 20, brief(n * step_s), "soft middle")
    yield _text(WIDTH - RIGHT, OPENED[1] + 40, "seconds since power returned", "soft end")


def _shares(served_s: Sequence[float]) -> Iterable[tuple[float, float]]:
    """Return some (second, share), from the first VM to the last one."""
    places = sorted({round(n * (len(served_s) - 1) / POINTS) for n in range(POINTS + 1)})
    return [(served_s[place], (place + 1) / len(served_s)) for place in places]


def _opened(opened: Counter[int], end_s: float) -> Iterable[tuple[float, float]]:
    """Return the largest count of each slice: a peak of one second stays visible."""
    width = max(int(end_s) // POINTS, 1)
    for first in range(0, int(end_s) + 1, width):
        yield first, max(opened[second] for second in range(first, first + width))


def _curve(chart: tuple[int, int], points: Iterable[tuple[float, float]], colour: str) -> Element:
    each = " ".join(f"{_x(across):.1f},{_y(chart, up):.1f}" for across, up in points)
    return element("polyline", points=each, style=f"stroke:{colour}")


# The command line


def _range(text: str) -> Range:
    first, _, last = text.partition("-")
    low, high = float(first), float(last or first)
    if not 0 <= low <= high:
        raise argparse.ArgumentTypeError(f"found {text!r}, expected seconds such as 180-420")
    return low, high


def _redials(text: str) -> list[float]:
    found = [float(part) for part in text.split(",")]
    if min(found) <= 0:
        raise argparse.ArgumentTypeError(f"found {text!r}, expected seconds such as 1,10,60")
    return found


def _count(text: str) -> int:
    if (count := int(text)) < 1:
        raise argparse.ArgumentTypeError(f"found {text!r}, expected 1 or more")
    return count


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    usual = World()
    add = partial(parser.add_argument, metavar="N")
    add("--vms", type=_count, default=1_000_000, help="VMs in all cells (1,000,000)")
    add("--cells", type=_count, default=25, help="vCenters (25)")
    add("--servers", type=_count, default=usual.servers, help="servers of each cell (3)")
    add("--dead", type=int, default=usual.dead, help="of them, how many are dead (1)")
    add("--seed", type=int, default=1, help="of all random choices (1)")
    add("--processes", type=_count, default=os.cpu_count(), help="of the simulation")
    add = partial(parser.add_argument, metavar="SECONDS")
    add(
        "--redial",
        type=_redials,
        default=[1.0, 10.0, 60.0, 300.0],
        help="UNKNOWN: from a cut or refusal to the next dial, up to a tenth less (1,10,60,300)",
    )
    add(
        "--dies-at",
        type=float,
        help="the dead servers die then, with all their lines; default: they never return",
    )
    add(
        "--servers-back",
        type=_range,
        default=usual.servers_back_s,
        help="ASSUMED: when servers are back, uniformly (300-600)",
    )
    add(
        "--hosts-back",
        type=_range,
        default=usual.hosts_back_s,
        help="ASSUMED: when hosts are back (180-420)",
    )
    add(
        "--vm-every",
        type=float,
        default=usual.vm_every_s,
        help="ASSUMED: from one VM of a host to the next (5)",
    )
    add(
        "--guest",
        type=_range,
        default=usual.guest_s,
        help="ASSUMED: from power-on until the guest asks (15-60)",
    )
    parser.add_argument(
        "--vms-per-host", type=_count, default=40, metavar="N", help="ASSUMED: VMs of a host (40)"
    )
    parser.add_argument(
        "--ports",
        type=_count,
        default=usual.ports,
        metavar="N",
        help="CONFIGURED: lines of a balancer to one server (28,232 for each of its addresses)",
    )
    parser.add_argument("--tls", action="store_true", help="all lines use TLS")
    parser.add_argument("--svg", type=Path, metavar="FILE", help="write a picture")
    found = parser.parse_args(arguments)
    if not 0 <= found.dead < found.servers:
        parser.error(f"--dead {found.dead}: expected 0 or more, and fewer than --servers")
    if found.dies_at is not None and not found.dead:
        parser.error("--dies-at has no effect with --dead 0")
    if found.vms % found.cells:
        parser.error("--vms: expected a multiple of --cells")
    return found


def world_of(found: argparse.Namespace) -> World:
    return World(
        vms=found.vms // found.cells,
        servers=found.servers,
        dead=found.dead,
        dies_at_s=found.dies_at,
        tls=found.tls,
        ports=found.ports,
        servers_back_s=found.servers_back,
        hosts_back_s=found.hosts_back,
        vms_per_host=found.vms_per_host,
        vm_every_s=found.vm_every,
        guest_s=found.guest,
    )


def title_of(found: argparse.Namespace) -> str:
    fate = "dead" if found.dies_at is None else f"dying at {found.dies_at:g} s"
    return (
        f"{found.vms:,} VMs after a power cut: {found.cells} cells of {found.servers} servers, "
        f"{found.dead} of each {fate}"
    )


def main() -> int:
    found = parse()
    world = world_of(found)
    print(f"{title_of(found)}{', with TLS' if found.tls else ''}; seed {found.seed}\n")
    runs = [
        (one, simulate(one, found.cells, found.seed, found.processes))
        for one in (replace(world, redial_s=redial_s) for redial_s in found.redial)
    ]
    print(table(row(*run) for run in runs))
    if found.svg:
        found.svg.write_text(picture(title_of(found), runs))
    return 0


if __name__ == "__main__":
    sys.exit(main())

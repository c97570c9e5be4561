"""Move VMs between the servers of a fleet; check each byte that their guests get.

python -m tests.load.fleetmoves --moves 1000
python -m tests.load.fleetmoves --moves 300 --kill

Every second guest has half an answer when its VM moves. With --kill, the database is killed and
started again in the middle of the moves: a guest may have to ask again then, and gets nothing
wrong.
"""

from __future__ import annotations

import argparse
import base64
import os
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from random import Random

import gevent
from gevent.pool import Group
from gevent.threadpool import ThreadPool

from tests.load import Level, Run, WatchedServer
from tests.load.vm import DOCUMENTS, Guest, Instance, request, sequence, serial
from tests.process import run as run_command
from tests.servers.postgresql import PostgresqlBackend
from tests.vm import suboption
from tests.waiting import wait_in_hub_until

TRAVELLERS = 16  # that move at the same time
SMALL_BUFFER = 4096  # so that a long answer is sent in part
KILLED_EVERY_S, KILLED_FOR_S = 2.5, 1.0
ASKS_AGAIN_S = 2.0  # a guest without an answer
IN_TIME_S = 1.5  # a limit of 1 s, on a busy machine
WITHOUT_FLEET_S = 30.0
PATIENT = {"serving__timeouts__CLAIM_S": 30.0, "serving__timeouts__HAND_OVER_S": 30.0}
EXPIRES_S = 8.0  # a move that the source is never asked about
LEFT_S = EXPIRES_S + 5.0  # until a server has noticed that its VMs have disconnected
OF_VMS = ("Connection", "Line", "Session", "Dialogue", "Journey", "Move", "Passage")


class Roamer:
    """A VM that moves between servers, with the serial line of its guest."""

    def __init__(self, ports: Sequence[int], instance: Instance, rng: Random) -> None:
        self._ports = ports
        self._rng = rng
        self._at = rng.randrange(len(ports))
        self.guest = Guest(ports[self._at], instance, receive_buffer=SMALL_BUFFER)
        self.guest.ask_for(DOCUMENTS)
        self.guest.get(DOCUMENTS)

    def close(self) -> None:
        self.guest.close()

    def move(self, run: Run, *, is_half_sent: bool, may_lose: bool) -> None:
        """Move while answers and half a request are under way."""
        rng, source, instance = self._rng, self.guest, self.guest.instance
        before = ["USERDATA"] if is_half_sent else []
        during = rng.choices(DOCUMENTS, k=rng.randrange(4))
        last = rng.choice(DOCUMENTS)
        cut = rng.randrange(1, len(request(last)))
        source.ask_for(before)
        if before:
            source.raw += source.socket.recv(1)  # an answer has begun
        number = sequence(rng)
        secret = source.begin_move(number)
        carried = serial(source.before_go_ahead)
        run.counts["half an answer"] += carried.startswith(b"!!") and b"\n" not in carried
        source.ask_for(during)
        source.send(request(last)[:cut])
        self._at = (self._at + rng.randrange(1, len(self._ports))) % len(self._ports)
        begun_s = time.monotonic()
        target = Guest.at_target(self._ports[self._at], instance, number + secret, SMALL_BUFFER)
        self.guest = target
        try:
            target.tell_identity()
            assert b"!!" not in serial(target.receive_until(suboption(45, number)))
            run.took("PEER to PEER-OK", time.monotonic() - begun_s)
            target.raw = carried + target.raw
            if rng.random() < 0.5:  # the source may close before COMPLETE, or after it
                gevent.sleep(0.02)  # what it has sent is not thrown away
                source.is_silent()
                source.close()
            begun_s = time.monotonic()
            target.complete(number)
            target.send(request(last)[cut:])
            expected = [*before, *during, last]
            if may_lose:
                self._get_in_the_end(run, expected, begun_s)
            else:
                target.get(expected)
                run.took("COMPLETE to all answers", time.monotonic() - begun_s)
            if source.socket.fileno() >= 0:
                source.is_silent()
        finally:
            source.close()

    def _get_in_the_end(self, run: Run, expected: list[str], begun_s: float) -> None:
        """Get what was asked for, and ask again for what does not come; then nothing is left."""
        guest = self.guest
        guest.ask_for(["DIGEST"])  # held or not: it is answered on this line
        missing, asked_s = Counter([*expected, "DIGEST"]), begun_s
        while missing:
            document = self._next(ASKS_AGAIN_S)
            if document == "DIGEST":
                run.took("COMPLETE to an answer", time.monotonic() - begun_s)
            if document is None:
                run.counts["asked again"] += 1
                assert time.monotonic() - asked_s < WITHOUT_FLEET_S, f"no answer for {missing}"
                guest.ask_for(list(missing.elements()))
            else:
                missing -= Counter([document])

    def _next(self, limit_s: float) -> str | None:
        """Return the document of the next answer, as an agent finds it; None: none came in time."""
        guest = self.guest
        while True:
            try:
                line = serial(guest.receive_until(b"\n", limit_s)).strip()
            except TimeoutError:
                return None
            begin = line.rfind(b"!!")
            if begin < 0:
                continue
            code, _, body = line[begin + 2 :].decode().partition("#")
            document = code.removeprefix("RESPONSE_")
            if document == "ERROR":
                continue
            if document != "DIGEST":
                guest.instance.check(document, base64.b64decode(body, validate=True))
            return document


@contextmanager
def fleet(
    backend: PostgresqlBackend, directory: Path, count: int, *options: str, **constants: float
) -> Iterator[list[WatchedServer]]:
    """Servers of a fleet, which are connected with its database."""
    key = directory / "vmotion.key"
    key.write_bytes(os.urandom(32))
    key.chmod(0o600)
    with ExitStack() as stack:
        servers = []
        for _ in range(count):
            words = ("--fleet", backend.url, "--vmotion-key-file", str(key), *options)
            server = WatchedServer(directory / "instances", *words, **constants)
            stack.callback(server.end)
            servers.append(server)
        for server in servers:
            wait_in_hub_until(lambda server=server: _is_connected(server))  # type: ignore[misc]
        yield servers


def _is_connected(server: WatchedServer) -> bool:
    return any("fleet: connected to" in line for line in server.lines)


@contextmanager
def database() -> Iterator[PostgresqlBackend]:
    with PostgresqlBackend() as backend:
        done = run_command("fleet", "init", "--url", backend.url)
        assert done.returncode == 0, done.stderr
        yield backend


def written_instances(directory: Path, count: int) -> list[Instance]:
    """Instances with a user-data that is not sent in one piece."""
    instances = [Instance(10 * number) for number in range(count)]
    (directory / "instances").mkdir()
    for instance in instances:
        (directory / "instances" / f"{instance.name}.yaml").write_text(instance.file)
    return instances


def move_all(
    run: Run,
    servers: Sequence[WatchedServer],
    instances: Sequence[Instance],
    moves: int,
    *,
    may_lose: bool = False,
) -> None:
    """Make so many moves, with all VMs at the same time."""
    ports = [server.port for server in servers]
    left = iter(range(moves))

    def roam(instance: Instance) -> None:
        rng = Random(instance.number)
        roamer = Roamer(ports, instance, rng)
        for number in left:
            with run.checking("move"):
                roamer.move(run, is_half_sent=number % 2 == 0, may_lose=may_lose)
            if run.is_stopped or run.faults:
                break
        roamer.close()

    group = Group()
    for instance in instances:
        group.start(gevent.Greenlet(roam, instance))
    group.join()


def _kill_again_and_again(run: Run, backend: PostgresqlBackend) -> None:
    pool = ThreadPool(1)
    while run.pause(KILLED_EVERY_S):
        pool.apply(backend.kill)
        run.counts["database killed"] += 1
        gevent.sleep(KILLED_FOR_S)
        pool.apply(backend.start)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--moves", type=int, default=1000)
    parser.add_argument("--servers", type=int, default=2)
    parser.add_argument("--workers", type=int, default=1, help="of each server")
    parser.add_argument("--kill", action="store_true", help="kill the database again and again")
    parser.add_argument("--patient", action="store_true", help="long limits: on a busy machine")
    arguments = parser.parse_args()
    run = Run("fleet moves")
    with tempfile.TemporaryDirectory() as name, database() as backend:
        directory = Path(name)
        directory.chmod(0o755)
        instances = written_instances(directory, TRAVELLERS)
        options = ("--workers", str(arguments.workers))
        constants = {"serving__timeouts__MOVE_EXPIRES_S": EXPIRES_S}
        constants |= PATIENT if arguments.patient else {}
        with fleet(backend, directory, arguments.servers, *options, **constants) as servers:
            before = [server.level() for server in servers if arguments.workers == 1]
            killer = None
            if arguments.kill:
                killer = gevent.spawn(_kill_again_and_again, run, backend)
            move_all(run, servers, instances, arguments.moves, may_lose=arguments.kill)
            run.is_stopped = True
            if killer:
                killer.join()
            if arguments.workers == 1:
                look_for_leaks(run, servers, before)
            judge(run, servers, arguments.moves, may_lose=arguments.kill)
    return run.end()


def look_for_leaks(run: Run, servers: Sequence[WatchedServer], before: Sequence[Level]) -> None:
    """When all VMs have disconnected, nothing of them may be left."""
    for server, was in zip(servers, before, strict=True):
        level = server.returns_to(was, limit_s=LEFT_S)
        left = {name: count for name, count in level.alive.items() if name in OF_VMS and count}
        run.expect(not left, f"left behind: {left}")
        garbage = level.garbage - was.garbage
        run.expect(not garbage, f"{garbage} objects were left in reference cycles")


def judge(run: Run, servers: Sequence[WatchedServer], moves: int, *, may_lose: bool) -> None:
    """Compare what the guests got and what the servers have counted."""
    counted: Counter[str] = Counter()
    for server in servers:
        for line in server.new_errors():
            if may_lose and "fleet: out of reach since" in line:
                continue
            run.fault(f"in the log of a server: {line[:300]}")
        counted += server.stop()
    whole, lost = counted["vMotions continued"], counted["vMotions from elsewhere"]
    run.row("moves", f"{run.counts['move']} of {moves}, {run.counts['half an answer']} with half")
    run.row("handed over", f"{whole}; without the source: {lost}")
    for what in ("asked again", "database killed"):
        run.row(what, str(run.counts[what]))
    run.time_rows()
    run.expect(run.counts["move"] == moves, f"{moves - run.counts['move']} moves failed")
    half = run.counts["half an answer"]
    run.expect(half >= 0.45 * moves, f"only {half} of {moves} had half an answer")
    if may_lose:
        for what in ("PEER to PEER-OK", "COMPLETE to an answer"):
            longest = max(run.times.get(what, [0.0]))
            run.expect(longest <= IN_TIME_S, f"{what}: {longest:.1f} s")
    else:
        within = counted["vMotions completed"]
        run.expect(lost == 0, f"{lost} sources handed nothing over")
        run.expect(whole + within == moves, f"{whole} of {moves} were handed over")


if __name__ == "__main__":
    sys.exit(main())

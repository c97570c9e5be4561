"""Let a fleet of three servers behind HAProxy, with one PostgreSQL, lose one part after the other.

python -m tests.load.fleet --vms 10000 --held 8500

VMs boot all the time, and stay connected; some move from host to host. Meanwhile one server is
killed and started again, one is stopped for 10 s, the database is restarted, and one server is
upgraded in place. Each answer is checked byte for byte; a line that is lost is dialled again.
"""

from __future__ import annotations

import argparse
import json
import signal
import subprocess
import sys
import tempfile
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from random import Random
from typing import NamedTuple

import gevent
from gevent import monkey

from tests.load import Run
from tests.load.vm import DOCUMENTS, Guest, Instance, sequence, serial, write_instances
from tests.process import CHECKOUT, COMMAND, ServerProcess, run
from tests.servers.haproxy import Balancer
from tests.servers.postgresql import PostgresqlBackend
from tests.storm import free_port
from tests.vm import Closed, suboption

SERVERS = 3
MAX_HELD = 8_500  # HAProxy needs two descriptors for each line
SERVED_S = 30.0  # from power-on, whatever happens
REDIAL_S = 1.0  # ESXi's own is not known
DEAD_S = 5.0  # a server that is killed, until its supervisor starts it again
STOPPED_S = 10.0
FILL_S = 15.0  # in which half of the VMs boot, before the first incident
MOVERS, MOVES_EVERY_S = 100, 5.0
CALM_S = 8.0  # before each incident, and after the last one
SLACK_S = 2.0  # from the upgrade's command until lines that it lost would be noticed


class Member:
    """A server of the fleet, on a port of its own that it keeps."""

    def __init__(self, name: str, instances: Path, options: Sequence[str]) -> None:
        self.name = name
        self._instances = instances
        self._options = (*options, "--server-name", name)
        self.address = f"127.0.0.1:{free_port()}"
        self.process = self._start()

    def _start(self) -> ServerProcess:
        command = [*COMMAND, "run"]  # and not by the starter, which would wait without gevent
        return ServerProcess(self._instances, *self._options, listen=self.address, command=command)

    def kill(self) -> None:
        self.process.signal(signal.SIGKILL)
        self.process.wait()

    def start(self) -> None:
        self.process.end()
        self.process = self._start()

    def upgrade(self) -> str:
        """Upgrade it in place; return what the command has written if that failed."""
        command = [*COMMAND, "upgrade", "--pid", str(self.process.pid)]
        with subprocess.Popen(command, stderr=subprocess.PIPE, cwd=CHECKOUT, text=True) as upgrade:
            while upgrade.poll() is None:
                gevent.sleep(0.05)  # VMs boot meanwhile
            assert upgrade.stderr
            return "" if upgrade.returncode == 0 else upgrade.stderr.read()


class Site:
    """Everything that runs: the database, the servers, and HAProxy before them."""

    def __init__(self, place: Path, stack: ExitStack) -> None:
        instances, key = place / "instances", place / "vmotion.key"
        instances.mkdir()
        key.write_bytes(bytes(range(32)))
        key.chmod(0o600)
        self.instances = instances
        self.database = stack.enter_context(PostgresqlBackend())
        made = run("fleet", "init", "--url", self.database.url)
        assert made.returncode == 0, made.stderr
        options = (
            *("--fleet", self.database.url, "--vmotion-key-file", str(key)),
            *("--proxy-protocol", "127.0.0.1", "--max-per-host", "20000"),
            *("--max-connections", "20000", "--max-connection-rate", "0"),
        )
        self.members = [Member(f"s{number}", instances, options) for number in range(SERVERS)]
        for member in self.members:
            stack.callback(lambda member=member: member.process.end())
        balancer = Balancer(place, [member.address for member in self.members])
        self.port = stack.enter_context(balancer).port


class Served(NamedTuple):
    vm: int
    powered_s: float
    served_s: float
    cuts: int  # lines that were lost before all was there


def get(run: Run, guest: Guest, document: str) -> None:
    """Get a document; ask again, as an agent does, if the server has not answered in time."""
    end_s = time.monotonic() + SERVED_S
    while True:
        guest.ask_for([document])
        code, body = guest.answer(SERVED_S)
        if code != "RESPONSE_ERROR" or time.monotonic() > end_s:
            break
        assert json.loads(body)["error"] == "timeout", (guest.instance, body)
        run.counts["timeout"] += 1
        gevent.sleep(REDIAL_S)
    assert code == f"RESPONSE_{document}", (guest.instance, document, code, body[:200])
    guest.instance.check(document, body)


class Machines:
    """The VMs: each boots once, and stays connected while there is room."""

    def __init__(self, run: Run, port: int, held: int) -> None:
        self._run = run
        self._port = port
        self._room = held
        self._on: deque[gevent.Greenlet[..., None]] = deque()
        self.served: list[Served] = []
        self.lost_s: list[float] = []  # when a line was lost
        self.is_over = False

    def boot(self, instance: Instance) -> None:
        """Power a VM on; if too many are connected, power the oldest one off."""
        self._on.append(gevent.spawn(self._live, instance))
        while len(self._on) > self._room:
            self._on.popleft().kill(block=False)

    def join(self, limit_s: float) -> None:
        """Wait until each VM has been served; power all off."""
        end_s = time.monotonic() + limit_s
        while len(self.served) < self._run.counts["power on"] and time.monotonic() < end_s:
            gevent.sleep(0.1)
        self.is_over = True
        gevent.killall(list(self._on))

    def _live(self, instance: Instance) -> None:
        self._run.counts["power on"] += 1
        powered_s, missing, cuts = time.monotonic(), list(DOCUMENTS), 0
        while not self.is_over:
            guest = None
            try:
                guest = Guest(self._port, instance)
                while missing:
                    get(self._run, guest, missing[0])
                    del missing[0]
                    if not missing:
                        now_s = time.monotonic()
                        self.served.append(Served(instance.number, powered_s, now_s, cuts))
                self._wait_for_end(guest)
            except (Closed, ConnectionError):
                cuts += bool(missing)
                self.lost_s.append(time.monotonic())
            except (AssertionError, ValueError, OSError) as error:
                self._run.fault(f"{instance.name}: {type(error).__name__}: {str(error)[:300]}")
            finally:
                if guest:
                    guest.close()
            gevent.sleep(REDIAL_S)

    def _wait_for_end(self, guest: Guest) -> None:
        """Wait until the line is lost: the guest has no request open, so it is told nothing."""
        told = guest.receive_all(None)
        assert b"!!" not in serial(told), f"an answer without a request: {serial(told)[:100]!r}"
        raise Closed("the line has ended")


class Movers:
    """VMs that move from host to host all the time: HAProxy decides to which server."""

    def __init__(self, run: Run, port: int, instances: Sequence[Instance]) -> None:
        self._run = run
        self._port = port
        self._greenlets = [gevent.spawn(self._live, instance) for instance in instances]

    def end(self) -> None:
        gevent.killall(self._greenlets)

    def _live(self, instance: Instance) -> None:
        rng, guest = Random(instance.number), None
        while True:
            try:
                guest = guest or Guest(self._port, instance)
                for document in DOCUMENTS:
                    get(self._run, guest, document)
                gevent.sleep(rng.uniform(0, 2 * MOVES_EVERY_S))
                guest = self._move(guest, sequence(rng))
            except (Closed, ConnectionError):  # the host dials again
                self._run.counts["interrupted"] += 1
                guest = None
                gevent.sleep(REDIAL_S)
            except (AssertionError, ValueError, OSError) as error:
                text = f"{type(error).__name__}: {str(error)[:300]}"
                self._run.fault(f"{instance.name}, which moves: {text}")
                return

    def _move(self, source: Guest, number: bytes) -> Guest:
        secret = source.begin_move(number)
        target = Guest.at_target(self._port, source.instance, number + secret)
        target.tell_identity()
        assert b"!!" not in serial(target.receive_until(suboption(45, number)))
        source.close()
        target.complete(number)
        self._run.counts["move"] += 1
        return target


class Incident(NamedTuple):
    name: str
    happens: Callable[[Site], None]


def _kill(site: Site) -> None:
    member = site.members[0]
    member.kill()
    gevent.sleep(DEAD_S)
    member.start()


def _stop(site: Site) -> None:
    process = site.members[0].process  # has begun last, so HAProxy gives it the next VMs
    process.signal(signal.SIGSTOP)
    gevent.sleep(STOPPED_S)
    process.signal(signal.SIGCONT)


def _restart_database(site: Site) -> None:
    site.database.restart()


INCIDENTS = (
    Incident("server killed (-9), started again", _kill),
    Incident("server stopped for 10 s", _stop),
    Incident("database restarted", _restart_database),
)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--vms", type=int, default=10_000)
    parser.add_argument("--held", type=int, default=MAX_HELD, help="VMs connected at a time")
    arguments = parser.parse_args()
    run = Run("fleet")
    monkey.patch_time()  # VMs boot while something waits for a server
    with tempfile.TemporaryDirectory() as directory, ExitStack() as stack:
        site = Site(Path(directory), stack)
        instances = write_instances(site.instances, arguments.vms)
        _through_all(run, site, Machines(run, site.port, arguments.held), instances)
    return run.end()


def _through_all(run: Run, site: Site, machines: Machines, instances: list[Instance]) -> None:
    movers = Movers(run, site.port, instances[:MOVERS])
    half = len(instances) // 2
    _boot_all(run, machines, instances[MOVERS:half], FILL_S)
    duration_s = (len(INCIDENTS) + 2) * CALM_S + DEAD_S + STOPPED_S
    booting = gevent.spawn(_boot_all, run, machines, instances[half:], duration_s)
    for name, happens in INCIDENTS:
        run.pause(CALM_S)
        with _watched(run, machines, name):
            happens(site)
    run.pause(CALM_S)
    with _watched(run, machines, "server upgraded in place"):
        before = len(machines.lost_s)
        failure = site.members[2].upgrade()
        run.expect(not failure, f"the upgrade has failed: {failure}")
        run.pause(SLACK_S)
        lost = len(machines.lost_s) - before
        run.expect(not lost, f"{lost} lines were lost by the upgrade")
    booting.join()
    machines.join(SERVED_S)
    movers.end()
    moves, interrupted = run.counts["move"], run.counts["interrupted"]
    run.row("moves", f"{moves}; {interrupted} VMs on the way lost their line, and booted again")
    run.expect(moves > MOVERS, "VMs do not move")
    run.row("timeout", f"answered {run.counts['timeout']} times; the guests asked again")
    _judge(run, site, machines)


def _boot_all(
    run: Run, machines: Machines, instances: Sequence[Instance], duration_s: float
) -> None:
    """Power the VMs on, evenly in this time."""
    begun_s, every_s = time.monotonic(), duration_s / len(instances)
    for number, instance in enumerate(instances):
        if not run.pause(begun_s + number * every_s - time.monotonic()):
            return
        machines.boot(instance)


@contextmanager
def _watched(run: Run, machines: Machines, name: str) -> Iterator[None]:
    """Tell what an incident has cost."""
    begun_s, before = time.monotonic(), len(machines.lost_s)
    try:
        yield
    finally:
        lost = len(machines.lost_s) - before
        run.row(name, f"{time.monotonic() - begun_s:.1f} s, {lost} lines lost")


def _judge(run: Run, site: Site, machines: Machines) -> None:
    asked = run.counts["power on"]
    for one in machines.served:
        run.took("power-on to served", one.served_s - one.powered_s)
    cut = [one for one in machines.served if one.cuts]
    run.row("VMs", f"{len(machines.served)} of {asked} served, {len(cut)} of them cut in between")
    run.expect(len(machines.served) == asked, f"{asked - len(machines.served)} VMs got nothing")
    slow = [one for one in machines.served if one.served_s - one.powered_s > SERVED_S]
    run.expect(not slow, f"{len(slow)} VMs were served after more than {SERVED_S:g} s")
    run.time_rows()
    for member in site.members:
        errors = [line for line in member.process.lines if "Traceback" in line]
        run.expect(not errors, f"{member.name}: {errors[:3]}")


if __name__ == "__main__":
    sys.exit(main())

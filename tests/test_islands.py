"""A fleet whose servers are hosts of their own: one loses the database, one the balancer."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import NamedTuple

import pytest

from tests.fleet import rows
from tests.load.vm import boot, write_instances
from tests.namespaces import Link, Namespace, NeedsRoot
from tests.process import COMMAND, ServerProcess, run
from tests.servers.haproxy import Balancer
from tests.servers.postgresql import PostgresqlBackend
from tests.vm import Vm
from tests.waiting import wait_until

pytestmark = pytest.mark.slow

COUNT = 3
VMS = 60


class Island(NamedTuple):
    """A server in a namespace, with a link to the database and one to HAProxy."""

    server: ServerProcess
    to_database: Link
    to_balancer: Link


class Fleet:
    """Three islands, HAProxy and PostgreSQL."""

    def __init__(self, place: Path, stack: ExitStack) -> None:
        spaces = [stack.enter_context(Namespace()) for _ in range(COUNT)]
        links = [(space.link(), space.link()) for space in spaces]
        further = [to_database.here for to_database, _ in links]
        self.database = stack.enter_context(PostgresqlBackend(further=further))
        made = run("fleet", "init", "--url", self.database.url)
        assert made.returncode == 0, made.stderr
        directory = place / "vms"
        directory.mkdir()
        self.instances = write_instances(directory, VMS)
        self.islands = []
        for number, space in enumerate(spaces):
            to_database, to_balancer = links[number]
            server = ServerProcess(
                directory,
                *("--fleet", self.database.url_at(to_database.here)),
                *("--server-name", f"s{number}", "--proxy-protocol", to_balancer.here),
                listen=f"{to_balancer.there}:0",
                command=space.command(*COMMAND, "run"),
            )
            stack.callback(server.end)
            server.wait_for("fleet: connected to")
            self.islands.append(Island(server, to_database, to_balancer))
        addresses = [f"{one.to_balancer.there}:{one.server.port}" for one in self.islands]
        self.port = stack.enter_context(Balancer(place, addresses)).port

    def held(self) -> list[Vm]:
        """Return a line on each server: HAProxy takes the one that has the fewest."""
        held = [Vm(self.port, f"vm-{number:05}") for number in range(COUNT)]
        answers(held)
        return held

    def all_boot(self) -> None:
        for instance in self.instances:
            boot(self.port, instance)

    def states(self) -> list[str]:
        """Return what the database knows of the servers."""
        age = "clock_timestamp() - heartbeat < interval '15 seconds'"
        query = f"SELECT {age} FROM vmw_fleet.servers ORDER BY name"
        return ["running" if is_there else "gone" for (is_there,) in rows(self.database, query)]


def answers(held: list[Vm]) -> None:
    assert [vm.metadata()["instance-id"] for vm in held] == ["i-0", "i-1", "i-2"]


@pytest.fixture(scope="module")
def fleet(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fleet]:
    with ExitStack() as stack:
        try:
            fleet = Fleet(tmp_path_factory.mktemp("fleet"), stack)
        except NeedsRoot:
            if os.environ.get("CI"):
                pytest.fail("needs network namespaces, which take root")
            pytest.skip("needs network namespaces, which take root")
        yield fleet


def test_server_without_its_database_serves_and_is_shown_as_gone(fleet: Fleet) -> None:
    first = fleet.islands[0]
    held = fleet.held()
    first.to_database.cut()
    first.server.wait_for("fleet: out of reach since")
    fleet.all_boot()
    answers(held)
    wait_until(lambda: fleet.states() == ["gone", "running", "running"])
    shown = run("fleet", "status", "--url", fleet.database.url)
    assert "gone    s0" in shown.stdout
    first.to_database.mend()
    wait_until(lambda: fleet.states() == ["running"] * COUNT)
    answers(held)


def test_server_that_the_balancer_does_not_reach_gets_no_vm_and_keeps_its_heartbeat(
    fleet: Fleet,
) -> None:
    last = fleet.islands[-1]
    held = fleet.held()
    last.to_balancer.cut()
    fleet.all_boot()
    assert fleet.states() == ["running"] * COUNT
    last.to_balancer.mend()
    answers(held)
    fleet.all_boot()

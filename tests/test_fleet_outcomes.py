"""Outcomes of boots, and host keys, of servers that share a fleet."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.fleet import rows
from tests.process import ServerProcess, run
from tests.servers.postgresql import PostgresqlBackend
from tests.test_admin import Admin
from tests.test_boot_outcomes import (
    booted,
    instance,
    key_of,
    known_hosts,
    report,
    report_keys,
    uuid,
)
from tests.test_fleet_machines import Store, opened, store, told  # noqa: F401 - two fixtures
from tests.test_fleet_pages import Begin, begin, wait_for_states  # noqa: F401 - a fixture
from tests.waiting import wait_until
from vmw_cloudinit_metadata.process.fleet import outcomerows
from vmw_cloudinit_metadata.process.fleet.outcomerows import ToldOutcome

pytestmark = pytest.mark.slow


def test_each_server_shows_outcomes_and_host_keys_of_all(
    begin: Begin,  # noqa: F811
    own_instances: Path,
    fleet_database: PostgresqlBackend,
) -> None:
    for name, address in (("a", "10.0.0.1"), ("b", "10.0.0.2"), ("c", "10.0.0.2")):
        instance(own_instances, name, f"{name}.example.com", address)
    first, second = begin("first"), begin("second", "--workers", "2")
    machines = [report_keys(first.server, "a", 1), report_keys(second.server, "b", 2)]
    machines.append(report_keys(first.server, "c", 3))
    broken = booted(second.server, "web1", vc_uuid=uuid(9))
    report(broken, hostkeys=[])
    for admin in (first, second):
        wait_for_states(admin, booted=3, broken=1)
        text = known_hosts(admin)
        assert f"a.example.com,a,10.0.0.1 {key_of(1)}\n" in text
        assert f"b.example.com,b {key_of(2)}\n" in text
        assert "# 10.0.0.2: left out, since several VMs have it\n" in text
        found = admin.json("/api/machines/web1")
        assert found["outcome"]["errors"] == found["outcomes"][0]["errors"] != []
        assert found["outcomes"][0]["server"] == "second"
        assert [one["state"] for one in admin.machines("?state=trouble")] == ["broken"]
    assert rows(fleet_database, "SELECT status, server FROM vmw_fleet.outcomes ORDER BY name") == [
        ("done", "first"),
        ("done", "second"),
        ("done", "first"),
        ("error", "second"),
    ]
    machines.pop().close()
    wait_until(lambda: f"b.example.com,b,10.0.0.2 {key_of(2)}\n" in known_hosts(first))
    url = f"http://127.0.0.1:{second.port}"
    wait_until(lambda: run("status", "--forget", "c", "--admin", url).returncode == 0)
    wait_until(lambda: key_of(3) not in known_hosts(first))
    for machine in (*machines, broken):
        machine.close()


def test_schema_of_the_version_before_has_no_outcomes_and_all_else(
    start: Callable[..., ServerProcess], fleet_database: PostgresqlBackend
) -> None:
    with fleet_database.admin("vms") as db:
        db.execute("DROP VIEW vmw_fleet.outcomes")
        db.execute("DROP TABLE vmw_fleet.outcome")
        db.execute("DELETE FROM vmw_fleet.schema_version WHERE version > 4")
    fleet = ("--fleet", fleet_database.url, "--server-name", "first")
    admin = Admin(start("--admin-listen", "127.0.0.1:0", *fleet))
    admin.server.wait_for("fleet: connected to")
    machine = booted(admin.server)
    report(machine)
    wait_for_states(admin, broken=1)
    assert admin.json("/api/machines/web1")["outcome"]["errors"]
    assert known_hosts(admin)
    machine.close()
    assert run("fleet", "migrate", "--url", fleet_database.url).returncode == 0
    assert rows(fleet_database, "SELECT count(*) FROM vmw_fleet.outcomes") == [(0,)]


def outcome(number: int, days: float, *keys: str) -> ToldOutcome:
    machine = told()
    about = (machine.key, machine.name, machine.vc_uuid, "10.0.0.1")
    at_s = time.time() - days * 86400
    return ToldOutcome(number, *about, at_s, 1.0, "done", "i", "", (), {}, ("web1",), keys, "")


def test_old_outcomes_are_removed_and_the_last_keys_stay(store: Store) -> None:  # noqa: F811
    server = store.server("first")
    old = (outcome(1, 50, "old"), outcome(2, 45, "new"), outcome(3, 40), outcome(4, 1))
    store.record(server, told(), outcomes=old)

    def left() -> list[int]:
        return [
            number for (number,) in store.sql("SELECT number FROM vmw_fleet.outcome ORDER BY 1")
        ]

    store.go_round(server, outcomerows.PART)
    assert left() == [2, 4]
    store.sql("DELETE FROM vmw_fleet.machine")
    store.go_round(server, outcomerows.PART)
    assert left() == [4]

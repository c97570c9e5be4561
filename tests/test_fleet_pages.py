"""The admin ports of servers that share a fleet: each shows the machines of all."""

from __future__ import annotations

import json
import signal
import time
from collections.abc import Callable
from contextlib import ExitStack

import pytest

from tests.process import ServerProcess, run, with_constants
from tests.servers.postgresql import PostgresqlBackend
from tests.test_admin import Admin, boot, canonical, uuid
from tests.test_forgetting import FORGET
from tests.test_page import (  # noqa: F401 - two fixtures
    FAINT,
    HOSTILE,
    Open,
    browser,
    open_page,
)
from tests.test_report import OVERFLOW
from tests.waiting import wait_until

pytestmark = pytest.mark.slow

QUICK = {"serving__timeouts__SETTLED_S": 0.2, "admin__fleetview__SUMMARY_S": 0.1}
PATIENT = {  # with a database, and with another server, on a busy machine
    "admin__fleetview__ANSWER_S": 30.0,
    "admin__fleetview__STORY_S": 30.0,
    "admin__fleetrecorder__STORY_S": 30.0,
}

Begin = Callable[..., Admin]


@pytest.fixture
def begin(start: Callable[..., ServerProcess], fleet_database: PostgresqlBackend) -> Begin:
    """Starts a server of the fleet, and waits until it reaches the database."""

    def begin_(name: str, *options: str, is_hurried: bool = False) -> Admin:
        fleet = ("--fleet", fleet_database.url, "--server-name", name)
        command = with_constants(**QUICK, **({} if is_hurried else PATIENT))
        admin = Admin(start("--admin-listen", "127.0.0.1:0", *fleet, *options, command=command))
        admin.server.wait_for("fleet: connected to")
        return admin

    return begin_


def servers_of(admin: Admin) -> dict[str, str]:
    return {one["name"]: one["state"] for one in admin.json("/api/status").get("servers", [])}


def wait_for_states(admin: Admin, **states: int) -> None:
    def is_so() -> bool:
        found = admin.json("/api/status")["machines"]
        return {state: count for state, count in found.items() if count} == states

    wait_until(is_so)


def test_machine_is_forgotten_by_all_servers(begin: Begin, peers: ExitStack) -> None:
    first, second = begin("first"), begin("second", "--workers", "2")
    peers.callback(boot(first.server, "web1", vc_uuid=uuid(1)).close)
    gone = boot(second.server, "nobody", vc_uuid=uuid(2))
    peers.callback(boot(second.server, "nobody", vc_uuid=uuid(3)).close)
    wait_for_states(first, served=1, failed=2)
    assert first.status("/api/forget/nobody", "POST", **FORGET) == 409  # two have the name
    assert first.status("/api/forget/web1", "POST", **FORGET) == 409  # nothing to forget
    assert first.status("/api/forget/stranger", "POST", **FORGET) == 404
    gone.close()
    wait_until(lambda: not first.json(f"/api/machines/{canonical(2)}")["connected"])
    for number in (2, 3):
        assert first.status(f"/api/forget/{uuid(number)}", "POST", **FORGET) == 200
    for admin in (first, second):
        wait_for_states(admin, served=1, waiting=1)
    answer = json.loads(second.request("/api/forget/nobody", "POST", **FORGET)[1])
    assert "nothing to forget" in answer["error"]
    metric = "vmw_metadata_machines_in_trouble"
    wait_until(lambda: second.metric(metric, state="failed") == 0)


def test_test_is_marked_at_all_servers(begin: Begin) -> None:
    first, second = begin("first"), begin("second")
    server_of = ("--server", f"127.0.0.1:{second.server.port}", "--uri", "my-metadata")
    run("client", "fetch", "nobody", *server_of)
    wait_for_states(first, test=1)
    status = first.json("/api/status")
    assert (status["problems"], sum(status["pulse"]["failed"])) == ({}, 0)
    assert first.machines("?state=left") == []


def test_each_server_shows_the_machines_of_all(begin: Begin, peers: ExitStack) -> None:
    first, second = begin("first"), begin("second", "--workers", "2")
    for number in range(3):
        peers.callback(boot(first.server, "web1", vc_uuid=uuid(number)).close)
    peers.callback(boot(second.server, "web1", vc_uuid=uuid(3)).close)
    peers.callback(boot(second.server, "nobody", vc_uuid=uuid(4)).close)
    for admin in (first, second):
        wait_for_states(admin, served=4, failed=1)
        wait_until(lambda: sum(admin.json("/api/status")["pulse"]["served"]) == 4)  # noqa: B023
        status = admin.json("/api/status")
        assert status["scope"] == "fleet"
        assert status["problems"] == {"not-found": 1}
        assert servers_of(admin) == {"first": "running", "second": "running"}
        first_row, *_ = admin.machines("?per_page=2&page=1")
        assert (first_row["name"], first_row["server"]) == ("nobody", "second")
        assert [row["server"] for row in admin.machines("?q=web1+first")] == ["first"] * 3
        assert [row["id"] for row in admin.machines("?server=second&state=served")] == [
            canonical(3)
        ]
        machine = admin.json(f"/api/machines/{canonical(0)}")
        assert machine["server"] == "first"
        assert [one["outcome"] for one in machine["boots"]] == ["served"]
        assert machine["documents"]["METADATA"]["size"] > 0
        assert [one["document"] for one in machine["asked"]]
        assert [one["kind"] for one in machine["story"]] == ["identified", "served"]
        assert machine["ports"][0]["connection_id"]
        assert admin.json("/api/machines/nobody")["next"].startswith("Add the file")
        assert admin.status("/api/machines/web1") == 409
        assert admin.status("/api/machines/none") == 404
        assert admin.status("/api/machines?state=gone") == 200
        assert admin.status("/api/machines?state=nonsense") == 400
    own = first.json(f"/api/machines/{canonical(0)}")
    assert own["story"]
    assert own["asked"]
    shown = run("status", "--admin", f"http://127.0.0.1:{first.port}")
    assert "servers:     first (3 machines), second (2 machines)" in shown.stdout
    assert "nobody" in shown.stdout


def test_vm_that_connects_elsewhere_is_shown_there(begin: Begin, peers: ExitStack) -> None:
    first, second = begin("first"), begin("second")
    old = boot(first.server, "web1", vc_uuid=uuid(1))
    wait_for_states(second, served=1)
    peers.callback(boot(second.server, "web1", vc_uuid=uuid(1)).close)
    wait_until(lambda: first.machines()[0]["server"] == "second")
    old.close()
    wait_until(lambda: len(first.json(f"/api/machines/{canonical(1)}")["boots"]) == 2)
    for admin in (first, second):
        (machine,) = admin.machines()
        assert (machine["server"], machine["state"]) == ("second", "served")


def test_machines_of_a_killed_server_are_gone_until_they_connect_again(
    begin: Begin, peers: ExitStack, fleet_database: PostgresqlBackend
) -> None:
    first, second = begin("first"), begin("second")
    peers.callback(boot(first.server, "web1", vc_uuid=uuid(1)).close)
    peers.callback(boot(first.server, "nobody", vc_uuid=uuid(2)).close)
    wait_for_states(second, served=1, failed=1)
    first.server.signal(signal.SIGKILL)
    with fleet_database.admin("vms") as db:  # which saves the test most of the 15 s
        db.execute(
            "UPDATE vmw_fleet.servers SET heartbeat = heartbeat - interval '12 s' "
            "WHERE name = 'first'"
        )
    wait_for_states(second, gone=1, failed=1)
    assert servers_of(second) == {"first": "gone", "second": "running"}
    (gone,) = second.machines("?state=gone")
    assert not gone["connected"]
    peers.callback(boot(second.server, "web1", vc_uuid=uuid(1)).close)
    wait_for_states(second, served=1, failed=1)


def test_server_without_its_database_shows_its_own_machines_and_says_so(
    begin: Begin, peers: ExitStack, fleet_database: PostgresqlBackend
) -> None:
    first, second = (begin(name, is_hurried=True) for name in ("first", "second"))
    for admin in (first, second):
        peers.callback(boot(admin.server, "web1", vc_uuid=uuid(admin.port)).close)
    wait_for_states(first, served=2)
    fleet_database.stop()  # it hangs, which only a deadline shows
    begun_s = time.monotonic()
    listed = first.json("/api/machines")
    assert time.monotonic() - begun_s < 10
    assert (listed["scope"], listed["total"]) == ("server", 1)
    assert listed["machines"][0]["server"] == "first"
    wait_until(lambda: first.json("/api/status")["fleet"]["state"] == "out of reach")
    begun_s = time.monotonic()
    assert first.json("/api/status")["scope"] == "server"
    assert first.json("/api/machines?server=second")["total"] == 0
    assert first.json(f"/api/machines/{canonical(first.port)}")["state"] == "served"
    assert first.status("/readyz") == 200
    assert time.monotonic() - begun_s < 5
    # What happens meanwhile is told afterwards.
    peers.callback(boot(first.server, "web1", vc_uuid=uuid(1)).close)
    wait_until(lambda: first.json("/api/status")["machines"]["served"] == 2)
    fleet_database.cont()
    wait_for_states(second, served=3)
    wait_until(lambda: first.json("/api/status")["scope"] == "fleet")
    wait_until(lambda: second.json(f"/api/machines/{canonical(1)}")["boots"])


def test_database_that_has_lost_all_is_told_all_again(
    begin: Begin, peers: ExitStack, fleet_database: PostgresqlBackend
) -> None:
    first = begin("first")
    peers.callback(boot(first.server, "web1", vc_uuid=uuid(1)).close)
    wait_for_states(first, served=1)
    with fleet_database.admin("vms") as db:
        db.execute("TRUNCATE vmw_fleet.machine, vmw_fleet.servers")
    fleet_database.restart()
    wait_for_states(first, served=1)


def test_database_that_is_emptied_under_its_servers_is_told_all_again(
    begin: Begin, peers: ExitStack, fleet_database: PostgresqlBackend
) -> None:
    first = begin("first")
    peers.callback(boot(first.server, "web1", vc_uuid=uuid(1)).close)
    wait_for_states(first, served=1)
    with fleet_database.admin("vms") as db:
        db.execute("TRUNCATE vmw_fleet.machine, vmw_fleet.servers")
        wait_until(lambda: db.execute("SELECT FROM vmw_fleet.machine").fetchall())
    wait_for_states(first, served=1)


def test_server_without_admin_port_is_seen_by_the_others(
    start: Callable[..., ServerProcess],
    begin: Begin,
    peers: ExitStack,
    fleet_database: PostgresqlBackend,
) -> None:
    first = begin("first")
    fleet = ("--fleet", fleet_database.url, "--server-name", "second")
    second = start("--admin-listen", "off", *fleet, command=with_constants(**QUICK))
    peers.callback(boot(second, "web1", vc_uuid=uuid(1)).close)
    wait_for_states(first, served=1)
    assert first.machines()[0]["server"] == "second"


def test_neither_secrets_nor_user_data_nor_queries_are_in_the_database(
    begin: Begin, peers: ExitStack, fleet_database: PostgresqlBackend
) -> None:
    first = begin("first")
    machine = boot(first.server, "web1", vc_uuid=uuid(1), uri="my-metadata?password=hidden-1")
    peers.callback(machine.close)
    wait_for_states(first, served=1)
    with fleet_database.admin("vms") as db:
        rows = [
            db.execute(f"SELECT to_jsonb(t) FROM vmw_fleet.{table} t".encode()).fetchall()
            for table in ("machine", "boot", "servers")
        ]
    text = json.dumps(rows)
    assert "web1" in text
    for secret in ("hidden-1", "#cloud-config", "myhostnamehere", "pg-s3cret"):
        assert secret not in text


# The page


@pytest.mark.parametrize(("size", "scheme"), [("phone", "dark"), ("wall", "light")])
def test_page_shows_servers_and_their_machines(
    begin: Begin,
    peers: ExitStack,
    open_page: Open,  # noqa: F811
    fleet_database: PostgresqlBackend,
    size: str,
    scheme: str,
) -> None:
    first = begin("first")
    peers.callback(boot(first.server, "web1", vc_uuid=uuid(1)).close)
    wait_for_states(first, served=1)
    with fleet_database.admin("vms") as db:  # as another server would
        for name, heartbeat in (("other", "1 hour"), (f"gone {HOSTILE}"[:100], "-1 minute")):
            db.execute(
                "INSERT INTO vmw_fleet.servers VALUES (%s, %s, '1.0', now(), now() + %s::interval)",
                [name, name, heartbeat],
            )
            db.execute(
                "INSERT INTO vmw_fleet.machine (key, server, server_name, number, told, changed, "
                "connected_since, state, ports, about, name) "
                "VALUES (%s, %s, %s, 1, now(), now(), now(), 'served', 1, %s, %s)",
                [f"vm of {name}", name, name, "words", f"vm of {name}"],
            )
    shown = open_page(first, size, scheme)
    shown.wait_for_title("3 machines")
    shown.wait_for_text("Ready, 1 server is gone")
    chips = shown.page.locator("#servers .chip").all_inner_texts()
    assert chips == ["running", "gone", "running"]
    assert shown.page.evaluate(OVERFLOW) <= 0
    assert shown.page.evaluate(FAINT) == []
    shown.page.get_by_role("button", name="1 server gone").click()
    shown.wait_for_title("1 machine")
    shown.page.get_by_role("button", name="1 server gone").click()
    shown.wait_for_title("3 machines")
    shown.page.locator("#servers .server", has_text="other").click()
    shown.wait_for_title("1 machine")
    assert shown.names() == ["vm of other"]
    shown.page.locator("#servers .server", has_text="this server").click()
    shown.page.locator(".machine .name", has_text="web1").click()
    shown.page.locator(".advice").wait_for()
    story = shown.page.locator("#story").inner_text()
    assert "served: 3 documents" in story
    assert "first" in story
    assert shown.page.evaluate(OVERFLOW) <= 0
    assert shown.page.evaluate(FAINT) == []
    assert shown.page.evaluate("window.ran") is None
    fleet_database.kill()
    shown.page.locator("#fleet-note").get_by_text("Only the machines of this server").wait_for()
    assert shown.page.evaluate(FAINT) == []
    fleet_database.start()
    shown.page.locator("#fleet-note").wait_for(state="hidden")
    assert shown.complaints == []


def test_page_of_10000_machines_of_a_fleet_is_quick(
    begin: Begin,
    open_page: Open,  # noqa: F811
    fleet_database: PostgresqlBackend,
) -> None:
    first = begin("first")
    with fleet_database.admin("vms") as db:
        db.execute(
            "INSERT INTO vmw_fleet.servers "
            "VALUES ('o', 'other', '1', now(), now() + interval '1 hour')"
        )
        db.execute(
            "INSERT INTO vmw_fleet.machine (key, server, server_name, number, told, changed, "
            "connected_since, state, ports, about, name) "
            "SELECT gen_random_uuid(), 'o', 'other', 1, now(), now() - n * interval '1 s', now(), "
            "'served', 1, 'vm-' || n, 'vm-' || n FROM generate_series(1, 10000) n"
        )

    def took_s(query: str) -> float:
        begun_s = time.monotonic()
        assert first.machines(query)
        return time.monotonic() - begun_s

    queries = ("?page=1", "?page=100", "?q=vm-77", "?server=other&state=served&page=50")
    least_s = [min(took_s(query) for _ in range(3)) for query in queries]
    shown = open_page(first)
    shown.wait_for_title("10,000 machines")
    begun_s = time.monotonic()
    shown.page.get_by_role("button", name="Next").click()
    shown.wait_for_text("101\u2013200 of 10,000")
    shown.page.get_by_label("Search machines").fill("vm-9999")
    shown.wait_for_title("1 machine")
    print("pages of 10,000:", [f"{s:.3f}" for s in least_s], f"{time.monotonic() - begun_s:.2f} s")
    assert max(least_s) < 1

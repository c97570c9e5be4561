"""The fleet with a real PostgreSQL: the fleet process, its links, its schema, and its servers."""

from __future__ import annotations

import os
import re
import signal
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import gevent
import psycopg
import pytest

from tests.fleet import asked, connects, fleet_of, rows
from tests.process import COMMAND, ServerProcess, counters, run, tree_of
from tests.servers import postgresql
from tests.servers.postgresql import PostgresqlBackend
from tests.test_admin import Admin
from tests.vm import Vm
from tests.waiting import wait_in_hub_until, wait_until
from vmw_cloudinit_metadata.monitoring.counters import FLEET_DROPPED, FLEET_RESTARTS
from vmw_cloudinit_metadata.process.fleet import fleetlink
from vmw_cloudinit_metadata.process.fleet.fleetlink import FleetLink
from vmw_cloudinit_metadata.process.fleet.fleetprocess import FleetProcess, FleetSettings
from vmw_cloudinit_metadata.process.fleet.migrations import NEWEST

pytestmark = pytest.mark.slow

Start = Callable[..., ServerProcess]

NOTICED_S = 6.0  # a database that has gone away, or hangs


def servers_of(link: FleetLink) -> dict[str, str]:
    reply = asked(link, "servers")
    assert reply
    return {one["name"]: one["state"] for one in reply.fields["servers"]}


def test_server_is_registered_and_marked_as_stopped(fleet_database: PostgresqlBackend) -> None:
    with fleet_of(fleet_database.url) as first, fleet_of(fleet_database.url, "server2") as second:
        connects(first)
        connects(second)
        assert servers_of(first.link) == {"server1": "running", "server2": "running"}
        second.stop()
        assert servers_of(first.link) == {"server1": "running", "server2": "stopped"}
    found = rows(
        fleet_database, "SELECT name, stopped IS NOT NULL FROM vmw_fleet.servers ORDER BY name"
    )
    assert found == [("server1", True), ("server2", True)]


def test_second_server_of_a_name_is_warned_of(
    fleet_database: PostgresqlBackend, caplog: pytest.LogCaptureFixture
) -> None:
    with fleet_of(fleet_database.url) as first:
        connects(first)
        with fleet_of(fleet_database.url) as second:
            connects(second)
            wait_in_hub_until(lambda: bool(second.summary()["namesake"]))
            assert not first.summary()["namesake"]
            assert "another server runs with the name server1, since " in caplog.text
            ended = run("fleet", "status", "--url", fleet_database.url)
            assert "warning: 2 servers run with the name server1" in ended.stderr
            first.stop()
            wait_in_hub_until(lambda: not second.summary()["namesake"])


def test_server_that_starts_after_one_was_killed_has_no_namesake(
    fleet_database: PostgresqlBackend,
) -> None:
    with fleet_database.admin("vms") as db:
        db.execute(
            "INSERT INTO vmw_fleet.servers "
            "SELECT 'x', 'server1', '1', now() - interval '9 s', now()"
        )
    time.sleep(0.1)
    with fleet_of(fleet_database.url) as process:
        connects(process)
        assert not process.summary()["namesake"]


def test_server_that_leaves_the_fleet_is_stopped_in_it_at_once(
    fleet_database: PostgresqlBackend,
) -> None:
    with fleet_of(fleet_database.url, "other") as other:
        connects(other)
        with fleet_of(fleet_database.url) as process:
            connects(process)
            process.is_leaving = True
            process.pause()
            assert servers_of(other.link)["server1"] == "stopped"
            process.start()  # the upgrade has failed
            connects(process)
            assert servers_of(other.link)["server1"] == "running"


def test_server_that_was_killed_is_shown_as_gone(fleet_database: PostgresqlBackend) -> None:
    with fleet_of(fleet_database.url) as process:
        connects(process)
        with fleet_database.admin("vms") as db:
            db.execute(
                "INSERT INTO vmw_fleet.servers "
                "SELECT 'x', 'server9', '1', now() - interval '1 hour', now() - interval '8 s'"
            )
        assert servers_of(process.link)["server9"] == "running"
        with fleet_database.admin("vms") as db:  # as if so much time went by
            db.execute(
                "UPDATE vmw_fleet.servers SET heartbeat = heartbeat - interval '7 s' WHERE id = 'x'"
            )
        assert servers_of(process.link)["server9"] == "gone"


def test_server_that_is_upgraded_in_place_stays_the_same(
    fleet_database: PostgresqlBackend,
) -> None:
    settings = FleetSettings(fleet_database.url, "server1", 30)
    before = FleetProcess(settings)
    before.start()
    link = FleetLink(before.address)  # of a worker, which goes on
    link.start()
    wait_in_hub_until(lambda: link.is_connected)
    started = rows(fleet_database, "SELECT id, started FROM vmw_fleet.servers")
    before.pause()
    after = FleetProcess(settings, before.named())
    after.start()
    wait_in_hub_until(lambda: link.epoch == 2)
    assert servers_of(link) == {"server1": "running"}
    assert rows(fleet_database, "SELECT id, started FROM vmw_fleet.servers") == started
    link.close()
    after.stop()


@pytest.mark.parametrize("workers", ["1", "2"])
def test_server_program_that_is_upgraded_keeps_its_place(
    fleet_database: PostgresqlBackend, start: Start, workers: str
) -> None:
    url = fleet_database.url
    server = start("--fleet", url, "--workers", workers, command=[*COMMAND, "run"])
    server.wait_for("fleet: connected to")
    query = "SELECT id, started, stopped FROM vmw_fleet.servers"
    before = rows(fleet_database, query)
    os.kill(server.pid, signal.SIGUSR2)
    server.wait_for(r"upgraded from .* (connections|workers) go on(?!.*connections go on)")
    wait_until(lambda: "".join(server.lines).count("fleet: connected to") == 2)
    assert rows(fleet_database, query) == before
    assert len(before) == 1


def test_start_of_a_running_fleet_process_starts_no_second_one() -> None:
    with fleet_of("postgresql://127.0.0.1:1/none") as process:
        first = process.pid
        process.start()
        assert process.pid == first


def test_server_stops_soon_while_its_database_hangs(
    fleet_database: PostgresqlBackend, start: Start
) -> None:
    server = start("--fleet", fleet_database.url)
    server.wait_for("fleet: connected to")
    fleet_database.stop()
    try:
        begun_s = time.monotonic()
        server.signal(signal.SIGTERM)
        assert server.wait() == 0
        assert time.monotonic() - begun_s < NOTICED_S
    finally:
        fleet_database.cont()


def test_unknown_ask_and_tell_are_refused_and_counted(fleet_database: PostgresqlBackend) -> None:
    with fleet_of(fleet_database.url) as process:
        connects(process)
        assert asked(process.link, "nonsense") is None
        assert process.link.tell("nonsense", {})
        wait_in_hub_until(lambda: process.counted()[FLEET_DROPPED["tells"]] == 1)
        assert process.counted()[FLEET_DROPPED["asks"]] == 1


@pytest.mark.parametrize("way", ["restart", "kill", "stop"])
def test_database_that_goes_away_is_noticed_and_reached_again(
    fleet_database: PostgresqlBackend, way: str
) -> None:
    with fleet_of(fleet_database.url) as process:
        link = process.link
        connects(process)
        epoch = link.epoch
        begun: list[int] = []
        link.when_connected(lambda: begun.append(link.epoch))
        {
            "restart": fleet_database.restart,
            "kill": fleet_database.kill,
            "stop": fleet_database.stop,
        }[way]()
        if way != "restart":
            begun_s = gevent.get_hub().loop.now()
            wait_in_hub_until(lambda: not link.is_connected)
            assert gevent.get_hub().loop.now() - begun_s < NOTICED_S
            assert process.summary()["state"] == "out of reach"
            assert asked(link, "servers") is None
            assert not link.tell("servers", {})
            {"kill": fleet_database.start, "stop": fleet_database.cont}[way]()
        wait_in_hub_until(lambda: link.epoch != epoch and link.is_connected)
        assert begun == [link.epoch]
        assert servers_of(link)["server1"] == "running"


def test_failover_to_another_host_is_a_new_epoch(fleet_database: PostgresqlBackend) -> None:
    with PostgresqlBackend(primary=fleet_database) as standby:
        both = f"127.0.0.1:{standby.port},127.0.0.1:{fleet_database.port}"
        with fleet_of(
            fleet_database.url.replace(f"127.0.0.1:{fleet_database.port}", both)
        ) as process:
            connects(process)
            epoch = process.link.epoch
            fleet_database.kill()
            wait_in_hub_until(lambda: not process.link.is_connected)
            standby.promote()
            wait_in_hub_until(lambda: process.link.is_connected)
            assert process.link.epoch == epoch + 1
            assert servers_of(process.link) == {"server1": "running"}
        found = rows(standby, "SELECT count(*), count(stopped) FROM vmw_fleet.servers")
        assert found == [(1, 1)]
    fleet_database.start()


def test_primary_that_takes_no_more_writes_is_left(fleet_database: PostgresqlBackend) -> None:
    with fleet_of(fleet_database.url) as process:
        connects(process)
        try:
            configure(fleet_database, "SET default_transaction_read_only = on")
            wait_in_hub_until(lambda: not process.link.is_connected)
        finally:
            configure(fleet_database, "RESET default_transaction_read_only")
        connects(process)


def configure(backend: PostgresqlBackend, change: str) -> None:
    with backend.admin() as db:
        db.execute(f"ALTER SYSTEM {change}".encode())
        db.execute("SELECT pg_reload_conf()")


def test_fleet_process_that_hangs_is_killed_and_started_again(
    fleet_database: PostgresqlBackend,
) -> None:
    with fleet_of(fleet_database.url) as process:
        connects(process)
        first = process.pid
        assert first
        os.kill(first, signal.SIGSTOP)
        assert asked(process.link, "servers", within_s=0.2) is None
        wait_in_hub_until(lambda: process.pid not in (None, first))
        connects(process)
        assert process.counted()[FLEET_RESTARTS] == 1


def test_link_drops_and_counts_what_it_has_no_room_for(fleet_database: PostgresqlBackend) -> None:
    with fleet_of(fleet_database.url) as process:
        connects(process)
        assert process.pid
        os.kill(process.pid, signal.SIGSTOP)
        sent = [process.link.tell("x", {}, bytes(1024 * 1024)) for _ in range(20)]
        assert sent[0]
        assert not sent[-1]
        assert process.link.kept_bytes <= fleetlink.MAX_UNSENT_BYTES
        assert process.link.counted()[FLEET_DROPPED["tells"]] == sent.count(False)
        os.kill(process.pid, signal.SIGCONT)
        assert servers_of(process.link)


# A server


@pytest.mark.parametrize("workers", [1, 2])
def test_server_serves_without_its_database_and_says_so(
    fleet_database: PostgresqlBackend, start: Start, workers: int
) -> None:
    options = ("--fleet", fleet_database.url, "--server-name", "site-a", "--workers", str(workers))
    server = start(*options)
    server.wait_for("fleet: connected to")
    admin = Admin(server)
    assert admin.json("/api/status")["fleet"]["state"] == "connected"
    wait_until(lambda: admin.request("/readyz")[1] == b"ready\n")
    fleet_database.kill()
    server.wait_for("fleet: out of reach since")
    vm = Vm(server.port)
    assert vm.metadata()
    vm.close()
    fleet = admin.json("/api/status")["fleet"]
    assert (fleet["state"], bool(fleet["problem"])) == ("out of reach", True)
    answer, body = admin.request("/readyz")
    assert (answer.status, body.splitlines()[0]) == (200, b"ready")
    assert body.splitlines()[1].startswith(b"fleet: out of reach since")
    assert admin.metric("vmw_metadata_fleet_connected") == 0
    assert admin.metric("vmw_metadata_fleet_failing_since_seconds") > 0
    fleet_database.start()
    wait_until(lambda: admin.metric("vmw_metadata_fleet_connected") == 1)
    assert admin.metric("vmw_metadata_fleet_reconnects_total") == 1
    assert counters(server)["fleet statements"] > 0
    state = rows(fleet_database, "SELECT name, stopped IS NOT NULL FROM vmw_fleet.servers")
    assert state == [("site-a", True)]
    assert postgresql.PASSWORD not in server.log
    assert postgresql.QUOTED_PASSWORD not in server.log


def test_fleet_process_that_dies_is_started_again(
    fleet_database: PostgresqlBackend, start: Start
) -> None:
    server = start("--fleet", fleet_database.url)
    server.wait_for("fleet: connected to")
    (child,) = fleet_processes(server.pid)
    os.kill(child, signal.SIGKILL)
    wait_until(lambda: fleet_processes(server.pid) not in ([], [child]))
    admin = Admin(server)
    wait_until(lambda: admin.metric("vmw_metadata_fleet_connected") == 1)
    assert admin.metric("vmw_metadata_fleet_restarts_total") == 1
    assert rows(fleet_database, "SELECT count(*) FROM vmw_fleet.servers") == [(1,)]


@pytest.mark.parametrize("workers", [1, 2])
def test_fleet_process_ends_with_a_server_that_is_killed(
    fleet_database: PostgresqlBackend, start: Start, workers: int
) -> None:
    server = start("--fleet", fleet_database.url, "--workers", str(workers))
    server.wait_for("fleet: connected to")
    (child,) = fleet_processes(server.pid)
    others = [one for one in tree_of(server.pid) if one not in (server.pid, child)]
    for one in others:  # they would end too, and might have kept a pipe open
        os.kill(one, signal.SIGSTOP)
    os.kill(server.pid, signal.SIGKILL)
    wait_until(lambda: not command_of(child))
    for one in others:
        os.kill(one, signal.SIGKILL)
    server.wait()
    assert rows(fleet_database, "SELECT stopped IS NULL FROM vmw_fleet.servers") == [(True,)]


def fleet_processes(pid: int) -> list[int]:
    """Those that a server has now."""
    return [one for one in tree_of(pid) if one != pid and "fleetchild" in command_of(one)]


def command_of(pid: int) -> str:
    """Return the command line of a process; "" of one that has ended."""
    with suppress(OSError):
        return Path(f"/proc/{pid}/cmdline").read_bytes().decode()
    return ""


@pytest.mark.parametrize(
    ("version", "text"),
    [(0, "fleet init"), (NEWEST + 2, "upgrade this server")],
    ids=["none", "too new"],
)
def test_schema_of_another_version_is_refused_and_vms_are_served(
    fleet_database: PostgresqlBackend, start: Start, version: int, text: str
) -> None:
    with fleet_database.admin("vms") as db:
        if version:
            db.execute("INSERT INTO vmw_fleet.schema_version VALUES (%s, now(), '')", [version])
        else:
            db.execute("DROP SCHEMA vmw_fleet CASCADE")
    server = start("--fleet", fleet_database.url)
    server.wait_for(f"fleet: out of reach since .*{text}")
    vm = Vm(server.port)
    assert vm.metadata()
    vm.close()


def test_database_that_cannot_have_each_name_is_refused(
    fleet_backend: PostgresqlBackend, start: Start
) -> None:
    url = fleet_backend.url.replace("/vms", "/latin")
    made = "CREATE DATABASE latin OWNER vmw ENCODING 'LATIN1' TEMPLATE template0 LOCALE 'C'"
    with fleet_backend.admin() as db:
        db.execute(made)
        try:
            for command, code in (("init", 2), ("migrate", 2), ("status", 1)):
                done = run("fleet", command, "--url", url)
                assert done.returncode == code
                assert "the encoding LATIN1, expected UTF8" in done.stderr
            server = start("--fleet", url)
            server.wait_for("fleet: out of reach since .*the encoding LATIN1, expected UTF8")
            vm = Vm(server.port)
            assert vm.metadata()
            vm.close()
        finally:
            db.execute("DROP DATABASE latin WITH (FORCE)")


@pytest.mark.parametrize(
    "restored",
    [
        "TRUNCATE vmw_fleet.servers",
        "UPDATE vmw_fleet.servers SET heartbeat = heartbeat - interval '1 hour'",
    ],
    ids=["emptied", "older"],
)
def test_database_that_is_restored_under_a_server_is_a_new_epoch(
    fleet_database: PostgresqlBackend, restored: str
) -> None:
    with fleet_of(fleet_database.url) as process:
        connects(process)
        epoch = process.link.epoch
        with fleet_database.admin("vms") as db:
            db.execute(restored.encode())
        wait_in_hub_until(lambda: process.link.epoch > epoch)
        assert servers_of(process.link) == {"server1": "running"}


def test_next_version_of_the_schema_is_used(
    fleet_database: PostgresqlBackend, start: Start
) -> None:
    with fleet_database.admin("vms") as db:
        db.execute("INSERT INTO vmw_fleet.schema_version VALUES (%s, now(), '')", [NEWEST + 1])
    server = start("--fleet", fleet_database.url)
    server.wait_for("fleet: connected to")


# Commands


def test_user_may_serve_and_nothing_else(fleet_database: PostgresqlBackend, start: Start) -> None:
    with fleet_database.admin("vms") as db:
        db.execute("DROP ROLE IF EXISTS serving")
        db.execute("CREATE ROLE serving LOGIN PASSWORD 'serving-s3cret'")
        db.execute("CREATE TABLE IF NOT EXISTS other (secret text)")
    try:
        done = run("fleet", "init", "--url", fleet_database.url, "--user", "serving")
        assert done.returncode == 0, done.stderr
        url = f"postgresql://serving:serving-s3cret@127.0.0.1:{fleet_database.port}/vms"
        server = start("--fleet", url)
        server.wait_for("fleet: connected to")
        with psycopg.connect(url, autocommit=True) as db:
            for statement in (
                "DROP TABLE vmw_fleet.servers",
                "ALTER TABLE vmw_fleet.servers ADD COLUMN x int",
                "DELETE FROM vmw_fleet.schema_version",
                "CREATE TABLE vmw_fleet.more (x int)",
                "SELECT * FROM other",
                "SELECT * FROM cloudinit_vms",
            ):
                with pytest.raises(psycopg.errors.InsufficientPrivilege):
                    db.execute(statement.encode())
        server.end()
    finally:
        with fleet_database.admin("vms") as db:
            db.execute("DROP OWNED BY serving CASCADE")
            db.execute("DROP ROLE serving")


def test_init_and_migrate_may_be_run_again(fleet_database: PostgresqlBackend) -> None:
    again = run("fleet", "init", "--url", fleet_database.url)
    assert (again.returncode, "is up to date" in again.stdout) == (0, True)
    done = run("fleet", "migrate", "--url", fleet_database.url)
    assert (done.returncode, done.stdout) == (0, "the schema vmw_fleet is up to date\n")


def test_printed_sql_is_what_init_does(fleet_backend: PostgresqlBackend) -> None:
    printed = run("fleet", "init", "--print", "--user", "admin")
    assert printed.returncode == 0, printed.stderr
    with fleet_backend.admin("vms") as db:
        db.execute("DROP SCHEMA IF EXISTS vmw_fleet CASCADE")
        db.execute(printed.stdout.encode())
    done = run("fleet", "migrate", "--url", fleet_backend.url.replace("vmw:", "admin:"))
    assert done.stdout == "the schema vmw_fleet is up to date\n", done.stderr
    with fleet_backend.admin("vms") as db:
        db.execute("DROP SCHEMA vmw_fleet CASCADE")


def test_status_shows_the_schema_and_each_server(fleet_database: PostgresqlBackend) -> None:
    with fleet_of(fleet_database.url) as process:
        connects(process)
        done = run("fleet", "status", "--url", fleet_database.url)
    assert done.returncode == 0, done.stderr
    assert re.search(rf"schema: +version {NEWEST};", done.stdout)
    assert re.search(r"running server1 \S+, since .+, last heartbeat .+", done.stdout)


def test_commands_name_what_is_wrong_and_no_password(fleet_backend: PostgresqlBackend) -> None:
    with fleet_backend.admin("vms") as db:
        db.execute("DROP SCHEMA IF EXISTS vmw_fleet CASCADE")
    missing = run("fleet", "migrate", "--url", fleet_backend.url)
    assert (missing.returncode, "run fleet init" in missing.stderr) == (2, True)
    unmade = run("fleet", "status", "--url", fleet_backend.url)
    assert (unmade.returncode, "fleet init" in unmade.stderr) == (1, True)
    wrong = fleet_backend.url.replace(postgresql.QUOTED_PASSWORD, "wrong-s3cret")
    refused = run("fleet", "init", "--url", wrong)
    assert refused.returncode == 2
    assert "vmw" in refused.stderr
    assert "s3cret" not in refused.stderr

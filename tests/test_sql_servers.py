"""The store `sql` with the real servers: what they say, tell, and do when they hang."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any
from urllib.error import HTTPError

import pytest

from tests.process import CHECKOUT, Constants, ServerProcess, run
from tests.servers import mariadb, postgresql
from tests.servers.mariadb import MariadbBackend
from tests.servers.postgresql import PostgresqlBackend
from tests.servers.sqlserver import make_tables
from tests.storm import free_port
from tests.vm import Vm
from tests.waiting import wait_until
from vmw_cloudinit_metadata import DriverError, Machine, StoreDriver
from vmw_cloudinit_metadata.drivers.stores.sql.database import Database
from vmw_cloudinit_metadata.drivers.stores.sql.rowrecords import MAX_ANSWER_BYTES
from vmw_cloudinit_metadata.drivers.stores.sql.sqlstore import SqlStore

pytestmark = pytest.mark.slow

SERVED_AFTER_S = 1.0
LOOK_UP_S = 3.0  # --lookup-timeout
SECRETS = (
    *(postgresql.PASSWORD, postgresql.QUOTED_PASSWORD),
    *(mariadb.PASSWORD, mariadb.QUOTED_PASSWORD),
    *("wrong-s3cret", "s3cret"),
)
VC = "11111111-2222-3333-4444-5555555555aa"

SqlServer = PostgresqlBackend | MariadbBackend


@pytest.fixture(
    scope="module", params=[PostgresqlBackend, MariadbBackend], ids=lambda one: one.name
)
def backend(request: pytest.FixtureRequest) -> Iterator[SqlServer]:
    with request.param() as started:
        yield started


def wrong_urls(backend: SqlServer) -> dict[str, tuple[str, str]]:
    """Return addresses that lead nowhere, and what is said of each."""
    url = backend.url
    host = f"127.0.0.1:{backend.port}"
    password = url.partition("://vmw:")[2].partition("@127")[0]
    return {
        "password": (url.replace(password, "wrong-s3cret"), "vmw"),
        "host": (url.replace(host, "no-such-host.invalid"), "no-such-host.invalid"),
        "database": (url.replace("/vms", "/none"), "none"),
        "refused": (url.replace(host, f"127.0.0.1:{free_port()}"), "refused"),
    }


@pytest.mark.parametrize("case", ["password", "host", "database", "refused"])
def test_server_out_of_reach_is_named_and_the_password_is_not(
    backend: SqlServer, case: str
) -> None:
    url, text = wrong_urls(backend)[case]
    driver = StoreDriver.of(SqlStore, {"url": url})
    for call in (driver.check, driver.validate, lambda: driver.get_instance(Machine(name="x"))):
        with pytest.raises(DriverError) as raised:
            list(call() or ())
        assert text in str(raised.value)
        assert not secrets_in(str(raised.value))


def secrets_in(*texts: str) -> list[str]:
    return [one for one in SECRETS for text in texts if one in text]


def test_commands_name_the_user_and_no_password(backend: SqlServer) -> None:
    url, text = wrong_urls(backend)["password"]
    opts = ("--driver", "sql", "--driver-opts", json.dumps({"url": "${VMS_URL}"}))
    for words in (("show", "web1", *opts), ("sql", "init", "--url", url, "--apply")):
        done = run(*words, env={"VMS_URL": url})
        assert done.returncode
        assert text in done.stdout + done.stderr
        assert not secrets_in(done.stdout, done.stderr)


def test_error_of_a_query_quotes_the_query_and_no_value(backend: SqlServer) -> None:
    backend.put({"web1": {"metadata": {}, "userdata": "pg-s3cret-user-data"}})
    cast = "CAST(data AS uuid)" if backend.name == "postgresql" else "missing_function(data)"
    for query, text in (
        ("SELECT name, data FORM cloudinit_vms", "syntax"),
        ("SELECT name, dta FROM cloudinit_vms", "dta"),
        (f"SELECT name, {cast} AS data FROM cloudinit_vms", ""),
    ):
        with pytest.raises(DriverError) as raised:
            StoreDriver.of(SqlStore, {"url": backend.url, "query": query}).get_instance(
                Machine(name="web1")
            )
        assert text in str(raised.value)
        assert not secrets_in(str(raised.value))


def test_server_shows_no_password_anywhere(backend: SqlServer) -> None:
    url, _ = wrong_urls(backend)["password"]
    opts = {"url": url}
    server = ServerProcess(backend.directory, "--driver", "sql", driver_opts=opts)
    try:
        vm = Vm(server.port)
        assert vm.error("METADATA") == "failed"
        vm.close()
        admin = server.wait_for(r"admin on (http://\S+)")[1]
        texts = [server.log]
        for path in ("/api/status", "/api/machines", "/api/machines?q=web1", "/readyz", "/metrics"):
            try:
                with urllib.request.urlopen(f"{admin}{path}") as answer:
                    texts.append(answer.read().decode())
            except HTTPError as error:
                texts.append(error.read().decode())
        assert "cloudinit_vms in" in "".join(texts)
        assert not secrets_in(*texts)
        settings = Path(backend.directory) / "settings.yaml"
        known = {"uri": "my-metadata", "driver": "sql", "driver-opts": opts}
        settings.write_text(json.dumps(known))
        settings.chmod(0o600)
        checked = run("check-config", "--config", str(settings))
        assert "(hidden)@127.0.0.1" in checked.stdout, checked.stderr
        assert not secrets_in(checked.stdout, checked.stderr)
    finally:
        server.end()


@pytest.fixture
def told(backend: SqlServer) -> Iterator[StoreDriver]:
    driver = StoreDriver.of(SqlStore, {"url": backend.url})
    driver.watch(lambda _: None)
    wait_until(lambda: driver.revision() is not None)
    yield driver
    driver.close()


def execute(backend: SqlServer, statement: str) -> None:
    with backend.admin("vms") as db, db.cursor() as cursor:
        cursor.execute(statement)


LARGE_MIB = 20
ROWS = f"""INSERT INTO cloudinit_vms (name, data) VALUES ('large', REPEAT('x', {LARGE_MIB << 20})),
    ('mid', CONCAT('metadata: {{a: b}} #', REPEAT('x', 4000000)))"""
LOOK_UPS = r"""
import json, re, sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from vmw_cloudinit_metadata import Machine, StoreDriver
from vmw_cloudinit_metadata.drivers.stores.sql.sqlstore import SqlStore

def look_up(name):
    try:
        return dict(driver.get_instance(Machine(name=name)).metadata)
    except Exception as error:
        return str(error)

def most_kib():
    return int(re.search(r"VmHWM:\s+(\d+)", Path("/proc/self/status").read_text())[1])

driver = StoreDriver.of(SqlStore, json.loads(sys.argv[1]))
with ThreadPoolExecutor(4) as threads:
    before = list(threads.map(look_up, 4 * ["web1"]))
    before_kib = most_kib()
    large = list(threads.map(look_up, 4 * ["large"]))
    print(json.dumps([before, large, look_up("web1"), most_kib() - before_kib, look_up("mid")]))
"""


@pytest.fixture
def large(backend: SqlServer) -> Iterator[None]:
    """Has a row of a size that nobody can use, and one of the largest that may be used."""
    if backend.name == "mariadb":
        execute(backend, "SET GLOBAL max_allowed_packet = 1073741824")
    backend.put({"web1": {"metadata": {"a": "b"}}})
    execute(backend, ROWS)
    yield
    execute(backend, "DELETE FROM cloudinit_vms WHERE name IN ('large', 'mid')")


@pytest.mark.usefixtures("large")
def test_row_of_any_size_takes_a_bounded_memory(backend: SqlServer) -> None:
    done = subprocess.run(
        [sys.executable, "-c", LOOK_UPS, json.dumps({"url": backend.url})],
        env=os.environ | {"PYTHONPATH": str(CHECKOUT)},
        capture_output=True,
        text=True,
        check=True,
    )
    before, large, after, grown_kib, mid = json.loads(done.stdout)
    assert [*before, after, mid] == 6 * [{"a": "b"}]
    assert len(large) == 4
    for text in large:
        assert "an answer has more than 8,388,608 bytes: shorten the row" in text
    assert grown_kib * 1024 < 4 * 2.5 * MAX_ANSWER_BYTES


@pytest.mark.usefixtures("large")
def test_lists_and_versions_are_bounded_too(backend: SqlServer) -> None:
    with pytest.raises(DriverError, match=r"8,388,608 bytes, after row \d+ of cloudinit_vms"):
        list(StoreDriver.of(SqlStore, {"url": backend.url}).validate())
    options = {"url": backend.url, "table": "cloudinit_vms"}
    script = "#!/bin/sh\n" + 40_000 * "#"
    backend.put({f"vm{number}": {"userdata": script} for number in range(300)})  # 12 MB together
    execute(backend, "DELETE FROM cloudinit_vms WHERE name = 'large'")
    assert list(StoreDriver.of(SqlStore, options).validate()) == []
    execute(backend, "DELETE FROM cloudinit_vms WHERE name LIKE 'vm%'")
    options["version_query"] = f"SELECT REPEAT('x', {LARGE_MIB << 20})"
    driver = StoreDriver.of(SqlStore, options)
    reports: list[str] = []
    driver.watch(reports.append)
    try:
        wait_until(lambda: reports)
    finally:
        driver.close()
    assert "version_query: an answer has more than 8,388,608 bytes: select less" in reports[0]


def test_error_in_the_middle_of_a_list_is_that_of_the_server(backend: SqlServer) -> None:
    if backend.name != "postgresql":
        return  # the next row that MariaDB sends is the error
    backend.put({"web1": {"metadata": {}}})
    query = "SELECT name, data, 1 / (4 - length(name)) AS note FROM cloudinit_vms"
    with pytest.raises(DriverError, match="22012"):
        list(StoreDriver.of(SqlStore, {"url": backend.url, "query": query}).validate())


NAMES = {
    "postgresql": {
        "citext": ("citext", "WEB1", "WEB1"),
        "collation": ("text COLLATE no_case", "WEB1", "WEB1"),
        "char": ("char(20)", "web1", "web1"),
        "bytea": ("bytea", "web1", "web1"),
    },
    "mariadb": {
        "collation": ("VARCHAR(80) COLLATE utf8mb4_general_ci", "WEB1", "WEB1"),
        "blanks": ("VARCHAR(80) COLLATE utf8mb4_bin", "web1 ", "web1 "),
        "char": ("CHAR(20)", "web1", "web1"),
        "varbinary": ("VARBINARY(20)", "web1", "web1"),
        "blob": ("BLOB", "web1", "web1"),
        "number": ("INT", "007", "7"),
        "zero": ("INT", "0", "0"),
    },
}


@pytest.fixture
def extended(backend: SqlServer) -> Iterator[None]:
    """Has types and collations that are not there by default."""
    if backend.name != "postgresql":
        yield
        return
    execute(backend, "CREATE EXTENSION citext")
    rules = "provider = icu, locale = 'und-u-ks-level2', deterministic = false"
    execute(backend, f"CREATE COLLATION no_case ({rules})")
    yield
    execute(backend, "DROP COLLATION no_case")
    execute(backend, "DROP EXTENSION citext")


@pytest.mark.usefixtures("extended")
def test_name_of_any_type_is_found_and_no_other_one(backend: SqlServer) -> None:
    others = ("web1", "WEB1", "web1 ", "0", "7", "007")
    for column, stored, name in NAMES[backend.name].values():
        execute(backend, f"CREATE TABLE named (name {column}, data TEXT)")
        execute(backend, f"INSERT INTO named VALUES ('{stored}', 'metadata: {{}}')")
        readers = "vmw" + "@'127.0.0.1'" * (backend.name == "mariadb")
        execute(backend, f"GRANT SELECT ON named TO {readers}")
        driver = StoreDriver.of(SqlStore, {"url": backend.url, "table": "named"})
        try:
            assert [one for one in others if driver.get_instance(Machine(name=one))] == [name]
            assert list(driver.validate()) == []
        finally:
            driver.close()
            execute(backend, "DROP TABLE named")


def test_column_that_takes_no_names_is_named_as_the_cause(backend: SqlServer) -> None:
    if backend.name != "postgresql":
        return  # others compare a text with anything
    query = "SELECT id AS name, data FROM cloudinit_vms"
    driver = StoreDriver.of(SqlStore, {"url": backend.url, "query": query})
    with pytest.raises(DriverError, match="are the columns of names and UUIDs texts"):
        driver.get_instance(Machine(name="web1"))


CHANGES = {
    "insert": f"INSERT INTO cloudinit_vms (vc_uuid, data) VALUES ('{VC}', 'metadata: {{a: b}}')",
    "update": "UPDATE cloudinit_vms SET data = 'metadata: {a: c}'",
    "identity": f"UPDATE cloudinit_vms SET name = NULL, bios_uuid = '{VC}' WHERE name = 'web1'",
    "delete": "DELETE FROM cloudinit_vms WHERE name = 'web1'",
    "truncate": "TRUNCATE TABLE cloudinit_vms",
    "layer": "INSERT INTO cloudinit_layers VALUES ('10', 'metadata: {of: layer}')",
    "no-layer": "DELETE FROM cloudinit_layers",
}


def test_each_change_is_told_in_time(backend: SqlServer, told: StoreDriver) -> None:
    vm = Machine(name="web1", vc_uuid=VC)
    for name, statement in CHANGES.items():
        backend.put({"web1": {"metadata": {"of": "row"}}})
        execute(backend, "DELETE FROM cloudinit_vms WHERE vc_uuid IS NOT NULL")
        time.sleep(SERVED_AFTER_S / 2)
        found = told.get_instance(vm)
        assert found
        assert told.still_holds(found.token)
        begun_s = time.monotonic()
        execute(backend, statement)
        wait_until(lambda found=found: not told.still_holds(found.token))
        assert time.monotonic() - begun_s < SERVED_AFTER_S, name


REPLACED = {
    "postgresql": (
        "CREATE TABLE other (LIKE cloudinit_vms INCLUDING ALL)",
        "ALTER TABLE other OWNER TO vmw",
        "INSERT INTO other (name, data) VALUES ('web1', 'metadata: {of: other}')",
        "DROP TABLE cloudinit_vms",
        "ALTER TABLE other RENAME TO cloudinit_vms",
    ),
    "mariadb": (
        "CREATE TABLE other LIKE cloudinit_vms",
        "INSERT INTO other SELECT * FROM cloudinit_vms",
        "UPDATE other SET data = 'metadata: {of: other}'",
        "RENAME TABLE cloudinit_vms TO gone, other TO cloudinit_vms",
        "DROP TABLE gone",
    ),
}
UNTOLD = """ALTER TABLE cloudinit_vms DISABLE TRIGGER USER;
    UPDATE cloudinit_vms SET data = 'metadata: {of: other}';
    ALTER TABLE cloudinit_vms ENABLE TRIGGER USER"""


@pytest.mark.parametrize("how", ["replaced", "untold"])
def test_table_that_is_restored_is_read_though_no_trigger_tells(
    backend: SqlServer, told: StoreDriver, how: str
) -> None:
    is_postgresql = backend.name == "postgresql"
    if how == "untold" and not is_postgresql:
        return  # MariaDB has no such switch
    backend.put({"web1": {"metadata": {"of": "row"}}})
    time.sleep(SERVED_AFTER_S / 2)
    found = told.get_instance(Machine(name="web1"))
    assert found
    assert told.still_holds(found.token)
    if not is_postgresql:
        time.sleep(1.1)  # MariaDB tells in seconds when a table was made
    statements = [UNTOLD] if how == "untold" else REPLACED[backend.name]
    try:
        for statement in statements:
            execute(backend, statement)
        wait_until(lambda: not told.still_holds(found.token))
        now = told.get_instance(Machine(name="web1"))
        assert now
        assert now.metadata == {"of": "other"}
    finally:
        make_tables(backend.url)  # with the triggers, which went with the table


@pytest.fixture
def narrow(backend: SqlServer) -> Iterator[Mapping[str, Any]]:
    """Options for a table whose encoding is LATIN1, and whose names have a fixed length."""
    table = "CREATE TABLE narrow (name CHAR(20), vc_uuid CHAR(36), data TEXT)"
    row = f"INSERT INTO narrow VALUES ('wéb1', '{VC}', 'metadata: {{a: é}}')"
    if isinstance(backend, MariadbBackend):
        execute(backend, f"{table} CHARACTER SET latin1")
        execute(backend, row)
        yield {"url": backend.url, "table": "narrow"}
        execute(backend, "DROP TABLE narrow")
        return
    with backend.admin() as db:
        db.execute("CREATE DATABASE narrow OWNER vmw ENCODING LATIN1 TEMPLATE template0 LOCALE 'C'")
        with backend.admin("narrow") as inside:
            inside.execute(table)
            inside.execute(row)
            inside.execute("GRANT SELECT ON narrow TO vmw")
        yield {"url": backend.url.replace("/vms", "/narrow"), "table": "narrow"}
        db.execute("DROP DATABASE narrow WITH (FORCE)")


def test_name_that_a_column_cannot_have_is_no_trouble(narrow: Mapping[str, Any]) -> None:
    driver = StoreDriver.of(SqlStore, narrow)
    machines = (Machine(name="wéb1"), Machine(name="w→b1", vc_uuid=VC))
    for found in map(driver.get_instance, machines):
        assert found
        assert found.metadata == {"a": "é"}
    assert driver.get_instance(Machine(name="w→b1")) is None
    assert list(driver.validate()) == []
    driver.close()


def test_database_without_an_encoding_is_one_of_utf8(backend: SqlServer, tmp_path: Path) -> None:
    if not isinstance(backend, PostgresqlBackend):
        return
    url = backend.url.replace("/vms", "/plain")
    with backend.admin() as db:
        db.execute(
            "CREATE DATABASE plain OWNER vmw ENCODING SQL_ASCII TEMPLATE template0 LOCALE 'C'"
        )
    (tmp_path / "wéb1.yaml").write_text("metadata: {a: é}\n")
    make_tables(url)
    done = run("sql", "import", str(tmp_path), "--url", url)
    assert done.returncode == 0, done.stderr
    found = StoreDriver.of(SqlStore, {"url": url}).get_instance(Machine(name="wéb1"))
    assert found
    assert found.metadata == {"a": "é"}


def test_change_of_another_vm_ends_no_answer_of_postgresql(
    backend: SqlServer, told: StoreDriver
) -> None:
    if backend.name != "postgresql":
        return  # a version is one for all
    backend.put({"web1": {"metadata": {}}, "web2": {"metadata": {}}})
    time.sleep(SERVED_AFTER_S / 2)
    found, other = (told.get_instance(Machine(name=name)) for name in ("web1", "web2"))
    assert found
    assert other
    backend.put({"web2": {"metadata": {"a": "b"}}})
    wait_until(lambda: not told.still_holds(other.token))
    assert told.still_holds(found.token)


def test_too_many_notifications_at_once_are_named_and_all_is_read_again(
    backend: SqlServer, constants: Constants
) -> None:
    if backend.name != "postgresql":
        return
    constants(
        drivers__stores__sql__rowrecords__MAX_ANSWER_BYTES=100_000,
        drivers__stores__sql__notifications__PING_S=0.01,
    )
    reports: list[str] = []
    driver = StoreDriver.of(SqlStore, {"url": backend.url})
    driver.watch(reports.append)
    try:
        wait_until(lambda: driver.revision() is not None)
        sent = "SELECT pg_notify('cloudinit', 'name vm' || n) FROM generate_series(1, 100000) n"
        execute(backend, f"SELECT count(*) FROM ({sent}) AS sent")
        wait_until(lambda: len(reports) == 2)
    finally:
        driver.close()
    assert "too many notifications at once: all rows are read again" in reports[0]
    assert "tells changes again" in reports[1]


def test_version_query_of_the_operator_ends_answers(backend: SqlServer) -> None:
    execute(backend, "CREATE TABLE own (name VARCHAR(80), data TEXT, at_number INT)")
    execute(backend, "INSERT INTO own VALUES ('web1', 'metadata: {a: b}', 1)")
    execute(backend, "GRANT SELECT ON own TO vmw" + ("@'127.0.0.1'" * (backend.name == "mariadb")))
    options = {"url": backend.url, "table": "own"}
    untold = StoreDriver.of(SqlStore, options)
    untold.watch(lambda _: None)
    driver = StoreDriver.of(
        SqlStore, {**options, "version_query": "SELECT MAX(at_number), COUNT(*) FROM own"}
    )
    driver.watch(lambda _: None)
    try:
        wait_until(lambda: driver.revision() is not None)
        found, uncached = (one.get_instance(Machine(name="web1")) for one in (driver, untold))
        assert found
        assert driver.still_holds(found.token)
        assert uncached
        assert uncached.token is None  # nothing tells changes, so that nothing is kept
        execute(backend, "UPDATE own SET at_number = 2")
        wait_until(lambda: not driver.still_holds(found.token), SERVED_AFTER_S)
    finally:
        driver.close()
        untold.close()
        execute(backend, "DROP TABLE own")


COLUMNS = {
    "postgresql": """CREATE TABLE typed AS
        SELECT 'web1'::varchar AS name, 'x'::text AS note_of_ours,
        '{"metadata": {"a": [1, true]}}'::jsonb AS data, gen_random_uuid() AS vc_uuid""",
    "mariadb": """CREATE TABLE typed AS SELECT 'web1' AS name, 'x' AS note_of_ours,
        '{"metadata": {"a": [1, true]}}' AS data, UUID() AS vc_uuid""",
}


def test_json_of_the_database_is_data(backend: SqlServer) -> None:
    execute(backend, COLUMNS[backend.name])
    execute(
        backend, "GRANT SELECT ON typed TO vmw" + ("@'127.0.0.1'" * (backend.name == "mariadb"))
    )
    try:
        driver = StoreDriver.of(SqlStore, {"url": backend.url, "table": "vms.typed"})
        if backend.name == "postgresql":
            driver = StoreDriver.of(SqlStore, {"url": backend.url, "table": "public.typed"})
        found = driver.get_instance(Machine(name="web1"))
        assert found
        assert found.metadata == {"a": [1, True]}
        assert list(driver.validate()) == []
    finally:
        execute(backend, "DROP TABLE typed")


def test_files_go_into_the_database_and_come_back(backend: SqlServer, tmp_path: Path) -> None:
    execute(backend, "DELETE FROM cloudinit_vms")
    source, target = tmp_path / "source", tmp_path / "target"
    (source / "layers").mkdir(parents=True)
    (source / "web1.yaml").write_text("metadata: {note: 'Bücher 🙂 % %s \\ '}\n")
    (source / f"{VC}.yaml").write_text("metadata: {note: by-uuid}\n")
    (source / "layers/10.yaml").write_text("metadata: {region: eu1}\n")
    for _ in range(2):
        done = run("sql", "import", str(source), "--url", "${VMS_URL}", env=backend.environment)
        assert done.returncode == 0, done.stderr
    done = run("sql", "export", str(target), "--url", "${VMS_URL}", env=backend.environment)
    assert done.returncode == 0, done.stderr
    for path in ("web1.yaml", f"{VC}.yaml", "layers/10.yaml"):
        assert (target / path).read_bytes() == (source / path).read_bytes()
    assert len(list(target.rglob("*.yaml"))) == 3
    execute(backend, "DELETE FROM cloudinit_layers")


def test_recipe_of_the_document_shows_the_vm(tmp_path: Path) -> None:
    recipe = re.search(
        r"```bash\n(.*?)```", (CHECKOUT / "docs/stores/sql.md").read_text(), re.DOTALL
    )
    assert recipe
    program = tmp_path / "vmw-cloudinit-metadata"
    program.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m vmw_cloudinit_metadata "$@"\n')
    program.chmod(0o755)
    paths = {"PATH": f"{tmp_path}:{os.environ['PATH']}", "PYTHONPATH": str(CHECKOUT)}
    done = subprocess.run(
        ["bash", "-e", "-c", recipe[1]],
        cwd=tmp_path,
        env=os.environ | paths,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == [
        "metadata.region: eu1  # 10-all.yaml of cloudinit_layers:1",
        "metadata.role: web  # row 1 of cloudinit_vms:2",
        "network.address: 10.0.0.5/24  # row 1 of cloudinit_vms:1",
        "network.gateway: 10.0.0.1  # row 1 of cloudinit_vms:1",
    ]


def seconds_of(call: Callable[[], object]) -> float:
    begun_s = time.monotonic()
    with suppress(DriverError):
        call()
    return time.monotonic() - begun_s


def test_server_that_hangs_costs_one_look_up_its_time_and_no_other(
    backend: SqlServer, told: StoreDriver
) -> None:
    backend.put({"web1": {"metadata": {"a": "b"}}})
    vm = Machine(name="web1", vc_uuid=VC)
    assert told.get_instance(vm)
    backend.stop()
    try:
        with pytest.raises(DriverError) as raised:
            told.get_instance(Machine(name="unknown"))
        assert not secrets_in(str(raised.value))
        assert seconds_of(lambda: told.get_instance(Machine(name="unknown"))) < LOOK_UP_S
        assert min(seconds_of(lambda: told.get_instance(vm)) for _ in range(3)) < 0.1
        again = told.get_instance(vm)
        assert again
        assert "the last good answer is served" in again.problem
        wait_until(lambda: told.revision() is None)  # the listener has noticed it too
    finally:
        backend.cont()
    wait_until(lambda: fresh(told, vm))
    wait_until(lambda: told.revision() is not None)


SLOW = {
    "postgresql": "SELECT repeat('x', 20000), pg_sleep(1.5) FROM generate_series(1, 6)",
    "mariadb": "SELECT REPEAT('x', 20000), SLEEP(1.5) FROM seq_1_to_6",
}


def test_answer_that_comes_in_parts_has_the_time_of_one(backend: SqlServer) -> None:
    database = Database(backend.url, None, 1, "")
    begun_s = time.monotonic()
    with pytest.raises(DriverError):
        database.rows(SLOW[backend.name])
    assert time.monotonic() - begun_s < 6  # of the 9 s of all parts
    database.close()


def fresh(driver: StoreDriver, vm: Machine) -> bool:
    with suppress(DriverError):
        found = driver.get_instance(vm)
        return bool(found and not found.problem)
    return False


def test_restarted_server_is_asked_again_at_once(backend: SqlServer, told: StoreDriver) -> None:
    backend.put({"web1": {"metadata": {"a": "b"}}})
    vm = Machine(name="web1")
    found: Any = told.get_instance(vm)
    backend.restart()
    found = told.get_instance(vm)
    assert found
    assert not found.problem

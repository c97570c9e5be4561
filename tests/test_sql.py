"""The store `sql` with SQLite: rows and layers, options, changes, and the way to files and back."""

from __future__ import annotations

import ipaddress
import json
import sqlite3
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from sqlalchemy import event

from tests.process import Constants, run
from tests.waiting import wait_until
from vmw_cloudinit_metadata import DriverError, Key, Machine, StoreDriver
from vmw_cloudinit_metadata.drivers.file import FileDriver
from vmw_cloudinit_metadata.drivers.store import LAYERS
from vmw_cloudinit_metadata.drivers.stores.sql import engines, rowfiles, sqltables, tablerows
from vmw_cloudinit_metadata.drivers.stores.sql.database import Database
from vmw_cloudinit_metadata.drivers.stores.sql.rowrecords import (
    MAX_ANSWER_BYTES,
    shape_of,
    spellings,
)
from vmw_cloudinit_metadata.drivers.stores.sql.sqlstore import MAX_ROWS, SqlStore
from vmw_cloudinit_metadata.instance.fault import InvalidInstanceData
from vmw_cloudinit_metadata.testing import check_driver, machine

VC = "11111111-2222-3333-4444-5555555555aa"
BIOS = "99999999-2222-3333-4444-5555555555bb"
WEB1 = Machine(name="web1", vc_uuid=VC, bios_uuid=BIOS)
ENDLESS = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT max(i) FROM n"

Execute = Callable[..., None]


@pytest.fixture
def url(tmp_path: Path) -> str:
    """A database with the tables of `sql init`."""
    made = f"sqlite:///{tmp_path}/vms.sqlite"
    apply(made)
    return made


def apply(url: str) -> None:
    Database(url, None, 1, "").run(sqltables.SCHEMAS[sqltables.SQLITE])


@pytest.fixture
def execute(url: str) -> Execute:
    def run_statement(statement: str, *values: object) -> None:
        with closing(sqlite3.connect(url.removeprefix("sqlite:///"))) as db, db:
            db.execute(statement, values)

    return run_statement


@pytest.fixture
def put(execute: Execute) -> Execute:
    """Adds a row to the table of `sql init`."""

    def put_row(**columns: object) -> None:
        marks = ", ".join("?" * len(columns))
        execute(
            f"INSERT INTO cloudinit_vms ({', '.join(columns)}) VALUES ({marks})", *columns.values()
        )

    return put_row


def metadata_of(driver: FileDriver | StoreDriver, vm: Machine = WEB1) -> Any:
    found = driver.get_instance(vm)
    return found and dict(found.metadata)


def store_of(url: str, **options: Any) -> StoreDriver:
    return StoreDriver.of(SqlStore, {"url": url, **options})


def test_store_keeps_the_contract_of_drivers(url: str, put: Execute) -> None:
    put(name="web1", data="metadata: {instance-id: i-1}")
    check_driver(SqlStore, {"url": url}, [machine("web1")], machine("no-such-vm"))


def test_rows_are_found_by_each_identity_in_order(url: str, put: Execute) -> None:
    driver = store_of(url)
    put(name="web1", data="metadata: {by: name}")
    assert metadata_of(driver) == {"by": "name"}
    put(bios_uuid=BIOS, data=f"metadata: {{by: bios}}\nmatch: {{bios-uuid: {BIOS}}}")
    assert metadata_of(driver) == {"by": "bios"}
    put(vc_uuid=VC, name="other", data="metadata: {by: vc}")
    assert metadata_of(driver) == {"by": "vc"}
    assert metadata_of(driver, Machine(name="other")) == {"by": "vc"}
    assert metadata_of(driver, Machine(name="WEB1")) is None


def test_layers_count_in_the_order_of_their_names(url: str, put: Execute, execute: Execute) -> None:
    put(name="web1", data="network: {address: 10.0.0.5/24}")
    for name, data in (("20", "metadata: {of: '20'}"), ("10", "metadata: {of: '10', region: eu}")):
        execute("INSERT INTO cloudinit_layers VALUES (?, ?)", name, data)
    driver = store_of(url)
    assert metadata_of(driver) == {"of": "20", "region": "eu"}
    assert list(driver.trace(WEB1)) == [
        "metadata.of: 20  # 20 of cloudinit_layers:1, over 10 (10 of cloudinit_layers:1)",
        "metadata.region: eu  # 10 of cloudinit_layers:1",
        "network.address: 10.0.0.5/24  # row 1 of cloudinit_vms:1",
    ]
    assert list(driver.validate()) == []
    assert driver.files_checked == 1


def test_two_rows_of_a_name_are_a_fault_that_names_both(url: str, put: Execute) -> None:
    put(name="web1", data="metadata: {}")
    put(name="web1", data="metadata: {}")
    with pytest.raises(InvalidInstanceData) as raised:
        store_of(url).get_instance(WEB1)
    assert "row 1 of cloudinit_vms and row 2 of cloudinit_vms" in str(raised.value)


@pytest.mark.parametrize("name", ["ci/build", "ci%2fbuild"])
def test_names_are_found_as_vcenter_and_others_write_them(
    url: str, put: Execute, name: str
) -> None:
    put(name=name, data="metadata: {instance-id: i-1}")
    driver = store_of(url)
    assert metadata_of(driver, Machine(name="ci/build"))
    assert metadata_of(driver, Machine(name="ci%2fbuild"))
    assert list(driver.validate()) == []


STORED = {
    "blob": ("", b"web1", "web1"),
    "blob-in-text": ("TEXT", b"ci/build", "ci%2fbuild"),
    "number": ("", 1234, "1234"),
    "no-case": ("TEXT COLLATE NOCASE", "WEB1", "WEB1"),
    "blanks": ("TEXT COLLATE RTRIM", "web1 ", "web1 "),
    "zeros": ("INTEGER", "007", "7"),
    "long": ("TEXT", "9" * 20, "9" * 20),
}
OTHERS = ("web1", "WEB1", "web1 ", "007", "7", "7.0", "1234", "01234", "ci%2fbuild", "9" * 20)


@pytest.mark.parametrize(("column", "stored", "name"), STORED.values(), ids=STORED)
def test_name_is_found_as_it_is_stored_and_no_other_one(
    url: str, execute: Execute, column: str, stored: object, name: str
) -> None:
    execute(f"CREATE TABLE own (name {column}, data TEXT)")
    execute("INSERT INTO own VALUES (?, 'metadata: {}')", stored)
    driver = store_of(url, table="own")
    assert [one for one in OTHERS if driver.get_instance(Machine(name=one))] == [name]
    assert list(driver.validate()) == []


def test_uuid_is_found_as_bytes_of_its_text(url: str, execute: Execute) -> None:
    execute("CREATE TABLE own (vc_uuid BLOB, data TEXT)")
    execute("INSERT INTO own VALUES (?, 'metadata: {a: b}')", VC.upper().encode())
    assert metadata_of(store_of(url, table="own")) == {"a": "b"}


def test_spelling_that_no_lookup_finds_is_reported(url: str, put: Execute) -> None:
    put(name="ci%2Fbuild", data="metadata: {}")
    (fault,) = store_of(url).validate()
    assert "a name that no VM is looked up by" in str(fault)


CELLS = """CREATE TABLE inventory (
    name TEXT, "vc_uuid" TEXT, id INTEGER, "metadata.role" TEXT, "metadata.tags+" TEXT,
    "metadata.region" INTEGER, "network.address" TEXT, "network.dhcp" TEXT)"""


def test_columns_by_dotted_keys_are_read_as_in_csv(url: str, execute: Execute) -> None:
    execute(CELLS)
    row = ("web1", VC.upper(), 7, " true ", "a", 12, "10.0.0.5/24", "")
    execute("INSERT INTO inventory VALUES (?, ?, ?, ?, ?, ?, ?, ?)", *row)
    driver = store_of(url, table="inventory")
    found = driver.get_instance(Machine(name="unknown", vc_uuid=VC))
    assert found
    assert found.metadata == {"role": True, "tags": ["a"], "region": "12"}
    assert found.sources == ("row 7 of inventory",)
    assert list(driver.validate()) == []


def test_bytes_of_a_text_are_that_text_and_others_stay_bytes() -> None:
    shape = shape_of("vms", ["name", "userdata", "metadata.tags"])
    for cell, served in ((b"#cloud-config\n{}", "#cloud-config\n{}"), (b"\x1f\x8b", b"\x1f\x8b")):
        row = [b"web1", cell, [ipaddress.ip_interface("10.0.0.5/24"), 1]]
        (record,) = shape.records([Key("name", "web1")], [row])
        assert record.data == {"userdata": served, "metadata": {"tags": ["10.0.0.5/24", 1]}}
        assert record.label == "row web1 of vms"
        assert shape.record(row).key == Key("name", "web1")


def test_text_that_is_not_utf8_is_a_fault_of_its_own_row(url: str, execute: Execute) -> None:
    execute("CREATE TABLE own (name TEXT, data TEXT)")
    execute("INSERT INTO own VALUES ('bad', CAST(x'6d657461646174613a207b613a20ff7d' AS TEXT))")
    execute("INSERT INTO own VALUES (CAST(x'ff' AS TEXT), '{}'), ('web1', 'metadata: {a: b}')")
    driver = store_of(url, table="own")
    assert metadata_of(driver) == {"a": "b"}
    nameless, bad = sorted(map(str, driver.validate()))
    assert nameless.startswith("row \\udcff of own: warning: found a name that no VM")
    assert bad.startswith("row bad of own:1:15: found the byte 0xff")


def test_query_of_the_operator_may_end_as_people_write(url: str, execute: Execute) -> None:
    execute("CREATE TABLE cmdb (host TEXT, body TEXT, kind TEXT)")
    execute("INSERT INTO cmdb VALUES ('web1', '{\"metadata\": {\"a\": \"%s ?\"}}', 'vm%')")
    execute("CREATE TABLE common (label TEXT, body TEXT)")
    execute("INSERT INTO common VALUES ('all', 'metadata: {region: eu1}')")
    driver = store_of(
        url,
        query="SELECT host AS name, body AS data FROM cmdb WHERE kind LIKE 'vm%' -- all;\n;",
        layers_query="SELECT label AS name, body AS data FROM common;",
    )
    assert metadata_of(driver) == {"a": "%s ?", "region": "eu1"}
    assert metadata_of(driver, Machine(name="x' OR '1'='1")) is None


def test_rows_of_a_table_of_ones_own_have_no_layers_unasked(url: str, execute: Execute) -> None:
    execute("INSERT INTO cloudinit_layers VALUES ('10', 'metadata: {layer: yes}')")
    execute("CREATE TABLE own (name TEXT, data TEXT)")
    execute("INSERT INTO own VALUES ('web1', 'metadata: {}')")
    assert metadata_of(store_of(url, table="own")) == {}
    layered = store_of(url, table="own", layers_table="cloudinit_layers")
    assert metadata_of(layered) == {"layer": True}


SHAPES = {
    "no-identity": (["data"], "has no column vc_uuid or bios_uuid or name: it has data"),
    "no-data": (["name", "id"], "has no column with data"),
    "twice": (["name", "data", "data"], "has two columns data"),
    "both": (["name", "data", "metadata.role"], "has the column data, and metadata.role too"),
    "below": (["name", "metadata", "metadata.role"], "a column that is below another one"),
}


@pytest.mark.parametrize(("columns", "text"), SHAPES.values(), ids=SHAPES)
def test_columns_of_no_use_are_an_error_that_says_why(columns: list[str], text: str) -> None:
    with pytest.raises(DriverError, match="vms") as raised:
        shape_of("vms", columns)
    assert text in str(raised.value)


def test_column_that_is_added_later_is_seen(url: str, execute: Execute) -> None:
    execute("CREATE TABLE own (name TEXT, 'metadata.a' TEXT)")
    execute("INSERT INTO own VALUES ('web1', 'x')")
    driver = store_of(url, table="own")
    assert metadata_of(driver) == {"a": "x"}
    execute("ALTER TABLE own ADD COLUMN 'metadata.b' TEXT DEFAULT 'y'")
    assert metadata_of(driver) == {"a": "x", "b": "y"}


def test_key_has_two_spellings_in_a_column() -> None:
    assert spellings(Key("name", "a%2fb%5cc%25d%252f")) == ("a%2fb%5cc%25d%252f", "a/b\\c%d%2f")
    assert spellings(Key("vc-uuid", VC)) == (VC, VC.upper())


# Options

WRONG = {
    "no-url": ({"url": "pg-s3cret"}, "url: found something else than a URL"),
    "scheme": ({"url": "oracle://vmw:pg-s3cret@db/x"}, "url: found another scheme, expected"),
    "memory": ({"url": "sqlite://"}, "url: found no path"),
    "both": ({"url": "sqlite:////x", "table": "a", "query": "b"}, "either table or query"),
    "twice": (
        {"url": "mysql://vmw:pg-s3cret@db/x", "password": "other-s3cret"},
        "password: the URL has one too",
    ),
    "channel": ({"url": "sqlite:////x", "channel": "c"}, "channel: only PostgreSQL has channels"),
    "version": ({"url": "sqlite:////x", "version_query": "q"}, "SQLite tells changes itself"),
    "parameter": (
        {"url": "postgresql://vmw:pg-s3cret@db/x?connect_timeout=9"},
        "url: connect_timeout is set by the server",
    ),
    "charset": ({"url": "mysql://db/x?charset=latin1"}, "url: charset is set by the server"),
    "sqlite-parameter": ({"url": "sqlite:////x?timeout=9"}, "SQLite takes no parameters here"),
    "connections": ({"url": "sqlite:////x", "max_connections": 0}, "max_connections: found 0"),
}


@pytest.mark.parametrize(("options", "text"), WRONG.values(), ids=WRONG)
def test_wrong_options_are_errors_that_quote_no_secret(
    options: Mapping[str, Any], text: str
) -> None:
    with pytest.raises(DriverError) as raised:
        SqlStore(options)
    assert text in str(raised.value)
    assert "s3cret" not in str(raised.value)


@pytest.mark.parametrize(
    "url", ["mysql://db/x?charset=utf8mb4", "postgresql://db/x?sslmode=require"]
)
def test_parameters_that_have_an_effect_are_taken(url: str) -> None:
    SqlStore({"url": url})


def test_password_from_a_file_is_used_and_hidden(tmp_path: Path) -> None:
    (tmp_path / "password").write_text("pg-s3cret%41\n")
    (tmp_path / "password").chmod(0o600)
    store = SqlStore({"url": "postgresql://vmw@db/x", "password_file": f"{tmp_path}/password"})
    assert store.known_secrets.hide("is pg-s3cret%41 wrong?") == "is (hidden) wrong?"
    assert "s3cret" not in f"{store.options!r} {store.name}"


def test_password_is_hidden_as_the_address_and_as_the_server_has_it() -> None:
    store = SqlStore(
        {"url": "postgresql://vmw:pg-s3cret%2541%40word@db:5433/x?sslpassword=ssl-s3cr"}
    )
    text = "pg-s3cret%2541%40word pg-s3cret%41@word ssl-s3cr"
    assert store.known_secrets.hide(text) == "(hidden) (hidden) (hidden)"
    assert store.name == "cloudinit_vms in postgresql://db:5433/x"


# Bounds


def test_row_that_is_too_large_is_a_failure_of_its_vm_alone(url: str, put: Execute) -> None:
    put(name="web1", data="metadata: {}")
    put(name="web2", data="metadata: {}")
    put(name="large", data=" " * (MAX_ANSWER_BYTES + 1))
    put(name="many", data=" " * (MAX_ANSWER_BYTES // 2))
    put(name="many", data=" " * (MAX_ANSWER_BYTES // 2 + 1))
    driver = store_of(url, max_connections=1)
    for name in ("large", "many"):
        with pytest.raises(DriverError) as raised:
            driver.get_instance(Machine(name=name))
        assert str(raised.value) == (
            f"cloudinit_vms in {url.removeprefix('sqlite:///')}: an answer has more than 8,388,608 "
            "bytes: shorten the row, or leave large columns out by the option query"
        )
        assert metadata_of(driver) == {}
    with pytest.raises(DriverError, match=r"bytes, after row 1 of cloudinit_vms: shorten the row"):
        list(driver.validate())
    with pytest.raises(DriverError, match="bytes: shorten or delete the row"):
        list(tablerows.vms_in(Database(url, None, 1, "")))


def test_large_row_of_another_vm_is_no_trouble_without_an_index(url: str, execute: Execute) -> None:
    execute("CREATE TABLE own (data TEXT, name TEXT)")
    execute("INSERT INTO own VALUES (?, 'large')", " " * (MAX_ANSWER_BYTES + 1))
    execute("INSERT INTO own VALUES ('metadata: {a: b}', 'web1')")
    assert metadata_of(store_of(url, table="own")) == {"a": "b"}


def test_more_rows_than_are_read_are_an_error(url: str, put: Execute) -> None:
    for _ in range(MAX_ROWS):
        put(bios_uuid=BIOS, data="metadata: {}")
    driver = store_of(url)
    assert driver.get_instance(WEB1) is None  # they count for no BIOS UUID unless they say so
    put(vc_uuid=VC, data="metadata: {}")
    with pytest.raises(DriverError, match="more than 100 rows with the identities of this VM"):
        driver.get_instance(WEB1)


def test_slow_query_of_one_vm_is_no_server_that_hangs(url: str, constants: Constants) -> None:
    constants(
        drivers__stores__sql__engines__LOOK_UP_S=0.3, drivers__stores__sql__database__HUNG_S=0.1
    )
    database = Database(url, None, 2, "")
    with ThreadPoolExecutor(1) as other:
        slow = other.submit(database.rows, ENDLESS)
        while not slow.done():
            database.rows("SELECT 1")
        assert "takes too long" in str(slow.exception())
    database.rows("SELECT 1")


# A database that is away, and changes


def test_missing_file_is_out_of_reach_and_not_made(tmp_path: Path) -> None:
    driver = store_of(f"sqlite:///{tmp_path}/none.sqlite")
    for call in (driver.check, lambda: driver.get_instance(WEB1)):
        with pytest.raises(DriverError, match=r"none\.sqlite: unable to open database file"):
            call()
    assert list(tmp_path.iterdir()) == []


def test_file_that_goes_away_is_out_of_reach_until_it_is_back(url: str, tmp_path: Path) -> None:
    driver = store_of(url)
    driver.check()
    (tmp_path / "vms.sqlite").rename(tmp_path / "away")
    with pytest.raises(DriverError, match=r"vms\.sqlite: unable to open database file"):
        driver.check()
    (tmp_path / "away").rename(tmp_path / "vms.sqlite")
    driver.check()


def test_file_that_is_replaced_is_read(url: str, put: Execute, tmp_path: Path) -> None:
    put(name="web1", data="metadata: {of: old}")
    driver = store_of(url)
    assert metadata_of(driver) == {"of": "old"}
    other = f"sqlite:///{tmp_path}/other.sqlite"
    apply(other)
    with closing(sqlite3.connect(tmp_path / "other.sqlite")) as db, db:
        db.execute("INSERT INTO cloudinit_vms (name, data) VALUES ('web1', 'metadata: {of: new}')")
    (tmp_path / "other.sqlite").rename(tmp_path / "vms.sqlite")
    assert metadata_of(driver) == {"of": "new"}


def test_file_that_is_replaced_while_it_is_opened_is_not_taken_for_the_new_one(
    url: str, tmp_path: Path
) -> None:
    path = str(tmp_path / "vms.sqlite")
    engine = engines.engine_of(*engines.database_of(url))

    def replace(*_arguments: object) -> None:
        (tmp_path / "new").write_bytes(b"")
        (tmp_path / "new").rename(path)

    event.listen(engine, "connect", replace, insert=True)  # right after the file is opened
    with closing(engine.raw_connection()) as connection:
        assert connection.info["file"] != engines.state_of(path)


def test_copy_over_the_file_is_read_and_told(url: str, put: Execute, tmp_path: Path) -> None:
    """The copy was made by as many transactions, so that SQLite's own count is the same."""
    path, copy = tmp_path / "vms.sqlite", tmp_path / "copy"
    copy.write_bytes(path.read_bytes())
    put(name="web1", data="metadata: {of: old}")
    with closing(sqlite3.connect(copy)) as db, db:
        db.execute("INSERT INTO cloudinit_vms (name, data) VALUES ('web1', 'metadata: {of: new}')")
    driver = store_of(url)
    driver.watch(lambda _: None)
    try:
        wait_until(lambda: driver.revision() is not None)
        found = driver.get_instance(WEB1)
        assert found
        assert driver.still_holds(found.token)
        path.write_bytes(copy.read_bytes())
        wait_until(lambda: not driver.still_holds(found.token))
        assert metadata_of(driver) == {"of": "new"}
    finally:
        driver.close()


def test_query_that_takes_too_long_is_interrupted(url: str, constants: Constants) -> None:
    constants(drivers__stores__sql__engines__LOOK_UP_S=0.2)
    driver = store_of(url, query=f"SELECT 'web1' AS name, ({ENDLESS}) AS data")
    with pytest.raises(DriverError, match=r"vms\.sqlite: the query takes too long"):
        driver.get_instance(WEB1)


def test_change_of_a_row_ends_what_is_cached(url: str, put: Execute, execute: Execute) -> None:
    put(name="web1", data="metadata: {}")
    driver = store_of(url)
    driver.watch(lambda _: None)
    try:
        wait_until(lambda: driver.revision() is not None)
        found = driver.get_instance(WEB1)
        assert found
        assert driver.still_holds(found.token)
        execute("UPDATE cloudinit_vms SET data = 'metadata: {a: b}'")
        wait_until(lambda: not driver.still_holds(found.token))
        assert metadata_of(driver) == {"a": "b"}
    finally:
        driver.close()


def test_error_of_the_query_quotes_the_query_alone(url: str, execute: Execute) -> None:
    execute("CREATE TABLE own (name TEXT, data TEXT)")
    for query, text in (
        ("SELECT name FORM own", 'near "own": syntax error'),
        ("SELECT nam, data FROM own", "no such column: nam"),
        ("SELECT * FROM nowhere", "no such table: nowhere"),
    ):
        with pytest.raises(DriverError) as raised:
            store_of(url, query=query).check()
        assert text in str(raised.value)
        assert "\n" not in str(raised.value)


# Files


def test_init_prints_the_tables_of_the_database() -> None:
    printed = run("sql", "init", "--url", "mysql://")
    assert printed.stdout == sqltables.script_of(sqltables.MARIADB), printed.stderr


def test_tables_of_sqlite_are_what_its_own_client_makes_of_the_print(tmp_path: Path) -> None:
    with closing(sqlite3.connect(tmp_path / "vms.sqlite")) as db:
        db.executescript(sqltables.script_of(sqltables.SQLITE))
        db.executescript(sqltables.script_of(sqltables.SQLITE))
    store_of(f"sqlite:///{tmp_path}/vms.sqlite").check()


def test_commands_fill_a_database_and_write_it_as_files(tmp_path: Path, url: str) -> None:
    source = tmp_path / "source"
    (source / "layers").mkdir(parents=True)
    (source / "web1.yaml").write_text("# kept\nmetadata: {instance-id: i-1}\n")
    (source / "layers/10.yaml").write_text("metadata: {region: eu1}\n")
    done = run("sql", "import", str(source), "--url", "${VMS}", env={"VMS": url})
    assert done.stderr == f"imported 1 VM, 1 layer into {tmp_path}/vms.sqlite\n"
    shown = run("show", "web1", "--driver", "sql", "--driver-opts", json.dumps({"url": url}))
    assert '"region":"eu1"' in shown.stdout
    target = tmp_path / "target"
    done = run("sql", "export", str(target), "--url", url)
    assert done.stderr == f"exported 2 files into {target}\n"
    assert (target / "web1.yaml").read_text() == "# kept\nmetadata: {instance-id: i-1}\n"
    assert (target / "web1.yaml").stat().st_mode & 0o777 == 0o640
    again = run("sql", "export", str(target), "--url", url)
    assert (again.returncode, "is not empty" in again.stderr) == (2, True)


def test_faulty_file_stops_the_whole_import(tmp_path: Path, url: str, put: Execute) -> None:
    put(name="web1", data="metadata: {of: before}")
    source = tmp_path / "source"
    source.mkdir()
    (source / "web1.yaml").write_text("metadata: {of: file}\n")
    (source / "web2.yaml").write_text("metadata: {}\nnetwork: {addres: secret-text}\n")
    done = run("sql", "import", str(source), "--url", url)
    assert done.returncode == 2
    assert f"{source}/web2.yaml:2" in done.stderr
    assert "has faults: nothing was imported" in done.stderr
    assert metadata_of(store_of(url)) == {"of": "before"}


def test_import_replaces_the_rows_of_the_same_vms_alone(
    tmp_path: Path, url: str, put: Execute
) -> None:
    put(name="web1", data="metadata: {of: before}")
    put(name="web2", data="metadata: {of: before}")
    source = tmp_path / "source"
    source.mkdir()
    (source / "web1.yaml").write_text("metadata: {of: file}\n")
    for _ in range(2):
        tablerows.replace(Database(url, None, 1, ""), *rowfiles.rows_of(source))
    driver = store_of(url)
    assert metadata_of(driver) == {"of": "file"}
    assert metadata_of(driver, Machine(name="web2")) == {"of": "before"}


def test_import_replaces_a_row_whose_name_is_spelled_without_escapes(
    tmp_path: Path, url: str, put: Execute
) -> None:
    put(name="ci/build", data="metadata: {of: before}")
    source = tmp_path / "source"
    source.mkdir()
    (source / "ci%2fbuild.yaml").write_text("metadata: {of: file}\n")
    tablerows.replace(Database(url, None, 1, ""), *rowfiles.rows_of(source))
    assert metadata_of(store_of(url), Machine(name="ci%2fbuild")) == {"of": "file"}


def test_import_replaces_a_row_whose_name_is_bytes(url: str, put: Execute) -> None:
    put(name=b"web1", data="metadata: {of: before}")
    rows = [rowfiles.VmRow("web1", None, None, "metadata: {of: file}")]
    tablerows.replace(Database(url, None, 1, ""), rows, [])
    assert metadata_of(store_of(url)) == {"of": "file"}


def test_import_that_fails_in_the_middle_changes_nothing(url: str, put: Execute) -> None:
    put(name="web1", data="metadata: {of: before}")
    rows = [
        rowfiles.VmRow("web1", None, None, "metadata: {}"),
        rowfiles.VmRow(None, None, None, "metadata: {}"),
    ]
    with pytest.raises(DriverError, match="invalid data") as raised:
        tablerows.replace(Database(url, None, 1, ""), rows, [])
    assert "metadata" not in str(raised.value)
    assert metadata_of(store_of(url)) == {"of": "before"}


UNWRITABLE = {
    "inventory": [rowfiles.VmRow("vms", None, None, "metadata: {}")],
    "hidden": [rowfiles.VmRow(".profile", None, None, "metadata: {}")],
    "twice": 2 * [rowfiles.VmRow("web1", None, None, "metadata: {}")],
    "uuid": [rowfiles.VmRow(None, "x", None, "metadata: {}")],
}


@pytest.mark.parametrize("rows", UNWRITABLE.values(), ids=UNWRITABLE)
def test_export_writes_nothing_if_a_row_cannot_be_a_file(
    tmp_path: Path, rows: list[rowfiles.VmRow]
) -> None:
    with pytest.raises(DriverError, match="remove"):
        rowfiles.write(tmp_path / "target", rows, [])
    assert list(tmp_path.iterdir()) == []


NAMES = ("web1", "ci%2fbuild", "Büro", "a b", "db-1.prod")
UUIDS = (VC, BIOS)
WORDS = st.sampled_from(
    ["eu1", "true", "007", "2024-01-01", "é ü", "a: b", "x\ny", "", "${vm.name}"]
)
METADATA = st.dictionaries(st.sampled_from(["role", "region", "site", "note"]), WORDS, max_size=3)
VALUES: st.SearchStrategy[dict[str, Any]] = st.fixed_dictionaries(
    {"metadata": METADATA},
    optional={
        "network": st.sampled_from([{"address": "10.0.0.5/24"}, {"dhcp": True}]),
        "userdata": st.one_of(
            st.sampled_from(["#!/bin/sh\necho hi\n", "#cloud-config\n# é\n"]),
            st.fixed_dictionaries({"runcmd": st.lists(WORDS, max_size=2)}),
        ),
        "documents": st.fixed_dictionaries({"ROLE": WORDS}),
    },
)
TEXTS = st.sampled_from([b"#!/bin/sh\r\necho\n", b"#cloud-config\n\n  x: 1", "#!é\n".encode()])


@st.composite
def directories(draw: st.DrawFn) -> dict[str, bytes]:
    """Draw the files of a directory, without faults but those of single VMs."""
    files: dict[str, bytes] = {}
    inventory: dict[str, Any] = {}
    for name in (*NAMES, *UUIDS):
        match draw(st.sampled_from(["", "file", "json", "named", "inventory"])):
            case "file":
                files[f"{name}.yaml"] = yaml.safe_dump(draw(VALUES)).encode()
            case "json":
                files[f"{name}.json"] = json.dumps(draw(VALUES)).encode()
            case "named":
                value = {k: v for k, v in draw(VALUES).items() if k != "userdata"}
                value["userdata-file"] = f"text-{len(files)}"
                files[value["userdata-file"]] = draw(TEXTS)
                files[f"{name}.yaml"] = yaml.safe_dump(value).encode()
            case "inventory":
                inventory[name] = draw(VALUES)
    if inventory:
        files["vms.yaml"] = yaml.safe_dump(inventory).encode()
    for name in draw(st.sets(st.sampled_from(["10.yaml", "10-a.yaml", "a.json", "b.yml"]))):
        value = {**draw(VALUES), "match": {"name": draw(st.sampled_from(["*", "web*", "db-*"]))}}
        files[f"layers/{name}"] = json.dumps({**value, "serve": draw(st.booleans())}).encode()
    return files


MACHINES = [
    *(Machine(name=name) for name in (*NAMES, "ci/build", "none")),
    Machine(name="unknown", vc_uuid=VC),
    Machine(name="web1", vc_uuid=VC, bios_uuid=BIOS),
    Machine(name="unknown", bios_uuid=BIOS),
]


def answers(driver: FileDriver | StoreDriver) -> Iterator[object]:
    for vm in MACHINES:
        try:
            found = driver.get_instance(vm)
        except InvalidInstanceData:
            yield "invalid"
            continue
        yield found and (
            *(found.metadata, found.network, found.userdata, found.vendordata),
            *(found.documents, found.matched_by),
        )


@settings(max_examples=10)
@given(files=directories(), match=st.sampled_from([None, ["bios-uuid", "vc-uuid"], ["name"]]))
def test_files_rows_and_exported_files_are_served_alike(
    tmp_path_factory: pytest.TempPathFactory, files: dict[str, bytes], match: list[str] | None
) -> None:
    place = tmp_path_factory.mktemp("case")
    source, target = place / "source", place / "target"
    (source / "layers").mkdir(parents=True)
    for name, content in files.items():
        (source / name).write_bytes(content)
    url = f"sqlite:///{place}/vms.sqlite"
    apply(url)
    database = Database(url, None, 1, "")
    if list(rowfiles.faults_of(source)):
        return  # refused, as another test shows
    tablerows.replace(database, *rowfiles.rows_of(source))
    rowfiles.write(target, tablerows.vms_in(database), tablerows.layers_in(database))
    expected = list(answers(FileDriver({"directory": str(source), "match": match})))
    assert list(answers(store_of(url, match=match))) == expected
    if match is None or "bios-uuid" not in match:  # an inventory has VC UUIDs alone, a file both
        exported = list(answers(FileDriver({"directory": str(target), "match": match})))
        assert exported == expected


def test_layers_of_the_store_are_its_own_key(url: str, execute: Execute) -> None:
    execute("INSERT INTO cloudinit_layers VALUES ('10', 'metadata: {}')")
    (record,) = SqlStore({"url": url}).fetch([LAYERS])
    assert (record.key, record.label) == (LAYERS, "10 of cloudinit_layers")

"""Run the examples of the documents, and check what they list."""

from __future__ import annotations

import json
import re
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from tests.process import CHECKOUT, ServerProcess, run
from tests.vm import Vm
from vmw_cloudinit_metadata.testing import check_driver, machine

ROWS = """
CREATE TABLE vms (name TEXT, data TEXT);
CREATE TABLE layers (number INTEGER, data TEXT);
INSERT INTO vms VALUES ('web1', 'metadata: {role: web}');
INSERT INTO layers VALUES (1, 'metadata: {region: eu1}');
"""


def python_of(document: str) -> str:
    """Return the first Python program in a document."""
    found = re.search(r"```python\n(.*?)```", (CHECKOUT / document).read_text(), re.DOTALL)
    assert found
    return found[1]


def test_conversation_of_the_readme_ends_with_three_documents() -> None:
    server = ServerProcess(CHECKOUT / "conf/instances")
    try:
        text = python_of("README.md").replace("13370", str(server.port))
        ended = subprocess.run(
            [sys.executable, "-c", text], capture_output=True, text=True, timeout=20, check=True
        )
    finally:
        server.end()
    metadata, _, rest = ended.stdout.partition("\n")
    assert json.loads(metadata)["instance-id"] == "my-instance"
    assert rest.startswith('{\n "version": 1,\n')
    assert "#cloud-config\ngrowpart:" in rest


def test_driver_of_the_document_serves(start: Callable[..., ServerProcess], tmp_path: Path) -> None:
    (tmp_path / "inventory.py").write_text(python_of("docs/drivers.md"))
    inventory = tmp_path / "inventory.json"
    inventory.write_text('{"web1": {"metadata": {"instance-id": "from-inventory"}}}')
    server = start(
        *("--driver", "inventory:InventoryDriver"),
        driver_opts={"file": str(inventory), "cache_ttl": 0},
        env={"PYTHONPATH": str(tmp_path)},
    )
    assert Vm(server.port).metadata()["instance-id"] == "from-inventory"
    assert Vm(server.port, "unknown").error("METADATA") == "not-found"
    inventory.write_text("{")
    assert Vm(server.port).metadata()["instance-id"] == "from-inventory"  # the last good answer
    other = Vm(server.port, "web2", vc_uuid="00000000-0000-0000-0000-000000000002")
    assert other.error("METADATA") == "failed"


@pytest.fixture
def inventory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[str, Any]]:
    """The names in all examples of docs/drivers.md."""
    first, *others = re.findall(
        r"```python\n(.*?)```", (CHECKOUT / "docs/drivers.md").read_text(), re.DOTALL
    )
    (tmp_path / "inventory.py").write_text(first)
    monkeypatch.syspath_prepend(tmp_path)
    names: dict[str, Any] = {}
    for example in others:
        exec(example, names)
    assert len(others) == 2
    yield names
    del sys.modules["inventory"]


def test_drivers_of_the_document_keep_the_contract(
    inventory: dict[str, Any], tmp_path: Path
) -> None:
    inventory["test_inventory_driver_keeps_the_contract"](tmp_path)
    options = {"file": str(tmp_path / "inventory.json")}
    inventory["check_driver"](
        inventory["WatchedInventory"], options, [machine("web1")], machine("none")
    )


def test_store_of_the_document_serves(start: Callable[..., ServerProcess], tmp_path: Path) -> None:
    (tmp_path / "rows.py").write_text(python_of("docs/stores.md"))
    db = sqlite3.connect(tmp_path / "vms.sqlite")
    db.executescript(ROWS)
    server = start(
        *("--driver", "rows:RowStore"),
        driver_opts={"file": str(tmp_path / "vms.sqlite")},
        env={"PYTHONPATH": str(tmp_path)},
    )
    vm = Vm(server.port)
    assert vm.metadata()["region"] == "eu1"
    assert vm.metadata()["role"] == "web"
    assert Vm(server.port, "unknown").error("METADATA") == "not-found"
    db.execute("UPDATE layers SET data = 'metadata: {region: us1}'")
    db.commit()
    deadline_s = time.monotonic() + 60
    while vm.metadata()["region"] != "us1":
        assert time.monotonic() < deadline_s
    db.close()


def test_store_of_the_document_keeps_the_contract(tmp_path: Path) -> None:
    names: dict[str, Any] = {}
    exec(python_of("docs/stores.md"), names)
    with closing(sqlite3.connect(tmp_path / "vms.sqlite")) as db:
        db.executescript(ROWS)
    options = {"file": str(tmp_path / "vms.sqlite")}
    web1 = machine("web1", vc_uuid="00000000-0000-0000-0000-000000000001")
    check_driver(names["RowStore"], options, [web1], machine("none"))


def test_store_of_the_document_sees_that_its_file_was_replaced(tmp_path: Path) -> None:
    names: dict[str, Any] = {}
    exec(python_of("docs/stores.md"), names)
    for file in "vms.sqlite", "new.sqlite":
        with closing(sqlite3.connect(tmp_path / file)) as db:
            db.executescript(ROWS)
    store = names["RowStore"]({"file": str(tmp_path / "vms.sqlite")})
    before = store.version()
    assert store.version() == before
    (tmp_path / "new.sqlite").replace(tmp_path / "vms.sqlite")
    replaced = store.version()
    assert replaced != before
    with closing(sqlite3.connect(tmp_path / "vms.sqlite")) as db:
        db.execute("DELETE FROM layers")
        db.commit()
    assert store.version() != replaced


def test_test_of_the_store_of_the_document_passes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = (CHECKOUT / "docs/stores.md").read_text()
    programs = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    (tmp_path / "rows.py").write_text(programs[0])
    monkeypatch.syspath_prepend(tmp_path)
    names: dict[str, Any] = {}
    exec(programs[-1], names)
    names["test_row_store_keeps_the_contract"](tmp_path)
    del sys.modules["rows"]


def test_embedded_server_of_the_document_serves(own_instances: Path) -> None:
    text = python_of("docs/embedding.md").replace("/srv/instances", str(own_instances))
    program = subprocess.Popen(
        [sys.executable, "-c", text.replace("sleep(5)", "sleep(1)")],
        stdout=subprocess.PIPE,
        text=True,
    )
    assert program.stdout
    machine = Vm(int(program.stdout.readline().rpartition(":")[2]))
    assert machine.metadata()["instance-id"] == "my-instance"
    assert program.communicate(timeout=20)[0] == "1\n"
    assert program.returncode == 0


def test_instance_file_of_the_document_is_valid(tmp_path: Path) -> None:
    text = (CHECKOUT / "docs/instance-files.md").read_text()
    examples = re.findall(r"```yaml\n(metadata:.*?)```", text, re.DOTALL)
    readme = re.findall(r"```yaml\n(.*?)```", (CHECKOUT / "README.md").read_text(), re.DOTALL)
    key = re.search(r"ssh-ed25519 AAAAC\S+", readme[0])
    assert key
    for number, example in enumerate(examples + readme):
        file = tmp_path / f"vm{number}.yaml"
        file.write_text(example.replace("ssh-ed25519 AAAA…", key[0]))
        file.chmod(0o600)
    ended = run("validate", "--driver-opts", json.dumps({"directory": str(tmp_path)}))
    assert (ended.stdout, ended.returncode) == ("", 0)
    assert len(examples + readme) == 2


def test_example_of_the_layers_document_is_explained_as_it_says(tmp_path: Path) -> None:
    text = (CHECKOUT / "docs/layers.md").read_text()
    (tmp_path / "layers").mkdir()
    examples = re.findall(r"```yaml\n(# (\S+\.yaml).*?)```", text, re.DOTALL)
    examples += [(table, "vms.csv") for table in re.findall(r"```csv\n(.*?)```", text, re.DOTALL)]
    for example, name in examples:
        (tmp_path / name).write_text(example)
        (tmp_path / name).chmod(0o600)
    assert len(examples) == 5
    options = ("--driver-opts", json.dumps({"directory": str(tmp_path)}))
    shown = re.search(r"\$ vmw-cloudinit-metadata ([^\n]*)\n(metadata.*?)```", text, re.DOTALL)
    assert shown
    ended = run(*shown[1].split(), *options)
    assert (ended.stdout, ended.returncode) == (shown[2], 0)
    for vm in ("db1", "db2", "db3", "web-ber-1"):
        assert run("show", vm, *options).returncode == 0
    ended = run("validate", *options)
    assert (ended.stdout, ended.stderr, ended.returncode) == ("", "0 faults, 0 warnings\n", 0)


def test_every_option_of_run_is_in_the_operations_document() -> None:
    options = set(re.findall(r"^ +(--[a-z-]+)", run("run", "--help").stdout, re.MULTILINE))
    assert len(options) > 5
    text = (CHECKOUT / "docs/operations.md").read_text()
    assert {option for option in options if f"`{option}" not in text} <= {"--help", "--version"}


def test_every_option_of_the_guest_commands_is_in_their_document() -> None:
    text = (CHECKOUT / "docs/guest.md").read_text()
    helps = [
        run(*command, "--help").stdout
        for command in (("guest", "install"), ("guest", "check"), ("vm-port", "add"))
    ]
    options = {option for told in helps for option in re.findall(r"(?<![\w-])--[a-z-]+", told)}
    assert len(options) > 15
    assert {option for option in options if f"`{option}" not in text} <= {"--help", "--version"}


def test_port_of_the_guest_document_is_what_pyvmomi_takes() -> None:
    class Recorder:
        spec: Any = None

        def ReconfigVM_Task(self, spec: Any) -> None:  # noqa: N802
            self.spec = spec

    vm = Recorder()
    exec(python_of("docs/guest.md"), {"vm": vm})
    (change,) = vm.spec.deviceChange
    assert (change.operation, change.device.backing.direction) == ("add", "client")
    assert change.device.backing.proxyURI == "telnet://metadata.example.com:13370"


def test_every_test_that_a_promise_names_exists() -> None:
    told = set(re.findall(r"`(test_\w+)`", (CHECKOUT / "docs/security.md").read_text()))
    assert len(told) > 50
    files = (CHECKOUT / "tests").rglob("*.py")
    there = {name for file in files for name in re.findall(r"def (test_\w+)", file.read_text())}
    assert told - there == set()


def test_every_promise_names_a_test() -> None:
    text = (CHECKOUT / "docs/security.md").read_text()
    promised = text.partition("## What is promised")[2].partition("\n## What is not")[0]
    promises = re.split(r"^- \*\*", promised, flags=re.MULTILINE)[1:]
    assert [one[:60] for one in promises if "*Tests:*" not in one] == []


def test_every_module_that_the_architecture_names_exists() -> None:
    text = (CHECKOUT / "docs/architecture.md").read_text()
    named = set(re.findall(r"`((?:\w+/)+\w+\.py|(?:\w+/)+)`", text))
    assert len(named) > 25
    places = (
        CHECKOUT,
        CHECKOUT / "vmw_cloudinit_metadata",
        CHECKOUT / "vmw_cloudinit_metadata/drivers",
    )
    homes = [
        *places,
        *(CHECKOUT / "vmw_cloudinit_metadata" / room for room in ("guest", "instance")),
    ]
    assert {name for name in named if not any((home / name).exists() for home in homes)} == set()

"""Inventories: one file with the own data of many VMs, in YAML, JSON and CSV."""

from __future__ import annotations

import gc
import json
import re
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.process import Constants, ServerProcess, run
from tests.test_file_driver import OTHER, VC, driver_of, instance, told, validated, write
from tests.vm import Vm
from vmw_cloudinit_metadata.drivers.driver import DriverError, UnderWay
from vmw_cloudinit_metadata.drivers.files import inventories
from vmw_cloudinit_metadata.drivers.files.filesource import FileSource
from vmw_cloudinit_metadata.drivers.files.vmnames import vm_names
from vmw_cloudinit_metadata.drivers.filesystem.snapshot import Snapshot
from vmw_cloudinit_metadata.guest.vsphere.names import names
from vmw_cloudinit_metadata.instance.fault import Fault, InvalidInstanceData
from vmw_cloudinit_metadata.instance.model import InstanceData
from vmw_cloudinit_metadata.instance.parsing import csvtable, entries
from vmw_cloudinit_metadata.protocol.vmware import Machine

YAML = f"""\
web1:
  metadata: {{role: web}}
  network: {{address: 10.0.0.5/24}}
{VC.upper()}: {{metadata: {{role: by-uuid}}}}
empty:
broken: {{network: {{addres: x}}}}
my_vm: {{metadata: {{region: us_1}}}}
"""
TABLE = '''\
name,network.address,network.dhcp,metadata.role,metadata.public-keys+
web1,10.0.0.5/24,,web,
"a, b",,true,"x ""y""",
web3,,,,
'''


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    path = tmp_path / "inventory"
    path.mkdir()
    return path


def put(directory: Path, name: str, text: str) -> None:
    path = directory / name
    path.write_text(text)
    path.chmod(0o600)


def served(directory: Path, name: str, vc_uuid: str | None = None) -> InstanceData:
    found = driver_of(directory).get_instance(Machine(name=name, vc_uuid=vc_uuid))
    assert found is not None
    return found


def faults_of(directory: Path, name: str) -> list[str]:
    with pytest.raises(InvalidInstanceData) as raised:
        driver_of(directory).get_instance(Machine(name=name))
    return [told(fault, directory) for fault in raised.value.faults]


@pytest.mark.parametrize("name", ["vms.yaml", "vms.yml"])
def test_entry_of_a_yaml_inventory_is_a_file_of_its_vm(directory: Path, name: str) -> None:
    put(directory, name, YAML)
    found = served(directory, "web1")
    assert found.metadata == {"role": "web"}
    assert found.matched_by == "name"
    assert found.sources == (f"{directory}/{name}:1",)
    assert served(directory, "other", VC).metadata == {"role": "by-uuid"}
    assert served(directory, "empty").metadata == {}
    assert served(directory, "my_vm").metadata == {"region": "us_1"}
    assert driver_of(directory).get_instance(Machine(name="vms")) is None


def test_entry_of_a_json_inventory(directory: Path) -> None:
    put(directory, "vms.json", json.dumps({"web1": {"metadata": {"role": "\U0001f680"}}}))
    assert served(directory, "web1").metadata == {"role": "\U0001f680"}


def test_entries_of_a_table(directory: Path) -> None:
    put(directory, "vms.csv", TABLE)
    found = served(directory, "web1")
    assert found.metadata == {"role": "web"}
    assert found.network
    assert found.sources == (f"{directory}/vms.csv:2",)
    second = served(directory, "a, b")
    assert second.metadata == {"role": 'x "y"'}
    assert second.network
    assert second.network["config"][0]["subnets"] == [{"type": "dhcp"}]
    assert served(directory, "web3").network is None


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("vms.yaml", 'web1: {userdata: {packages+: [a]}, metadata: {x: "\\x24{vm.name}"}}\n'),
        ("vms.json", '{"web1": {"userdata": {"packages\\u002b": ["a"]}, "metadata": '
            '{"x": "\\u0024{vm.name}"}}}'),
        ("vms.csv", "name,userdata.packages+,metadata.x\nweb1,a,${vm.name}\n"),
        ("vms.csv", "\ufeffname;userdata.packages+;metadata.x\r\nweb1;a;${vm.name}\r\n"),
    ],
    ids=["yaml", "json", "csv", "excel"],
)  # fmt: skip
def test_entry_appends_and_substitutes_without_layers(
    directory: Path, name: str, text: str
) -> None:
    put(directory, name, text)
    found = served(directory, "web1")
    assert found.userdata == b"#cloud-config\npackages:\n- a\n"
    assert found.metadata == {"x": "web1"}


def test_uuid_of_an_entry_may_have_braces(directory: Path) -> None:
    put(directory, "vms.csv", f"name,metadata.role\n{{{VC.upper()}}},web\n")
    assert served(directory, "web1", VC).metadata == {"role": "web"}


def test_list_is_no_inventory(directory: Path) -> None:
    put(directory, "vms.yaml", "- {name: a}\n- {name: b}\n")
    (fault,) = faults_of(directory, "a")
    assert fault.startswith("vms.yaml:1:1: found something else, expected a mapping of VM names")


def test_validate_names_a_table_that_is_nearly_one(directory: Path) -> None:
    put(directory, "vms.CSV", "name\nweb1\n")
    (warning,) = validated(directory)
    assert "(vms.CSV)" in warning
    assert "expected vms.csv, or names such as" in warning


def test_appended_text_of_an_entry_is_a_fault(directory: Path) -> None:
    put(directory, "vms.yaml", "web1: {metadata: {r+: x}}\n")
    (fault,) = faults_of(directory, "web1")
    assert fault.startswith("vms.yaml:1:19: metadata.")
    assert "expected a list, which is appended to the list below" in fault


def test_entry_lies_over_layers(directory: Path) -> None:
    (directory / "layers").mkdir()
    write(directory / "layers", all="network: {nameservers: [10.0.0.53], mtu: 9000}\n")
    put(directory, "vms.csv", "name,network.address,network.mtu\nweb1,10.0.0.5/24,1500\n")
    lines = list(driver_of(directory).trace(Machine(name="web1")))
    assert "network.address: 10.0.0.5/24  # vms.csv:2" in lines
    assert "network.mtu: 1500  # vms.csv:2, over 9000 (layers/all.yaml:1)" in lines


# Faults


@pytest.mark.parametrize(
    ("name", "text", "vm", "fault"),
    [
        ("vms.yaml", YAML, "broken", "vms.yaml:6: network.addres: found 'addres', expected 'addre"),
        ("vms.yaml", "a: {}\nb: [\n", "a", "vms.yaml:2:4: found a [ that is not closed"),
        ("vms.yaml", "- a\n", "a", "vms.yaml:1:1: found something else, expected a mapping of VM"),
        ("vms.json", "{", "a", "vms.json:1:2: found invalid JSON"),
        ("vms.yaml", "a: {}\na: {}\n", "a", "vms.yaml:1: found both vms.yaml:1 and vms.yaml:2, e"),
        ("vms.yaml", "a: x\n", "a", "vms.yaml:1: found 1 character, expected a mapping with"),
        ("vms.yaml", "a: {metadata: {a: 1, a: 2}}\n", "a", "vms.yaml:1:22: metadata.<1 character"),
        ("vms.csv", "name,network.address\na,\nb,x\n", "b", "vms.csv:3: network.address: found"),
        ("vms.csv", "name\na,b\n", "a", "vms.csv:2: found 2 cells, expected at most 1"),
        ("vms.csv", "vm\na\n", "a", "vms.csv:1: found a first line without the column name, expe"),
        ("vms.csv", "name,a,a\nb\n", "b", "vms.csv:1: found a duplicate column"),
        ("vms.csv", "name,a,a.b\nb\n", "b", "vms.csv:1: found a column that is below another"),
        ("vms.csv", "name,a..b\nb\n", "b", "vms.csv:1: found column 2 without a key"),
        ("vms.csv", 'name\n"a\n', "a", "vms.csv:2: found invalid CSV (unexpected end of data)"),
        ("vms.csv", "name,metadata.x\na,1\nb\"c\n", "a", None),
    ],
)  # fmt: skip
def test_fault_has_the_line_of_the_entry(
    directory: Path, name: str, text: str, vm: str, fault: str | None
) -> None:
    put(directory, name, text)
    if fault is None:
        assert served(directory, vm)
        return
    assert faults_of(directory, vm)[0].startswith(fault)
    assert any(one.startswith(fault.partition(", e")[0]) for one in validated(directory))


def test_csv_cell_that_is_too_large_is_reported_with_the_limit(directory: Path) -> None:
    put(directory, "vms.csv", f'name,userdata\nweb1,"{"x" * 131_073}"\n')
    [fault] = faults_of(directory, "web1")
    assert fault.startswith("vms.csv:2: found invalid CSV (field larger than")
    assert fault.endswith("expected each quote to be closed, at most 131,072 characters in a cell")


def test_vm_in_two_places_is_a_fault_that_names_both(directory: Path) -> None:
    put(directory, "vms.yaml", "x:\nWEB1:\nweb1:\n")
    put(directory, "vms.csv", "name\nweb1\n")
    (fault,) = faults_of(directory, "web1")
    assert fault == "vms.yaml:3: found both vms.yaml:3 and vms.csv:2, expected one of them"
    write(directory, web1=instance("a"))
    (fault,) = faults_of(directory, "web1")
    places = "web1.yaml, vms.yaml:3 and vms.csv:2"
    assert fault == f"web1.yaml:1: found {places}, expected one of them"
    found = [one for one in validated(directory) if "expected one of them" in one]
    assert found == [fault]


def test_entry_with_a_fault_is_no_fault_of_another(directory: Path) -> None:
    put(directory, "vms.yaml", YAML)
    assert served(directory, "web1")
    (fault,) = validated(directory)
    assert fault.startswith("vms.yaml:6: network.addres")


def test_inventory_that_cannot_be_read_is_no_fault_of_a_vm_with_a_file(directory: Path) -> None:
    put(directory, "vms.yaml", "a: [")
    write(directory, web1=instance("a"))
    assert served(directory, "web1")
    assert faults_of(directory, "web2")


def test_inventory_that_is_repaired_during_a_look_up_is_read_again(
    directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It had no entries at the first look, and has no faults at the second."""
    put(directory, "vms.yaml", "web7: [")
    unread = FileSource.unread

    def repaired(source: FileSource, view: Snapshot) -> Sequence[Fault]:
        put(directory, "vms.yaml", "web7: {metadata: {role: db}}")
        return unread(source, view)

    monkeypatch.setattr(FileSource, "unread", repaired)
    assert served(directory, "web7").metadata["role"] == "db"


def test_link_to_no_inventory_is_a_fault_of_vms_without_a_file(directory: Path) -> None:
    (directory / "vms.csv").symlink_to("nowhere")
    write(directory, web1=instance("a"))
    driver = driver_of(directory)
    assert driver.get_instance(Machine(name="web1", vc_uuid=VC))
    (fault,) = faults_of(directory, "web2")
    assert fault.startswith("vms.csv:1: found a link that leads nowhere")
    put(directory, "nowhere", "name\nweb2\n")
    assert driver.get_instance(Machine(name="web2", vc_uuid=OTHER))


def test_entry_that_no_vm_can_have_is_a_warning(directory: Path) -> None:
    put(directory, "vms.yaml", ".hidden: {}\n")
    (warning,) = validated(directory)
    assert warning.startswith("vms.yaml:1: warning: found a name that no VM is looked up by")


def test_validate_counts_entries_and_compares_them(directory: Path) -> None:
    put(directory, "vms.csv", "name,network.address\na,10.0.0.5/24\nb,10.0.0.5/24\n")
    driver = driver_of(directory)
    (warning,) = driver.validate()
    text = told(warning, directory)
    assert text.startswith(
        "vms.csv:2: warning: network.address: found '10.0.0.5', which vms.csv:3 has too"
    )
    assert driver.files_checked == 2
    assert len(list(driver.validate_named(["b"]))) == 1
    assert driver.files_checked == 1
    list(driver.validate_named(["vms.csv"]))
    assert driver.files_checked == 2
    with pytest.raises(DriverError, match="no file named"):
        list(driver.validate_named(["c"]))


def test_reason_of_an_absent_vm_names_the_inventories(directory: Path) -> None:
    driver = driver_of(directory)
    assert driver.explain(Machine(name="c")) == f"no file named 'c.yaml' in {directory}"
    put(directory, "vms.csv", "name,network.address\na,10.0.0.5/24\n")
    reason = driver_of(directory).explain(Machine(name="c"))
    assert reason == f"no file named 'c.yaml' in {directory}, and no entry in vms.csv"


def test_second_vm_with_a_value_is_told_of_the_first(directory: Path) -> None:
    put(directory, "vms.csv", "name,network.address\na,10.0.0.5/24\nb,10.0.0.5/24\n")
    driver = driver_of(directory)
    assert driver.get_instance(Machine(name="a", vc_uuid=VC))
    found = driver.get_instance(Machine(name="b", vc_uuid=OTHER))
    assert found
    (duplicate,) = found.duplicates
    assert duplicate == f"network.address is '10.0.0.5', which {directory}/vms.csv:2 has too"


def test_vm_names_are_those_of_files_and_entries(directory: Path) -> None:
    put(directory, "vms.csv", "name\na\nb/c\nweb1\n")
    write(directory, web1=instance("a"), common="metadata: {}\n")
    assert vm_names(str(directory), "common.yaml") == ["web1", "a", "b%2fc"]
    assert names(["x"], [str(directory)], "common.yaml") == ["x", "web1", "a", "b%2fc"]
    put(directory, "vms.csv", "x\n")
    with pytest.raises(DriverError, match=r"vms\.csv:1"):
        vm_names(str(directory), None)


# Changes


@pytest.mark.usefixtures("settled")
def test_change_of_an_inventory_is_noticed(directory: Path) -> None:
    put(directory, "vms.csv", "name,metadata.role\na,x\nb,y\n")
    driver, machine = driver_of(directory), Machine(name="a", vc_uuid=VC)
    found = driver.get_instance(machine)
    assert found
    assert driver.still_holds(found.token)
    put(directory, "vms.csv", "name,metadata.role\na,longer\n")
    assert not driver.still_holds(found.token)
    found = driver.get_instance(machine)
    assert found
    assert found.metadata == {"role": "longer"}
    assert driver.get_instance(Machine(name="b")) is None
    (directory / "vms.csv").unlink()
    assert driver.get_instance(machine) is None


@pytest.mark.usefixtures("settled")
def test_entry_that_moves_while_it_is_read_is_found(
    directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(directory, "vms.yaml", YAML)
    parse = inventories.inventory_of

    def parse_and_insert(path: str, content: bytes | None) -> inventories.Inventory:
        put(directory, "vms.yaml", f"new: {{}}\n{YAML}")
        return parse(path, content)

    monkeypatch.setattr(inventories, "inventory_of", parse_and_insert)
    assert served(directory, "web1").metadata["role"] == "web"


def test_last_good_answer_is_served_while_the_inventory_has_a_fault(directory: Path) -> None:
    put(directory, "vms.yaml", YAML)
    driver, machine = driver_of(directory), Machine(name="web1", vc_uuid=OTHER)
    assert driver.get_instance(machine)
    put(directory, "vms.yaml", "web1: [")
    found = driver.get_instance(machine)
    assert found
    assert found.problem.startswith("the last good answer is served, because: ")
    renamed = Machine(name="web2", vc_uuid=OTHER)
    with pytest.raises(InvalidInstanceData):
        driver.get_instance(renamed)


@pytest.mark.usefixtures("settled")
@pytest.mark.parametrize("is_settled", [True, False], ids=["settled", "changed-just-now"])
def test_inventory_is_parsed_once(
    directory: Path, monkeypatch: pytest.MonkeyPatch, constants: Constants, is_settled: bool
) -> None:
    if not is_settled:
        constants(drivers__filesystem__filetoken__UNSETTLED_NS=10**18)
    count = 0
    parse = inventories.inventory_of

    def counted(*arguments: Any) -> Any:
        nonlocal count
        count += 1
        return parse(*arguments)

    monkeypatch.setattr(inventories, "inventory_of", counted)
    put(directory, "vms.yaml", YAML)
    driver = driver_of(directory)
    for _ in range(5):
        assert driver.get_instance(Machine(name="web1"))
    assert count == 1
    table = driver.tables()["inventories"]
    assert table.kept_bytes > len(YAML)
    assert table.shed()
    assert not table.shed()
    assert driver.get_instance(Machine(name="web1"))
    assert count == 2


def test_inventory_is_parsed_by_one_thread_at_a_time(
    directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(directory, "vms.yaml", YAML)
    driver = driver_of(directory)

    def asks_again(*_: Any) -> Any:
        with pytest.raises(UnderWay) as raised:
            driver.get_instance(Machine(name="web1"))
        waited.append(raised.value.work)
        return inventories.Inventory("", {})

    waited: list[Any] = []
    monkeypatch.setattr(inventories, "inventory_of", asks_again)
    driver.get_instance(Machine(name="web1"))
    (work,) = waited
    assert work.is_over


@pytest.mark.parametrize("count", [2000])
def test_time_for_an_inventory_grows_with_its_size(count: int) -> None:
    def seconds(read: Callable[[str], Any], text: str) -> float:
        gc.collect()
        gc.disable()  # what it takes depends on all objects of this process
        began_s = time.thread_time()
        try:
            assert len(read(text)[0]) > 1
            return time.thread_time() - began_s
        finally:
            gc.enable()

    def table(n: int) -> str:
        return "name,metadata.role\n" + "".join(f"vm{i},x\n" for i in range(n))

    def mapping(n: int) -> str:
        return "".join(f"vm{i}: {{metadata: {{role: x}}}}\n" for i in range(n))

    for read, text in ((csvtable.read, table), (entries.read, mapping)):
        small = min(seconds(read, text(count)) for _ in range(3))
        large = min(seconds(read, text(4 * count)) for _ in range(3))
        assert large < 8 * small


@given(st.text(max_size=60) | st.text(alphabet='name,."\n\r ', max_size=60))
def test_any_text_is_read_without_an_error(text: str) -> None:
    for read in (csvtable.read, entries.read):
        found, faults = read(text)
        assert not (found and faults) or read is entries.read
    csvtable.read(f"name,metadata.a\n{text}")


def test_server_serves_an_inventory(directory: Path, start: Callable[..., ServerProcess]) -> None:
    put(directory, "vms.csv", "name,metadata.role\nweb1,web\nweb2,db\n")
    server = start(driver_opts={"directory": str(directory)})
    one = Vm(server.port, "web1", vc_uuid="1" * 32)
    two = Vm(server.port, "web2", vc_uuid="2" * 32)
    assert (one.metadata()["role"], two.metadata()["role"]) == ("web", "db")
    put(directory, "vms.csv", "name,metadata.role\nweb1,new\n")
    time.sleep(0.3)
    assert one.metadata()["role"] == "new"
    assert two.error("METADATA") == "not-found"
    assert "other connected VMs get too" not in server.log
    server.wait_for(rf"from {re.escape(str(directory))}/vms\.csv:2")


def test_show_names_the_line_of_the_entry(directory: Path) -> None:
    put(directory, "vms.yaml", YAML)
    shown = run("show", "web1", "--driver-opts", json.dumps({"directory": str(directory)}))
    assert f"from {directory}/vms.yaml:1\n" in shown.stderr


def test_client_plays_the_vms_of_an_inventory(
    directory: Path, start: Callable[..., ServerProcess]
) -> None:
    put(directory, "vms.csv", "name,metadata.role\nweb1,web\nweb2,db\n")
    (directory / "layers").mkdir()
    match = "match: {query.profile: web, direction: client, peer: 127.0.0.0/8}"
    write(directory / "layers", web=f'{match}\nuserdata: "x ${{vm.name}}"\n')
    server = start(driver_opts={"directory": str(directory)})
    played = run(
        *("client", "storm", "--directory", str(directory), "--uri", "my-metadata?profile=web"),
        *("-n", "2", "-c", "1", "--server", f"127.0.0.1:{server.port}"),
    )
    assert played.returncode == 0, played.stdout + played.stderr

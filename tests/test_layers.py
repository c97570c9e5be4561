"""Layers under the VMs' own data, in real directories: which count, faults, and changes."""

from __future__ import annotations

import json
import os
import shutil
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import reduce
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from tests.process import Constants, ServerProcess, run
from tests.test_file_driver import BROKEN, VC, driver_of, id_of, told, validated, write
from tests.vm import LIMIT_S, Vm
from vmw_cloudinit_metadata.drivers.answers.instances import Instances
from vmw_cloudinit_metadata.drivers.content import layer
from vmw_cloudinit_metadata.drivers.content.layer import FileLayer
from vmw_cloudinit_metadata.drivers.content.owndata import OwnData
from vmw_cloudinit_metadata.drivers.driver import DriverError
from vmw_cloudinit_metadata.drivers.drivererror import ChangedMeanwhile
from vmw_cloudinit_metadata.drivers.file import FileDriver
from vmw_cloudinit_metadata.drivers.files import layerfiles
from vmw_cloudinit_metadata.drivers.filesystem.directory import Directory
from vmw_cloudinit_metadata.drivers.filesystem.snapshot import Snapshot
from vmw_cloudinit_metadata.drivers.layers.bases import Base
from vmw_cloudinit_metadata.drivers.layers.explained import explained
from vmw_cloudinit_metadata.drivers.layers.sharedlayer import SharedLayer
from vmw_cloudinit_metadata.drivers.layers.stack import LayerStack
from vmw_cloudinit_metadata.instance import advice, nocloud
from vmw_cloudinit_metadata.instance.fault import InvalidInstanceData
from vmw_cloudinit_metadata.instance.layering import patch
from vmw_cloudinit_metadata.instance.layering.substitution import sources_of
from vmw_cloudinit_metadata.instance.model import InstanceData
from vmw_cloudinit_metadata.protocol.vmware import Machine

ALL = """\
metadata: {region: eu1, role: base}
network: {nameservers: [10.0.0.53]}
userdata: {packages: [vim]}
"""
WEB = """\
match: {name: "web-{site}-*", query.profile: web}
serve: true
metadata: {site: "${match.site}", role: }
userdata: {packages+: [nginx]}
documents: {role: "web on ${vm.name}"}
"""
OWN = "network: {address: 10.0.0.5/24}\n"
BER1 = Machine(name="web-ber-1", vc_uuid=VC, service_uri="my-metadata?profile=web")
BER2 = Machine(name="web-ber-2", vc_uuid=VC, service_uri="my-metadata?profile=web")
DB1 = Machine(name="db1", vc_uuid=VC)


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    """The example of the document."""
    path = tmp_path / "layered"
    (path / "layers").mkdir(parents=True)
    layers(path, **{"10-all": ALL, "50-web": WEB})
    write(path, **{"web-ber-1": OWN})
    return path


def layers(directory: Path, **files: str) -> None:
    write(directory / "layers", **files)


def served(directory: Path, machine: Machine = BER1, **options: Any) -> InstanceData:
    found = driver_of(directory, **options).get_instance(machine)
    assert found is not None
    return found


def faults_of(directory: Path, machine: Machine = BER1, **options: Any) -> list[str]:
    with pytest.raises(InvalidInstanceData) as raised:
        driver_of(directory, **options).get_instance(machine)
    return [told(fault, directory) for fault in raised.value.faults]


def test_own_file_lies_over_the_layers_in_their_order(directory: Path) -> None:
    found = served(directory)
    assert found.metadata == {"region": "eu1", "site": "ber"}
    assert found.userdata == b"#cloud-config\npackages:\n- vim\n- nginx\n"
    assert found.documents == {"ROLE": b"web on web-ber-1"}
    assert found.network
    (device,) = found.network["config"]
    assert device["subnets"][0]["dns_nameservers"] == ["10.0.0.53"]
    names = ["web-ber-1.yaml", "layers/50-web.yaml", "layers/10-all.yaml"]
    assert found.sources == tuple(str(directory / name) for name in names)


def test_defaults_lie_below_all_layers(directory: Path) -> None:
    write(directory, common="metadata: {region: us1, rack: 1}\n")
    found = served(directory, defaults="common.yaml")
    assert found.metadata == {"region": "eu1", "rack": 1, "site": "ber"}
    assert found.sources[-1] == str(directory / "common.yaml")


@pytest.mark.usefixtures("settled")
def test_change_of_the_defaults_below_layers_is_served(directory: Path) -> None:
    write(directory, common="metadata: {rack: 1}\n")
    driver = driver_of(directory, defaults="common.yaml")
    for rack in (1, 12, 123):
        write(directory, common=f"metadata: {{rack: {rack}}}\n")
        found = driver.get_instance(BER1)
        assert found
        assert found.metadata["rack"] == rack


def test_vm_without_a_file_is_served_by_a_layer_that_serves(directory: Path) -> None:
    found = served(directory, BER2)
    assert found.matched_by == "layer"
    assert found.metadata["site"] == "ber"
    assert found.network is None
    assert found.sources[0] == str(directory / "layers/50-web.yaml")


@pytest.mark.parametrize(
    "machine",
    [DB1, Machine(name="web-ber-2"), Machine(vc_uuid=VC, service_uri="my-metadata?profile=web")],
    ids=["no-match", "without-query", "without-name"],
)
def test_vm_that_no_file_and_no_serving_layer_knows_gets_nothing(
    directory: Path, machine: Machine
) -> None:
    driver = driver_of(directory)
    assert driver.get_instance(machine) is None
    assert "no layer with serve: true matches it" in driver.explain(machine)


def test_match_of_the_own_file_is_a_gate(directory: Path) -> None:
    write(directory, **{"web-ber-1": "match: {name: web-ber-2}\n" + OWN})
    driver = driver_of(directory)
    assert driver.get_instance(BER1) is None
    assert "has a different name" in driver.explain(BER1)


def test_network_of_layers_alone_without_an_address_is_none_and_a_warning(directory: Path) -> None:
    write(directory, db1="metadata: {}\n")
    found = served(directory, DB1)
    assert nocloud.render(found, DB1)["NETWORKDATA"] == b""
    warnings = [str(warning) for warning in advice.warnings_of(found)]
    assert [w for w in warnings if w.startswith("warning: network: found no address")]
    (warning,) = validated(directory)
    assert warning.startswith("layers/10-all.yaml:2: warning: network: found no address")


def test_network_of_the_own_file_without_an_address_is_a_fault(directory: Path) -> None:
    write(directory, **{"web-ber-1": "network: {mtu: 9000}\n"})
    (fault,) = faults_of(directory)
    assert fault.startswith("web-ber-1.yaml:1: network.address: found nothing")


# Faults


@pytest.mark.parametrize(
    ("files", "start"),
    [
        pytest.param({"10-all": "metadata: {tags: [a]}\n", "60-x": "metadata: {tags: {a: b}}\n"},
            "layers/60-x.yaml:1: metadata.tags: found a mapping over a list in {}/layers/1",
            id="mapping-over-list"),
        pytest.param({"60-x": "\nmetadata: {region+: [a]}\n"},
            "layers/60-x.yaml:2:12: metadata.<7 characters>: found a list to append to 3 "
            "characters in {}/layers/10-all.yaml:1", id="appended-to-text"),
        pytest.param({"60-x": "metadat: {}\n"},
            "layers/60-x.yaml:1: metadat: found 'metadat', expected 'metadata'", id="unknown"),
        pytest.param({"60-x": "match: {nam: a}\n"},
            "layers/60-x.yaml:1: match.nam: found 'nam', expected 'name'", id="unknown-in-match"),
        pytest.param({"60-x": "serve: yes please\n"},
            "layers/60-x.yaml:1: serve: found 'yes please', expected true or false",
            id="serve"),
        pytest.param({"60-x": "userdata: {a: '${metadata.none}'}\n"},
            "layers/60-x.yaml:1:12: userdata: found ${{metadata.…}}, expected the key of a string",
            id="reference"),
        pytest.param({"60-x": "network: {address: 10.0.0.1}\n", "web-ber-1": ""}, "", id="none"),
        pytest.param({"60-x": "match: {name: '{site}-*'}\n"},
            "layers/60-x.yaml:1: match.name: found a {{word}} that takes something else than in ",
            id="word-in-two-layers"),
        pytest.param({"60-x": BROKEN}, "layers/60-x.yaml:1:11: metadata: found a {{",
            id="syntax"),
        pytest.param({"60-x": "metadata: {}\nuserdata-file: none\n"},
            "layers/60-x.yaml:2: userdata-file: found 'none', which does not exist",
            id="userdata-file"),
    ],
)  # fmt: skip
def test_fault_of_a_layer_names_its_place(
    directory: Path, files: dict[str, str], start: str
) -> None:
    own = files.pop("web-ber-1", None)
    layers(directory, **files)
    if own is not None:
        assert served(directory)
        return
    (fault, *_) = faults_of(directory)
    assert fault.startswith(start.format(directory))


def test_layers_of_one_name_are_a_fault_that_names_both(directory: Path) -> None:
    (directory / "layers/50-web.yml").write_text("metadata: {}\n")
    (fault,) = faults_of(directory)
    assert fault == (
        "layers/50-web.yaml:1: found both 50-web.yaml and 50-web.yml, expected one of them"
    )
    assert any(fault in one for one in validated(directory))


def test_more_layers_than_the_limit_are_a_fault(directory: Path) -> None:
    layers(directory, **{f"l{number}": "metadata: {}\n" for number in range(100)})
    (fault,) = faults_of(directory)
    assert fault == "layers:1: found 102 files, expected at most 100"


def test_layer_that_a_link_leads_out_to_is_a_fault(directory: Path) -> None:
    (directory.parent / "secret.yaml").write_text("metadata: {secret: s}\n")
    (directory / "layers/60-x.yaml").symlink_to("../../secret.yaml")
    (fault,) = faults_of(directory)
    assert fault.startswith("layers/60-x.yaml:1: found a link that leads out of the directory")
    assert served(directory, links_outside=True).metadata["secret"] == "s"


def test_link_to_no_layers_is_no_absence(directory: Path) -> None:
    (directory / "layers").rename(directory / "others")
    (directory / "layers").symlink_to("nowhere")
    driver = driver_of(directory)
    for ask in (driver.check, lambda: driver.get_instance(BER1)):
        with pytest.raises(DriverError, match="layers: cannot be read: No such file"):
            ask()
    (directory / "nowhere").symlink_to("others")
    assert driver.get_instance(BER1)


def test_layer_that_is_removed_while_others_are_read_is_absent(
    directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    layers(directory, **{"60-x": "metadata: {gone: true}\n"})
    read = layerfiles.layer_of

    def read_and_remove(found: FileLayer) -> SharedLayer:
        (directory / "layers/60-x.yaml").unlink(missing_ok=True)
        return read(found)

    monkeypatch.setattr(layerfiles, "layer_of", read_and_remove)
    assert "gone" not in served(directory).metadata


def test_directory_that_is_replaced_while_it_is_read_is_read_again(
    directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.rmtree(directory / "layers")
    write(directory, **{"web-ber-1": "metadata: {}\n"})
    old = directory.rename(directory.with_name("old"))
    new = Path(shutil.copytree(old, directory.with_name("new")))
    directory.symlink_to(old.name)
    driver, snapshot = driver_of(directory), Directory.snapshot

    def snapshot_and_replace(place: Directory) -> Snapshot:
        opened = snapshot(place)
        if directory.readlink() == Path(old.name):
            directory.unlink()
            directory.symlink_to(new.name)
            (old / "web-ber-1.yaml").unlink()
        return opened

    monkeypatch.setattr(Directory, "snapshot", snapshot_and_replace)
    assert driver.get_instance(BER1)


def test_directory_of_layers_that_is_away_for_a_moment_is_looked_at_again(
    directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The directory to which a link leads may be removed between two steps on the way there."""
    names, aside = Snapshot.names, directory / ".aside"

    def names_while_away(view: Snapshot, path: str) -> list[str]:
        monkeypatch.setattr(Snapshot, "names", names)
        (directory / "layers").rename(aside)
        try:
            return view.names(path)
        finally:
            aside.rename(directory / "layers")

    monkeypatch.setattr(Snapshot, "names", names_while_away)
    assert served(directory).metadata
    assert Snapshot.names is names


@pytest.mark.parametrize("text", [None, "metadata: {role: other}\n"])
def test_layer_that_no_longer_serves_when_it_is_read_serves_no_vm(
    directory: Path, monkeypatch: pytest.MonkeyPatch, text: str | None
) -> None:
    layers(directory, **{"90-new": "serve: true\nmatch: {name: new}\nmetadata: {role: new}\n"})
    of_layers, path = Instances.of_layers, directory / "layers/90-new.yaml"

    def of_layers_then_changed(
        instances: Instances[Any], machine: Machine, view: Any
    ) -> OwnData | None:
        monkeypatch.setattr(Instances, "of_layers", of_layers)
        found = instances.of_layers(machine, view)
        path.unlink()
        if text:
            path.write_text(text)
        return found

    driver = driver_of(directory)
    monkeypatch.setattr(Instances, "of_layers", of_layers_then_changed)
    assert driver.get_instance(Machine(name="new", vc_uuid=VC)) is None


def test_layer_that_always_vanishes_before_it_is_read_is_an_error(
    directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def vanish(_snapshot: Snapshot, path: str, _limit: int) -> bytes:
        raise ChangedMeanwhile(f"{path}: cannot be read")

    monkeypatch.setattr(Snapshot, "read", vanish)
    with pytest.raises(DriverError, match=r"10-all\.yaml: cannot be read"):
        served(directory)


def test_empty_layer_is_a_fault(directory: Path) -> None:
    layers(directory, **{"60-x": "# metadata: {}\n"})
    (fault,) = faults_of(directory)
    assert fault == "layers/60-x.yaml:1: found nothing, expected a mapping"


def test_name_of_a_vm_that_is_substituted_has_few_characters(directory: Path) -> None:
    machine = Machine(name="web-ber-a b", vc_uuid=VC, service_uri="my-metadata?profile=web")
    (fault,) = faults_of(directory, machine)
    assert "found ${vm.…}, expected a value of this VM with 1 to 64 of the characters" in fault
    assert served(directory).metadata  # others are served


@pytest.mark.usefixtures("settled")
def test_last_good_answer_is_served_while_a_layer_has_a_fault(directory: Path) -> None:
    driver = driver_of(directory)
    good = driver.get_instance(BER1)
    assert good
    assert driver.get_instance(BER2)
    layers(directory, **{"10-all": BROKEN})
    for machine in (BER2, BER2):
        found = driver.get_instance(machine)
        assert found
        assert found.problem.startswith("the last good answer is served, because: ")
        assert found.metadata == good.metadata
    with pytest.raises(InvalidInstanceData):
        driver.get_instance(Machine(name="web-muc-1", vc_uuid=VC, service_uri=BER1.service_uri))


# validate


def test_validate_finds_nothing_in_the_example(directory: Path) -> None:
    assert validated(directory) == []


@pytest.mark.parametrize(
    ("text", "warning"),
    [
        (
            "match: {name: no-*}\n",
            "layers/60-x.yaml:1: warning: match: found a layer that counts",
        ),
        (f"match: {{name: {VC}}}\nserve: true\n", "layers/60-x.yaml:1: warning: match.name: found"),
    ],
    ids=["no-file", "never"],
)
def test_validate_warns_of_a_layer_that_counts_for_no_vm(
    directory: Path, text: str, warning: str
) -> None:
    layers(directory, **{"60-x": text})
    (found,) = validated(directory)
    assert found.startswith(warning)


@pytest.mark.parametrize(
    ("text", "keys"),
    [
        ("match: {query.a: b}\nserve: true\nnetwork: {address: 10.0.0.9/24}\n",
            ["network.address"]),
        ("serve: true\nmetadata: {instance-id: i, local-hostname: web}\n",
            ["metadata.instance-id", "metadata.local-hostname"]),
        ("match: {name: 'web-{n}'}\nserve: true\nmetadata: {instance-id: 'i${match.n}'}\n"
            "network: {address: '10.0.0.${match.n}/24'}\n", []),
        ("match: {name: web-ber-1}\nnetwork: {address: 10.0.0.9/24}\n", []),
        (f"match: {{vc-uuid: {VC}}}\nserve: true\nmetadata: {{instance-id: i}}\n", []),
    ],
    ids=["address", "names", "of-each-vm", "one-name", "one-uuid"],
)  # fmt: skip
def test_validate_warns_of_values_that_a_layer_gives_to_all_its_vms(
    directory: Path, text: str, keys: list[str]
) -> None:
    layers(directory, **{"60-x": text})
    found = [one for one in validated(directory) if "which each VM gets" in one]
    assert [one.split(": ")[2] for one in found] == keys


def test_validate_reports_the_faults_of_a_layer_that_no_file_uses(directory: Path) -> None:
    layers(directory, **{"60-x": "match: {query.a: b}\nnetwork: {address: x}\n"})
    (fault,) = validated(directory)
    assert fault.startswith("layers/60-x.yaml:2: network.address: found 'x'")


def test_validate_takes_a_layer_by_its_name(directory: Path) -> None:
    faults = driver_of(directory).validate_named([str(directory / "layers/10-all.yaml")])
    assert list(faults) == []


def test_validate_names_tables_among_the_layers(directory: Path) -> None:
    for name in ("vms.csv", "20-web.CSV"):
        (directory / "layers" / name).write_text("name,metadata.a\nweb1,x\n")
    (warning,) = [text for text in validated(directory) if "that no VM gets" in text]
    assert "found 2 files that no VM gets (20-web.CSV, vms.csv)" in warning
    assert f"vms.csv belongs in {directory}" in warning


@pytest.mark.parametrize("defaults", ["layers/10-all.yaml", "{0}/layers/10-all.yaml", "link.yaml"])
def test_defaults_that_are_a_layer_are_refused(directory: Path, defaults: str) -> None:
    (directory / "link.yaml").symlink_to("layers/10-all.yaml")
    with pytest.raises(DriverError, match="is a layer, which counts already: remove this option"):
        driver_of(directory, defaults=defaults.format(directory))


def test_validate_names_a_layer_that_is_nearly_one(directory: Path) -> None:
    (directory / "layers/60-x.YAML").write_text("metadata: {}\n")
    (warning,) = validated(directory)
    assert "found 1 file that no VM gets (60-x.YAML)" in warning


def test_notes_do_not_call_the_layers_ignored(directory: Path) -> None:
    assert list(driver_of(directory).notes()) == []


# Changes

CHANGES: dict[str, Callable[[Path], Any]] = {
    "layer": lambda d: layers(d, **{"10-all": "metadata: {region: other}\n"}),
    "new-layer": lambda d: layers(d, **{"90-x": "metadata: {region: new}\n"}),
    "layer-gone": lambda d: (d / "layers/50-web.yaml").unlink(),
    "renamed": lambda d: (d / "layers/10-all.yaml").rename(d / "layers/60-all.yaml"),
    "own-file": lambda d: write(d, **{"web-ber-1": "metadata: {region: own}\n"}),
    "inventory": lambda d: (d / "vms.csv").write_text("name,metadata.x\nweb-ber-1,y\n"),
    "directory-gone": lambda d: (d / "layers").rename(d / "other"),
}


@pytest.mark.usefixtures("settled")
@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_change_is_noticed(directory: Path, change: Callable[[Path], Any]) -> None:
    driver = driver_of(directory)
    found = driver.get_instance(BER1)
    assert found
    assert driver.still_holds(found.token)
    change(directory)
    assert not driver.still_holds(found.token)


@pytest.mark.usefixtures("settled")
def test_answer_without_layers_ends_when_there_are_some(directory: Path) -> None:
    (directory / "layers").rename(directory.parent / "layers")
    write(directory, **{"web-ber-1": "metadata: {}\n" + OWN})
    driver = driver_of(directory)
    found = driver.get_instance(BER1)
    assert found
    assert driver.still_holds(found.token)
    (directory.parent / "layers").rename(directory / "layers")
    assert not driver.still_holds(found.token)
    assert served(directory).metadata["region"] == "eu1"


@pytest.mark.usefixtures("settled")
def test_layers_are_parsed_once_for_all_vms(
    directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    parsed: list[str] = []
    parse = layer.parse

    def counted(path: str, *rest: Any) -> Any:
        parsed.append(os.path.basename(path))
        return parse(path, *rest)

    monkeypatch.setattr(layer, "parse", counted)
    driver = driver_of(directory)
    for number in range(20):
        machine = Machine(name=f"web-ber-{number}", vc_uuid=VC, service_uri=BER1.service_uri)
        assert driver.get_instance(machine)
    assert parsed.count("10-all.yaml") == 1
    layers(directory, **{"50-web": WEB + "vendordata: x\n"})
    assert driver.get_instance(BER2)
    assert (parsed.count("10-all.yaml"), parsed.count("50-web.yaml")) == (1, 2)


def test_layers_that_changed_just_now_are_not_parsed_again(
    directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    driver = driver_of(directory)
    assert driver.get_instance(BER1)
    monkeypatch.delattr(layer, "of_seed")
    with pytest.raises(NameError):
        driver.get_instance(BER1)  # the own file is
    assert driver.get_instance(BER2)


@pytest.mark.parametrize("is_settled", [True, False], ids=["kept", "read-each-time"])
def test_no_answer_has_an_older_layer_after_a_newer_one(
    directory: Path, constants: Constants, is_settled: bool
) -> None:
    if is_settled:
        constants(drivers__filesystem__filetoken__UNSETTLED_NS=-(10**18))
    driver = driver_of(directory)
    written, failures = 0, list[str]()
    ended = threading.Event()

    def ask(machine: Machine) -> int:
        answers = 0
        while not ended.is_set():
            least = written
            try:
                found = driver.get_instance(machine)
            except ChangedMeanwhile:
                continue  # the layer was replaced during each attempt
            answers += 1
            if found is None or found.metadata["n"] < least:
                failures.append(f"{found and found.metadata} after {least}")
        return answers

    layers(directory, **{"60-n": "metadata: {n: 0}\n"})
    with ThreadPoolExecutor() as pool:
        asking = [pool.submit(ask, machine) for machine in (BER1, BER2)]
        try:
            for number in range(1, 100):
                new = directory / "new"
                new.write_text(f"metadata: {{n: {number}}}\n")
                new.chmod(0o600)
                new.rename(directory / "layers/60-n.yaml")
                written = number
                time.sleep(0.003)
        finally:
            ended.set()
        assert all(each.result(60) for each in asking)
    assert failures == []


# Explanation


def test_explain_prints_a_line_for_each_value(directory: Path) -> None:
    write(directory, **{"web-ber-1": OWN + "metadata: {region: own}\n"})
    options = ("--driver-opts", json.dumps({"directory": str(directory)}))
    shown = run("show", "web-ber-1", "--query", "profile=web", "--explain", *options)
    assert shown.returncode == 0, shown.stderr
    assert (
        shown.stdout
        == """\
metadata.region: own  # web-ber-1.yaml:2, over eu1 (layers/10-all.yaml:1)
metadata.site: ber  # layers/50-web.yaml:3
network.nameservers: ["10.0.0.53"]  # layers/10-all.yaml:2
network.address: 10.0.0.5/24  # web-ber-1.yaml:1
userdata.packages: ["vim","nginx"]  # layers/10-all.yaml:3 and layers/50-web.yaml:4
documents.role: web on web-ber-1  # layers/50-web.yaml:5
"""
    )


def test_show_has_what_the_conditions_of_layers_ask(directory: Path) -> None:
    match = "match: {peer: 10.0.0.0/8, direction: server, query.a: '1'}\nmetadata: {x: y}\n"
    layers(directory, **{"60-x": match})
    options = ("--driver-opts", json.dumps({"directory": str(directory)}))
    asked = ("--query", "a=1", "--peer", "10.1.1.1", "--direction", "server")
    shown = run("show", "web-ber-1", *asked, "--explain", *options)
    assert "metadata.x: y  # layers/60-x.yaml:2\n" in shown.stdout
    shown = run("show", "web-ber-1", "--query", "a", *options)
    assert shown.returncode == 2
    assert "--query: found 'a', expected KEY=VALUE" in shown.stderr


def test_explanation_has_the_leaves_of_the_document(directory: Path) -> None:
    layers(directory, **{"60-x": "userdata-file: u\nmetadata: {a: {}, b: {c: {d: 1}}}\n"})
    (directory / "u").write_text("#cloud-config\n")
    lines = list(driver_of(directory).trace(BER1))
    keys = [line.partition(": ")[0] for line in lines]
    assert keys == [
        *("metadata.region", "metadata.site", "metadata.a", "metadata.b.c.d"),
        *("network.nameservers", "network.address", "documents.role", "userdata-file"),
    ]
    assert "userdata-file: u  # layers/60-x.yaml:1, over a mapping" in lines[-1]


METADATA = st.recursive(
    st.sampled_from([None, "a", 1, True, "${vm.name}", [], ["a"]]),
    lambda below: st.dictionaries(st.sampled_from("abc"), below, max_size=3),
    max_leaves=6,
).filter(lambda value: isinstance(value, dict))


@given(st.lists(st.fixed_dictionaries({"metadata": METADATA, "userdata": METADATA}), min_size=1))
def test_leaves_of_the_explanation_are_those_of_the_document(files: list[Any]) -> None:
    parsed = [layer.parse(f"/d/{n}", json.dumps(file).encode()) for n, file in enumerate(files)]
    stack = LayerStack(parsed[0], Base(parsed[1:]), {})
    mapping, faults, *_ = stack.mapping(lambda: sources_of(BER1, {}))
    if faults:
        return
    found = InstanceData.from_mapping(mapping)
    document = {"metadata": found.metadata, "userdata": yaml.safe_load(found.userdata) or {}}
    lines = [line.partition("  # ")[0] for line in explained(stack, BER1, "/d")]
    expected = {
        f"{'.'.join(key)}: {value if isinstance(value, str) else json.dumps(value)}"
        for key in patch.leaves(document)
        for value in [reduce(lambda below, part: below[part], key, document)]
    }
    nothing = {"metadata: {}", "userdata: {}"}
    assert {line.replace(": nothing", ": null") for line in lines} - nothing == expected - nothing


# With a real server


def test_server_serves_layers_and_their_changes(
    directory: Path, start: Callable[..., ServerProcess]
) -> None:
    server = start(driver_opts={"directory": str(directory)})
    uri = "my-metadata?profile=web"
    vm = Vm(server.port, "web-ber-1", uri=uri)
    assert vm.metadata()["site"] == "ber"
    assert vm.document("ROLE") == b"web on web-ber-1"
    fresh = Vm(server.port, "web-ber-7", vc_uuid="2" * 32, uri=uri)
    assert fresh.metadata()["region"] == "eu1"
    assert fresh.document("NETWORKDATA") == b""
    assert Vm(server.port, "db1", vc_uuid="3" * 32).error("METADATA") == "not-found"
    time.sleep(2.2)  # what changed just now is looked at each time
    for region in ("eu2", "eu3", "eu4"):
        new = directory / "layers/.new"
        new.write_text(ALL.replace("eu1", region))
        new.rename(directory / "layers/10-all.yaml")
        time.sleep(0.25)
        assert (vm.metadata()["region"], fresh.metadata()["region"]) == (region, region)
    layers(directory, **{"90-last": "metadata: {region: eu9}\n"})
    time.sleep(0.25)
    assert vm.metadata()["region"] == "eu9"
    assert "other connected VMs get too" not in server.log


def test_watch_counts_changes_of_layers(directory: Path) -> None:
    driver = FileDriver({"directory": str(directory)})
    driver.watch(lambda _: None)
    try:
        end_s = time.monotonic() + LIMIT_S
        while time.monotonic() < end_s:
            found = driver.get_instance(BER1)
            if found and found.token and driver.still_holds(found.token):
                break
            time.sleep(0.1)
        assert found
        assert held_soon(driver, found.token)
        layers(directory, **{"10-all": "metadata: {region: other}\n"})
        time.sleep(0.3)
        assert not held_soon(driver, found.token, limit_s=0.3)
        assert id_of(found) is None
    finally:
        driver.close()


def held_soon(driver: FileDriver, token: Any, limit_s: float = LIMIT_S) -> bool:
    """Whether notifications come to say that it holds, within a limit."""
    end_s = time.monotonic() + limit_s
    while time.monotonic() < end_s:
        if driver.held_at(token, time.monotonic() - 0.15):
            return True
        time.sleep(0.02)
    return False


@pytest.mark.parametrize(
    ("text", "key"),
    [
        ("match: {peer: 10.0.0.0/33}\nmetadata: {a: b}\n", ": match.peer: found"),
        ("match: {direction: up}\nmetadata: {a: b}\n", ": match.direction: found"),
        ("serve: perhaps\nmetadata: {a: b}\n", ": serve: found"),
    ],
)
def test_fault_of_a_layer_names_its_keys(directory: Path, text: str, key: str) -> None:
    layers(directory, a=text)
    assert any(key in line for line in validated(directory))

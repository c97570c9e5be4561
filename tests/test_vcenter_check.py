"""The cross-check, without a vCenter: what is decided, and how what vCenter says travels."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import pytest
import ujson
from hypothesis import given
from hypothesis import strategies as st
from pyVmomi import vim, vmodl

from tests.commandline import in_process
from tests.test_settings import refused
from vmw_cloudinit_metadata.guest.vsphere.inventory import object_change
from vmw_cloudinit_metadata.instance.network import networkconfig
from vmw_cloudinit_metadata.instance.network.cardorder import with_cards
from vmw_cloudinit_metadata.instance.network.shortform import Interface
from vmw_cloudinit_metadata.process.vcenter import vcenterrows
from vmw_cloudinit_metadata.process.vcenter.inventoryrows import (
    InventoryRows,
    ObjectChange,
    differences,
)
from vmw_cloudinit_metadata.process.vcenter.vcentertable import VcenterState, VcenterTable
from vmw_cloudinit_metadata.protocol import vmware
from vmw_cloudinit_metadata.protocol.identity import Identity
from vmw_cloudinit_metadata.protocol.identitytoken import Proof, token
from vmw_cloudinit_metadata.protocol.vcentercheck import (
    VcenterVm,
    VmVerdict,
    check,
    uri_digest,
)
from vmw_cloudinit_metadata.protocol.vmware import Machine, Suboption
from vmw_cloudinit_metadata.serving.crosscheck import CrossCheck, LineCheck, VcenterCheck
from vmw_cloudinit_metadata.serving.ration import lasting_s

UUID = "50123456-789a-bcde-f012-3456789abc01"
OTHER = "50123456-789a-bcde-f012-3456789abc02"
MACHINE = Machine(
    name="any", vc_uuid=UUID, service_uri="my-metadata?p=1&t=…", peer_address="192.0.2.7"
)
VM = VcenterVm(
    name="web1",
    power="poweredOn",
    host="esx1",
    addresses=("10.0.0.7", "192.0.2.7"),
    folder="DC/vm",
    ports=(uri_digest("other"), uri_digest("my-metadata?p=1&t=1.MFRGGZDFMZTWQ2LKNNWG23TP")),
)
CASES: dict[str, tuple[Machine, VcenterVm | None, VmVerdict]] = {
    "all is right": (MACHINE, VM, VmVerdict.CONFIRMED),
    "another name counts for nothing": (MACHINE, replace(VM, name="x"), VmVerdict.CONFIRMED),
    "no VC UUID": (replace(MACHINE, vc_uuid=None), VM, VmVerdict.NO_UUID),
    "no VM": (MACHINE, None, VmVerdict.NO_VM),
    "powered off": (MACHINE, replace(VM, power="poweredOff"), VmVerdict.NOT_RUNNING),
    "suspended": (MACHINE, replace(VM, power="suspended"), VmVerdict.NOT_RUNNING),
    "another host": (replace(MACHINE, peer_address="192.0.2.8"), VM, VmVerdict.OTHER_HOST),
    "no address": (replace(MACHINE, peer_address=""), VM, VmVerdict.OTHER_HOST),
    "a host without addresses": (MACHINE, replace(VM, addresses=()), VmVerdict.OTHER_HOST),
    "a prefix of its address": (
        replace(MACHINE, peer_address="192.0.2.70"),
        VM,
        VmVerdict.OTHER_HOST,
    ),
    "another service URI": (
        replace(MACHINE, service_uri="my-metadata"),
        VM,
        VmVerdict.OTHER_URI,
    ),
    "no serial port": (MACHINE, replace(VM, ports=()), VmVerdict.OTHER_URI),
}
EACH_CASE = pytest.mark.parametrize(("machine", "vm", "verdict"), CASES.values(), ids=CASES)


@EACH_CASE
def test_check_decides(machine: Machine, vm: VcenterVm | None, verdict: VmVerdict) -> None:
    assert check(machine, vm, is_current=True, was_confirmed=False) is verdict


@EACH_CASE
def test_vcenter_that_does_not_tell_now_says_nothing_against_a_vm(
    machine: Machine, vm: VcenterVm | None, verdict: VmVerdict
) -> None:
    kept = (VmVerdict.CONFIRMED, VmVerdict.NO_UUID)
    expected = verdict if verdict in kept else VmVerdict.UNTOLD
    assert check(machine, vm, is_current=False, was_confirmed=False) is expected


@EACH_CASE
def test_what_was_confirmed_stays_so_while_vcenter_lags(
    machine: Machine, vm: VcenterVm | None, verdict: VmVerdict
) -> None:
    expected = verdict if verdict is VmVerdict.NO_UUID else VmVerdict.CONFIRMED
    assert check(machine, vm, is_current=True, was_confirmed=True) is expected


@pytest.mark.parametrize(
    ("written", "expected"),
    [
        ("FD00:0::7", "fd00::7"),
        ("fe80::1%vmk0", "fe80::1"),
        ("::ffff:192.0.2.7", "192.0.2.7"),
        ("192.0.2.7", "192.0.2.7"),
        ("esx1", "esx1"),
    ],
)
def test_addresses_of_a_host_are_written_as_those_of_peers(written: str, expected: str) -> None:
    table = VcenterTable()
    host = vcenterrows.InventoryHost("esx1", (written,)).pack()
    table.take(b'@h %s\n%s ["a","","@h","",[],[],0]\n' % (host, UUID.encode()))
    found = table.find(UUID)
    assert found
    assert found.addresses == (expected,)


# The proof


def identity(
    uri: str = "my-metadata", keys: dict[int, bytes] | None = None, **text: Any
) -> Identity:
    found = Identity("192.0.2.7", datetime.now(UTC), keys or {})
    found.proxied(uri, "client", text.get("token"))
    found.receive(Suboption.VM_VC_UUID, UUID.encode())
    return found


def test_vm_that_vcenter_confirms_has_that_proof() -> None:
    vm = identity()
    assert (vm.machine.proof, vm.is_confirmed) == (Proof.UNASKED, False)
    vm.prove(Proof.VCENTER)
    assert (vm.machine.proof, vm.is_confirmed) == (Proof.VCENTER, True)


def test_vm_that_becomes_another_one_is_confirmed_no_more() -> None:
    vm = identity()
    vm.prove(Proof.VCENTER)
    vm.receive(Suboption.VM_VC_UUID, OTHER.encode())
    assert (vm.machine.proof, vm.is_confirmed) == (Proof.UNASKED, False)


def test_vm_with_another_service_uri_is_confirmed_no_more() -> None:
    vm = identity()
    vm.prove(Proof.VCENTER)
    vm.proxied("my-metadata?profile=admin", "client", None)
    assert (vm.machine.proof, vm.is_confirmed) == (Proof.UNASKED, False)


def test_vcenter_stands_for_no_token() -> None:
    keys = {1: b"0123456789abcdef"}
    vm = identity(keys=keys)
    vm.prove(Proof.VCENTER)
    assert (vm.machine.proof, vm.is_confirmed) == (Proof.MISSING, True)
    right = identity(keys=keys, token=token(1, keys[1], UUID))
    right.prove(Proof.VCENTER)
    assert (right.machine.proof, right.is_confirmed) == (Proof.TOKEN, True)


def test_move_within_a_server_keeps_what_vcenter_has_confirmed() -> None:
    source, target = identity(), Identity("192.0.2.8", datetime.now(UTC), {})
    source.prove(Proof.VCENTER)
    target.inherit(source.known)
    assert (target.machine.proof, target.is_confirmed) == (Proof.VCENTER, True)
    doubtful = Identity("192.0.2.8", datetime.now(UTC), {})
    doubtful.inherit(identity().known)
    assert (doubtful.machine.proof, doubtful.is_confirmed) == (Proof.UNASKED, False)


def test_upgrade_keeps_what_vcenter_has_confirmed() -> None:
    vm = identity()
    vm.prove(Proof.VCENTER)
    upgraded = Identity("192.0.2.7", datetime.now(UTC), {})
    upgraded.restore(ujson.loads(ujson.dumps(vm.state())))
    assert (upgraded.machine, upgraded.is_confirmed) == (vm.machine, True)


def test_upgrade_keeps_the_network_cards() -> None:
    machine = replace(MACHINE, macs=MACS)
    written = ujson.dumps(vmware.MACHINE.write(machine))
    assert vmware.MACHINE.read(ujson.loads(written)) == machine


@pytest.mark.parametrize("keys", [{}, {1: b"0123456789abcdef"}], ids=["vCenter", "tokens"])
def test_move_from_another_server_proves_what_that_one_checks(keys: dict[int, bytes]) -> None:
    vm = identity(keys=keys)
    vm.prove(Proof.MOVE)
    assert vm.machine.proof is Proof.MOVE
    assert vm.is_confirmed is not bool(keys)  # with keys, the source has proved the token


# One line


class Told:
    """A link whose vCenter has told of one VM; the edge of what is tested here."""

    def __init__(self, vm: VcenterVm | None) -> None:
        self.vm = vm
        self.revision = 1
        self.is_current = True
        self.time_s = 1000.0

    def now_s(self) -> float:
        return self.time_s

    def find(self, vc_uuid: str | None) -> VcenterVm | None:
        return self.vm if vc_uuid == UUID else None


def line_with(vm: VcenterVm | None, **settings: Any) -> tuple[Any, CrossCheck, LineCheck]:
    told: Any = Told(vm)
    known = Identity(MACHINE.peer_address, datetime.now(UTC), {})
    known.proxied(MACHINE.service_uri, MACHINE.direction, None)
    known.receive(Suboption.VM_VC_UUID, UUID.encode())
    known.receive(Suboption.VM_NAME, b"any")
    shared = CrossCheck(told, VcenterCheck.REQUIRE, **settings)
    return told, shared, LineCheck(shared, known)


def error_of(line: LineCheck) -> str:
    failure = line.refusal()
    return failure.error if failure else ""


def test_vm_waits_a_bounded_time_and_is_refused_until_vcenter_confirms_it() -> None:
    told, shared, line = line_with(None, wait_s=3600)
    assert line.completed(MACHINE) == MACHINE
    for told.time_s in (1000.0, 4599.0):
        assert error_of(line) == "timeout"
    shared.change("vcenter_wait_s", 0.0)
    assert error_of(line) == "refused"
    told.vm, told.revision = replace(VM, macs=MACS), 2
    assert not line.is_settled
    assert line.completed(MACHINE) == replace(MACHINE, proof=Proof.VCENTER, macs=MACS)
    assert (error_of(line), line.is_settled) == ("", True)
    told.vm, told.revision = replace(VM, power="poweredOff", macs=MACS[1:]), 3
    assert line.completed(MACHINE).macs == MACS[1:]  # what was confirmed stays so
    assert error_of(line) == ""


def test_mode_counts_at_once() -> None:
    _, shared, line = line_with(None, wait_s=0.0)
    line.completed(MACHINE)
    assert error_of(line) == "refused"
    for mode in (VcenterCheck.WARN, VcenterCheck.OFF):
        shared.change("vcenter_check", mode)
        assert error_of(line) == ""


def test_cards_are_known_although_nothing_is_checked() -> None:
    _, shared, line = line_with(replace(VM, macs=MACS, power="poweredOff"), wait_s=0.0)
    shared.change("vcenter_check", VcenterCheck.OFF)
    assert line.completed(MACHINE) == replace(MACHINE, macs=MACS)


# The network cards


MACS = ("00:50:56:00:00:01", "00:50:56:00:00:02", "00:50:56:00:00:03")
DHCP = {"dhcp": True}


def short(*interfaces: dict[str, Any]) -> Any:
    return networkconfig.rendered([Interface.model_validate(DHCP | one) for one in interfaces])


# Name servers without an address need version 2.
@pytest.mark.parametrize("further", [{}, {"nameservers": ["192.0.2.1"]}], ids=["1", "2"])
@pytest.mark.parametrize("count", [1, 2, 3])
def test_cards_are_filled_in_as_if_the_file_named_them(count: int, further: dict[str, Any]) -> None:
    named = short(*(further | {"mac-address": mac} for mac in MACS[:count]))
    assert with_cards(short(*[further] * count), MACS) == named


@pytest.mark.parametrize(
    ("network", "expected"),
    [
        (short({"name": "ens192"}), short({"name": "ens192"})),
        (short({"name": "eth1"}), short({"name": "eth1", "mac-address": MACS[1]})),
        (short({"name": "eth7"}), short({"name": "eth7"})),
        (
            short({"name": "lan", "mac-address": MACS[0]}, {}),  # the second is eth0
            short({"name": "lan", "mac-address": MACS[0]}, {}),
        ),
        ({"config": "disabled"}, {"config": "disabled"}),
        ({"version": 1, "config": [7, {"type": "bond", "name": "eth0"}]},) * 2,
        ({"version": 2, "ethernets": {"eth0": {"match": {"driver": "vmxnet3"}}}},) * 2,
        ({"version": 2, "ethernets": {"eth0": None}},) * 2,
    ],
)
def test_only_interfaces_that_name_a_place_get_its_card(network: Any, expected: Any) -> None:
    assert with_cards(network, MACS) == expected


def test_card_without_an_address_keeps_its_place() -> None:
    assert with_cards(short({}, {}), ("", MACS[1])) == short({}, {"mac-address": MACS[1]})


# How it travels

REFERENCES = st.sampled_from(["1", "2", "3", "4"])
VALUES = st.fixed_dictionaries(
    {},
    optional={
        "name": st.sampled_from(["a", "b", "ü /%"]) | st.none(),
        "uuid": st.sampled_from([UUID, OTHER, "no UUID", ""]) | st.none(),
        "power": st.sampled_from(["poweredOn", "poweredOff"]),
        "host": REFERENCES | st.none(),
        "booted_s": st.sampled_from([0.0, 1.5]),
        "parent": REFERENCES | st.none(),
        "macs": st.tuples(st.sampled_from(MACS)),
        "addresses": st.tuples(st.sampled_from(["192.0.2.7", "192.0.2.8"])),
    },
)
CHANGES = st.builds(
    ObjectChange, st.sampled_from(["VM", "host", "folder"]), REFERENCES, VALUES | st.none()
)


@given(st.lists(st.lists(CHANGES, max_size=4), max_size=6))
def test_law_a_table_fed_with_changes_is_one_that_read_all(pages: list[list[ObjectChange]]) -> None:
    reading, followed, whole = InventoryRows(100), VcenterTable(), VcenterTable()
    for page in pages:
        for payload in vcenterrows.joined(reading.take(page).items(), 100):
            followed.take(payload)
    for payload in vcenterrows.joined(reading.rows.items(), 1_000_000):
        whole.take(payload)
    assert (len(followed), followed.kept_bytes) == (len(whole), whole.kept_bytes)
    assert [followed.find(u) for u in (UUID, OTHER)] == [whole.find(u) for u in (UUID, OTHER)]


@given(st.lists(st.lists(CHANGES, max_size=4), max_size=6))
def test_law_a_vm_that_is_there_has_a_row(pages: list[list[ObjectChange]]) -> None:
    reading, uuids = InventoryRows(100), dict[str, Any]()
    for page in pages:
        reading.take(page)
        for change in (change for change in page if change.kind == "VM"):
            if change.values is None:
                uuids.pop(change.reference, None)
            else:
                before = uuids.get(change.reference, "")
                uuids[change.reference] = change.values.get("uuid", before)
        for uuid in (UUID, OTHER):
            assert (uuid in reading.rows) == (uuid in uuids.values())


@pytest.mark.parametrize("reference", [f"vm-{number}" for number in range(8)])
def test_vm_that_is_registered_anew_is_found(reference: str) -> None:
    old, new = ObjectChange("VM", "vm", None), ObjectChange("VM", reference, {"uuid": UUID})
    for pages in ([[old, new]], [[new, old]], [[new], [old]], [[old], [new]]):
        reading = InventoryRows(100)
        reading.take([ObjectChange("VM", "vm", {"uuid": UUID})])
        for page in pages:
            reading.take(page)
        assert UUID in reading.rows


@given(st.lists(CHANGES, max_size=8), st.lists(CHANGES, max_size=8))
def test_law_what_a_second_reading_changes_is_sent(
    first: list[ObjectChange], second: list[ObjectChange]
) -> None:
    before, now = InventoryRows(100), InventoryRows(100)
    before.take(first)
    now.take(second)
    table = dict(before.rows)
    table.update(differences(before.rows, now.rows))
    assert {key: row for key, row in table.items() if row} == now.rows


def test_vm_is_found_with_its_host_and_folder_after_each_was_renamed() -> None:
    reading, table = InventoryRows(100), VcenterTable()

    def take(*changes: ObjectChange) -> VcenterVm | None:
        for payload in vcenterrows.joined(reading.take(changes).items(), 1000):
            table.take(payload)
        return table.find(UUID)

    vm = {"name": "web1", "uuid": UUID.upper(), "power": "poweredOn", "host": "9", "parent": "3"}
    found = take(
        ObjectChange("VM", "1", vm),
        ObjectChange("host", "9", {"name": "esx1", "addresses": ("192.0.2.7",)}),
        ObjectChange("folder", "3", {"name": "web", "parent": "2"}),
        ObjectChange("folder", "2", {"name": "DC"}),
    )
    assert found == VcenterVm("web1", "poweredOn", "esx1", ("192.0.2.7", "esx1"), "DC/web")
    found = take(
        ObjectChange("folder", "2", {"name": "DC 2"}),
        ObjectChange("host", "9", {"name": "esx2"}),
    )
    assert found == VcenterVm("web1", "poweredOn", "esx2", ("192.0.2.7", "esx2"), "DC 2/web")
    assert take(ObjectChange("VM", "1", None)) is None
    assert len(table) == 0


def test_folders_in_a_circle_end() -> None:
    reading = InventoryRows(100)
    vm = {"uuid": UUID, "parent": "1"}
    reading.take([ObjectChange("VM", "1", vm), ObjectChange("folder", "1", {"parent": "1"})])
    assert len(reading.rows[UUID]) < 300


def test_what_has_no_room_is_counted(constants: Any) -> None:
    reading = InventoryRows(1)
    reading.take([ObjectChange("VM", n, {"uuid": u}) for n, u in (("1", UUID), ("2", OTHER))])
    assert (list(reading.rows), reading.shed) == ([UUID], 1)
    constants(process__vcenter__vcentertable__MAX_ROWS=1)
    table = VcenterTable()
    table.take(b'%s ["a","","","",[],[],0]\n%s []\n' % (UUID.encode(), OTHER.encode()))
    assert len(table) == 1


@pytest.mark.parametrize("row", [b"[1]", b"{", b'["a","","","",[],{},0]', b"null"])
def test_row_that_is_none_is_no_vm(row: bytes) -> None:
    table = VcenterTable()
    table.take(b"%s %s\n" % (UUID.encode(), row))
    assert table.find(UUID) is None


def test_longest_texts_fit_into_a_row() -> None:
    vm = vcenterrows.InventoryVm(
        "\U0001f600" * 500, "poweredOn", "@host-1", "\U0001f600" * 5000, ("0" * 24,) * 99, MACS * 99
    )
    assert len(vm.pack()) <= vcenterrows.MAX_ROW_BYTES


@pytest.mark.parametrize("payload", [b"no-space\n", b"\xff []\n", b"a " + b"x" * 20_000 + b"\n"])
def test_payload_that_is_none_is_refused(payload: bytes) -> None:
    with pytest.raises(ValueError):  # noqa: PT011 - what decodes it says that too
        VcenterTable().take(payload)


def test_table_is_current_while_all_is_known_and_heard() -> None:
    table, connected = VcenterTable(), VcenterState(is_connected=True)
    table.take_state(connected)
    assert not table.is_current
    table.begin()
    table.take(b'%s ["a","","","",[],[],0]\n' % UUID.encode())
    assert not table.is_current
    table.complete()
    assert table.is_current
    table.take_state(replace(connected, is_connected=False, problem="x"))
    assert not table.is_current
    assert table.find(UUID) is not None  # what it has stays


def test_state_survives_its_journey() -> None:
    state = VcenterState(True, 12.5, "why", "vcenter:443", 2, 3)
    assert VcenterState.unpack(state.pack()) == state
    with pytest.raises(ValueError, match="not the state"):
        VcenterState.unpack(state.pack() | {"since": "now"})


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["--vcenter", "localhost"], "--vcenter needs --vcenter-user"),
        (["--vcenter", "localhost", "--vcenter-user", "x"], "needs --vcenter-password-file"),
        (["--vcenter", "a@b", "--vcenter-user", "x"], "expected HOST or HOST:PORT"),
    ],
)
def test_settings_that_are_incomplete_are_an_error(arguments: list[str], expected: str) -> None:
    code, _, err = in_process("check-config", "--uri", "x", *arguments)
    assert code == 2
    assert expected in " ".join(err)


# What vCenter sends


def update(of: Any, **values: Any) -> Any:
    query = vmodl.query.PropertyCollector
    changes = [
        query.Change(name=n.replace("_", "."), op="assign", val=v) for n, v in values.items()
    ]
    return query.ObjectUpdate(kind="enter", obj=of, changeSet=changes)


def test_vm_without_what_is_usual_is_read_all_the_same() -> None:
    serial = vim.vm.device.VirtualSerialPort(
        key=9000, backing=vim.vm.device.VirtualSerialPort.URIBackingInfo(direction="client")
    )
    card = vim.vm.device.VirtualVmxnet3
    devices = vim.vm.device.VirtualDevice.Array(
        [
            card(key=4001, macAddress="00:50:56:AB:00:02"),
            serial,
            card(key=4000, macAddress="00:50:56:ab:00:01"),
            card(key=4002),
            card(key=4003, macAddress="rm -rf"),
        ]
    )
    found = object_change(
        update(vim.VirtualMachine("vm-1", None), config_hardware_device=devices, parent=None)
    )
    assert (found.kind, found.reference) == ("VM", "vm-1")
    assert found.values == {
        "ports": (uri_digest(""),),
        "macs": ("00:50:56:ab:00:01", "00:50:56:ab:00:02", "", ""),
        "parent": None,
    }
    gone = object_change(update(vim.VirtualMachine("vm-1", None), config_hardware_device=None))
    assert gone.values == {"ports": (), "macs": ()}


@pytest.mark.parametrize(
    ("booted_s", "lasts_s"),
    [(0.0, None), (9000.0, 1300.0), (10_200.0, 300.0), (10_301.0, None)],
    ids=["not told", "on for a while", "a clock ahead", "a clock too far ahead"],
)
def test_window_is_of_an_earlier_power_on_by_its_age(
    booted_s: float, lasts_s: float | None
) -> None:
    assert lasting_s(booted_s, 10_000.0) == lasts_s


def test_host_dials_from_all_its_addresses() -> None:
    ipv6 = vim.host.IpConfig.IpV6AddressConfiguration(
        ipV6Address=[vim.host.IpConfig.IpV6Address(ipAddress="fd00::7", prefixLength=64)]
    )
    cards = [
        vim.host.VirtualNic(spec=vim.host.VirtualNic.Specification(ip=ip))
        for ip in (vim.host.IpConfig(ipAddress="192.0.2.7", ipV6Config=ipv6), None)
    ]
    every = vim.host.VirtualNic.Array([*cards, vim.host.VirtualNic()])
    found = object_change(update(vim.HostSystem("host-9", None), config_network_vnic=every))
    assert found.values == {"addresses": ("192.0.2.7", "fd00::7")}


def test_datastore_cluster_is_a_folder_and_what_nobody_asked_for_is_left_out() -> None:
    found = object_change(update(vim.StoragePod("group-p1", None), name="pod", summary="x"))
    assert (found.kind, found.values) == ("folder", {"name": "pod"})


def test_wait_that_is_no_number_is_refused() -> None:
    needed = ("--uri", "my-metadata", "--driver-opts", '{"directory":"/srv/instances"}')
    said = refused("--vcenter-wait", "nan", *needed)
    assert "'--vcenter-wait': found 'nan', expected a finite number" in said

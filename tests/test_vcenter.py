"""A server with `--vcenter`, against VMware's own simulator, and VMs that dial it."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from pyVmomi import vim

from tests.process import ServerProcess, tree_of, with_constants
from tests.simulator import PASSWORD, URI, Simulator, vms
from tests.test_admin import Admin
from tests.vm import Vm
from tests.waiting import wait_until
from vmw_cloudinit_metadata.guest.vsphere import inventory

pytestmark = pytest.mark.slow

Simulate = Callable[..., Simulator]
Start = Callable[..., ServerProcess]
TOKEN = "t=1.MFRGGZDFMZTWQ2LKNNWG23TP"
REQUIRE = ("--vcenter-check", "require", "--vcenter-wait", "1")


class Guest:
    """A VM of the simulator; it dials from 127.0.0.1, which is its host's address too."""

    def __init__(self, simulator: Simulator, name: str = "DC0_C0_RP0_VM0") -> None:
        self.simulator, self.name = simulator, name
        with simulator.session() as content:
            config = vms(content)[name].config
            self.vc_uuid = config.instanceUuid
            cards = [one for one in config.hardware.device if hasattr(one, "macAddress")]
            self.mac = cards[0].macAddress

    def dial(self, server: ServerProcess, uri: str = f"{URI}?{TOKEN}") -> Vm:
        return Vm(server.port, "web1", vc_uuid=self.vc_uuid, uri=uri)

    def power(self, is_on: bool) -> None:
        with self.simulator.session() as content:
            vm = vms(content)[self.name]
            task = vm.PowerOn() if is_on else vm.PowerOff()
            wait_until(lambda: task.info.state == "success")


def told(server: ServerProcess, guest: Guest) -> Any:
    path = f"/api/machines/{guest.vc_uuid}"
    wait_until(lambda: Admin(server).status(path) == 200)  # happenings are recorded together
    return Admin(server).json(path)


def reading(server: ServerProcess) -> None:
    server.wait_for("vCenter: connected to")


def error_of(vm: Vm) -> str:
    code, body = vm.ask("METADATA")
    return str(json.loads(body)["error"]) if code == "RESPONSE_ERROR" else ""


def is_served(vm: Vm) -> None:
    """Wait until it is: its worker may hear of vCenter later than the parent, whatever
    `--vcenter-wait` is."""
    wait_until(lambda: error_of(vm) == "")


def settled_error(vm: Vm) -> str:
    """What the guest gets when the time for vCenter is over."""
    wait_until(lambda: error_of(vm) != "timeout")
    return error_of(vm)


def test_inventory_comes_in_pages_and_then_as_changes(
    simulate: Simulate, constants: Callable[..., None]
) -> None:
    constants(guest__vsphere__inventory__PAGE=5, guest__vsphere__inventory__WAIT_S=1)
    simulator = simulate("-vms", "12", "-hosts", "2")
    guest = Guest(simulator)
    with simulator.session() as content:
        pages = inventory.pages(content)
        first = [next(pages)]
        while not first[-1].is_last:
            first.append(next(pages))
        assert [len(page.changes) for page in first[:-1]] == [5] * (len(first) - 1)
        kinds = [change.kind for page in first for change in page.changes]
        assert (kinds.count("VM"), kinds.count("host")) == (12, 2)
        assert next(pages).changes == []  # nothing has changed
        guest.power(is_on=False)
        changed = next(page for page in pages if page.changes)
        assert [change.values for change in changed.changes if change.kind == "VM"] == [
            {"power": "poweredOff", "booted_s": 0.0}
        ]


def test_vm_that_vcenter_confirms_is_served_with_its_cards(
    simulate: Simulate, start: Start
) -> None:
    simulator = simulate("-uri", f"{URI}?{TOKEN}")
    guest = Guest(simulator)
    server = start(*simulator.options, *REQUIRE, "--log-level", "debug")
    reading(server)
    vm = guest.dial(server)
    assert json.loads(vm.document("NETWORKDATA"))["config"][0]["mac_address"] == guest.mac
    found = told(server, guest)
    assert found["ports"][0]["proof"] == "vcenter"
    assert found["vcenter"] == {
        "name": guest.name,
        "folder": "DC0/vm",
        "host": found["vcenter"]["host"],
        "power": "poweredOn",
        "against": None,
    }
    assert found["vcenter"]["host"].startswith("DC0_C0_H")
    assert PASSWORD not in server.log
    assert TOKEN not in server.log
    # A card that changes is in the next answer of the same line.
    with simulator.session() as content:
        device = next(
            one
            for one in vms(content)[guest.name].config.hardware.device
            if hasattr(one, "macAddress")
        )
        device.macAddress = "00:50:56:00:00:07"
        change = vim.vm.device.VirtualDeviceSpec(operation="edit", device=device)
        spec = vim.vm.ConfigSpec(deviceChange=[change])
        task = vms(content)[guest.name].ReconfigVM_Task(spec=spec)
        wait_until(lambda: task.info.state == "success")
    wait_until(lambda: b"00:50:56:00:00:07" in vm.document("NETWORKDATA"))


def test_power_on_opens_another_window_and_a_redial_does_not(
    simulate: Simulate, start: Start, tmp_path: Path
) -> None:
    simulator = simulate("-uri", f"{URI}?{TOKEN}")
    guest = Guest(simulator)
    window = ("--ledger", str(tmp_path / "ledger"), "--userdata-window", "1")
    one_clock = with_constants(serving__ration__SKEW_S=0.0)
    server = start(*simulator.options, *window, command=one_clock)
    reading(server)

    def answer() -> str:
        with closing(guest.dial(server)) as vm:
            return vm.ask("USERDATA")[0]

    assert answer() == "RESPONSE_USERDATA"
    wait_until(lambda: answer() == "RESPONSE_ERROR")
    assert answer() == "RESPONSE_ERROR"
    guest.power(is_on=False)
    guest.power(is_on=True)
    wait_until(lambda: answer() == "RESPONSE_USERDATA")
    wait_until(lambda: answer() == "RESPONSE_ERROR")
    assert answer() == "RESPONSE_ERROR"


def test_vm_that_vcenter_does_not_confirm_waits_and_is_refused(
    simulate: Simulate, start: Start
) -> None:
    simulator = simulate("-uri", f"{URI}?{TOKEN}")
    guest = Guest(simulator)
    server = start(*simulator.options, *REQUIRE)
    reading(server)
    wrong_uri = guest.dial(server, f"{URI}?profile=admin")
    assert error_of(wrong_uri) == "timeout"
    assert settled_error(wrong_uri) == "refused"
    unknown = Vm(server.port, "web1", vc_uuid="01234567-89ab-cdef-fedc-ba9876543210")
    assert settled_error(unknown) == "refused"
    off = Guest(simulator, "DC0_C0_RP0_VM1")
    off.power(is_on=False)
    wait_until(lambda: settled_error(off.dial(server)) == "refused")
    for reason in ("no serial port of this VM has", "vCenter has no VM", "is not running"):
        server.wait_for(reason)
    checks = "vmw_metadata_vcenter_checks_total"
    assert Admin(server).metric(checks, verdict="other service URI") == 1
    # The one that is off is powered on, and asks again on the same line.
    vm = off.dial(server)
    off.power(is_on=True)
    is_served(vm)


def test_vm_that_dials_from_another_host_is_reported_and_served_under_warn(
    simulate: Simulate, start: Start
) -> None:
    simulator = simulate("-hosts", "1", "-uri", URI)
    simulator.command("address", "DC0_C0_H0", "192.0.2.7")
    guest = Guest(simulator)
    server = start(*simulator.options)
    reading(server)
    vm = guest.dial(server, URI)
    assert error_of(vm) == ""
    server.wait_for("served although vCenter does not confirm it: .*another ESXi host")
    assert "another ESXi host" in told(server, guest)["vcenter"]["against"]
    simulator.command("address", "DC0_C0_H0", "127.0.0.1")
    wait_until(lambda: told(server, guest)["vcenter"]["against"] is None)
    vm.document("METADATA")  # the VM is confirmed when it asks again
    assert Admin(server).metric("vmw_metadata_identity_proofs_total", proof="vcenter") == 1


def test_vcenter_that_is_away_refuses_nobody_under_warn_and_comes_back(
    simulate: Simulate, start: Start
) -> None:
    simulator = simulate("-uri", URI)
    guest = Guest(simulator)
    server = start(*simulator.options)
    reading(server)
    simulator.stop()
    server.wait_for("vCenter: out of reach since .*cannot be reached")
    assert error_of(Vm(server.port, "web1", vc_uuid="01234567-89ab-cdef-fedc-ba9876543210")) == ""
    assert error_of(guest.dial(server, URI)) == ""
    admin = Admin(server)
    answer, body = admin.request("/readyz")
    assert (answer.status, body[:33]) == (200, b"ready\nvCenter: out of reach since")
    assert admin.json("/api/status")["vcenter"]["state"] == "out of reach"
    assert told(server, guest)["vcenter"]["against"] is None  # what it knew confirms the VM
    again = simulate("-uri", URI, "-listen", simulator.address)
    server.signal(signal.SIGHUP)
    server.wait_for("vCenter: connected to.*(?s:.*)vCenter: connected to")
    assert again.port == simulator.port
    assert admin.metric("vmw_metadata_vcenter_reconnects_total") == 1


def test_password_is_read_again_at_hup(simulate: Simulate, start: Start) -> None:
    simulator = simulate("-uri", URI)
    simulator.password_file.write_text("wrong\n")
    server = start(*simulator.options)
    server.wait_for("vCenter: out of reach since .*the password is wrong")
    simulator.password_file.write_text(f"{PASSWORD}\n")
    server.signal(signal.SIGHUP)
    reading(server)
    assert PASSWORD not in server.log


@pytest.mark.parametrize("workers", ["1", "2"])
def test_process_that_dies_is_started_again(simulate: Simulate, start: Start, workers: str) -> None:
    simulator = simulate("-uri", URI)
    guest = Guest(simulator)
    server = start(*simulator.options, *REQUIRE, "--workers", workers)
    reading(server)
    (child,) = [
        pid
        for pid in tree_of(server.pid)
        if b"vcenterchild" in Path(f"/proc/{pid}/cmdline").read_bytes()
    ]
    for _ in range(4):  # by each worker, probably
        is_served(guest.dial(server, URI))
    os.kill(child, signal.SIGKILL)
    server.wait_for("vCenter: out of reach since .*the vCenter process: it has ended")
    server.wait_for("vCenter: connected to.*(?s:.*)vCenter: connected to")
    for _ in range(4):
        is_served(guest.dial(server, URI))
    assert Admin(server).json("/api/status")["vcenter"]["vms"] == 4

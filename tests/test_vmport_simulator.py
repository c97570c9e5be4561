"""`vm-port` against VMware's own simulator; what that does not have is in test_vmport.py."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.commandline import Ended, in_process
from tests.simulator import USER, Simulator, vms
from tests.waiting import wait_until
from vmw_cloudinit_metadata.protocol import identitytoken

pytestmark = pytest.mark.slow

URI = "my-metadata"
PROXY = "telnet://metadata.example.com:13370"
ADD = ("--uri", URI, "--proxy-uri", PROXY)
NAMES = [f"DC0_C0_RP0_VM{number}" for number in range(4)]
ADDED = f"added: client, service URI {URI} by {PROXY}"

Ask = Callable[..., Ended]


@pytest.fixture
def simulator(simulate: Callable[..., Simulator]) -> Simulator:
    """Four VMs, all off."""
    found = simulate("-vms", "4")
    with found.session() as content:
        tasks = [vm.PowerOff() for vm in vms(content).values()]
        wait_until(lambda: all(task.info.state == "success" for task in tasks))
    return found


@pytest.fixture
def ask(simulator: Simulator) -> Ask:
    reach = ("--vcenter", simulator.address, "--user", USER)
    secret = ("--password-file", str(simulator.password_file))
    trust = ("--ca-file", str(simulator.certificate))
    return lambda action, *given: in_process("vm-port", action, *reach, *secret, *trust, *given)


def ports(simulator: Simulator, name: str) -> list[Any]:
    with simulator.session() as content:
        every = vms(content)[name].config.hardware.device
        return [one for one in every if hasattr(one.backing, "serviceURI")]


def test_port_is_added_once_shown_and_removed(simulator: Simulator, ask: Ask) -> None:
    assert ask("add", NAMES[0], *ADD)[:2] == (0, [f"{NAMES[0]}: {ADDED}"])
    (added,) = ports(simulator, NAMES[0])
    assert (added.backing.serviceURI, added.backing.proxyURI) == (URI, PROXY)
    assert (added.backing.direction, added.yieldOnPoll) == ("client", True)
    assert added.connectable.startConnected
    assert not added.connectable.allowGuestControl
    code, out, err = ask("add", NAMES[0], *ADD)
    assert (code, err) == (0, ["1 VM: 1 unchanged"])
    assert "no change needed" in out[0]
    assert ask("add", NAMES[0], *ADD[:3], "telnet://other:1")[2] == ["1 VM: 1 changed"]
    assert f"service URI {URI} by telnet://other:1" in ask("show", NAMES[0])[1][0]
    assert ask("remove", NAMES[0], *ADD[:2])[2] == ["1 VM: 1 changed"]
    assert ports(simulator, NAMES[0]) == []
    assert ask("show", *NAMES[:2])[1] == [
        f"{n}: off: no serial port on the network" for n in NAMES[:2]
    ]


def test_vms_are_found_by_name_uuid_and_path(simulator: Simulator, ask: Ask) -> None:
    with simulator.session() as content:
        config = {name: vm.config for name, vm in vms(content).items()}
    vc_uuid, bios_uuid = config[NAMES[1]].instanceUuid, config[NAMES[2]].uuid
    chosen = (NAMES[0], vc_uuid.upper(), bios_uuid, f"/DC0/vm/{NAMES[3]}")
    code, _, err = ask("add", *chosen, *ADD)
    assert (code, err) == (0, ["4 VMs: 4 changed"])
    assert [len(ports(simulator, name)) for name in NAMES] == [1] * 4


def test_each_vm_gets_its_token_and_nobody_sees_it(
    simulator: Simulator, ask: Ask, tmp_path: Path
) -> None:
    key = tmp_path / "key"
    key.write_bytes(b"0123456789abcdef")
    code, out, err = ask("add", *NAMES[:2], *ADD, "--identity-key-file", str(key))
    assert (code, err) == (0, ["2 VMs: 2 changed"])
    with simulator.session() as content:
        uuids = {name: vm.config.instanceUuid for name, vm in vms(content).items()}
    tokens = {name: identitytoken.token(1, key.read_bytes(), uuids[name]) for name in NAMES[:2]}
    for name, token in tokens.items():
        (added,) = ports(simulator, name)
        assert added.backing.serviceURI == f"{URI}?t={token}"
        assert token not in str((out, ask("show", name)))
    assert ask("add", *NAMES[:2], *ADD)[2] == ["2 VMs: 2 unchanged"]  # it stays


def test_wrong_password_is_refused_by_vcenter(simulator: Simulator, ask: Ask) -> None:
    simulator.password_file.write_text("wrong\n")
    code, _, err = ask("show", NAMES[0])
    assert code == 2
    assert "the password is wrong" in err[0]

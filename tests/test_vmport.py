"""`vm-port` against a played vCenter: what the simulator of test_vmport_simulator.py does not have.

That is vSphere's rules for ports of running VMs, faults, and answers that are none.
"""

from __future__ import annotations

import hashlib
import os
import ssl
import subprocess
import sys
from collections.abc import Callable, Iterator
from io import StringIO
from pathlib import Path
from typing import Any

import pytest

from tests.certificates import Pair
from tests.commandline import Ended, in_process
from tests.process import run
from tests.vcenter import PASSWORD, USER, PlayedVCenter, PlayedVm, envelope, port

VARIABLE = "VMW_METADATA_VCENTER_PASSWORD"
URI = "my-metadata"
PROXY = "telnet://metadata.example.com:13370"
UUID_1 = "50123456-789a-bcde-f012-3456789abc01"


@pytest.fixture(scope="module")
def certificate(
    tmp_path_factory: pytest.TempPathFactory, program: Callable[[str, str], str]
) -> Pair:
    """Of 127.0.0.1, self-signed."""
    directory = tmp_path_factory.mktemp("vcenter")
    pair = Pair(directory / "crt", directory / "key")
    subprocess.run(
        [
            *(program("openssl", "openssl"), "req", "-x509", "-days", "2", "-nodes"),
            *("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1"),
            *("-subj", "/CN=vcenter", "-addext", "subjectAltName=IP:127.0.0.1"),
            *("-keyout", str(pair.key), "-out", str(pair.certificate)),
        ],
        check=True,
        capture_output=True,
    )
    return pair


@pytest.fixture
def play(certificate: Pair) -> Iterator[Callable[..., PlayedVCenter]]:
    """Starts a vCenter with these VMs."""
    started: list[PlayedVCenter] = []

    def start(*vms: PlayedVm) -> PlayedVCenter:
        started.append(PlayedVCenter(certificate, list(vms)))
        return started[-1]

    yield start
    for vcenter in started:
        vcenter.close()


@pytest.fixture
def password_file(tmp_path: Path) -> Path:
    file = tmp_path / "password"
    file.write_text(f"{PASSWORD}\n")
    file.chmod(0o600)
    return file


@pytest.fixture
def ask(certificate: Pair, password_file: Path) -> Callable[..., Any]:
    """Runs a subcommand for a vCenter, in this process: loading pyVmomi takes most of a second."""

    def ask_vcenter(vcenter: PlayedVCenter, action: str, *arguments: str) -> Ended:
        reach = ("--vcenter", f"127.0.0.1:{vcenter.port}", "--user", USER)
        secret = ("--password-file", str(password_file))
        trust = ("--ca-file", str(certificate.certificate))
        return in_process("vm-port", action, *reach, *secret, *trust, *arguments)

    return ask_vcenter


ADD = ("--uri", URI, "--proxy-uri", PROXY)


def test_add_to_a_running_vm_needs_power_off(play: Any, ask: Any) -> None:
    vm = PlayedVm("web1", power="poweredOn")
    code, out, err = ask(play(vm), "add", "web1", *ADD)
    assert (code, out, vm.changes) == (1, [], [])
    assert "web1: needs power-off: it is running" in err[0]
    assert err[1] == "1 VM: 1 needs power-off"


def test_add_changes_the_port_of_a_running_vm_while_it_is_disconnected(play: Any, ask: Any) -> None:
    old = port(9000, URI, "telnet://old:1", is_connected=True)
    other = port(9001, "console", None, is_connected=True)
    vm = PlayedVm("web1", power="poweredOn", devices=[old, other])
    code, out, _ = ask(play(vm), "add", "web1", *ADD)
    assert code == 0
    assert out == [f"web1: changed: Serial port 1: client, service URI {URI} by {PROXY}"]
    assert vm.changes == ["edit disconnected", "edit disconnected", "edit connected"]
    first, second = vm.ports()
    assert (first.backing.proxyURI, first.connectable.connected) == (PROXY, True)
    assert second.backing.serviceURI == "console"


def test_add_with_other_direction_and_no_yield_says_so_to_vcenter(play: Any, ask: Any) -> None:
    vm = PlayedVm("web1")
    ask(play(vm), "add", "web1", *ADD, "--direction", "server", "--no-yield-on-poll")
    (added,) = vm.ports()
    assert (added.backing.direction, added.yieldOnPoll) == ("server", False)


def test_dry_run_prints_and_does_nothing(play: Any, ask: Any) -> None:
    vm = PlayedVm("web1", devices=[port(9000, URI, PROXY, is_connected=False)])
    vcenter = play(vm, PlayedVm("web2"))
    code, out, err = ask(vcenter, "add", "web2", "--dry-run", *ADD)
    assert (code, err) == (0, ["1 VM: 1 to be changed"])
    assert out == [f"web2: would be added: client, service URI {URI} by {PROXY}"]
    assert ask(vcenter, "remove", "web1", "--dry-run", "--uri", URI)[1] == [
        "web1: would be removed: Serial port 1"
    ]
    assert vcenter.calls["ReconfigVM_Task"] == 0
    assert vcenter.logged_in == 0


def test_remove_takes_only_the_port_with_the_uri(play: Any, ask: Any) -> None:
    ports = [port(9000, "console", None, is_connected=False)]
    ports.append(port(9001, URI, PROXY, is_connected=False))
    vm = PlayedVm("web1", devices=ports)
    vcenter = play(vm)
    assert ask(vcenter, "remove", "web1", "--uri", URI)[:2] == (
        0,
        ["web1: removed: Serial port 2"],
    )
    assert [left.backing.serviceURI for left in vm.ports()] == ["console"]
    assert ask(vcenter, "remove", "web1", "--uri", URI)[2] == ["1 VM: 1 unchanged"]


def test_remove_from_a_running_vm_needs_power_off(play: Any, ask: Any) -> None:
    ours = port(9000, URI, PROXY, is_connected=True)
    vm = PlayedVm("web1", power="suspended", devices=[ours])
    code, _, err = ask(play(vm), "remove", "web1", "--uri", URI)
    assert code == 1
    assert "needs power-off: it is suspended" in err[0]


def test_reconnect_hangs_up_and_connects_while_the_vm_runs(play: Any, ask: Any) -> None:
    ours = port(9000, URI, PROXY, is_connected=True)
    vm = PlayedVm("web1", power="poweredOn", devices=[ours])
    assert ask(play(vm), "reconnect", "web1", "--uri", URI)[:2] == (
        0,
        ["web1: reconnected: Serial port 1"],
    )
    assert vm.changes == ["edit disconnected", "edit connected"]
    assert vm.ports()[0].backing.proxyURI == PROXY


def test_reconnect_without_the_port_fails_and_says_what_to_do(play: Any, ask: Any) -> None:
    code, _, err = ask(play(PlayedVm("web1")), "reconnect", "web1", "--uri", URI)
    assert code == 1
    assert "`vm-port add` adds one" in err[0]


def test_show_prints_the_ports(play: Any, ask: Any) -> None:
    ours = port(9000, URI, PROXY, is_connected=True)
    vcenter = play(PlayedVm("web1", power="poweredOn", devices=[ours]), PlayedVm("web2"))
    code, out, err = ask(vcenter, "show", "web1", "web2")
    assert out == [
        f"web1: running: Serial port 1: client, service URI {URI} by {PROXY}, connected",
        "web2: off: no serial port on the network",
    ]
    assert (code, err) == (0, ["2 VMs: 2 unchanged"])
    assert ask(vcenter, "show", "web1", "web2", "--uri", URI)[0] == 1


def test_faulty_vm_does_not_hold_up_the_others(play: Any, ask: Any) -> None:
    good = PlayedVm("good")
    vcenter = play(
        PlayedVm("twice"),
        PlayedVm("twice"),
        PlayedVm("template", is_template=True),
        PlayedVm("orphan", is_accessible=False),
        good,
    )
    names = ("twice", "none", "template", "orphan", "nowhere/vm/x", "good")
    code, out, err = ask(vcenter, "add", *names, *ADD)
    assert code == 1
    assert [line.partition(":")[0] for line in out] == ["good"]
    assert "twice: failed: 2 VMs match (vm-1, vm-2): use the VC UUID" in err[0]
    assert err[1] == "none: failed: no VM has this name"
    assert "convert it to a virtual machine" in err[2]
    assert "inaccessible" in err[3]
    assert "no VM has this inventory path" in err[4]
    assert err[5] == "6 VMs: 1 changed, 5 failed"


def test_vm_named_twice_is_changed_once(play: Any, ask: Any) -> None:
    vm = PlayedVm("web1", vc_uuid=UUID_1)
    _, out, err = ask(play(vm), "add", "web1", UUID_1, *ADD)
    assert out[1] == f"{UUID_1}: is the same VM as web1"
    assert err == ["2 VMs: 1 changed, 1 unchanged"]
    assert vm.changes == ["add"]


def test_names_come_from_a_file_a_folder_and_standard_input(
    play: Any, ask: Any, tmp_path: Path, own_instances: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (own_instances / "defaults.yaml").write_text("metadata: {}\n")
    (own_instances / f"{UUID_1}.yml").write_text("metadata: {}\n")
    listed = tmp_path / "names"
    listed.write_text("# ours\nweb2\n\n  web3 \n")
    vms = [PlayedVm(name) for name in ("web1", "web2", "web3", "web4", "web5")]
    vms.append(PlayedVm("by uuid", vc_uuid=UUID_1))
    monkeypatch.setattr("sys.stdin", StringIO("web4\nweb2\n"))
    sources = ("--from", str(listed), "--from", str(own_instances), "--from", "-")
    code, _, err = ask(play(*vms), "add", *sources, "--defaults", "defaults.yaml", *ADD)
    assert (code, err) == (0, ["5 VMs: 5 changed"])
    assert [vm.name for vm in vms if not vm.ports()] == ["web5"]


def test_many_vms_are_changed_in_parallel(play: Any, ask: Any) -> None:
    vms = [PlayedVm(f"vm{number}") for number in range(40)]
    vcenter = play(*vms)
    code, out, err = ask(vcenter, "add", *(vm.name for vm in vms), *ADD, "--jobs", "8")
    assert (code, err) == (0, ["40 VMs: 40 changed"])
    assert [line.partition(":")[0] for line in out] == [vm.name for vm in vms]
    assert all(len(vm.ports()) == 1 for vm in vms)
    assert 1 < vcenter.most_at_a_time <= 8


def test_fault_of_a_task_is_reported(play: Any, ask: Any) -> None:
    code, _, err = ask(play(PlayedVm("web1", denies_after=0)), "add", "web1", *ADD)
    assert code == 1
    assert err[0] == "web1: failed: Permission to perform was denied. (NoPermission)"


def test_port_that_a_fault_leaves_disconnected_is_reported(play: Any, ask: Any) -> None:
    old = port(9000, URI, "telnet://old:1", is_connected=True)
    vm = PlayedVm("web1", power="poweredOn", devices=[old], denies_after=1)
    code, _, err = ask(play(vm), "add", "web1", *ADD)
    assert (code, vm.changes) == (1, ["edit disconnected"])
    assert err[0] == (
        "web1: failed: Permission to perform was denied. (NoPermission);"
        " the port is now disconnected: `vm-port reconnect` connects it"
    )


# reaching the vCenter


@pytest.fixture
def reach(monkeypatch: pytest.MonkeyPatch) -> Callable[..., Ended]:
    """Runs `show web1` against a port, with the password in the environment, if there is one."""

    def show(vcenter_port: int, *trust: str, password: str | None = PASSWORD) -> Ended:
        monkeypatch.setattr("sys.stdin", StringIO())
        monkeypatch.delenv(VARIABLE, raising=False)
        if password is not None:
            monkeypatch.setenv(VARIABLE, password)
        address = f"127.0.0.1:{vcenter_port}"
        return in_process(
            *("vm-port", "show", "web1", "--vcenter", address, "--user", USER, *trust)
        )

    return show


def thumbprint(pair: Pair, algorithm: str) -> str:
    der = ssl.PEM_cert_to_DER_cert(pair.certificate.read_text())
    digits = hashlib.new(algorithm, der).hexdigest().upper()
    return ":".join(digits[place : place + 2] for place in range(0, len(digits), 2))


@pytest.mark.parametrize("algorithm", ["sha1", "sha256"])
def test_vcenter_is_trusted_by_its_thumbprint(
    play: Any, reach: Any, certificate: Pair, algorithm: str
) -> None:
    digits = thumbprint(certificate, algorithm)
    code, _, err = reach(play(PlayedVm("web1")).port, "--thumbprint", digits)
    assert (code, err) == (0, ["1 VM: 1 unchanged"])


def test_vcenter_is_not_checked_with_insecure(play: Any, reach: Any) -> None:
    assert reach(play(PlayedVm("web1")).port, "--insecure")[0] == 0


@pytest.mark.parametrize(
    ("trust", "password", "expected"),
    [
        ([], PASSWORD, "is not trusted (self-signed certificate): use --ca-file or --thumbprint"),
        (["--thumbprint", "ab" * 20], PASSWORD, "has a certificate with "),
        (["--thumbprint", "ab" * 20, "--insecure"], PASSWORD, "give only one of"),
        (["--ca-file", "/nowhere"], PASSWORD, "--ca-file: /nowhere"),
        (["--insecure"], "not that", "or the password is wrong"),
        (["--insecure"], None, "no password: give --password-file"),
        (["--insecure", "--password-file", "/nowhere"], None, "--password-file: /nowhere"),
    ],
    ids=["no trust", "other thumbprint", "two", "no ca", "wrong", "none", "no file"],
)
def test_vcenter_that_cannot_be_asked_is_one_line_and_exit_2(
    play: Any, reach: Any, trust: list[str], password: str | None, expected: str
) -> None:
    vcenter = play(PlayedVm("web1"))
    code, out, (line,) = reach(vcenter.port, *trust, password=password)
    assert (code, out) == (2, [])
    assert expected in line
    assert password is None or password not in line


def test_password_is_not_sent_to_a_vcenter_that_is_not_trusted(play: Any, reach: Any) -> None:
    vcenter = play(PlayedVm("web1"))
    reach(vcenter.port, "--thumbprint", "ab" * 32)
    reach(vcenter.port)
    assert vcenter.calls["Login"] == 0


def test_nobody_listens_is_reported(certificate: Pair, reach: Any) -> None:
    vcenter = PlayedVCenter(certificate, [])
    vcenter.close()
    code, _, (line,) = reach(vcenter.port, "--insecure")
    assert code == 2
    assert "cannot be reached: Connection refused" in line


@pytest.mark.parametrize(
    "answer",
    [
        "<html>hello</html>",
        "no XML",
        "",
        envelope('<RetrieveServiceContentResponse><returnval xsi:type="Nonsense"/>'),
        envelope("<soapenv:Fault><faultcode>x</faultcode><detail><NoFault/></detail>"),
    ],
    ids=["html", "text", "nothing", "unknown type", "unknown fault"],
)
def test_what_is_no_vcenter_is_reported(play: Any, reach: Any, answer: str) -> None:
    vcenter = play(PlayedVm("web1"))
    vcenter.junk = answer
    code, _, (line,) = reach(vcenter.port, "--insecure")
    assert code == 2
    assert "does not answer like a vCenter" in line


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["add", "web1"], "--vcenter"),
        (["add", "web1", "--proxy-uri", "http://x"], "expected telnet://"),
        (["add", "web1", "--proxy-uri", "telnet://x"], "expected telnet://"),
        (["add", "web1", "--uri", ""], "expected the service URI"),
        (["show", "--vcenter", "a@b"], "expected HOST"),
        (["show", "--vcenter", "v", "--user", "u", "--insecure"], "no VM given"),
        (["show", "--vcenter", "v", "--user", "u", "--from", "/nowhere"], "--from: /nowhere"),
        (["add", "web1", "--password", "x"], "--password"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_wrong_options_are_one_line_and_exit_2(arguments: list[str], expected: str) -> None:
    code, out, (line,) = in_process("vm-port", *arguments)
    assert (code, out) == (2, [])
    assert expected in line


def test_without_pyvmomi_it_says_what_to_install(tmp_path: Path) -> None:
    (tmp_path / "pyVmomi.py").write_text(
        "raise ModuleNotFoundError(\"No module named 'pyVmomi'\", name='pyVmomi')\n"
    )
    done = run(
        *("vm-port", "show", "web1", "--vcenter", "v", "--user", "u"),
        env={**os.environ, "PYTHONPATH": str(tmp_path)},
    )
    assert done.returncode == 2
    assert "pip install 'vmw-cloudinit-metadata[vsphere]'" in done.stderr


def test_command_line_does_not_load_pyvmomi() -> None:
    program = "import sys, vmw_cloudinit_metadata.cli; sys.exit('pyVmomi' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0

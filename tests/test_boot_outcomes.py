"""How a boot has ended, as its guest reports it over the serial line, and who then learns of it."""

from __future__ import annotations

import base64
import hashlib
import json
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.peer import connected
from tests.process import ServerProcess, run, with_constants
from tests.storm import free_port
from tests.test_admin import Admin
from tests.test_boot_report import BOOT, ED25519, rsa, written
from tests.test_upgrade import RUN, upgrade
from tests.vm import Vm
from tests.waiting import wait_until

Start = Callable[..., ServerProcess]

AT_ONCE = {"serving__outcomeanswer__INTERVAL_S": 0.0}
OTHER_UUID = "01 23 45 67 89 ab cd ef-fe dc ba 98 00 00 00 02"


def report(machine: Vm, **parts: Any) -> None:
    """Reports a boot, which must be confirmed."""
    body = written(**parts)
    code, answer = machine.ask("STATUS", argument=body)
    assert code == "RESPONSE_STATUS", (code, answer)
    assert json.loads(answer) == {"sha256": hashlib.sha256(body).hexdigest()}


def booted(server: ServerProcess, name: str = "web1", **settings: Any) -> Vm:
    machine = Vm(server.port, name, **settings)
    machine.metadata()
    return machine


def wait_for_state(admin: Admin, state: str, name: str = "web1") -> dict[str, Any]:
    """Waits for a machine's state; returns all that is known of it."""
    wait_until(lambda: admin.state_of(name) == state)
    found: dict[str, Any] = admin.json(f"/api/machines/{name}")
    return found


# What is taken


def test_outcome_is_shown_with_what_failed(start: Start) -> None:
    server = start()
    admin = Admin(server)
    machine = booted(server)
    report(machine)
    found = wait_for_state(admin, "broken")
    outcome = found["outcome"]
    assert outcome["status"] == "error"
    assert outcome["errors"] == ["('scripts_user', RuntimeError('Runparts: 1 failures'))"]
    assert outcome["stages"] == {"init-local": 0.5, "modules-final": 12.0}
    assert outcome["host_keys"] == [ED25519]
    assert outcome["hosts"] == ["myhostnamehere", "192.168.1.1"]
    assert (outcome["boot_id"], outcome["instance_id"]) == (BOOT, "my-instance")
    assert "Runparts" in found["last_error"]["reason"]
    assert admin.json("/api/status")["problems"] == {"boot failed": 1}
    assert admin.metric("vmw_metadata_boot_outcomes_total", status="error") == 1
    assert admin.metric("vmw_metadata_boot_outcome_seconds_count") == 1
    assert admin.metric("vmw_metadata_machines_in_trouble", state="broken") == 1
    shown = run("status", "web1", "--admin", f"http://127.0.0.1:{admin.port}")
    assert shown.returncode == 1
    assert "web1: broken" in shown.stdout
    assert "boot error:  ('scripts_user'" in shown.stdout
    machine.close()


@pytest.mark.parametrize("status", ["done", "degraded"])
def test_boot_that_ended_is_booted(start: Start, status: str) -> None:
    server = start()
    admin = Admin(server)
    machine = booted(server)
    report(machine, status=status, errors=[])
    assert wait_for_state(admin, "booted")["outcome"]["status"] == status
    machine.document("USERDATA")  # whoever asks for more boots no more
    time.sleep(0.5)
    assert admin.state_of("web1") == "booted"
    machine.metadata()
    wait_for_state(admin, "served")
    machine.close()


def test_report_without_metadata_on_the_line_is_refused(start: Start) -> None:
    server = start()
    admin = Admin(server)
    machine = booted(server)
    machine.close()
    machine = Vm(server.port)
    assert machine.error("STATUS", argument=written()) == "refused"
    machine.document("USERDATA")
    assert machine.error("STATUS", argument=written()) == "refused"
    wait_until(lambda: admin.state_of("web1") == "served")  # no boot has failed
    machine.metadata()
    report(machine)
    refused = {"reason": "not served"}
    assert admin.metric("vmw_metadata_boot_reports_refused_total", **refused) == 2
    machine.close()


def test_report_of_another_instance_is_refused(start: Start) -> None:
    server = start(command=with_constants(**AT_ONCE))
    machine = booted(server)
    assert machine.error("STATUS", argument=written(instance="another")) == "refused"
    report(machine)
    machine.close()


def test_hostile_report_is_invalid_and_shown_nowhere(start: Start) -> None:
    server = start()
    admin = Admin(server)
    machine = booted(server)
    assert machine.error("STATUS", argument=b'{"v":1,"status":"not-a-status"}') == "invalid"
    wait_for_state(admin, "served")
    machine.close()
    assert "not-a-status" not in server.log
    assert "a report of a boot: instance is missing" in server.log


def test_guest_is_told_what_is_wrong_with_its_report(start: Start) -> None:
    def message(body: bytes) -> str:
        code, answer = machine.ask("STATUS", argument=body)
        assert code == "RESPONSE_ERROR"
        return str(json.loads(answer)["message"])

    server = start(command=with_constants(**AT_ONCE))
    machine = Vm(server.port)
    assert "comes before the meta-data; request METADATA" in message(written())
    machine.metadata()
    assert "of another instance-id than the VM was served" in message(written(instance="x"))
    assert message(b"{") == "The report is invalid: it is not JSON"
    assert message(written(v=True)) == "The report is invalid: v: expected 1"
    parts = "v, instance, status, errors, stages, hostkeys, boot"
    assert message(written(x=1)) == f"The report is invalid: it has other parts than {parts}"
    wrong = "expected one of done, degraded, error"
    assert message(written(status="ok")) == f"The report is invalid: status: {wrong}"
    assert message(written(hostkeys=["ssh-rsa ?"])) == "The report is invalid: hostkeys: not base64"
    machine.close()
    patient = start()
    machine = booted(patient)
    report(machine)
    assert "takes one report in 10 s; report again after" in message(written(stages={}))
    machine.close()


def test_one_report_is_read_in_a_while(start: Start) -> None:
    server = start()
    admin = Admin(server)
    machine = booted(server)
    report(machine)
    report(machine)  # the same again: its answer may have been lost
    for number in range(5):
        other = written(stages={"init": number})
        assert machine.error("STATUS", argument=other) == "failed"
        machine.metadata()  # begins no new time
    assert admin.metric("vmw_metadata_boot_outcomes_total", status="error") == 1
    assert admin.metric("vmw_metadata_boot_reports_refused_total", reason="too soon") == 5
    machine.close()


def test_next_boot_may_report_the_same(start: Start) -> None:
    server = start(command=with_constants(**AT_ONCE))
    admin = Admin(server)
    machine = booted(server)
    for count in (1, 2):
        report(machine)
        assert admin.metric("vmw_metadata_boot_outcomes_total", status="error") == count
        machine.metadata()
    machine.close()


@pytest.mark.slow
@pytest.mark.parametrize("workers", ["1", "2"])
def test_upgrade_keeps_outcome_and_what_was_served(
    start: Start, own_instances: Path, workers: str
) -> None:
    instance(own_instances, "a", "web2.example.com", "10.0.0.1")
    server = start("--workers", workers, command=RUN)
    admin = Admin(server)
    machine, other = booted(server), booted(server, "a", vc_uuid=OTHER_UUID)
    report(machine)
    wait_for_state(admin, "broken")
    upgrade(server)
    assert admin.json("/api/machines/web1")["outcome"]["errors"]
    assert ED25519 in known_hosts(admin)
    report(machine)  # the same again: it is taken once
    assert admin.metric("vmw_metadata_boot_outcomes_total", status="error") == 1
    report(other, instance="i-a")
    wait_for_state(admin, "broken", "a")
    machine.close()
    other.close()


def test_move_keeps_what_was_served(start: Start) -> None:
    server = start()
    machine = booted(server)
    target = Vm.arriving(server.port, machine.begin_move())
    target.is_welcome()
    target.complete()
    report(target)
    target.close()


# Known hosts


def known_hosts(admin: Admin, query: str = "") -> str:
    answer, body = admin.request(f"/api/known_hosts{query}")
    assert answer.status == 200
    return body.decode()


def instance(directory: Path, name: str, hostname: str, address: str) -> None:
    (directory / f"{name}.yaml").write_text(
        f"metadata: {{instance-id: i-{name}, local-hostname: '{hostname}'}}\n"
        f"network: {{address: {address}, netmask: 255.255.255.0}}\n"
    )


def key_of(number: int) -> str:
    """A key of the right form."""
    blob = b"\0\0\0\x0bssh-ed25519\0\0\0\x20" + bytes([number]) * 32
    return f"ssh-ed25519 {base64.b64encode(blob).decode()}"


def uuid(number: int) -> str:
    return f"01 23 45 67 89 ab cd ef-fe dc ba 98 00 00 01 {number:02x}"


def report_keys(server: ServerProcess, name: str, number: int, **settings: Any) -> Vm:
    machine = booted(server, name, vc_uuid=uuid(number), **settings)
    report(machine, instance=f"i-{name}", status="done", errors=[], hostkeys=[key_of(number)])
    return machine


def found(file: Path, host: str, program: Callable[[str, str], str]) -> list[str]:
    """The keys that ssh-keygen finds under a name."""
    command = [program("ssh-keygen", "openssh-client"), "-F", host, "-f", str(file)]
    output = subprocess.run(command, capture_output=True, text=True, check=False).stdout
    lines = [line for line in output.splitlines() if not line.startswith("#")]
    return [line.partition(" ")[2] for line in lines]


def test_keys_are_found_by_name_and_address_alone(
    start: Start,
    own_instances: Path,
    tmp_path: Path,
    program: Callable[[str, str], str],
) -> None:
    instance(own_instances, "a", "Web1.Example.com", "10.0.0.1")
    instance(own_instances, "b", "web2.example.com", "10.0.0.2")
    server = start()
    machines = [report_keys(server, "a", 1), report_keys(server, "b", 2)]
    printed = run("known-hosts", "--admin", f"http://127.0.0.1:{Admin(server).port}")
    assert printed.returncode == 0
    file = tmp_path / "known_hosts"
    file.write_text(printed.stdout)
    for host in ("web1.example.com", "web1", "WEB1", "10.0.0.1"):
        assert found(file, host, program) == [key_of(1)]
    for host in ("web2", "10.0.0.2"):
        assert found(file, host, program) == [key_of(2)]
    for host in ("web", "web3", "example.com", "10.0.0.3", "*", "my-instance", "a"):
        assert found(file, host, program) == []
    for machine in machines:
        machine.close()


def test_name_of_every_machine_is_no_vms(start: Start, own_instances: Path) -> None:
    """A key under `localhost` would be wrong for whoever reads the file."""
    names = ("localhost", "LocalHost.localdomain", "db.localhost", "localhosts.example")
    for number, name in enumerate(names):
        instance(own_instances, f"v{number}", name, f"10.0.0.{number + 1}")
    server = start()
    machines = [report_keys(server, f"v{number}", number) for number in range(len(names))]
    hosts = {line.partition(" ")[0] for line in known_hosts(Admin(server)).splitlines()}
    own = {"10.0.0.1", "10.0.0.2", "db,10.0.0.3", "localhosts.example,localhosts,10.0.0.4"}
    assert hosts == own
    for machine in machines:
        machine.close()


def test_key_is_whole_or_left_out_and_counted(start: Start, own_instances: Path) -> None:
    """What a fact holds is bounded by its memory: one wide character makes a text larger."""
    name = f"{'n' * 60}.{'o' * 60}.{'p' * 60}.example"
    lines = "".join(f"- {{address: 192.168.{number}.1/24}}\n" for number in range(11))
    (own_instances / "web1.yaml").write_text(
        f"metadata: {{instance-id: i-1, local-hostname: {name}}}\nnetwork:\n{lines}"
    )
    server = start()
    admin = Admin(server)
    machine = booted(server)
    errors = ["\U0001f600" + "x" * 180] * 7
    long_key = rsa(65537, 2**6100 + 1)
    report(machine, instance="i-1", errors=errors, hostkeys=[ED25519, long_key], stages={})
    outcome = wait_for_state(admin, "broken")["outcome"]
    assert (outcome["host_keys"], outcome["more_host_keys"]) == ([ED25519], 1)
    shown = run("status", "web1", "--admin", f"http://127.0.0.1:{admin.port}")
    assert "host key:    and 1 more, left out since they are too long" in shown.stdout
    told = known_hosts(admin)
    assert name in told
    assert f" {long_key}\n" in told  # where there is room for it
    machine.close()


def test_host_of_two_vms_is_nobodys(start: Start, own_instances: Path) -> None:
    instance(own_instances, "a", "web.one.example", "10.0.0.1")
    instance(own_instances, "b", "web.two.example", "10.0.0.1")
    server = start()
    admin = Admin(server)
    machines = [report_keys(server, "a", 1), report_keys(server, "b", 2)]
    text = known_hosts(admin)
    assert f"web.one.example {key_of(1)}\n" in text
    assert f"web.two.example {key_of(2)}\n" in text
    assert "# web: left out, since several VMs have it\n" in text
    assert "# 10.0.0.1: left out" in text
    machines.pop().close()  # the other one is powered on in its place
    wait_until(lambda: f"web.one.example,web,10.0.0.1 {key_of(1)}\n" in known_hosts(admin))
    machines.pop().close()


def test_vm_whose_identity_is_doubtful_has_no_keys(start: Start, tmp_path: Path) -> None:
    key = tmp_path / "key"
    key.write_bytes(b"0123456789abcdef")
    key.chmod(0o600)
    server = start("--identity-key-file", str(key), "--identity-token", "warn")
    admin = Admin(server)
    machine = booted(server)
    report(machine)
    assert wait_for_state(admin, "broken")["outcome"]["host_keys"] == []
    assert known_hosts(admin) == ""
    machine.close()


def test_older_connection_gives_no_keys(start: Start) -> None:
    server = start()
    admin = Admin(server)
    older, newer = booted(server), booted(server)
    report(older)
    wait_for_state(admin, "broken")
    assert known_hosts(admin) == ""
    report(newer)
    wait_until(lambda: ED25519 in known_hosts(admin))
    assert known_hosts(admin, "?proved=1") == ""
    assert ED25519 in known_hosts(admin, "?proved=0")
    for query in ("?proved", "?proved=true", "?proved=2"):  # not as if nothing was asked for
        assert admin.request(f"/api/known_hosts{query}")[0].status == 400
    older.close()
    newer.close()


def test_restart_keeps_keys_and_forgetting_ends_them(start: Start, tmp_path: Path) -> None:
    file = str(tmp_path / "machines")
    server = start("--state-file", file)
    machine = booted(server)
    report(machine)
    machine.close()
    server.signal(signal.SIGTERM)
    assert server.wait() == 0
    server = start("--state-file", file)
    admin = Admin(server)
    assert ED25519 in known_hosts(admin)
    machine = booted(server)
    machine.close()
    wait_for_state(admin, "left")
    url = f"http://127.0.0.1:{admin.port}"
    assert run("status", "--forget", "web1", "--admin", url).returncode == 0
    assert known_hosts(admin) == ""


@contextmanager
def sshd(directory: Path, program: Callable[[str, str], str]) -> Iterator[tuple[int, str]]:
    """A real server; yields its port and its key."""
    path = program("/usr/sbin/sshd", "openssh-server")
    keygen = program("ssh-keygen", "openssh-client")
    for name in ("host", "user"):
        command = [keygen, "-q", "-t", "ed25519", "-N", "", "-f", str(directory / name)]
        subprocess.run(command, check=True)
    port = free_port()
    options = (
        *("ListenAddress=127.0.0.1", f"Port={port}", f"HostKey={directory}/host", "UsePAM=no"),
        *(f"AuthorizedKeysFile={directory}/user.pub", "StrictModes=no", "PermitRootLogin=yes"),
        f"PidFile={directory}/pid",
    )
    Path("/run/sshd").mkdir(exist_ok=True)
    arguments = [argument for option in options for argument in ("-o", option)]
    process = subprocess.Popen([path, "-D", "-e", "-f", "/dev/null", *arguments])
    try:
        wait_until(lambda: answers(port))
        key, _, _ = (directory / "host.pub").read_text().rpartition(" ")
        yield port, key
    finally:
        process.terminate()
        process.wait()


def answers(port: int) -> bool:
    try:
        connected(port).close()
    except OSError:
        return False
    return True


def test_ssh_trusts_a_reported_key_and_no_other(
    start: Start, own_instances: Path, tmp_path: Path, program: Callable[[str, str], str]
) -> None:
    ssh = program("ssh", "openssh-client")
    instance(own_instances, "a", "web1.example.com", "10.0.0.1")
    instance(own_instances, "b", "web2.example.com", "10.0.0.2")
    server = start()
    admin = Admin(server)
    with sshd(tmp_path, program) as (port, key):
        machine = booted(server, "a", vc_uuid=uuid(1))
        report(machine, instance="i-a", hostkeys=[key])
        other = report_keys(server, "b", 2)
        file = tmp_path / "known_hosts"
        wait_until(lambda: known_hosts(admin).count("\n") == 2)
        file.write_text(known_hosts(admin))

        def trusts(host: str) -> bool:
            options = (
                *("BatchMode=yes", "StrictHostKeyChecking=yes", f"UserKnownHostsFile={file}"),
                *("GlobalKnownHostsFile=/dev/null", f"HostKeyAlias={host}"),
                *(f"IdentityFile={tmp_path}/user", "IdentitiesOnly=yes"),
            )
            arguments = [argument for option in options for argument in ("-o", option)]
            command = [ssh, "-F", "none", "-p", str(port), *arguments, "127.0.0.1", "echo hello"]
            done = subprocess.run(command, capture_output=True, text=True, check=False)
            if done.returncode:
                assert "Host key verification failed" in done.stderr, done.stderr
            return done.stdout == "hello\n"

        assert trusts("web1.example.com")
        assert trusts("10.0.0.1")
        assert not trusts("web2.example.com")
        assert not trusts("web3.example.com")
        machine.close()
        other.close()

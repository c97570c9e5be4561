"""A real server process on loopback, talked to by a raw socket."""

from __future__ import annotations

import json
import re
import signal
import socket
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from tests.process import ServerProcess, with_constants
from tests.vm import ALWAYS_KNOWN, BINARY, KNOWN, Vm, suboption

SETTLED_S = 2.1  # after which a file that was read need not be read again
FRESH_S = 0.2  # within which a change is served
Connect = Callable[..., Vm]
Start = Callable[..., ServerProcess]


def test_vm_asks_for_its_documents_and_gets_them(vm: Connect) -> None:
    machine = vm()
    assert list(machine.metadata().items()) == [
        ("instance-id", "my-instance"),
        ("hostname", "myhostnamehere"),
        ("local-hostname", "myhostnamehere"),
    ]
    assert yaml.safe_load(machine.document("NETWORKDATA")) == {
        "version": 1,
        "config": [
            {
                "type": "physical",
                "name": "eth0",
                "subnets": [
                    {
                        "type": "static",
                        "address": "192.168.1.1",
                        "netmask": "255.255.255.0",
                        "gateway": "192.168.1.254",
                        "dns_search": ["example.com"],
                        "dns_nameservers": ["8.8.8.8", "8.8.4.4"],
                    }
                ],
            }
        ],
    }
    assert machine.document("USERDATA") == b"#cloud-config\ngrowpart: {mode: auto}\n"


@pytest.mark.parametrize("direction", ["C", "S"])
@pytest.mark.parametrize("uri", ["my-metadata", "my-metadata?port=1", "my-metadata?"])
def test_do_proxy_for_our_uri_is_accepted(vm: Connect, direction: str, uri: str) -> None:
    machine = vm(direction=direction, uri=uri)
    machine.receive_until(suboption(71))
    assert machine.metadata()["instance-id"] == "my-instance"


@pytest.mark.parametrize("uri", ["other", "my-metadataX", "x?my-metadata", "", "My-Metadata"])
def test_do_proxy_for_another_uri_is_refused_and_kept_mute(
    vm: Connect, server: ServerProcess, uri: str
) -> None:
    machine = vm(uri=uri)
    machine.receive_until(suboption(73))
    machine.send(b"!!REQUEST_METADATA#\n" + suboption(200))
    assert machine.hears(0.3) == b""
    machine.send(b"still connected")
    assert f"asks for service URI {uri!r}, this server serves 'my-metadata'" in server.log


def test_refused_lines_are_bounded_in_time_and_number(start: Start) -> None:
    limits = with_constants(
        serving__timeouts__MUTE_LINE_S=3.0, serving__admission__MAX_MUTE_LINES=3
    )
    server = start(command=limits)
    lines = []
    for _ in range(4):
        lines.append(Vm(server.port, uri="other"))
        lines[-1].receive_until(suboption(73))
    assert lines[0].receive_all(2) == b""  # the oldest made room for the newest
    started_s = time.monotonic()
    for line in lines[1:]:
        assert line.receive_all() == b""
    assert 0.5 < time.monotonic() - started_s < 10


def test_second_uri_is_served_too(start: Start) -> None:
    server = start("--uri", "other")
    assert Vm(server.port, uri="other").metadata()["instance-id"] == "my-instance"
    assert Vm(server.port).metadata()["instance-id"] == "my-instance"


def test_greeting_comes_before_the_peer_says_anything(vm: Connect) -> None:
    greeting = vm(silent=True).receive_until(b"\xff\xfd\xe8")
    for negotiation in (b"\xff\xfb\x00", b"\xff\xfb\x03", b"\xff\xfb\x01", b"\xff\xfd\x00"):
        assert negotiation in greeting


def test_vm_in_lockstep_as_recorded_is_served(vm: Connect) -> None:
    machine = vm(silent=True)
    machine.send(b"\xff\xfb\x25")
    machine.receive_until(b"\xff\xfd\xe8")
    machine.receive_until(b"\xff\xfe\x25")  # only now does it say WILL 232
    machine.send(b"\xff\xfd\x00\xff\xfd\x03\xff\xfd\x01\xff\xfb\x00\xff\xfb\x03\xff\xfb\xe8")
    known = machine.receive_matching(b"\xff\xfa\xe8\x01[^\xff]*\xff\xf0")
    assert {0, 1, 2, 3, 70, 71, 73, 80, 81, 82, 83} <= set(known[known.rindex(b"\xe8\x01") + 2 :])
    machine.send(suboption(0, KNOWN) + suboption(70, b"Smy-metadata"))
    machine.receive_until(suboption(81) + suboption(83))
    machine.send(suboption(80, b"01 23 45 67 89 ab cd ef-fe dc ba 98 00 00 00 00"))
    machine.send(suboption(84, b"42 23 45 67 89 ab cd ef-fe dc ba 98 00 00 00 00"))
    machine.send(suboption(86) + suboption(82, b"web1") + b"\xff\xfb\x2c")
    machine.receive_until(b"\xff\xfe\x2c")
    for byte in b"!!REQUEST_METADATA#\r\n":
        machine.send(bytes([byte]))
    assert json.loads(machine.answer()[1])["instance-id"] == "my-instance"


def test_request_before_the_identity_waits_for_it(vm: Connect) -> None:
    machine = vm(silent=True)
    machine.send(BINARY + b"\xff\xfb\xe8" + suboption(0, KNOWN) + suboption(70, b"Cmy-metadata"))
    machine.send(b"!!REQUEST_METADATA#\n")
    assert b"!!" not in machine.hears(0.5)
    machine.send(suboption(80, b"00" * 15 + b"01") + suboption(82, b"web1"))
    machine.send(suboption(84) + suboption(86, b"none"))
    assert machine.answer()[0] == "RESPONSE_METADATA"


def test_identity_that_is_announced_and_not_sent_is_asked_twice_and_never_absent(
    vm: Connect,
) -> None:
    started_s = time.monotonic()
    machine = vm(vc_uuid=None, known=KNOWN)
    assert machine.error("METADATA") == "timeout"
    assert 3.5 < time.monotonic() - started_s < 8


def test_location_that_is_not_sent_counts_as_absent_after_2_s(vm: Connect) -> None:
    started_s = time.monotonic()
    machine = vm(known=ALWAYS_KNOWN + bytes([80, 81, 82, 83, 86, 87]))
    assert machine.metadata()["instance-id"] == "my-instance"
    assert 1.5 < time.monotonic() - started_s < 4


@pytest.mark.parametrize(
    ("name", "error"),
    [
        pytest.param(None, "not-found", id="none"),
        pytest.param(b"\xff\xfe", "not-found", id="no utf-8"),
        pytest.param("", "not-found", id="empty"),
        pytest.param(b"x" * 2000, "not-found", id="too long"),
        pytest.param(b"x" * 100_000, "timeout", id="dropped while it arrives"),
    ],
)
def test_vm_without_any_usable_identity_gets_nothing(
    vm: Connect, name: str | bytes | None, error: str
) -> None:
    assert vm(name, vc_uuid="").error("METADATA") == error


def test_bios_uuid_alone_finds_the_file(vm: Connect, instances: Path) -> None:
    uuid = "42010203-0405-0607-0809-0a0b0c0d0e0f"
    (instances / f"{uuid}.yaml").write_text(
        f"metadata: {{instance-id: by-bios}}\nmatch: {{bios-uuid: {uuid}}}\n"
    )
    assert vm(None, vc_uuid="", bios_uuid=uuid).metadata() == {"instance-id": "by-bios"}


def test_bios_uuid_of_another_vm_gets_nothing_of_it(
    vm: Connect, server: ServerProcess, instances: Path
) -> None:
    """A tenant who gives his VM the VC UUID of another one as its BIOS UUID."""
    victim, thief = "42010203-0405-0607-0809-0a0b0c0d0e1f", "42" * 16
    (instances / f"{victim}.yaml").write_text("metadata: {instance-id: victim}\nuserdata: SECRET\n")
    assert vm("victim", vc_uuid=victim).metadata()["instance-id"] == "victim"
    machine = vm("thief", vc_uuid=thief, bios_uuid=victim)
    for document in ("METADATA", "USERDATA", "DIGEST"):
        assert machine.error(document) == "not-found"
    assert vm("web1", vc_uuid=thief, bios_uuid=victim).metadata()["instance-id"] == "my-instance"
    server.wait_for(f"write `match: {{bios-uuid: {victim}}}` into it")


def test_nothing_is_answered_without_do_proxy(vm: Connect) -> None:
    machine = vm(silent=True)
    machine.send(BINARY + b"\xff\xfb\xe8" + suboption(0, KNOWN) + suboption(82, b"web1"))
    machine.send(b"!!REQUEST_METADATA#\n")
    assert b"!!" not in machine.hears(2.5)


def test_unknown_suboption_is_reported_and_the_line_stays(vm: Connect) -> None:
    machine = vm()
    machine.send(suboption(99, b"x"))
    machine.receive_until(suboption(3, bytes([99])))
    assert machine.metadata()["instance-id"] == "my-instance"


def test_vm_without_data_hears_not_found(vm: Connect) -> None:
    machine = vm("unknown")
    for document in ("METADATA", "NETWORKDATA", "USERDATA", "VENDORDATA", "DIGEST"):
        assert machine.error(document) == "not-found"


def test_vm_with_bad_data_hears_invalid_and_the_log_says_where(
    vm: Connect, server: ServerProcess, instances: Path
) -> None:
    (instances / "bad.yaml").write_text("metadata: {}\nnetwork:\n  address: nonsense\n")
    assert vm("bad").error("METADATA") == "invalid"
    server.wait_for(r"bad\.yaml:3: network\.address: found 'nonsense', expected an IP address")


def test_fault_is_logged_once_and_not_at_every_retry(
    vm: Connect, server: ServerProcess, instances: Path
) -> None:
    (instances / "worse.yaml").write_text("metadata: 5\n")
    machine = vm("worse")
    for _ in range(5):
        machine.error("METADATA")
    server.wait_for("worse.yaml:1: metadata: found ")
    assert server.log.count("worse.yaml:1: metadata: found ") == 1


def test_document_that_the_vm_does_not_have_is_empty(vm: Connect) -> None:
    assert vm().document("VENDORDATA") == b""


@pytest.mark.parametrize("document", ["FOO", "FOO_BAR", "ERROR", ""])
def test_document_that_no_vm_has_is_an_unknown_request(vm: Connect, document: str) -> None:
    assert vm().error(document) == "unknown-request"
    assert vm("unknown").error(document) == "unknown-request"


def test_further_document_is_served_and_empty_for_other_vms(vm: Connect, instances: Path) -> None:
    (instances / "safe.yaml").write_text("metadata: {}\ndocuments: {securitydata: secret}\n")
    assert vm().document("SECURITYDATA") == b""
    assert vm("safe").document("SECURITYDATA") == b"secret"
    assert vm("unknown").error("SECURITYDATA") == "not-found"


def test_requests_in_one_segment_are_all_answered_in_order(vm: Connect) -> None:
    machine = vm()
    machine.send(b"".join(b"!!REQUEST_%s#\n" % d for d in (b"METADATA", b"USERDATA")) * 100)
    codes = [machine.answer()[0] for _ in range(200)]
    assert codes == ["RESPONSE_METADATA", "RESPONSE_USERDATA"] * 100


@pytest.mark.parametrize("end", [b"\n", b"\r", b"\r\n", b"\n\r"])
def test_every_line_end_ends_a_request(vm: Connect, end: bytes) -> None:
    machine = vm()
    machine.send((b"!!REQUEST_USERDATA#" + end) * 2)
    assert [machine.answer()[0] for _ in range(2)] == ["RESPONSE_USERDATA"] * 2
    machine.send(b"!!REQUEST_METADATA#" + end)
    assert machine.answer()[0] == "RESPONSE_METADATA"


def test_noise_is_ignored_and_the_request_in_it_answered(vm: Connect) -> None:
    machine = vm()
    machine.send(b"\0\0[    1.0] Linux!\nlogin: !!REQ!!RESPONSE_METADATA#e30=\n")
    machine.send(b"!!RESPONSE_ERROR#\n!!request_metadata#\n" + b"x" * 100_000 + b"\n")
    machine.send(b"\0web1 login: \0!!REQUEST_USERDATA#\n")
    machine.receive_until(suboption(71))
    heard = machine.hears(0.5)
    assert heard.count(b"!!") == 1
    assert heard.startswith(b"!!RESPONSE_USERDATA#")


def test_guest_that_echoes_our_answers_gets_no_loop(vm: Connect) -> None:
    machine = vm()
    machine.receive_until(suboption(71))
    machine.send(b"!!REQUEST_METADATA#\n")
    machine.send(machine.receive_until(b"\n"))
    assert machine.hears(0.3) == b""


def test_answer_without_binary_ends_with_cr_lf(vm: Connect) -> None:
    machine = vm(silent=True)
    machine.send(b"\xff\xfb\xe8" + suboption(0, KNOWN[:-8]) + suboption(82, b"web1"))
    machine.send(suboption(70, b"Cmy-metadata") + b"!!REQUEST_USERDATA#\r\0")
    assert machine.receive_matching(b"!![^\n]*\n").endswith(b"=\r\n")


def test_large_document_reaches_a_slow_reader_whole(vm: Connect, instances: Path) -> None:
    (instances / "big.yaml").write_text(
        f"metadata: {{}}\nuserdata: |\n  #!/bin/sh\n  # {'x' * 1_000_000}\n"
    )
    machine = vm("big", receive_buffer=65536)
    machine.send(b"!!REQUEST_USERDATA#\n!!REQUEST_METADATA#\n")
    time.sleep(0.3)  # the answer does not fit into the socket meanwhile
    code, body = machine.answer()
    assert (code, len(body)) == ("RESPONSE_USERDATA", 1_000_013)
    assert machine.answer()[0] == "RESPONSE_METADATA"


def test_peer_that_never_reads_keeps_its_line_and_harms_nobody(
    vm: Connect, instances: Path
) -> None:
    (instances / "huge.yaml").write_text(f"metadata: {{}}\nuserdata: '{'x' * 1_000_000}'\n")
    mute = vm("huge", receive_buffer=65536)
    mute.send(b"!!REQUEST_USERDATA#\n" * 5000)
    assert vm().metadata()["instance-id"] == "my-instance"
    for _ in range(3):
        assert mute.answer()[0] == "RESPONSE_USERDATA"


def test_connection_that_is_reset_is_no_error_in_the_log(
    vm: Connect, server: ServerProcess
) -> None:
    for _ in range(20):
        machine = vm()
        machine.send(b"!!REQUEST_METADATA#\n")
        machine.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        machine.close()
    assert vm().metadata()["instance-id"] == "my-instance"
    assert "Traceback" not in server.log


def test_machines_that_share_a_file_are_reported(
    vm: Connect, server: ServerProcess, instances: Path
) -> None:
    (instances / "twin.yaml").write_text("metadata: {}\n")
    first, second = vm("twin"), vm("twin", vc_uuid="42" * 16)
    first.metadata()
    second.metadata()
    server.wait_for(r"gets \S+twin\.yaml, which other connected VMs get too: VC UUID 01234567")


def test_machines_that_share_a_file_for_a_moment_are_told(
    vm: Connect, server: ServerProcess, instances: Path
) -> None:
    (instances / "brief.yaml").write_text("metadata: {}\n")
    first, second = vm("brief"), vm("brief", vc_uuid="42" * 16)
    first.metadata()
    second.metadata()
    first.close()
    server.wait_for(r"gets \S+brief\.yaml, which other connected VMs get too: VC UUID 01234567")


def test_name_in_the_log_cannot_forge_a_line(vm: Connect, server: ServerProcess) -> None:
    vm("web1\n2026-01-01 INFO forged").error("METADATA")
    server.wait_for("forged.*answered with not-found")
    assert not [line for line in server.lines if line.startswith("2026-01-01 INFO forged")]


def test_user_data_is_not_in_the_log(start: Start, own_instances: Path) -> None:
    (own_instances / "web1.yaml").write_text("metadata: {}\nuserdata: |\n  #!SECRET\n")
    server = start("--log-level", "debug")
    machine = Vm(server.port)
    assert machine.document("USERDATA") == b"#!SECRET\n"
    (own_instances / "web1.yaml").write_text(
        "metadata: 5\nuserdata: [SECRET]\nvendordata: [SECRET]\n"
    )
    time.sleep(FRESH_S)
    machine.ask("USERDATA")
    server.wait_for("metadata: found 5")
    assert "SECRET" not in server.log


def test_changed_file_takes_effect_and_a_broken_one_does_not(
    vm: Connect, server: ServerProcess, instances: Path
) -> None:
    file = instances / "changing.yaml"
    file.write_text("metadata: {instance-id: first}\n")
    machine = vm("changing")
    assert machine.metadata()["instance-id"] == "first"
    file.write_text("metadata: {instance-id: changed}\n")
    assert machine.metadata()["instance-id"] == "changed"
    file.write_text("metadata: {instance-id: ")
    assert machine.metadata()["instance-id"] == "changed"
    assert machine.metadata()["instance-id"] == "changed"
    server.wait_for("the last good answer is served")
    assert server.log.count("the last good answer is served") == 1
    assert vm("changing", vc_uuid="42" * 16).error("METADATA") == "invalid"
    file.unlink()
    assert machine.error("METADATA") == "not-found"


def test_directory_that_vanished_is_failed_and_not_not_found(
    start: Start, own_instances: Path
) -> None:
    server = start()
    own_instances.rename(own_instances.with_name("moved"))
    assert Vm(server.port).error("METADATA") == "failed"
    own_instances.with_name("moved").rename(own_instances)
    assert Vm(server.port).metadata()["instance-id"] == "my-instance"


def test_listen_takes_several_addresses_and_ipv6(start: Start) -> None:
    if not socket.has_ipv6:
        pytest.skip("needs IPv6 on loopback")
    server = start("--listen", "[::1]:0")
    port = int(server.wait_for(r"listening on \[::1\]:(\d+)")[1])
    assert Vm(port, address="::1").metadata()["instance-id"] == "my-instance"
    assert Vm(server.port).metadata()["instance-id"] == "my-instance"


def test_ipv6_wildcard_alone_takes_ipv4_too(start: Start) -> None:
    server = start(listen="[::]:0")
    assert "listening on [::]:" in server.log
    assert Vm(server.port).metadata()["instance-id"] == "my-instance"
    server.wait_for(r"127\.0\.0\.1:\d+: 'web1'")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_signal_ends_an_idle_server_at_once_with_0(start: Start, number: int) -> None:
    server = start()
    machine = Vm(server.port)
    machine.metadata()
    server.signal(number)
    machine.receive_all()
    machine.close()
    assert server.wait(3) == 0
    assert "Traceback" not in server.log


def test_start_line_is_written_at_every_log_level(start: Start) -> None:
    server = start("--log-level", "error")
    Vm(server.port).metadata()
    version, listening = server.lines
    assert "INFO version " in version
    assert "INFO listening on " in listening


def test_idle_server_uses_no_cpu(start: Start) -> None:
    server = start()
    machines = [Vm(server.port) for _ in range(50)]
    for machine in machines:
        machine.metadata()
    time.sleep(0.3)
    before_s = _cpu_s(server.pid)
    time.sleep(1)
    assert _cpu_s(server.pid) - before_s <= 0.02


def _cpu_s(pid: int) -> float:
    """User and system time: as in /proc/PID/stat, but not in ticks. See clock_getcpuclockid(3)."""
    return time.clock_gettime((~pid << 3) | 2)


def wakeups(server: ServerProcess) -> int:
    status = Path(f"/proc/{server.pid}/status").read_text()
    return int(re.search(r"^voluntary_ctxt_switches:\s+(\d+)", status, re.MULTILINE)[1])  # type: ignore[index]


def test_bytes_of_a_uart_are_taken_several_at_a_time(server: ServerProcess) -> None:
    machine = Vm(server.port)
    machine.metadata()
    before = wakeups(server)
    for _ in range(400):
        machine.send(b"x")
        time.sleep(0.001)
    machine.send(b"\n!!REQUEST_METADATA#\n")
    assert machine.answer()[0] == "RESPONSE_METADATA"
    assert wakeups(server) - before < 300


@pytest.mark.slow
def test_vm_that_asks_for_a_faulty_file_again_and_again_costs_little(
    vm: Connect, server: ServerProcess, instances: Path
) -> None:
    """To parse it takes some tenths of a second."""
    wrong = "metadata:\n  hostname: a_b\n" + "".join(
        f"  k{n}: [a, b, {n}]\n" for n in range(20_000)
    )
    (instances / "faulty.yaml").write_text(wrong)
    assert len(wrong) > 381 * 1024
    time.sleep(SETTLED_S)
    faulty, other = vm("faulty", vc_uuid="43" * 16), vm()
    assert faulty.error("METADATA") == "invalid"
    used_s, took_s = cpu_s(server), []
    end_s = time.monotonic() + 2.0
    while time.monotonic() < end_s:
        assert faulty.error("METADATA") == "invalid"
        began_s = time.monotonic()
        other.metadata()
        took_s.append(time.monotonic() - began_s)
        time.sleep(0.01)
    assert cpu_s(server) - used_s < 0.6
    assert sorted(took_s)[len(took_s) * 9 // 10] < 0.05


def cpu_s(server: ServerProcess) -> float:
    return time.clock_gettime((~server.pid << 3) | 2)  # clock_getcpuclockid(3)

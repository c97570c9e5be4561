"""The guest agent as a real process: what it asks, how long, and what it makes of the answers."""

from __future__ import annotations

import fcntl
import json
import os
import signal
import socket
import sys
import termios
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from tests.guest import QUICK, TWICE, Guest, Serial, later_boot, mostly_slow
from tests.process import LIMIT_S
from tests.uart import (
    DOCUMENTS,
    METADATA,
    Answers,
    Uart,
    digest,
    in_turn,
    old_server,
    refusal,
    refusing,
    response,
    server_of,
    silent,
)
from vmw_cloudinit_metadata.guest.agent import failures, texts
from vmw_cloudinit_metadata.guest.agent.conversation import Conversation
from vmw_cloudinit_metadata.guest.agent.patience import Patience
from vmw_cloudinit_metadata.guest.agent.serialport import (
    SerialPort,
    find_ports,
    open_ports,
    wait_for,
)
from vmw_cloudinit_metadata.guest.agent.system import System

SECRET = "correct-horse-battery"
TRUNCATED = b"!!RESPONSE_USERDATA#I2Ns\r\n[    1.234567] usb 1-1: new device\r\n"

# What it asks for


def test_old_server_is_enough_and_costs_no_wait(guest: Guest, serial: Serial) -> None:
    uart = serial(old_server(DOCUMENTS))
    began_s = time.monotonic()
    guest.fetch("--retry", "30")
    assert time.monotonic() - began_s < 12
    assert guest.files == {"meta-data": METADATA, "user-data": DOCUMENTS["USERDATA"]}
    assert "VENDORDATA" not in uart.asked


def test_old_server_that_refuses_unknown_requests_costs_no_wait(
    guest: Guest, serial: Serial
) -> None:
    known = old_server(DOCUMENTS)
    serial(lambda name: known(name) or refusal(name, "unknown-request"))
    began_s = time.monotonic()
    guest.fetch("--retry", "30")
    assert time.monotonic() - began_s < 12
    assert guest.metadata["instance-id"] == "i-1"


def test_server_that_drops_what_comes_behind_a_request_costs_no_wait(
    guest: Guest, serial: Serial
) -> None:
    """As one that takes each piece it receives for one request."""
    serial(
        old_server(DOCUMENTS), to_host=lambda data: data.lstrip(b"\n").partition(b"\n")[0] + b"\n"
    )
    began_s = time.monotonic()
    guest.fetch("--retry", "30")
    assert time.monotonic() - began_s < 12
    assert guest.metadata["instance-id"] == "i-1"


def test_vendor_data_is_asked_for_where_the_digest_has_it(guest: Guest, serial: Serial) -> None:
    documents = {**DOCUMENTS, "NETWORKDATA": b"version: 2\n", "VENDORDATA": b"#cloud-config\n"}
    serial(server_of(documents))
    guest.fetch()
    assert guest.files == {
        "meta-data": METADATA,
        "network-config": b"version: 2\n",
        "user-data": DOCUMENTS["USERDATA"],
        "vendor-data": b"#cloud-config\n",
    }


def test_data_that_changes_while_it_is_read_is_read_again(guest: Guest, serial: Serial) -> None:
    new = {"METADATA": METADATA.replace(b"i-1", b"i-2"), "NETWORKDATA": b"", "USERDATA": b"new"}
    serial(in_turn(server_of(DOCUMENTS), server_of(new), until="USERDATA"))
    serial(in_turn(server_of(DOCUMENTS), server_of(new)))
    assert "the digest does not match" in guest.fetch(*QUICK)
    assert guest.metadata["instance-id"] == "i-2"
    assert guest.files["user-data"] == b"new"


@pytest.mark.slow
def test_data_of_an_old_server_that_changes_is_read_again(guest: Guest, serial: Serial) -> None:
    new = {**DOCUMENTS, "METADATA": METADATA.replace(b"i-1", b"i-2"), "USERDATA": b"new"}
    serial(in_turn(old_server(DOCUMENTS), old_server(new)))
    assert "changed while it was read" in guest.fetch(*QUICK)
    assert guest.metadata["instance-id"] == "i-2"
    assert guest.files["user-data"] == b"new"


@pytest.mark.slow
def test_answers_that_never_belong_together_write_nothing(guest: Guest, serial: Serial) -> None:
    serial(old_server({**DOCUMENTS, "DIGEST": digest({"METADATA": b"another"})}))
    output = guest.fetch(*QUICK, "--timeout", "0.5")
    assert "the digest does not match" in output
    assert not guest.seed.exists()


@pytest.mark.parametrize("answer", mostly_slow(b"[]", b'{"METADATA": 5}', b"{", b"[" * 100_000))
def test_digest_that_is_none_is_no_end(guest: Guest, serial: Serial, answer: bytes) -> None:
    serial(old_server({**DOCUMENTS, "DIGEST": answer}))
    assert "Traceback" not in guest.fetch(*QUICK, "--timeout", "0.5")


@pytest.mark.parametrize(
    "metadata",
    mostly_slow(
        *(b"{}", b"", b"[]", b"{", b'{"instance-id": ""}', b"\xff\xfe", b"[" * 100_000, b"a: b: c"),
    ),
    ids=lambda metadata: repr(metadata[:10]),
)
def test_metadata_without_an_instance_id_is_no_seed(
    guest: Guest, serial: Serial, metadata: bytes
) -> None:
    serial(server_of({**DOCUMENTS, "METADATA": metadata}))
    output = guest.fetch(*QUICK, "--timeout", "0.4")
    assert "meta-data" in output
    assert not guest.seed.exists()


@pytest.mark.parametrize("value", ["0x" + "f" * 20_000, "[*a, *a]"], ids=["number", "list"])
def test_instance_id_that_is_no_text_is_none(value: str) -> None:
    with pytest.raises(failures.Unusable):
        texts.instance_id_of(f"a: &a {{}}\ninstance-id: {value}\n".encode())


def test_instance_id_is_read_without_pyyaml(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "yaml", None)
    for said in ("i-1", '"i-1"', "'i-1'  "):
        assert texts.instance_id_of(f"a: b\ninstance-id: {said}\n".encode()) == "i-1"


def test_metadata_may_be_yaml(guest: Guest, serial: Serial) -> None:
    serial(server_of({**DOCUMENTS, "METADATA": b"# ours\ninstance-id: i-9\nx: [1]\n"}))
    guest.fetch()
    assert guest.files["meta-data"] == b"# ours\ninstance-id: i-9\nx: [1]\n"


# How the line behaves


def test_answers_longer_than_a_terminals_line_arrive(guest: Guest, serial: Serial) -> None:
    documents = {**DOCUMENTS, "USERDATA": os.urandom(400_000)}
    uart = serial(server_of(documents), piece_bytes=16384, echo=True)
    guest.fetch()
    assert guest.files["user-data"] == documents["USERDATA"]
    assert b"RESPONSE" not in uart.written  # nothing was echoed to the server


@pytest.mark.slow
def test_single_bytes_arrive(guest: Guest, serial: Serial) -> None:
    serial(server_of(DOCUMENTS), piece_bytes=1)
    guest.fetch()
    assert guest.files["user-data"] == DOCUMENTS["USERDATA"]


def test_stale_answers_are_not_taken_for_fresh_ones(guest: Guest, serial: Serial) -> None:
    """Bytes that waited on the host arrive for a while after the port was opened."""
    uart = serial(old_server(DOCUMENTS), piece_bytes=30, pause_s=0.03)
    uart.say(response("METADATA", METADATA.replace(b"i-1", b"old")) * 12)
    assert "retrying" not in guest.fetch()
    assert guest.metadata["instance-id"] == "i-1"


def test_other_codes_and_noise_are_passed_over(guest: Guest, serial: Serial) -> None:
    known = server_of(DOCUMENTS)
    noise = (
        b"\0\n[  1.0] !! oops\r\n!!RESPONSE_FOO#QQ==\n!!REQUEST_METADATA#\n!!RESPONSE_ERROR#W10=\n"
    )
    noise += b"login: !!"
    serial(lambda name: noise + known(name))
    guest.fetch()
    assert guest.files["user-data"] == DOCUMENTS["USERDATA"]


def test_damaged_answer_is_asked_for_again_at_once(guest: Guest, serial: Serial) -> None:
    known = server_of(DOCUMENTS)
    damaged = b"!!RESPONSE_USERDATA#I2Ns[  1.234567] usb 1-1: new\r\n"
    serial(in_turn(lambda n: damaged if n == "USERDATA" else known(n), known, until="USERDATA"))
    began_s = time.monotonic()
    guest.fetch("--retry", "30")
    assert time.monotonic() - began_s < 12
    assert guest.files["user-data"] == DOCUMENTS["USERDATA"]


@pytest.mark.parametrize("make", [server_of, old_server])
def test_answer_that_noise_has_cut_short_is_read_again(
    guest: Guest, serial: Serial, make: Callable[[Mapping[str, bytes]], Answers]
) -> None:
    known = make(DOCUMENTS)
    serial(in_turn(lambda n: TRUNCATED if n == "USERDATA" else known(n), known, until="USERDATA"))
    guest.fetch(*QUICK)
    assert guest.files["user-data"] == DOCUMENTS["USERDATA"]


def test_request_that_is_lost_is_sent_again_behind_a_line_end(guest: Guest, serial: Serial) -> None:
    uart = serial(in_turn(silent, silent, server_of(DOCUMENTS)))
    output = guest.fetch(*QUICK)
    assert b"!!REQUEST_METADATA#\n\n!!REQUEST_" in uart.written
    assert output.count("retrying") == guest.console.count("retrying") == 2


def test_kernel_messages_within_requests_are_survived(guest: Guest, serial: Serial) -> None:
    pieces = iter([b"[    0.5] ttyS0: noise\r\n", b"half[   0.7]"])
    uart = serial(
        server_of(DOCUMENTS),
        "ttyS0",
        to_host=lambda data: data[:9] + next(pieces, b"") + data[9:],
    )
    guest.write("proc/consoles", "ttyS0  -W- (EC p a)  4:64\n")
    guest.fetch(*QUICK, "--device", "/dev/ttyS0")
    assert guest.files["user-data"] == DOCUMENTS["USERDATA"]
    assert uart.asked


@pytest.mark.slow
def test_line_without_end_is_dropped(guest: Guest, serial: Serial) -> None:
    known = server_of(DOCUMENTS)
    flood = b"!!RESPONSE_METADATA#" + b"A" * 9_000_000 + b"\n"
    serial(in_turn(lambda _: flood, known, until="DIGEST"), piece_bytes=65536)
    guest.fetch("--retry", "1")
    assert guest.metadata["instance-id"] == "i-1"


def test_answers_of_kinds_that_nobody_asks_for_are_not_kept(serial: Serial) -> None:
    kinds = ("FOO", "X" * 64, "METADATA")
    uart = serial(lambda _: b"".join(response(kind, b"x") for kind in kinds))
    port = SerialPort("/dev/ttyS1", uart.path, is_shared=False)
    try:
        patience = Patience(LIMIT_S, LIMIT_S, LIMIT_S)
        conversation = Conversation([port], wait_for, patience, LIMIT_S, print)
        assert conversation.ask("METADATA") == b"x"
        assert set(conversation.received) == {"METADATA"}
    finally:
        port.close()


def modes(uart: Uart) -> list[Any]:
    descriptor = os.open(uart.path, os.O_RDONLY | os.O_NOCTTY | os.O_NONBLOCK)
    try:
        return termios.tcgetattr(descriptor)
    finally:
        os.close(descriptor)


@pytest.mark.parametrize("name", mostly_slow("ttyS0", "ttyS1"))
def test_port_is_raw_while_it_is_asked(guest: Guest, serial: Serial, name: str) -> None:
    guest.write("proc/consoles", "ttyS0 -W- (EC p a) 4:64\n")
    is_seen = threading.Event()
    answers = server_of(DOCUMENTS)
    uart = serial(lambda document: answers(document) if is_seen.is_set() else b"", name)
    before = modes(uart)
    process = guest.start(*QUICK, "--device", f"/dev/{name}")
    assert process.stderr
    assert "retrying" in process.stderr.readline()
    during = modes(uart)
    is_seen.set()
    assert (during[0] | during[1] | during[3]) & ~termios.IGNBRK == 0
    assert during[2] & ~termios.CBAUD == termios.CS8 | termios.CREAD | termios.CLOCAL
    assert process.wait(LIMIT_S) == 0
    process.communicate()
    after = modes(uart)
    before[2] &= ~termios.HUPCL
    assert after == (before if name == "ttyS0" else during)  # a console is for logins again


@pytest.mark.parametrize("target", ["ttyS0", "../dev/serial"])
def test_console_that_a_link_leads_to_is_given_back(
    guest: Guest, serial: Serial, target: str
) -> None:
    guest.write("proc/consoles", "ttyS0 -W- (EC p a) 4:64\n")
    uart = serial(server_of(DOCUMENTS), "ttyS0")
    (guest.root / "dev/vmw-metadata").symlink_to(target)
    (guest.root / "dev/serial").symlink_to("ttyS0")
    before = modes(uart)
    before[2] &= ~termios.HUPCL
    system = System(str(guest.root))
    (port,) = open_ports(system, find_ports(system, "/dev/vmw-metadata"))
    assert modes(uart) != before
    port.close()
    assert modes(uart) == before


@pytest.mark.parametrize(
    ("target", "name"),
    [("/dev/serial", "ttyS0"), ("loop", "loop"), ("nothing", "nothing"), ("pts/4", "4")],
)
def test_port_has_the_name_that_its_links_lead_to(guest: Guest, target: str, name: str) -> None:
    guest.add_port("ttyS0")
    (guest.root / "dev/loop").symlink_to("loop")
    (guest.root / "dev/serial").symlink_to("ttyS0")
    (guest.root / "dev/vmw-metadata").symlink_to(target)
    assert System(str(guest.root)).tty("/dev/vmw-metadata") == name


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_agent_that_is_stopped_gives_the_console_back(
    guest: Guest, serial: Serial, number: signal.Signals
) -> None:
    guest.write("proc/consoles", "ttyS0 -W- (EC p a) 4:64\n")
    uart = serial(silent, "ttyS0")
    before = modes(uart)
    process = guest.start(*QUICK, "--device", "/dev/ttyS0")
    assert process.stderr
    assert "retrying" in process.stderr.readline()
    process.send_signal(number)
    _, output = process.communicate(timeout=LIMIT_S)
    assert (process.returncode, "Traceback" in output) == (128 + number, False)
    before[2] &= ~termios.HUPCL
    assert modes(uart) == before


# How long it waits


def test_progress_outlasts_the_wait(guest: Guest, serial: Serial) -> None:
    documents = {**DOCUMENTS, "USERDATA": b"u" * 300}
    serial(server_of(documents), piece_bytes=40, pause_s=0.06)
    began_s = time.monotonic()
    guest.fetch("--timeout", "0.6", "--silence-timeout", "5")
    assert time.monotonic() - began_s > 1
    assert guest.files["user-data"] == documents["USERDATA"]


@pytest.mark.slow
def test_longest_wait_ends_an_answer_that_never_ends(guest: Guest, serial: Serial) -> None:
    endless = b"!!RESPONSE_METADATA#" + b"A" * 100_000
    serial(lambda _: endless, piece_bytes=10, pause_s=0.05)
    began_s = time.monotonic()
    guest.fetch("--timeout", "0.2", "--longest-wait", "1")
    assert time.monotonic() - began_s < 12
    assert not guest.seed.exists()


@pytest.mark.slow
def test_answer_that_breaks_off_is_asked_for_again(guest: Guest, serial: Serial) -> None:
    known = server_of(DOCUMENTS)
    serial(
        in_turn(lambda n: known(n)[:30] if n == "USERDATA" else known(n), known, until="USERDATA")
    )
    guest.fetch(*QUICK)
    assert guest.files["user-data"] == DOCUMENTS["USERDATA"]


@pytest.mark.parametrize(
    "error", mostly_slow("not-found", "timeout", "failed", "invalid", "refused", "unheard-of")
)
def test_first_boot_asks_again_after_an_error(guest: Guest, serial: Serial, error: str) -> None:
    serial(in_turn(refusing(error), refusing(error), server_of(DOCUMENTS)))
    output = guest.fetch(*QUICK)
    assert output.count(f"the server answered {error}: no reason: retrying") == 2
    assert guest.metadata["instance-id"] == "i-1"


def test_first_boot_asks_for_what_is_not_found_for_its_time_only(
    guest: Guest, serial: Serial
) -> None:
    uart = serial(refusing("not-found"))
    began_s = time.monotonic()
    output = guest.fetch(*QUICK, "--not-found-timeout", "0.7", "--first-boot-timeout", "30")
    assert 0.7 < time.monotonic() - began_s < 12
    assert "not-found: no reason: cloud-init continues without data" in output
    assert uart.asked.count("METADATA") >= 3
    assert not guest.seed.exists()


@pytest.mark.parametrize("error", mostly_slow("failed", "timeout", "invalid", "refused"))
def test_first_boot_asks_until_its_deadline(guest: Guest, serial: Serial, error: str) -> None:
    serial(refusing(error))
    times = ("--first-boot-timeout", "1.5", "--not-found-timeout", "0.1")
    output = guest.fetch(*TWICE, *times)
    assert f"{error}: no reason: cloud-init continues without" in output


def test_silence_ends_at_the_deadline(guest: Guest, serial: Serial) -> None:
    serial(silent)
    began_s = time.monotonic()
    output = guest.fetch(*QUICK, "--first-boot-timeout", "0.6")
    assert 0.6 < time.monotonic() - began_s < 12
    assert "no answer on /dev/ttyS1: cloud-init continues without data" in output
    assert output.splitlines()[-1] in guest.console


def test_silence_names_the_console(guest: Guest, serial: Serial) -> None:
    serial(silent)
    guest.add_port("ttyS0")
    guest.write("proc/consoles", "ttyS0 -W- (EC p a) 4:64\n")
    output = guest.fetch(*QUICK, "--first-boot-timeout", "0.6")
    assert "no answer on /dev/ttyS1 (/dev/ttyS0 is the console): cloud-init" in output


@pytest.mark.parametrize("error", mostly_slow("failed", "timeout", "invalid", "refused"))
def test_later_boot_keeps_the_seed_after_errors(guest: Guest, serial: Serial, error: str) -> None:
    assert "retrying" in (output := later_boot(guest, serial, refusing(error)))
    assert f"{error}: no reason: keeping the seed of i-1" in output


def test_later_boot_keeps_the_seed_in_silence(guest: Guest, serial: Serial) -> None:
    assert "no answer on /dev/ttyS1: keeping the seed" in later_boot(guest, serial, silent)


def test_later_boot_keeps_the_seed_at_once_if_it_is_not_found(guest: Guest, serial: Serial) -> None:
    output = later_boot(guest, serial, refusing("not-found"))
    assert "retrying" not in output
    assert "keeping the seed of i-1" in output


@pytest.mark.parametrize("number", [1, 3], ids=["all", "user-data"])
def test_later_boot_keeps_the_seed_at_once_after_the_window(
    guest: Guest, serial: Serial, number: int
) -> None:
    known, closed = server_of({**DOCUMENTS, "METADATA": b"instance-id: i-1"}), refusing("closed")
    output = later_boot(
        guest,
        serial,
        lambda name: closed(name) if number == 1 or name == "USERDATA" else known(name),
    )
    assert "retrying" not in output
    assert "the server answered closed: no reason: keeping the seed of i-1" in output
    assert guest.files["user-data"] == DOCUMENTS["USERDATA"]


def test_first_boot_after_the_window_fails_at_once(guest: Guest, serial: Serial) -> None:
    serial(refusing("closed"))
    output = guest.fetch(*QUICK, "--first-boot-timeout", "30")
    assert "retrying" not in output
    assert "answered closed: no reason: cloud-init continues without data" in output
    assert not guest.seed.exists()


def test_later_boot_with_the_same_data_changes_nothing(guest: Guest, serial: Serial) -> None:
    assert "is unchanged" in later_boot(guest, serial, server_of(DOCUMENTS))


@pytest.mark.slow
def test_boot_is_held_until_there_is_data(guest: Guest, serial: Serial) -> None:
    begun_s = time.monotonic()

    def late(name: str) -> bytes:
        if time.monotonic() - begun_s < 1.2:
            return refusal(name, "not-found")
        return server_of(DOCUMENTS)(name)

    serial(late)
    times = ("--timeout", "0.3", "--not-found-timeout", "0.3", "--longest-wait", "0.3")
    guest.fetch(*QUICK, *times, "--on-failure", "hold")
    assert guest.metadata["instance-id"] == "i-1"


def test_systemd_is_asked_for_more_time(guest: Guest, serial: Serial, tmp_path: Path) -> None:
    serial(in_turn(refusing("failed"), server_of(DOCUMENTS)))
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as systemd:
        systemd.bind(str(tmp_path / "notify"))
        systemd.settimeout(LIMIT_S)
        process = guest.start(*QUICK, env={"NOTIFY_SOCKET": str(tmp_path / "notify")})
        assert systemd.recv(100).startswith(b"EXTEND_TIMEOUT_USEC=")
        assert process.wait(LIMIT_S) == 0
        process.communicate()


# The port

SOON = ("--port-timeout", "0")


def quick_end(guest: Guest, *options: str) -> str:
    began_s = time.monotonic()
    output = guest.fetch(*options)
    assert time.monotonic() - began_s < 12
    assert not guest.seed.exists()
    return output


def test_machine_without_a_port_boots_on(guest: Guest) -> None:
    assert "has no serial port" in quick_end(guest, *SOON)


def test_port_without_a_uart_is_no_port(guest: Guest) -> None:
    guest.add_port("ttyS0", kind=0)
    assert "has no serial port" in quick_end(guest)
    assert "no UART" in quick_end(guest, "--device", "/dev/ttyS0")


def test_device_that_is_not_there_is_reported(guest: Guest) -> None:
    assert "/dev/ttyS7: No such file" in quick_end(guest, *SOON, "--device", "/dev/ttyS7")


def test_device_that_is_no_terminal_is_reported(guest: Guest) -> None:
    guest.write("dev/file", "")
    assert "/dev/file: not a serial port" in quick_end(guest, "--device", "/dev/file")


def test_console_as_the_only_port_is_reported_with_both_remedies(
    guest: Guest, serial: Serial
) -> None:
    uart = serial(server_of(DOCUMENTS), "ttyS0")
    guest.write("proc/consoles", "tty0 -WU (EC p) 4:1\nttyS0 -W- (EC p a) 4:64\n")
    quick_end(guest)
    assert "add a second serial port" in guest.console
    assert "device = /dev/ttyS0" in guest.console
    assert uart.written == b""


def test_port_with_a_getty_is_left_alone(guest: Guest, serial: Serial) -> None:
    uart = serial(server_of(DOCUMENTS))
    guest.write("etc/systemd/system/getty.target.wants/serial-getty@ttyS1.service", "")
    assert "has a getty: add another port to the VM, mask a getty" in quick_end(guest)
    assert uart.written == b""


def test_stranger_gets_no_byte(guest: Guest, serial: Serial) -> None:
    uart = serial(server_of(DOCUMENTS))
    guest.write("sys/class/dmi/id/sys_vendor", "QEMU\n")
    assert "not a VMware machine" in quick_end(guest)
    assert uart.written == b""


@pytest.mark.parametrize("word", [("--device", "/dev/ttyS1"), ("--force",), ("--gate", "off")])
def test_gate_is_opened_by_hand(guest: Guest, serial: Serial, word: tuple[str, ...]) -> None:
    serial(server_of(DOCUMENTS))
    guest.write("sys/class/dmi/id/sys_vendor", "QEMU\n")
    guest.fetch(*word)
    assert guest.metadata["instance-id"] == "i-1"


def test_port_with_the_server_is_found(guest: Guest, serial: Serial) -> None:
    guest.write("proc/consoles", "ttyS0 -W- (EC p a) 4:64\n")
    guest.add_port("ttyS3", kind=0)
    console = serial(server_of(DOCUMENTS), "ttyS0")
    stranger = serial(silent, "ttyS1")
    serial(in_turn(silent, server_of(DOCUMENTS)), "ttyS2")
    assert "on /dev/ttyS2" in guest.fetch(*QUICK)
    assert guest.metadata["instance-id"] == "i-1"
    assert console.written == b""
    assert b"USERDATA" not in stranger.written


def test_port_that_is_hung_up_is_no_loss_beside_another(guest: Guest, serial: Serial) -> None:
    lost = serial(silent, "ttyS1")
    serial(in_turn(silent, silent, silent, server_of(DOCUMENTS)), "ttyS2")
    process = guest.start(*QUICK)
    assert process.stderr
    assert "on /dev/ttyS1, /dev/ttyS2: retrying" in process.stderr.readline()
    lost.close()
    assert process.wait(LIMIT_S) == 0
    process.communicate()
    assert guest.metadata["instance-id"] == "i-1"


def test_port_in_use_is_waited_for(guest: Guest, serial: Serial) -> None:
    uart = serial(server_of(DOCUMENTS))
    descriptor = os.open(uart.path, os.O_RDWR | os.O_NOCTTY)
    fcntl.flock(descriptor, fcntl.LOCK_EX)
    process = guest.start(*QUICK, "--timeout", "9")
    assert process.stderr
    assert "in use by another program: retrying" in process.stderr.readline()
    os.close(descriptor)
    assert process.wait(LIMIT_S) == 0
    process.communicate()
    assert guest.metadata["instance-id"] == "i-1"


@pytest.mark.slow
def test_port_in_use_does_not_fail_the_boot(guest: Guest, serial: Serial) -> None:
    uart = serial(server_of(DOCUMENTS))
    descriptor = os.open(uart.path, os.O_RDWR | os.O_NOCTTY)
    fcntl.flock(descriptor, fcntl.LOCK_EX)
    assert "in use by another program" in quick_end(guest, *QUICK, "--timeout", "0.5")
    os.close(descriptor)


@pytest.mark.slow
def test_port_that_goes_away_and_comes_back_is_opened_again(guest: Guest, serial: Serial) -> None:
    first = serial(silent)
    process = guest.start(*QUICK)
    assert process.stderr
    assert "retrying" in process.stderr.readline()
    first.close()
    serial(server_of(DOCUMENTS))
    assert process.wait(LIMIT_S) == 0
    process.communicate()
    assert guest.metadata["instance-id"] == "i-1"


# What it says


def test_secrets_are_not_logged(guest: Guest, serial: Serial) -> None:
    metadata = json.dumps({"instance-id": "i-1", "password": SECRET}).encode()
    userdata = f"#cloud-config\npassword: {SECRET}\n".encode()
    documents = {"METADATA": metadata, "NETWORKDATA": f"key: {SECRET}".encode()}
    serial(in_turn(refusing("failed"), server_of({**documents, "USERDATA": userdata})))
    output = guest.fetch(*QUICK)
    assert "meta-data 5" in output
    assert SECRET not in output + guest.console


def test_what_the_server_says_is_made_printable(guest: Guest, serial: Serial) -> None:
    serial(lambda name: refusal(name, "not-found", "\x1b[31m\n" + "x" * 5000))
    output = guest.fetch(*QUICK, "--not-found-timeout", "0")
    assert "not-found: ?[31m?xxx" in output
    assert len(output) < 1000


def test_dry_run_prints_the_seed_and_writes_nothing(guest: Guest, serial: Serial) -> None:
    serial(server_of(DOCUMENTS))
    ended = guest.run("--dry-run")
    assert ended.returncode == 0
    assert METADATA.decode() in ended.stdout
    assert "nocloud/user-data (17 bytes)" in ended.stdout
    assert not (guest.root / "var").exists()


def test_dry_run_behind_the_gate_is_exit_code_1(guest: Guest, serial: Serial) -> None:
    serial(server_of(DOCUMENTS))
    guest.write("sys/class/dmi/id/sys_vendor", "QEMU\n")
    ended = guest.run("--dry-run")
    assert (ended.returncode, ended.stdout) == (1, "")


def test_dry_run_removes_no_seed_of_another_machine(
    guest: Guest, serial: Serial, tmp_path: Path
) -> None:
    serial(server_of(DOCUMENTS))
    guest.fetch()
    clone = guest.clone(tmp_path / "clone", "564d0000-0000-0000-0000-000000000001")
    assert "it would be removed" in clone.run("--dry-run").stderr
    assert clone.metadata["instance-id"] == "i-1"


def test_dry_run_without_data_is_exit_code_1(guest: Guest) -> None:
    ended = guest.run(*SOON, "--dry-run")
    assert (ended.returncode, ended.stdout) == (1, "")


def test_port_that_was_found_by_itself_is_reported_with_the_remedy(
    guest: Guest, serial: Serial
) -> None:
    serial(server_of(DOCUMENTS))
    output = "no device is set, so the first port that answers is believed"
    assert "set `device = /dev/ttyS1` in /etc/vmw-metadata-agent.conf" in guest.fetch()
    assert output not in guest.fetch("--device", "/dev/ttyS1")

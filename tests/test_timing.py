"""No timing gives a VM another one's file: hosts that are late, processes that stand still."""

from __future__ import annotations

import json
import signal
import ssl
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.certificates import make_pair
from tests.process import ServerProcess, with_constants
from tests.vm import BINARY, KNOWN, SEQUENCE, VC_UUID, Vm, suboption
from tests.waiting import wait_until

Start = Callable[..., ServerProcess]

COUNT = 20
WILL_EXTENSION = b"\xff\xfb\xe8"
LIST = suboption(0, bytes([0, 1, 2, 3, 70, 71, 73, 80, 81, 82, 83]))
PROXY, NAME, UUID = (
    suboption(70, b"Cmy-metadata"),
    suboption(82, b"web1"),
    suboption(80, VC_UUID.encode()),
)
ASK_UUID, ASK_NAME = suboption(81), suboption(83)
REQUEST = b"!!REQUEST_METADATA#\n"

# Without this, time does not count while the process stands still; with it, what has arrived alone
# has to save the peer.
NO_GRACE = {"process__deadlines__LATE_S": 1e9}
EACH_GRACE = pytest.mark.parametrize("grace", [{}, NO_GRACE], ids=["grace", "no grace"])
QUICK = {"serving__timeouts__IDENTITY_ANSWER_S": 0.3, "serving__timeouts__IDENTITY_RETRY_S": 0.3}
PATIENT = {"serving__timeouts__IDENTITY_ANSWER_S": 1.0, "serving__timeouts__IDENTITY_RETRY_S": 0.5}


@pytest.fixture(autouse=True)
def file_of_the_uuid(own_instances: Path) -> None:
    (own_instances / "01234567-89ab-cdef-fedc-ba9800000001.yaml").write_text(
        "metadata: {instance-id: of-the-uuid}\n"
    )


@contextmanager
def standing_still(server: ServerProcess, seconds: float) -> Iterator[None]:
    """The process is stopped; what is sent in the block waits in its sockets when it goes on."""
    server.signal(signal.SIGSTOP)
    try:
        yield
        time.sleep(seconds)
    finally:
        server.signal(signal.SIGCONT)


def vm_without_uuid(server: ServerProcess) -> Vm:
    """It has announced a VC UUID, and sent only its name."""
    machine = Vm(server.port, silent=True)
    machine.send(BINARY + WILL_EXTENSION + LIST + PROXY + NAME)
    machine.receive_until(ASK_NAME)
    return machine


def instance(machine: Vm) -> str:
    """The instance that it is answered with, or the error."""
    code, body = machine.answer()
    told = json.loads(body)
    return str(told["error"] if code == "RESPONSE_ERROR" else told["instance-id"])


def wait_until_kept(server: ServerProcess, machine: Vm) -> None:
    """Wait until this machine, and all with the same identity, are answered without a look-up."""
    url = server.wait_for(r"admin on (http://\S+)")[1] + "/metrics"

    def is_kept() -> bool:
        assert machine.metadata()["instance-id"] == "my-instance"
        with urllib.request.urlopen(url) as metrics:
            return b"vmw_metadata_cache_hits_total 0.0" not in metrics.read()

    wait_until(is_kept)


def answers_after_a_pause(server: ServerProcess, pause_s: float) -> list[str]:
    named = Vm(server.port, vc_uuid=None)
    wait_until_kept(server, named)
    machines = [vm_without_uuid(server) for _ in range(COUNT)]
    for machine in machines:
        machine.send(REQUEST)
    named.metadata()  # the server has heard all that was sent before
    with standing_still(server, pause_s):
        for machine in machines:
            machine.send(UUID)
    told = [instance(machine) for machine in machines]
    for machine in (named, *machines):
        machine.close()
    return told


# A process that stands still


@EACH_GRACE
def test_uuid_that_waits_in_the_socket_counts(start: Start, grace: dict[str, float]) -> None:
    server = start(command=with_constants(**PATIENT, **grace))
    assert answers_after_a_pause(server, 1.5) == ["of-the-uuid"] * COUNT


@pytest.mark.slow
def test_uuid_that_waits_in_the_socket_counts_after_three_seconds(start: Start) -> None:
    assert answers_after_a_pause(start(), 3.0) == ["of-the-uuid"] * COUNT


def served_after_a_pause(server: ServerProcess, pause_s: float, before: bytes = b"") -> list[str]:
    machines = [Vm(server.port, silent=True) for _ in range(COUNT)]
    for machine in machines:
        machine.receive_until(b"\xff\xfd\xe8")
    with standing_still(server, pause_s):
        for machine in machines:
            machine.send(before + BINARY + WILL_EXTENSION + LIST + NAME + UUID + PROXY + REQUEST)
    told = [instance(machine) for machine in machines]
    for machine in machines:
        machine.close()
    return told


@EACH_GRACE
@pytest.mark.parametrize("size", [0, 50_000], ids=["alone", "behind much else"])
def test_vm_whose_identity_waits_in_the_socket_is_not_closed(
    start: Start, grace: dict[str, float], size: int
) -> None:
    server = start(
        command=with_constants(serving__timeouts__IDENTIFICATION_DEADLINE_S=1.0, **grace)
    )
    before = BINARY + b"kernel: x\n" * (size // 10)
    assert served_after_a_pause(server, 1.5, before) == ["of-the-uuid"] * COUNT


@pytest.mark.slow
def test_vm_whose_identity_waits_in_the_socket_is_not_closed_after_31_seconds(start: Start) -> None:
    assert served_after_a_pause(start(), 31.0) == ["of-the-uuid"] * COUNT


def test_pause_gives_no_time_to_who_says_nothing(start: Start) -> None:
    server = start(command=with_constants(serving__timeouts__IDENTIFICATION_DEADLINE_S=1.0))
    silent = Vm(server.port, silent=True)
    silent.receive_until(b"\xff\xfd\xe8")
    with standing_still(server, 2.0):
        pass
    started_s = time.monotonic()
    assert silent.receive_all(5) == b""
    assert time.monotonic() - started_s < 3


class TlsPeer:
    """A client of TLS that says when its bytes leave."""

    def __init__(self, machine: Vm) -> None:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        self._machine = machine
        self._incoming, self._outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._tls = context.wrap_bio(self._incoming, self._outgoing)

    def begin(self) -> bytes:
        """Its ClientHello."""
        with pytest.raises(ssl.SSLWantReadError):
            self._tls.do_handshake()
        return self._outgoing.read()

    def finish(self, data: bytes) -> bytes:
        """The rest of the handshake, and `data` in it."""
        self._wait_for(self._tls.do_handshake)
        self._tls.write(data)
        return self._outgoing.read()

    def receive_until(self, expected: bytes) -> None:
        plain = b""
        while expected not in plain:
            plain += self._wait_for(lambda: self._tls.read(65536))

    def _wait_for(self, step: Callable[[], Any]) -> Any:
        while True:
            try:
                return step()
            except ssl.SSLWantReadError:
                self._incoming.write(self._machine.raw or self._machine.socket.recv(65536))
                self._machine.raw = b""


@EACH_GRACE
def test_tls_that_waits_in_the_socket_begins(
    start: Start,
    grace: dict[str, float],
    program: Callable[[str, str], str],
    tmp_path: Path,
) -> None:
    pair = make_pair(program("openssl", "openssl"), tmp_path, "server")
    limits = {
        "serving__timeouts__TLS_SILENCE_S": 0.5,
        "serving__timeouts__TLS_HANDSHAKE_S": 0.5,
    }
    server = start(*pair.options, command=with_constants(**limits, **grace))
    machine = Vm(server.port, silent=True)
    peer = TlsPeer(machine)
    with standing_still(server, 1.0):
        machine.send(peer.begin())
    while not machine.raw:
        machine.raw = machine.socket.recv(65536)
    with standing_still(server, 1.0):
        machine.send(peer.finish(BINARY + WILL_EXTENSION + LIST + NAME + UUID + PROXY + REQUEST))
    peer.receive_until(b"!!RESPONSE_METADATA")
    assert "TLS failed" not in server.log


@EACH_GRACE
def test_completion_that_waits_in_the_socket_comes_before_expiry(
    start: Start, grace: dict[str, float]
) -> None:
    server = start(command=with_constants(serving__timeouts__MOVE_EXPIRES_S=1.0, **grace))
    source = Vm(server.port)
    target = Vm.arriving(server.port, source.begin_move())
    target.is_welcome()
    source.close()
    with standing_still(server, 1.5):
        target.complete()
        target.send(REQUEST)
    assert instance(target) == "of-the-uuid"
    assert "vMotion expired" not in server.log


def test_peer_that_reads_while_the_process_stands_still_is_not_stalled(
    start: Start, own_instances: Path
) -> None:
    (own_instances / "01234567-89ab-cdef-fedc-ba9800000001.yaml").write_text(
        "metadata: {instance-id: x}\nuserdata: |\n  " + "x" * 900_000 + "\n"
    )
    server = start(command=with_constants(serving__timeouts__STALLED_S=1.0, **NO_GRACE))
    machine = Vm(server.port, receive_buffer=4096)
    machine.send(b"!!REQUEST_USERDATA#\n")
    machine.receive_until(b"!!RESPONSE_USERDATA#")
    time.sleep(0.5)  # it does not read; the server's socket is full
    with standing_still(server, 1.0):
        machine.raw += machine.hears(0.5)
    machine.receive_until(b"\n")
    assert "it has not read" not in server.log


def test_new_name_that_waits_in_the_socket_counts(start: Start, own_instances: Path) -> None:
    (own_instances / "renamed.yaml").write_text("metadata: {instance-id: of-the-new-name}\n")
    limits = {"protocol__session__SILENCE_S": 0.3, "serving__timeouts__IDENTITY_UPDATE_S": 2.0}
    server = start(command=with_constants(**limits, **NO_GRACE))
    machines = [Vm(server.port, vc_uuid=None) for _ in range(COUNT)]
    for machine in machines:
        assert machine.metadata()["instance-id"] == "my-instance"
    wait_until_kept(server, Vm(server.port, vc_uuid=None))
    time.sleep(0.5)
    for machine in machines:
        machine.raw = b""
        machine.send(REQUEST)
        machine.receive_until(ASK_NAME)
    with standing_still(server, 2.5):
        for machine in machines:
            machine.send(suboption(82, b"renamed"))
    assert [instance(machine) for machine in machines] == ["of-the-new-name"] * COUNT


# A host that is late


def answers_of_a_late_host(server: ServerProcess, late_s: float) -> tuple[str, str]:
    """To a request while the host is late, and to one after the host has answered."""
    machine = vm_without_uuid(server)
    machine.send(REQUEST)
    machine.raw = machine.hears(late_s)
    machine.send(UUID)
    first = instance(machine)
    machine.send(REQUEST)
    second = instance(machine)
    machine.close()
    return first, second


@pytest.mark.parametrize(
    ("late_s", "expected"),
    [(0.1, "of-the-uuid"), (1.5, "of-the-uuid"), (3.0, "timeout")],
    ids=["in time", "asked once more", "very late"],
)
def test_late_host_never_gets_the_file_of_the_name(
    start: Start, late_s: float, expected: str
) -> None:
    server = start(command=with_constants(**PATIENT))
    assert answers_of_a_late_host(server, late_s) == (expected, "of-the-uuid")


@pytest.mark.slow
@pytest.mark.parametrize(("late_s", "expected"), [(2.5, "of-the-uuid"), (10.0, "timeout")])
def test_late_host_never_gets_the_file_of_the_name_in_real_time(
    start: Start, late_s: float, expected: str
) -> None:
    assert answers_of_a_late_host(start(), late_s) == (expected, "of-the-uuid")


def test_host_that_never_answers_is_asked_again_reported_once_and_kept(start: Start) -> None:
    server = start(
        command=with_constants(serving__timeouts__IDENTIFICATION_DEADLINE_S=1.0, **QUICK)
    )
    machine = vm_without_uuid(server)
    machine.send(REQUEST)
    assert instance(machine) == "timeout"
    assert machine.hears(1.5).count(ASK_UUID) >= 2
    machine.send(REQUEST)
    assert instance(machine) == "timeout"
    found = server.wait_for(r"'web1': not identified: its host has not sent its identity \((.*?)\)")
    assert found[1] == "announced, not sent: VM-VC-UUID"
    assert "disconnect and connect the VM's serial port" in server.log
    assert server.log.count("not identified") == 1
    assert "answered METADATA" not in server.log
    machine.send(UUID + REQUEST)
    assert instance(machine) == "of-the-uuid"


def test_host_that_does_not_know_the_question_has_no_uuid(start: Start) -> None:
    machine = vm_without_uuid(start())
    machine.send(REQUEST + suboption(2, bytes([81])))
    assert instance(machine) == "my-instance"


def test_empty_uuid_is_none_and_a_wrong_one_is_not(start: Start) -> None:
    server = start(command=with_constants(**QUICK))
    empty, wrong = vm_without_uuid(server), vm_without_uuid(server)
    empty.send(suboption(80) + REQUEST)
    wrong.send(suboption(80, b"01 23") + REQUEST)
    assert instance(empty) == "my-instance"
    assert instance(wrong) == "timeout"
    server.wait_for(r"has not sent its identity \(sent, but not a UUID: VM-VC-UUID\)")


def test_target_of_a_move_waits_for_what_its_source_did_not_tell(start: Start) -> None:
    server = start(command=with_constants(**QUICK))
    source = vm_without_uuid(server)
    target = Vm.arriving(server.port, source.begin_move(), vc_uuid=None)
    target.is_welcome()
    target.complete()
    target.send(REQUEST)
    assert instance(target) == "timeout"
    target.send(UUID + REQUEST)
    assert instance(target) == "of-the-uuid"


def test_claim_of_a_move_is_not_settled_without_the_announced_uuid(
    start: Start, tmp_path: Path
) -> None:
    key = tmp_path / "key"
    key.write_bytes(b"k" * 16)
    here = start("--vmotion-key-file", str(key))
    quick = with_constants(**QUICK)
    there = start("--vmotion-key-file", str(key), command=quick)
    source = Vm(here.port, vc_uuid=None)  # its secret holds for a VM without VC UUID
    source.metadata()
    target = Vm(there.port, silent=True)
    secret = source.begin_move()
    target.send(BINARY + WILL_EXTENSION + suboption(0, KNOWN) + suboption(44, SEQUENCE + secret))
    heard = target.receive_until(suboption(3, b"\x2c"))
    assert suboption(45, SEQUENCE) not in heard
    there.wait_for("refused: VMOTION-PEER of a VM whose host does not send its VC UUID")

"""Bad peers: each gets what PROTOCOL.md promises, and no other peer is affected."""

from __future__ import annotations

import random
import re
import socket
import ssl
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

import pytest

from tests.peer import OTHER_VC_UUID, SocketVm, connected, is_served
from tests.process import CHECKOUT, ServerProcess, counters, descriptors, with_constants
from tests.vm import ALWAYS_KNOWN, BINARY, Vm, suboption
from tests.waiting import wait_until

Start = Callable[..., ServerProcess]

WILL_EXTENSION = b"\xff\xfb\xe8"
WONT_EXTENSION = b"\xff\xfc\xe8"
RESET = b"\1\0\0\0\0\0\0\0"  # SO_LINGER of 0 s: closing resets

# What a person, or the log of a program, can read behind the telnet negotiation.
POST = b"POST /x HTTP/1.1\r\n\r\n" + b"x" * 300_000
NO_TELNET = "a client that does not speak telnet"
HUMAN_LINE = rb"(?:\xff[\xfb-\xfe].)*vmw-cloudinit-metadata: [ -~]+\r\n"


SOON_S = 10.0  # on a busy machine; without its own deadline, each peer here has 30 s


def heard_to_the_end(peer: socket.socket, limit_s: float = SOON_S) -> bytes:
    """All that the server says until it closes, which it must do in time."""
    heard = b""
    end_s = time.monotonic() + limit_s
    with suppress(ConnectionError):
        while data := _received(peer, end_s):
            heard += data
    return heard


def _received(peer: socket.socket, end_s: float) -> bytes:
    peer.settimeout(max(end_s - time.monotonic(), 0.001))
    return peer.recv(65536)


def talks_for_s(peer: socket.socket, said: bytes, limit_s: float) -> float:
    """How long it can say that, byte by byte and again and again."""
    started_s = time.monotonic()
    with suppress(ConnectionError):
        while time.monotonic() - started_s < limit_s:
            for byte in said:
                peer.sendall(bytes([byte]))
                time.sleep(0.01)
    return time.monotonic() - started_s


def memory_kib(server: ServerProcess, kind: str) -> int:
    """VmRSS, what it uses, or VmHWM, the most that it ever has used."""
    status = Path(f"/proc/{server.pid}/status").read_text()
    found = re.search(rf"{kind}:\s+(\d+) kB", status)
    assert found
    return int(found[1])


@contextmanager
def bounded_memory(server: ServerProcess, limit_kib: int = 4096) -> Iterator[None]:
    """The most that the server uses meanwhile is a little more than what it uses before."""
    Path(f"/proc/{server.pid}/clear_refs").write_text("5")  # VmHWM begins anew
    before = memory_kib(server, "VmRSS")
    yield
    assert memory_kib(server, "VmHWM") - before < limit_kib


def client_hello(beginning: bytes = b"") -> bytes:
    """What a TLS client says first; `beginning` stands where its random bytes do."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    outgoing = ssl.MemoryBIO()
    tls = context.wrap_bio(ssl.MemoryBIO(), outgoing)
    with pytest.raises(ssl.SSLWantReadError):
        tls.do_handshake()
    hello = outgoing.read()
    return hello[:11] + beginning + hello[11 + len(beginning) :]


# Clients of other protocols


@pytest.mark.parametrize(
    ("host", "said", "what"),
    [
        pytest.param("127.0.1.1", b"GET / HTTP/1.1\r\nHost: x\r\n\r\n", "an HTTP client", id="GET"),
        pytest.param("127.0.1.2", POST, "an HTTP client", id="POST"),
        pytest.param("127.0.1.3", b"SSH-2.0-OpenSSH_9.2\r\n", "an SSH client", id="SSH"),
        pytest.param("127.0.1.4", b"\xff\xfd\x03" + WONT_EXTENSION, "a telnet client", id="telnet"),
        pytest.param("127.0.1.5", WONT_EXTENSION + b"root\r\n", "a telnet client", id="login"),
        pytest.param("127.0.1.6", b"\r\n\r\n", NO_TELNET, id="return"),
        pytest.param("127.0.1.7", b"*1\r\n$4\r\nPING\r\n", NO_TELNET, id="redis"),
        pytest.param("127.0.1.8", b"\0" * 300, NO_TELNET, id="NULs"),
    ],
)
def test_stranger_gets_a_human_line_is_closed_at_once_and_logged(
    server: ServerProcess, host: str, said: bytes, what: str
) -> None:
    with connected(server.port, host) as peer:
        peer.sendall(said)
        assert re.fullmatch(HUMAN_LINE, heard_to_the_end(peer, 1), re.DOTALL)
    server.wait_for(rf"WARNING {host}:\d+: closed: peer is {what}.*, not an ESXi host")
    assert "Traceback" not in server.log


@pytest.mark.parametrize(
    ("host", "hello"),
    [
        pytest.param("127.0.2.1", client_hello(), id="any"),
        pytest.param("127.0.2.2", client_hello(b"\xff\xfb\x01"), id="with a telnet command in it"),
        pytest.param("127.0.2.3", client_hello()[:100].replace(b"\n", b"x"), id="a part"),
    ],
)
def test_tls_without_a_certificate_is_closed_at_once_and_what_is_missing_is_logged(
    server: ServerProcess, host: str, hello: bytes
) -> None:
    with connected(server.port, host) as peer:
        peer.sendall(hello)
        heard_to_the_end(peer, 1)
    server.wait_for(rf"WARNING {host}:\d+: closed: peer is a TLS client, .*--tls-cert")


def test_strangers_of_one_host_are_all_counted_and_reported_once(start: Start) -> None:
    server = start()
    for _ in range(5):
        with connected(server.port) as peer:
            peer.sendall(b"GET / HTTP/1.0\r\n\r\n")
            heard_to_the_end(peer)
    assert counters(server)["strangers"] == 5
    assert server.log.count("not an ESXi host") == 1


def test_stranger_that_goes_on_talking_is_cut_off(server: ServerProcess) -> None:
    with connected(server.port) as peer:
        peer.sendall(b"GET / HTTP/1.0\r\n\r\n")
        assert talks_for_s(peer, b"x", limit_s=2 * SOON_S) < SOON_S


def test_stranger_that_does_not_close_its_side_is_closed_all_the_same(start: Start) -> None:
    server = start("--log-level", "debug")
    with connected(server.port) as peer:
        peer.sendall(b"GET / HTTP/1.0\r\n\r\n")
        server.wait_for(rf":{peer.getsockname()[1]}: disconnected", SOON_S)


# Peers that name no VM in time


IDENTIFICATION_S = 0.3


@pytest.fixture(scope="module")
def impatient(instances: Path) -> Iterator[ServerProcess]:
    limits = with_constants(serving__timeouts__IDENTIFICATION_DEADLINE_S=IDENTIFICATION_S)
    process = ServerProcess(instances, command=limits)
    yield process
    process.end()


KNOWN = BINARY + WILL_EXTENSION + suboption(0, ALWAYS_KNOWN + bytes([82, 83]))


@pytest.mark.parametrize(
    "said",
    [
        pytest.param(b"", id="nothing"),
        pytest.param(b"\xff", id="half a command"),
        pytest.param(BINARY, id="negotiation"),
        pytest.param(b"\xff\xfb\x25", id="AUTHENTICATION"),
        pytest.param(KNOWN + suboption(82, b"web1"), id="no service URI"),
        pytest.param(KNOWN + b"!!REQUEST_METADATA#\n", id="a request"),
        pytest.param(b"no line end", id="a few bytes"),
    ],
)
def test_peer_that_names_no_vm_is_closed_when_the_time_is_over(
    impatient: ServerProcess, said: bytes
) -> None:
    started_s = time.monotonic()
    with connected(impatient.port) as peer:
        peer.sendall(said)
        heard_to_the_end(peer)
    assert time.monotonic() - started_s > IDENTIFICATION_S - 0.1


@pytest.mark.parametrize(
    ("begins", "goes_on"),
    [
        pytest.param(b"", b"\xff\xfb\x00\xff\xfc\x00", id="negotiation"),
        pytest.param(b"", b"\xff\xf1", id="NOP"),
        pytest.param(b"\xff\xfa\xe8", b"x", id="a subnegotiation"),
        pytest.param(KNOWN, b"x", id="a line"),
        pytest.param(KNOWN, suboption(82, b"web1"), id="its name"),
    ],
)
def test_peer_that_dribbles_for_ever_does_not_get_more_time(
    impatient: ServerProcess, begins: bytes, goes_on: bytes
) -> None:
    with connected(impatient.port) as peer:
        peer.sendall(begins)
        assert talks_for_s(peer, goes_on, 2 * SOON_S) < SOON_S


def test_peers_that_name_no_vm_are_counted_and_reported_once_for_each_host(start: Start) -> None:
    server = start(command=with_constants(serving__timeouts__IDENTIFICATION_DEADLINE_S=0.2))
    waiting = [connected(server.port) for _ in range(3)]
    for peer in waiting:
        heard_to_the_end(peer)
        peer.close()
    assert counters(server)["unidentified"] == 3
    assert server.log.count("closed: it identified no VM within 0.2 s") == 1


def test_vm_that_is_identified_may_be_silent(impatient: ServerProcess) -> None:
    with connected(impatient.port) as vm_peer, connected(impatient.port) as silent_peer:
        machine = SocketVm(vm_peer)
        heard_to_the_end(silent_peer)  # and the VM's time is over too
        assert is_served(machine)


@pytest.mark.parametrize("seed", range(4))
def test_peer_of_random_bytes_is_closed(impatient: ServerProcess, seed: int) -> None:
    with connected(impatient.port) as peer:
        peer.sendall(random.Random(seed).randbytes(5000))
        heard_to_the_end(peer)  # either as a stranger, or in time
    with connected(impatient.port) as peer:
        assert is_served(SocketVm(peer))
    assert "Traceback" not in impatient.log


# What never ends


def stream(peer: socket.socket, mebibytes: int) -> None:
    peer.settimeout(60)
    for _ in range(mebibytes):
        peer.sendall(b"x" * (1 << 20))


def test_subnegotiation_without_end_takes_no_memory_and_the_line_is_in_step_behind_it(
    server: ServerProcess, peers: ExitStack
) -> None:
    machine = SocketVm(peers.enter_context(connected(server.port)))
    assert is_served(machine)
    with bounded_memory(server):
        machine.send(b"\xff\xfa\xe8")
        stream(machine.socket, 40)
        machine.send(b"\xff\xf0!!REQUEST_METADATA#\n")
        assert machine.answer(60)[0] == "RESPONSE_METADATA"


def test_line_without_end_takes_no_memory_and_the_line_is_in_step_behind_it(
    server: ServerProcess, peers: ExitStack
) -> None:
    machine = SocketVm(peers.enter_context(connected(server.port)))
    assert is_served(machine)
    with bounded_memory(server):
        stream(machine.socket, 20)
        machine.send(b"\n!!REQUEST_METADATA#\n")
        assert machine.answer(60)[0] == "RESPONSE_METADATA"


def test_many_unended_subnegotiations_and_lines_take_little_memory_each(
    server: ServerProcess, peers: ExitStack
) -> None:
    with bounded_memory(server, 100 * 64):
        for _ in range(100):
            machine = SocketVm(peers.enter_context(connected(server.port)))
            machine.send(b"x" * 4000 + b"\xff\xfa\xe8" + b"x" * 20_000)
        with connected(server.port) as peer:
            assert is_served(SocketVm(peer))


# A guest that never reads


class Suspended:
    """A server whose VM has asked far more than it reads: nothing at all."""

    def __init__(
        self, start: Start, own_instances: Path, peers: ExitStack, **limits: float
    ) -> None:
        text = f"metadata: {{instance-id: my-instance}}\nuserdata: '{'x' * 20_000}'\n"
        (own_instances / "web1.yaml").write_text(text)
        self.server = start("--drain", "0.1", command=with_constants(**limits))
        # The answer is kept now: what grows from here on is what waits for the VM.
        self.other = SocketVm(peers.enter_context(connected(self.server.port)), OTHER_VC_UUID)
        assert is_served(self.other)
        self.vm = Vm(self.server.port, receive_buffer=4096)
        peers.callback(self.vm.close)
        self.vm.receive_until(suboption(71))

    def flood(self, said: bytes, times: int) -> None:
        """Returns when the server has taken in all of it."""
        for _ in range(times):
            self.vm.send(said)
        self.vm.send(suboption(80, b"33" * 16))
        self.server.wait_for("VC UUID 33333333.*: was 'web1'")


@pytest.fixture
def suspended(start: Start, own_instances: Path, peers: ExitStack) -> Suspended:
    return Suspended(start, own_instances, peers)


@pytest.mark.parametrize(
    ("said", "kind"),
    [
        pytest.param(b"!!REQUEST_USERDATA#\n", "requests dropped", id="requests"),
        pytest.param(suboption(200), "output dropped", id="unknown suboptions"),
    ],
)
def test_guest_that_never_reads_takes_no_memory_and_the_surplus_is_counted(
    suspended: Suspended, peers: ExitStack, said: bytes, kind: str
) -> None:
    with bounded_memory(suspended.server, 2048):
        suspended.flood(said * 200, 200)
    peers.close()
    assert counters(suspended.server)[kind] > 100


def test_guest_that_never_reads_harms_no_other_vm(suspended: Suspended) -> None:
    suspended.flood(b"!!REQUEST_USERDATA#\n" * 200, 20)
    started_s = time.monotonic()
    assert is_served(suspended.other)
    assert time.monotonic() - started_s < 5  # a server that waits for the guest waits for 60 s


def test_guest_that_reads_again_gets_whole_lines_and_one_line_feed_for_the_loss(
    suspended: Suspended,
) -> None:
    suspended.flood(b"!!REQUEST_USERDATA#\n" * 200, 20)
    lines: list[bytes] = []
    while len(lines) - lines.count(b"") < 1024:  # so many requests could wait
        lines.append(suspended.vm.receive_until(b"\n")[:-1])
    assert set(lines) == {lines[-1], b""}
    assert lines[-1].startswith(b"!!RESPONSE_USERDATA#")
    assert lines.count(b"") == 1


def test_requests_lost_while_a_look_up_takes_its_time_cost_one_line_feed(
    start: Start, tmp_path: Path, peers: ExitStack
) -> None:
    driver = ("--driver", "tests.scripted_driver:ScriptedDriver")
    server = start(*driver, driver_opts={"calls": str(tmp_path / "calls")})
    vm = Vm(server.port, "sleep-0.5")
    peers.callback(vm.close)
    vm.receive_until(suboption(71))
    vm.send(b"!!REQUEST_USERDATA#\n" * 3000)
    assert vm.receive_until(b"!!RESPONSE_").count(b"\n") == 1


def test_guest_that_reads_again_is_served_again(suspended: Suspended) -> None:
    suspended.flood(b"!!REQUEST_USERDATA#\n" * 200, 20)
    for _ in range(1024):
        suspended.vm.receive_until(b"!!RESPONSE_USERDATA#")
    suspended.vm.send(b"!!REQUEST_METADATA#\n")
    suspended.vm.receive_until(b"!!RESPONSE_METADATA#")


def test_guest_that_does_not_read_for_long_is_closed_reported_and_counted(
    start: Start, own_instances: Path, peers: ExitStack
) -> None:
    stalled = Suspended(start, own_instances, peers, serving__timeouts__STALLED_S=0.5)
    stalled.vm.send(b"!!REQUEST_USERDATA#\n" * 1000)
    stalled.server.wait_for("WARNING .*'web1'.*: closed: it has not read for", SOON_S)
    assert is_served(stalled.other)  # it has had nothing to read
    peers.close()
    assert counters(stalled.server)["stalled"] == 1


def test_guest_that_reads_slowly_but_steadily_is_not_closed(
    start: Start, own_instances: Path, peers: ExitStack
) -> None:
    slow = Suspended(start, own_instances, peers, serving__timeouts__STALLED_S=0.5)
    slow.vm.send(b"!!REQUEST_USERDATA#\n" * 20)
    heard = b""
    end_s = time.monotonic() + 1.5
    while time.monotonic() < end_s:
        heard += slow.vm.socket.recv(1024)
        time.sleep(0.02)
    slow.vm.raw = heard
    assert [slow.vm.answer()[0] for _ in range(20)] == ["RESPONSE_USERDATA"] * 20


# Noise


def test_guest_that_echoes_everything_is_not_talked_to_for_ever(
    server: ServerProcess, peers: ExitStack
) -> None:
    machine = SocketVm(peers.enter_context(connected(server.port)))
    machine.send(b"!!REQUEST_METADATA#\n")
    echoed = 0
    while heard := machine.hears(0.2):
        machine.send(heard)
        echoed += len(heard)
        assert echoed < 4096
    assert echoed > 100
    assert is_served(machine)


def test_peer_that_echoes_everything_from_the_start_is_closed(server: ServerProcess) -> None:
    with connected(server.port) as peer:
        echoed = 0
        end_s = time.monotonic() + 2
        with suppress(ConnectionError):
            while data := _received(peer, end_s):
                echoed += len(data)
                peer.sendall(data)
        assert 0 < echoed < 1024


FLOOD = """
import os, sys, threading
from tests.vm import Vm

os.nice(10)  # the VMs that are measured shall not wait for this process, but for the server
vm = Vm(int(sys.argv[1]), "nobody" if sys.argv[2] == "finds nothing" else "web1", vc_uuid="ff" * 16)
vm.ask("NETWORKDATA")
vm.socket.settimeout(None)

def read():
    while vm.socket.recv(1 << 20):
        pass

if sys.argv[2] != "never reads":
    threading.Thread(target=read, daemon=True).start()
print("floods", flush=True)
while True:
    vm.send(b"!!REQUEST_NETWORKDATA#\\n" * 500)
"""


@contextmanager
def flood(server: ServerProcess, how: str) -> Iterator[None]:
    """One VM that asks as fast as a process of its own can, on the server's other core."""
    before = descriptors(server)
    command = [sys.executable, "-c", FLOOD, str(server.port), how]
    with subprocess.Popen(command, stdout=subprocess.PIPE, cwd=CHECKOUT) as process:
        assert process.stdout
        assert process.stdout.readline() == b"floods\n"
        yield
        process.kill()
    wait_until(lambda: descriptors(server) <= before)


def p99_s(machines: list[SocketVm], seconds: float) -> float:
    """Of the answers to VMs that ask all at once, again and again."""
    latencies = []
    end_s = time.monotonic() + seconds
    while time.monotonic() < end_s:
        asked_s = []
        for machine in machines:
            asked_s.append(time.perf_counter())
            machine.send(b"!!REQUEST_NETWORKDATA#\n")
        for machine, since_s in zip(machines, asked_s, strict=True):
            machine.receive_until(b"\n")
            latencies.append(time.perf_counter() - since_s)
    return sorted(latencies)[len(latencies) * 99 // 100]


@pytest.mark.slow
@pytest.mark.parametrize("how", ["reads", "never reads", "finds nothing"])
def test_flood_of_requests_on_one_line_leaves_the_others_their_pace(
    server: ServerProcess, peers: ExitStack, how: str
) -> None:
    machines = []
    for number in range(10):
        peer = peers.enter_context(connected(server.port))
        machines.append(SocketVm(peer, f"{number:032x}"))
        assert machines[-1].document("NETWORKDATA")
    ratios: list[float] = []
    # Other work on the machine disturbs a 99th percentile by several times, and never for the
    # better: one undisturbed try shows what the server does.
    while len(ratios) < 3 and min(ratios, default=99) >= 3:
        quiet_s = p99_s(machines, 0.4)
        with flood(server, how):
            ratios.append(p99_s(machines, 0.4) / quiet_s)
    assert min(ratios) < 3, ratios


@pytest.mark.slow
def test_requests_that_waited_for_one_look_up_are_not_all_answered_in_one_go(
    start: Start, tmp_path: Path, peers: ExitStack
) -> None:
    server = start(
        *("--driver", "tests.scripted_driver:ScriptedDriver", "--lookup-pool", "100"),
        driver_opts={"calls": str(tmp_path / "calls")},
    )
    other = Vm(server.port, "kept")
    peers.callback(other.close)
    longest_s: list[float] = []
    while len(longest_s) < 3 and min(longest_s, default=99) >= 0.1:  # as above
        noisy = [Vm(server.port, f"sleep-0.3 {len(longest_s)} {n}") for n in range(60)]
        for machine in noisy:
            machine.send(b"!!REQUEST_USERDATA#\n" * 1000)
        waits_s = []
        while not all(_is_readable_to(machine, 1000) for machine in noisy):
            since_s = time.perf_counter()
            other.document("METADATA")
            waits_s.append(time.perf_counter() - since_s)
        longest_s.append(max(waits_s))
        for machine in noisy:
            machine.close()
    assert min(longest_s) < 0.1, longest_s


def _is_readable_to(machine: Vm, answers: int) -> bool:
    """Takes in what is there: whether so many answers are."""
    machine.socket.settimeout(0)
    with suppress(BlockingIOError):
        machine.raw += machine.socket.recv(1 << 20)
    return machine.raw.count(b"!!") >= answers


# Connections that break


def _breaks_at_once(port: int) -> socket.socket:
    return connected(port)


def _breaks_in_negotiation(port: int) -> socket.socket:
    peer = connected(port)
    peer.sendall(BINARY + WILL_EXTENSION + suboption(0, ALWAYS_KNOWN)[:7])
    peer.recv(1)
    return peer


def _breaks_in_a_look_up(port: int) -> socket.socket:
    machine = Vm(port, "big", vc_uuid=random.randbytes(16).hex())
    machine.receive_until(suboption(71))
    machine.send(b"!!REQUEST_USERDATA#\n")
    return machine.socket


def _breaks_in_an_answer(port: int) -> socket.socket:
    machine = Vm(port, "big", receive_buffer=4096)
    machine.send(b"!!REQUEST_USERDATA#\n" * 10)
    machine.receive_until(b"!!RESPONSE")
    return machine.socket


def _breaks_in_a_request(port: int) -> socket.socket:
    machine = Vm(port)
    machine.send(b"!!REQUEST_USERD")
    machine.receive_until(suboption(71))
    return machine.socket


@pytest.mark.parametrize("is_reset", [False, True], ids=["closed", "reset"])
@pytest.mark.parametrize(
    "broken",
    [
        _breaks_at_once,
        _breaks_in_negotiation,
        _breaks_in_a_look_up,
        _breaks_in_an_answer,
        _breaks_in_a_request,
    ],
    ids=lambda broken: broken.__name__.strip("_"),
)
def test_connection_that_breaks_leaves_no_descriptor_and_no_traceback(
    server: ServerProcess,
    instances: Path,
    broken: Callable[[int], socket.socket],
    is_reset: bool,
) -> None:
    (instances / "big.yaml").write_text(f"metadata: {{}}\nuserdata: '{'x' * 500_000}'\n")
    with connected(server.port) as witness:
        assert is_served(SocketVm(witness))
        before = descriptors(server)
        for _ in range(10):
            peer = broken(server.port)
            if is_reset:
                peer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
            peer.close()
        wait_until(lambda: descriptors(server) <= before)
    assert "Traceback" not in server.log

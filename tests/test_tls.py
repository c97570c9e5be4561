"""TLS at once, TLS by telnet AUTHENTICATION, and plain, all on one port of a real server."""

from __future__ import annotations

import json
import random
import re
import shutil
import signal
import socket
import ssl
import subprocess
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from itertools import repeat
from pathlib import Path
from typing import Any

import pytest

from tests.certificates import Pair, make_pair
from tests.process import ServerProcess, run, with_constants
from tests.vm import ALWAYS_KNOWN, BINARY, VC_UUID, Vm, suboption
from tests.waiting import wait_until
from vmw_cloudinit_metadata.serving.tls import KeyPair, Tls

Start = Callable[..., ServerProcess]
Dial = Callable[..., Vm]

GREETING = bytes.fromhex("FFFB00 FFFB03 FFFB01 FFFD00 FFFD03")
DO_EXTENSION = bytes.fromhex("FFFDE8")
WILL_EXTENSION = bytes.fromhex("FFFBE8")

WILL_AUTHENTICATION = bytes.fromhex("FFFB25")
WONT_AUTHENTICATION = bytes.fromhex("FFFC25")
DONT_AUTHENTICATION = bytes.fromhex("FFFE25")
OFFER = bytes.fromhex("FFFD25 FFFA25 01 07 00 FFF0")  # DO 37, SEND SSL
IS_NULL = bytes.fromhex("FFFA25 00 00 00 FFF0")
REFUSALS = pytest.mark.parametrize(
    "refusal", [WONT_AUTHENTICATION, IS_NULL], ids=["WONT 37", "IS NULL 0"]
)

KNOWN_SUBOPTIONS_1, KNOWN_SUBOPTIONS_2, UNKNOWN_SUBOPTION_RCVD_2 = 0, 1, 3
VMOTION_BEGIN, VMOTION_GOAHEAD, VMOTION_PEER = 40, 41, 44
VMOTION_PEER_OK, VMOTION_COMPLETE = 45, 46
DO_PROXY, WILL_PROXY, WONT_PROXY = 70, 71, 73

KNOWN = suboption(KNOWN_SUBOPTIONS_1, ALWAYS_KNOWN + bytes([80, 81, 82, 83]))
PROXY = suboption(DO_PROXY, b"Cmy-metadata")
DOCUMENT = re.compile(rb"!!RESPONSE")


def start_of_tls(modifier: int = 0) -> bytes:
    return b"\xff\xfa\x25\x00\x07" + doubled(bytes([modifier])) + b"\x01\xff\xf0"


def accepted(modifier: int = 0) -> bytes:
    return b"\xff\xfa\x25\x02\x07" + doubled(bytes([modifier])) + b"\x02\xff\xf0"


def doubled(data: bytes) -> bytes:
    return data.replace(b"\xff", b"\xff\xff")


def identity(name: str = "web1", vc_uuid: str = VC_UUID) -> bytes:
    return KNOWN + suboption(80, vc_uuid.encode()) + suboption(82, name.encode())


def client_context() -> ssl.SSLContext:
    """As a hypervisor without any parameter: it takes every certificate."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context


def context_of(version: ssl.TLSVersion) -> ssl.SSLContext:
    context = client_context()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of TLS 1.1
        context.minimum_version = context.maximum_version = version
    context.set_ciphers("ALL:@SECLEVEL=0")  # else OpenSSL itself does not offer TLS 1.1
    return context


def client_hello() -> bytes:
    outgoing = ssl.MemoryBIO()
    tls = client_context().wrap_bio(ssl.MemoryBIO(), outgoing)
    with pytest.raises(ssl.SSLWantReadError):
        tls.do_handshake()
    return outgoing.read()


def client_hello_like(pattern: bytes) -> bytes:
    """One that begins like `pattern`: much of it is random."""
    hellos = (client_hello() for _ in range(1000))
    return next(hello for hello in hellos if re.match(pattern, hello, re.DOTALL))


class CutTls:
    """TLS in place of a socket: many small records, that leave in pieces of `sizes`."""

    def __init__(self, sock: socket.socket, sizes: Iterator[int]) -> None:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._socket = sock
        self._sizes = sizes
        self._incoming, self._outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._tls = client_context().wrap_bio(self._incoming, self._outgoing)
        self._do(self._tls.do_handshake)

    def _do(self, step: Callable[..., Any], *arguments: Any) -> Any:
        while True:
            try:
                return step(*arguments)
            except ssl.SSLWantReadError:
                self._flush()
                data = self._socket.recv(65536)
                assert data, "closed without close_notify"
                self._incoming.write(data)

    def _flush(self) -> None:
        data = self._outgoing.read()
        while data:
            size = next(self._sizes)
            self._socket.sendall(data[:size])
            data = data[size:]

    def sendall(self, data: bytes) -> None:
        for place in range(0, len(data), 10):
            self._tls.write(data[place : place + 10])
        self._flush()

    def recv(self, size: int) -> Any:
        return self._do(self._tls.read, size)

    def settimeout(self, seconds: float) -> None:
        self._socket.settimeout(seconds)

    def close(self) -> None:
        self._socket.close()


def start_tls(machine: Vm, context: ssl.SSLContext | None = None) -> None:
    assert machine.raw == b""
    # An end of the stream without close_notify shall not look like an end.
    machine.socket = (context or client_context()).wrap_socket(
        machine.socket, suppress_ragged_eofs=False
    )


class TlsVm(Vm):
    """A VM of `telnets://`: TLS from the first byte."""

    def __init__(
        self,
        port: int,
        name: str | None = "web1",
        *,
        vc_uuid: str = VC_UUID,
        context: ssl.SSLContext | None = None,
        **settings: Any,
    ) -> None:
        super().__init__(port, silent=True, **settings)
        self.agree()
        start_tls(self, context)
        if name is not None:
            self.send(BINARY + WILL_EXTENSION + identity(name, vc_uuid) + PROXY)

    def agree(self) -> None:
        """Nothing comes before it."""

    @property
    def certificate(self) -> bytes | None:
        assert isinstance(self.socket, ssl.SSLSocket)
        return self.socket.getpeercert(binary_form=True)


class AuthenticationVm(TlsVm):
    """A VM of `telnet://` that offers AUTHENTICATION at once, and begins TLS by it."""

    def agree(self) -> None:
        self.send(WILL_AUTHENTICATION)
        self.receive_until(OFFER)
        self.send(start_of_tls())
        self.receive_until(accepted())


BOTH_WAYS = pytest.mark.parametrize("way", [TlsVm, AuthenticationVm], ids=["telnets", "by 37"])


class OfferingVm(Vm):
    """A VM of `telnet://` that has offered AUTHENTICATION and has heard SEND."""

    def __init__(self, port: int) -> None:
        super().__init__(port, silent=True)
        self.send(WILL_AUTHENTICATION)
        self.receive_until(OFFER)


class AcceptedVm(OfferingVm):
    """One that may begin its handshake now."""

    def __init__(self, port: int) -> None:
        super().__init__(port)
        self.send(start_of_tls())
        self.receive_until(accepted())


def line_about(server: ServerProcess, machine: Vm) -> str:
    """The one line that the log has of the connection of `machine`."""
    about = f":{machine.socket.getsockname()[1]}: "
    server.wait_for(re.escape(about))
    (line,) = [line for line in server.lines if about in line]
    return line


def counters(server: ServerProcess) -> dict[str, int]:
    """Stops the server, whose last line has them."""
    server.signal(signal.SIGTERM)
    assert server.wait() == 0
    counted = server.lines[-1].partition("stopped; ")[2].strip().split(", ")
    return {name: int(count) for name, _, count in (item.rpartition(": ") for item in counted)}


def ends(machine: Vm, limit_s: float = 10.0) -> bytes:
    """What is said before the server closes, which it does within `limit_s`."""
    try:
        return machine.receive_all(limit_s)
    except ConnectionResetError:
        return machine.raw


@pytest.fixture(scope="session")
def openssl(program: Callable[[str, str], str]) -> str:
    return program("openssl", "openssl")


@pytest.fixture(scope="session")
def pair(openssl: str, tmp_path_factory: pytest.TempPathFactory) -> Pair:
    return make_pair(openssl, tmp_path_factory.mktemp("tls"), "server")


@pytest.fixture(scope="session")
def other_pair(openssl: str, tmp_path_factory: pytest.TempPathFactory) -> Pair:
    return make_pair(openssl, tmp_path_factory.mktemp("tls"), "other")


@pytest.fixture
def own_pair(pair: Pair, tmp_path: Path) -> Pair:
    """A copy of `pair` that a test may change."""
    own = Pair(tmp_path / "own.crt", tmp_path / "own.key")
    replace(own, pair)
    return own


def replace(pair: Pair, new: Pair) -> None:
    shutil.copy(new.certificate, pair.certificate)
    shutil.copy(new.key, pair.key)


@pytest.fixture(scope="module")
def allowing(instances: Path, pair: Pair) -> Iterator[ServerProcess]:
    """A server with a certificate, for `instances`, that tests share."""
    process = ServerProcess(instances, *pair.options)
    yield process
    process.end()


@pytest.fixture(scope="module")
def requiring(instances: Path, pair: Pair) -> Iterator[ServerProcess]:
    """The same with --tls require."""
    process = ServerProcess(instances, *pair.options, "--tls", "require")
    yield process
    process.end()


@pytest.fixture
def dial() -> Iterator[Dial]:
    """Connects VMs: their kind, a server, and what the kind takes; disconnects them afterwards."""
    dialled: list[Vm] = []

    def connect(kind: type[Vm], server: ServerProcess, *arguments: Any, **settings: Any) -> Vm:
        machine = kind(server.port, *arguments, **settings)
        dialled.append(machine)
        return machine

    yield connect
    for machine in dialled:
        machine.close()


# Three ways, one port


def test_one_port_serves_three_vms_in_three_ways(
    dial: Dial, allowing: ServerProcess, instances: Path
) -> None:
    machines = {}
    for number, way in enumerate([Vm, TlsVm, AuthenticationVm]):
        (instances / f"way{number}.yaml").write_text(
            f"metadata: {{instance-id: id{number}}}\nuserdata: '#!{number}'\n"
            f"network: {{address: 10.0.0.{number + 1}, netmask: 255.0.0.0}}\n"
        )
        machines[number] = dial(way, allowing, f"way{number}", vc_uuid=f"{number:032x}")
    for number, machine in machines.items():
        assert machine.metadata()["instance-id"] == f"id{number}"
        assert machine.document("USERDATA") == f"#!{number}".encode()
        assert f"10.0.0.{number + 1}".encode() in machine.document("NETWORKDATA")


@BOTH_WAYS
def test_tls_is_served_where_it_is_required(
    dial: Dial, requiring: ServerProcess, way: type[TlsVm]
) -> None:
    assert dial(way, requiring).metadata()["instance-id"] == "my-instance"


@BOTH_WAYS
def test_telnet_inside_tls_begins_with_the_full_greeting(
    dial: Dial, allowing: ServerProcess, way: type[TlsVm]
) -> None:
    machine = dial(way, allowing, None)
    assert machine.receive_until(DO_EXTENSION) == GREETING + DO_EXTENSION


def test_authentication_inside_tls_is_refused(dial: Dial, allowing: ServerProcess) -> None:
    machine = dial(TlsVm, allowing, None)
    machine.receive_until(DO_EXTENSION)
    machine.send(WILL_AUTHENTICATION)
    assert machine.receive_until(DONT_AUTHENTICATION) == DONT_AUTHENTICATION


def test_key_in_the_file_of_the_certificate_is_found(
    dial: Dial, start: Start, pair: Pair, tmp_path: Path
) -> None:
    both = tmp_path / "both.pem"
    both.write_bytes(pair.key.read_bytes() + pair.certificate.read_bytes())
    assert dial(TlsVm, start("--tls-cert", str(both))).certificate == pair.der


# Who speaks first


def test_nothing_is_said_before_half_a_second_of_silence_and_then_all(
    dial: Dial, allowing: ServerProcess
) -> None:
    machine = dial(Vm, allowing, silent=True)
    assert machine.hears(0.4) == b""
    assert machine.receive_until(DO_EXTENSION, 1.0) == GREETING + DO_EXTENSION
    assert machine.hears(0.2) == b""


def test_silent_peer_is_served_once_it_speaks(dial: Dial, allowing: ServerProcess) -> None:
    machine = dial(Vm, allowing, silent=True)
    machine.receive_until(DO_EXTENSION)
    machine.send(BINARY + WILL_EXTENSION + identity() + PROXY)
    assert machine.metadata()["instance-id"] == "my-instance"


def test_silent_peer_may_offer_authentication_late(dial: Dial, allowing: ServerProcess) -> None:
    machine = dial(Vm, allowing, silent=True)
    machine.receive_until(DO_EXTENSION)
    machine.send(WILL_AUTHENTICATION)
    assert machine.receive_until(OFFER) == OFFER
    machine.send(start_of_tls())
    assert machine.receive_until(accepted()) == accepted()


def test_first_byte_that_is_no_tls_is_greeted_without_vmware_telnet_ext(
    dial: Dial, allowing: ServerProcess
) -> None:
    machine = dial(Vm, allowing, silent=True)
    machine.send(WILL_AUTHENTICATION[:1])
    assert machine.receive_until(GREETING) == GREETING
    assert machine.hears(0.2) == b""


@pytest.mark.parametrize(
    "first", [b"\xff\xfd\x00", b"\xff\xf1", b"\0"], ids=["DO BINARY", "NOP", "NUL"]
)
def test_peer_that_offers_no_authentication_is_asked_for_vmware_telnet_ext(
    dial: Dial, allowing: ServerProcess, first: bytes
) -> None:
    machine = dial(Vm, allowing, silent=True)
    machine.send(first)
    assert machine.receive_until(DO_EXTENSION, 1.5) == GREETING + DO_EXTENSION


# TLS by AUTHENTICATION


def test_offer_of_authentication_is_answered_with_do_and_send(
    dial: Dial, allowing: ServerProcess
) -> None:
    machine = dial(Vm, allowing, silent=True)
    machine.send(WILL_AUTHENTICATION)
    assert machine.receive_until(OFFER) == GREETING + OFFER


@pytest.mark.parametrize("modifier", [0x00, 0x01, 0x0F, 0x16, 0xF0, 0xFE, 0xFF], ids=hex)
def test_start_with_any_modifier_is_accepted_with_the_same(
    dial: Dial, allowing: ServerProcess, modifier: int
) -> None:
    machine = dial(OfferingVm, allowing)
    machine.send(start_of_tls(modifier))
    assert machine.receive_until(accepted(modifier)) == accepted(modifier)


def test_start_cut_at_every_byte_is_accepted(dial: Dial, allowing: ServerProcess) -> None:
    machine = dial(OfferingVm, allowing)
    machine.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    for byte in start_of_tls(0xFF):
        machine.send(bytes([byte]))
    assert machine.receive_until(accepted(0xFF)) == accepted(0xFF)


def test_nothing_is_said_of_vmware_telnet_ext_before_authentication_is_settled(
    dial: Dial, allowing: ServerProcess
) -> None:
    machine = dial(OfferingVm, allowing)
    machine.send(WILL_EXTENSION + identity() + PROXY)
    assert machine.hears(0.2) == b""


@REFUSALS
def test_refusal_of_tls_is_followed_by_vmware_telnet_ext(
    dial: Dial, allowing: ServerProcess, refusal: bytes
) -> None:
    machine = dial(OfferingVm, allowing)
    machine.send(refusal)
    expected = DONT_AUTHENTICATION + DO_EXTENSION
    assert machine.receive_until(DO_EXTENSION) == expected


@REFUSALS
def test_vm_that_refuses_tls_goes_on_in_plain(
    dial: Dial, allowing: ServerProcess, refusal: bytes
) -> None:
    machine = dial(OfferingVm, allowing)
    machine.send(refusal)
    machine.receive_until(DO_EXTENSION)
    machine.send(BINARY + WILL_EXTENSION + identity() + PROXY)
    machine.receive_until(suboption(WILL_PROXY))
    assert machine.metadata()["instance-id"] == "my-instance"


@REFUSALS
def test_what_was_said_before_the_refusal_of_tls_counts(
    dial: Dial, allowing: ServerProcess, refusal: bytes
) -> None:
    machine = dial(OfferingVm, allowing)
    machine.send(BINARY + WILL_EXTENSION + identity() + PROXY + refusal)
    machine.receive_until(suboption(WILL_PROXY))
    assert machine.metadata()["instance-id"] == "my-instance"


@pytest.mark.parametrize(
    "answer",
    ["00 07 00 02", "00 07 00", "00 02 00 01", "00"],
    ids=["SSL but not START", "SSL and nothing", "Kerberos START", "no type"],
)
def test_other_answer_than_start_of_ssl_is_a_refusal(
    dial: Dial, allowing: ServerProcess, answer: str
) -> None:
    machine = dial(OfferingVm, allowing)
    machine.send(b"\xff\xfa\x25" + bytes.fromhex(answer) + b"\xff\xf0")
    assert machine.receive_until(DO_EXTENSION) == DONT_AUTHENTICATION + DO_EXTENSION


def test_start_without_an_offer_starts_nothing(dial: Dial, allowing: ServerProcess) -> None:
    machine = dial(Vm, allowing)
    machine.send(start_of_tls())
    assert machine.metadata()["instance-id"] == "my-instance"


# TLS required


def is_refused_once(server: ServerProcess, machine: Vm) -> bool:
    """Whether the log has the refusal, and no second one once everything said is handled."""
    machine.send(PROXY + b"!!REQUEST_METADATA#\n")
    assert machine.hears(0.1) == b""
    reason = "refused: the VM does not use TLS, and this server requires it"
    return reason in line_about(server, machine)


@REFUSALS
def test_vm_that_refuses_required_tls_is_not_proxied(
    dial: Dial, requiring: ServerProcess, refusal: bytes
) -> None:
    machine = dial(OfferingVm, requiring)
    machine.send(refusal)
    machine.receive_until(DO_EXTENSION)
    machine.send(WILL_EXTENSION + identity() + PROXY)
    machine.receive_until(suboption(WONT_PROXY))
    assert is_refused_once(requiring, machine)


def test_vm_that_does_not_speak_of_required_tls_is_not_proxied(
    dial: Dial, requiring: ServerProcess
) -> None:
    machine = dial(Vm, requiring)
    machine.receive_until(suboption(WONT_PROXY))
    assert is_refused_once(requiring, machine)


def test_vm_that_asks_again_and_again_before_it_refuses_tls_is_refused_once(
    dial: Dial, requiring: ServerProcess
) -> None:
    machine = dial(OfferingVm, requiring)
    machine.send(WILL_EXTENSION + PROXY * 3 + WONT_AUTHENTICATION)
    machine.receive_until(suboption(WONT_PROXY))
    assert is_refused_once(requiring, machine)


def test_vm_that_moves_without_required_tls_is_refused(
    dial: Dial, requiring: ServerProcess
) -> None:
    source = dial(TlsVm, requiring)
    source.receive_until(suboption(WILL_PROXY))
    secret = begin_move(source, b"\1\2\3\4")
    target = dial(Vm, requiring, silent=True)
    target.send(WILL_EXTENSION + KNOWN + suboption(VMOTION_PEER, b"\1\2\3\4" + secret))
    target.receive_until(suboption(UNKNOWN_SUBOPTION_RCVD_2, bytes([VMOTION_PEER])))
    assert "without TLS, and this server requires it" in line_about(requiring, target)


# What was said in plain


def test_vm_of_the_plain_line_is_forgotten_in_tls(
    dial: Dial, allowing: ServerProcess, instances: Path
) -> None:
    (instances / "plain.yaml").write_text("metadata: {instance-id: of-the-plain-line}\n")
    machine = dial(OfferingVm, allowing)
    machine.send(WILL_EXTENSION + identity("plain", "42" * 16) + PROXY + b"!!REQUEST_METADATA#\n")
    machine.send(start_of_tls())
    assert machine.receive_until(accepted()) == accepted()
    start_tls(machine)
    machine.send(BINARY + WILL_EXTENSION + b"!!REQUEST_METADATA#\n")
    assert DOCUMENT.search(machine.hears(0.2)) is None
    machine.send(identity() + PROXY)
    assert json.loads(machine.answer()[1])["instance-id"] == "my-instance"


def test_vm_that_was_served_in_plain_is_forgotten_in_tls(
    dial: Dial, allowing: ServerProcess
) -> None:
    machine = dial(Vm, allowing)
    machine.metadata()
    machine.send(WILL_AUTHENTICATION)
    machine.receive_until(OFFER)
    machine.send(start_of_tls())
    machine.receive_until(accepted())
    start_tls(machine)
    machine.send(BINARY + WILL_EXTENSION + b"!!REQUEST_METADATA#\n")
    assert DOCUMENT.search(machine.hears(0.2)) is None


def starts_tls_after_it_was_served(machine: Vm) -> None:
    machine.metadata()
    machine.send(WILL_AUTHENTICATION)
    machine.receive_until(OFFER)
    machine.send(start_of_tls())
    machine.receive_until(accepted())
    start_tls(machine)


def test_vm_that_was_served_in_plain_and_identifies_nothing_in_tls_makes_room(
    dial: Dial, start: Start, pair: Pair
) -> None:
    server = start(*pair.options, "--max-connections", "1")
    starts_tls_after_it_was_served(dial(Vm, server))
    assert dial(Vm, server).metadata()["instance-id"] == "my-instance"


@pytest.mark.slow
def test_vm_that_was_served_in_plain_and_identifies_nothing_in_tls_is_closed_in_time(
    dial: Dial, start: Start, pair: Pair
) -> None:
    impatient = with_constants(serving__timeouts__IDENTIFICATION_DEADLINE_S=1.0)
    server = start(*pair.options, command=impatient)
    machine = dial(Vm, server)
    starts_tls_after_it_was_served(machine)
    with pytest.raises(ssl.SSLEOFError):  # closed without close_notify
        machine.receive_all()
    server.wait_for(r"closed: it identified no VM within 1 s")


def test_half_a_request_in_plain_is_no_beginning_of_one_in_tls(
    dial: Dial, allowing: ServerProcess
) -> None:
    machine = dial(Vm, allowing)
    machine.metadata()
    machine.send(b"!!REQUEST_META" + WILL_AUTHENTICATION)
    machine.receive_until(OFFER)
    machine.send(start_of_tls())
    machine.receive_until(accepted())
    start_tls(machine)
    machine.send(BINARY + WILL_EXTENSION + identity() + PROXY + b"DATA#\n!!REQUEST_USERDATA#\n")
    assert machine.answer()[0] == "RESPONSE_USERDATA"


def test_options_of_the_plain_line_are_forgotten_in_tls(
    dial: Dial, allowing: ServerProcess
) -> None:
    machine = dial(OfferingVm, allowing)
    machine.send(BINARY + start_of_tls())
    machine.receive_until(accepted())
    start_tls(machine)
    machine.send(WILL_EXTENSION + identity() + PROXY + b"!!REQUEST_USERDATA#\r\n")
    # Without BINARY the NVT's line end.
    assert machine.receive_matching(rb"!!RESPONSE_USERDATA#[^\n]*\n").endswith(b"=\r\n")


@pytest.mark.parametrize(
    "behind",
    [
        pytest.param(PROXY, id="DO-PROXY"),
        pytest.param(b"!!REQUEST_METADATA#\n", id="request"),
        pytest.param(b"\xff\xf1", id="NOP"),
        pytest.param(b"\xff", id="IAC"),
        pytest.param(b"\xff\xfa\xff\xf0", id="SB SE"),
        pytest.param(b"\xff\xfa\xe8", id="half a suboption"),
        pytest.param(b"\x16", id="half a ClientHello"),
        pytest.param(start_of_tls(), id="another START"),
    ],
)
def test_bytes_behind_start_in_its_segment_are_not_accepted_and_closed(
    dial: Dial, allowing: ServerProcess, behind: bytes
) -> None:
    machine = dial(OfferingVm, allowing)
    machine.send(start_of_tls() + behind)
    assert ends(machine) == b""
    assert "plain bytes behind its START" in line_about(allowing, machine)


def test_bytes_behind_start_in_its_segment_are_counted(
    dial: Dial, start: Start, pair: Pair
) -> None:
    server = start(*pair.options)
    machine = dial(OfferingVm, server)
    machine.send(start_of_tls() + PROXY)
    server.wait_for("plain bytes behind its START")
    machine.close()
    assert counters(server)["refused: plain bytes before TLS"] == 1


def test_plain_bytes_before_the_handshake_are_closed_and_counted(
    dial: Dial, start: Start, pair: Pair
) -> None:
    server = start(*pair.options)
    machine = dial(AcceptedVm, server)
    machine.send(WILL_EXTENSION + identity() + PROXY + b"!!REQUEST_METADATA#\n")
    said = ends(machine)
    assert said[:1] in (b"", b"\x15")  # nothing, or a TLS alert
    assert DOCUMENT.search(said) is None
    assert "closed: TLS failed: " in line_about(server, machine)
    machine.close()
    assert counters(server)["TLS failed"] == 1


def test_plain_bytes_injected_before_a_client_hello_let_the_handshake_fail(
    dial: Dial, allowing: ServerProcess
) -> None:
    machine = dial(Vm, allowing)
    with pytest.raises(ssl.SSLError):
        start_tls(machine)


# 0xFF, odd cuts, large documents


def begin_move(source: Vm, sequence: bytes) -> bytes:
    """Says VMOTION-BEGIN; returns the secret of the GOAHEAD, undoubled."""
    source.send(suboption(VMOTION_BEGIN, sequence))
    go_ahead = suboption(VMOTION_GOAHEAD, sequence)[:-2]
    source.receive_until(go_ahead)
    secret = source.receive_matching(rb"(?:[^\xff]|\xff\xff)*\xff\xf0")[:-2]
    return secret.replace(b"\xff\xff", b"\xff")


@BOTH_WAYS
def test_sequence_with_0xff_is_doubled_inside_tls(
    dial: Dial, allowing: ServerProcess, way: type[TlsVm]
) -> None:
    machine = dial(way, allowing)
    machine.receive_until(suboption(WILL_PROXY))
    machine.hears(0.05)
    machine.send(bytes.fromhex("FFFAE8 28 01FFFF02FFFF FFF0"))
    heard = machine.receive_matching(rb"\xff\xfa(?:[^\xff]|\xff\xff)*\xff\xf0")
    assert heard.startswith(bytes.fromhex("FFFAE8 29 01FFFF02FFFF"))
    assert len(heard.replace(b"\xff\xff", b"\xff")) == 4 + 4 + 8 + 2


def test_vm_that_does_not_read_what_it_makes_the_server_say_is_not_closed(
    dial: Dial, instances: Path, pair: Pair, peers: ExitStack
) -> None:
    server = ServerProcess(instances, *pair.options)
    peers.callback(server.end)
    machine = dial(TlsVm, server, receive_buffer=4096)
    machine.receive_until(suboption(71))
    unknown = b"".join(suboption(code) for code in range(200, 240))
    for _ in range(1500):  # all are answered: 64 KiB wait, and the rest is left out
        machine.send(unknown)
    time.sleep(1)
    machine.socket.settimeout(0.5)
    with suppress(TimeoutError):
        while True:
            assert machine.socket.recv(65536)
    machine.send(b"!!REQUEST_METADATA#\n")
    machine.receive_until(b"!!RESPONSE_METADATA#")
    assert counters(server)["output dropped"] > 100


@pytest.mark.parametrize(
    "sizes",
    [repeat(1), repeat(7), map(random.Random(3).randrange, repeat(1), repeat(80))],
    ids=["bytes", "sevens", "random"],
)
def test_records_cut_at_odd_places_are_put_together(
    dial: Dial, allowing: ServerProcess, sizes: Iterator[int]
) -> None:
    machine = dial(Vm, allowing, silent=True)
    machine.socket = CutTls(machine.socket, sizes)  # type: ignore[assignment]
    machine.send(BINARY + WILL_EXTENSION + identity() + PROXY)
    for _ in range(3):
        assert machine.metadata()["instance-id"] == "my-instance"


def test_many_records_in_one_segment_are_all_taken(dial: Dial, allowing: ServerProcess) -> None:
    machine = dial(Vm, allowing, silent=True)
    machine.socket = CutTls(machine.socket, repeat(1 << 20))  # type: ignore[assignment]
    machine.send(BINARY + WILL_EXTENSION + identity() + PROXY + b"!!REQUEST_USERDATA#\n" * 100)
    assert [machine.answer()[0] for _ in range(100)] == ["RESPONSE_USERDATA"] * 100


def test_longest_record_is_taken_whole(dial: Dial, allowing: ServerProcess) -> None:
    machine = dial(TlsVm, allowing)
    noise = (b"[    1.0] a kernel that says much\n" * 500)[: 16384 - 20]
    machine.send(noise[:-1] + b"\n!!REQUEST_USERDATA#\n")
    assert machine.answer()[0] == "RESPONSE_USERDATA"


LARGE = "#!/bin/sh\n# " + "x" * 1_000_000


def test_large_document_reaches_a_slow_reader_whole(
    dial: Dial, allowing: ServerProcess, instances: Path
) -> None:
    (instances / "large.yaml").write_text(json.dumps({"metadata": {}, "userdata": LARGE}))
    slow = dial(TlsVm, allowing, "large", receive_buffer=65536)
    slow.send(b"!!REQUEST_USERDATA#\n!!REQUEST_METADATA#\n")
    assert dial(TlsVm, allowing).metadata()["instance-id"] == "my-instance"
    code, body = slow.answer()
    assert (code, body.decode()) == ("RESPONSE_USERDATA", LARGE)
    assert slow.answer()[0] == "RESPONSE_METADATA"


# Handshakes that come to nothing


def test_handshake_that_stops_in_the_middle_is_closed_at_its_deadline_and_counted(
    dial: Dial, start: Start, pair: Pair
) -> None:
    server = start(*pair.options, command=with_constants(serving__timeouts__TLS_HANDSHAKE_S=0.5))
    served = dial(TlsVm, server)
    half, silent = dial(Vm, server, silent=True), dial(AcceptedVm, server)
    started_s = time.monotonic()
    half.send(client_hello()[:100])
    assert silent.hears(0.2) == half.hears(0.01) == b""
    ends(half)
    ends(silent)
    assert time.monotonic() - started_s < 5
    server.wait_for(r"closed: TLS failed: no handshake within 0\.5 s")
    assert served.metadata()["instance-id"] == "my-instance"  # its handshake was in time
    for machine in (served, half, silent):
        machine.close()
    assert counters(server)["TLS failed"] == 2


def test_client_hello_that_is_garbage_is_closed(dial: Dial, allowing: ServerProcess) -> None:
    machine = dial(Vm, allowing, silent=True)
    machine.send(b"\x16 is no handshake\r\n")
    assert ends(machine)[:1] in (b"", b"\x15")


@pytest.mark.parametrize(
    "version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3], ids=lambda version: version.name
)
def test_tls_version_is_spoken(
    dial: Dial, allowing: ServerProcess, version: ssl.TLSVersion
) -> None:
    machine = dial(TlsVm, allowing, context=context_of(version))
    assert machine.metadata()["instance-id"] == "my-instance"
    assert machine.socket.version() == version.name.replace("_", ".")


def test_tls_1_1_is_refused(dial: Dial, allowing: ServerProcess) -> None:
    with pytest.raises(ssl.SSLError, match="PROTOCOL_VERSION"):  # the server's alert
        dial(TlsVm, allowing, context=context_of(ssl.TLSVersion.TLSv1_1))


EACH_WAY = pytest.mark.parametrize(
    "flags",
    [("-tls1_2",), ("-tls1_2", "-no_ticket"), ("-tls1_3",)],
    ids=["1.2", "1.2 without tickets", "1.3"],
)


@EACH_WAY
def test_openssl_that_reconnects_resumes_no_session(
    openssl: str, allowing: ServerProcess, flags: tuple[str, ...]
) -> None:
    where = ("-connect", f"127.0.0.1:{allowing.port}")
    ended = subprocess.run(
        [openssl, "s_client", *where, *flags, "-reconnect"],
        input=b"",
        capture_output=True,
        timeout=30,
    )
    assert ended.stdout.count(b"New, TLSv1") >= (6 if flags[0] == "-tls1_2" else 1), ended.stdout
    assert b"Reused" not in ended.stdout
    assert b"TLS session ticket:" not in ended.stdout


@EACH_WAY
def test_session_of_an_open_connection_is_not_resumed_by_another(
    openssl: str, allowing: ServerProcess, flags: tuple[str, ...], tmp_path: Path
) -> None:
    def client(option: str) -> list[str]:
        where = ("-connect", f"127.0.0.1:{allowing.port}")
        return [openssl, "s_client", *where, *flags, option, str(tmp_path / "session")]

    first = subprocess.Popen(
        client("-sess_out"), stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )
    assert first.stdin
    assert first.stdout
    try:
        while b"Verify return code" not in first.stdout.readline():
            pass
        if not (tmp_path / "session").exists():  # nothing that could be resumed was given
            assert flags == ("-tls1_3",)
            return
        second = subprocess.run(client("-sess_in"), input=b"", capture_output=True, timeout=30)
        assert b"New, TLSv1" in second.stdout, second
        assert b"Reused" not in second.stdout
    finally:
        first.kill()
        first.wait()
        first.stdin.close()
        first.stdout.close()


def test_new_certificate_serves_the_handshakes_after_it_in_contexts_of_before(
    own_pair: Pair, other_pair: Pair
) -> None:
    key_pair = KeyPair(own_pair.certificate, own_pair.key)
    old = key_pair.load()
    first = shaken(old, ssl.TLSVersion.TLSv1_3)
    replace(own_pair, other_pair)
    new = key_pair.load()
    for version in (ssl.TLSVersion.TLSv1_3, ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3):
        assert shaken(new, version) != first
        assert shaken(old, version) == first


def shaken(context: ssl.SSLContext, version: ssl.TLSVersion) -> bytes | None:
    """The certificate that the server's end of a handshake gives."""
    server = Tls(context)
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    client = context_of(version).wrap_bio(incoming, outgoing)
    while not server.is_up:
        with suppress(ssl.SSLWantReadError):
            client.do_handshake()
        server.feed(outgoing.read())
        incoming.write(server.data_to_send())
    client.do_handshake()
    return client.getpeercert(binary_form=True)


def test_aborted_handshakes_leave_no_descriptor_behind(
    dial: Dial, start: Start, pair: Pair
) -> None:
    server = start(*pair.options)
    first = dial(TlsVm, server)
    first.metadata()
    descriptors = Path(f"/proc/{server.pid}/fd")
    before = len(list(descriptors.iterdir()))
    hello = client_hello()
    for beginning in [hello[:1], hello[:100], hello, WILL_AUTHENTICATION, start_of_tls()] * 40:
        kind = OfferingVm if beginning == start_of_tls() else Vm
        machine = kind(server.port, **({} if kind is OfferingVm else {"silent": True}))
        machine.send(beginning)
        if len(beginning) % 2:
            machine.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        machine.close()
    assert first.metadata()["instance-id"] == "my-instance"
    wait_until(lambda: len(list(descriptors.iterdir())) == before)
    assert "Traceback" not in server.log


# Strangers


def test_web_browser_gets_an_explanation_of_the_port_inside_tls(
    dial: Dial, allowing: ServerProcess
) -> None:
    machine = dial(TlsVm, allowing, None)
    machine.send(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n")
    assert b"this port is for the virtual serial ports of VMware VMs" in machine.receive_all(10)


@pytest.mark.parametrize(
    "pattern",
    [rb"[^\xff]*[\r\n]", rb"[^\r\n]*\xff"],
    ids=["line end before 0xFF", "0xFF before line end"],
)
def test_client_hello_to_a_server_without_certificate_is_closed_and_reported(
    dial: Dial, start: Start, pattern: bytes
) -> None:
    server = start()  # it tells of such a peer once a minute
    machine = dial(Vm, server, silent=True)
    machine.send(client_hello_like(pattern))
    ends(machine)
    assert "peer is a TLS client, not an ESXi host; " in line_about(server, machine)


# vMotion


def test_vm_moves_from_a_plain_line_to_one_with_tls(dial: Dial, allowing: ServerProcess) -> None:
    sequence = b"\x01\xff\x02\xff"
    source = dial(Vm, allowing, vc_uuid="57" * 16)
    source.metadata()
    source.send(b"!!REQUEST_USER")
    secret = begin_move(source, sequence)
    target = dial(AuthenticationVm, allowing, None)
    target.send(BINARY + WILL_EXTENSION + KNOWN + suboption(VMOTION_PEER, sequence + secret))
    target.receive_until(suboption(VMOTION_PEER_OK, sequence))
    target.send(suboption(80, b"57" * 16) + suboption(VMOTION_COMPLETE, sequence) + b"DATA#\n")
    assert target.answer()[0] == "RESPONSE_USERDATA"
    assert target.metadata()["instance-id"] == "my-instance"
    assert DOCUMENT.search(source.hears(0.1)) is None


# The end of a line


@BOTH_WAYS
def test_term_ends_an_idle_line_with_close_notify(
    dial: Dial, start: Start, pair: Pair, way: type[TlsVm]
) -> None:
    server = start(*pair.options)
    machine = dial(way, server)
    machine.metadata()
    server.signal(signal.SIGTERM)
    machine.receive_all()  # an end without close_notify is an error
    machine.close()
    assert server.wait(10) == 0


def test_term_lets_a_slow_reader_have_the_rest_and_close_notify(
    dial: Dial, start: Start, own_instances: Path, pair: Pair
) -> None:
    (own_instances / "web1.yaml").write_text(json.dumps({"metadata": {}, "userdata": LARGE}))
    server = start(*pair.options)
    machine = dial(TlsVm, server, receive_buffer=32768)
    machine.send(b"!!REQUEST_USERDATA#\n")
    machine.receive_until(b"!!RESPONSE_USERDATA#")
    server.signal(signal.SIGTERM)
    server.wait_for("stopping: 1 connection")
    rest = machine.receive_all()
    assert (len(rest), rest[-1:]) == ((len(LARGE) + 2) // 3 * 4 + 1, b"\n")
    machine.close()
    assert server.wait(10) == 0


def test_peer_that_says_goodbye_hears_it_too(dial: Dial, allowing: ServerProcess) -> None:
    machine = dial(TlsVm, allowing)
    machine.metadata()
    assert isinstance(machine.socket, ssl.SSLSocket)
    machine.socket = machine.socket.unwrap()  # fails without the other side's close_notify
    assert machine.receive_all(10) == b""


# HUP


def test_hup_reads_the_new_certificate_for_new_connections(
    dial: Dial, start: Start, own_pair: Pair, pair: Pair, other_pair: Pair
) -> None:
    server = start(*own_pair.options)
    old = dial(TlsVm, server)
    assert old.certificate == pair.der
    replace(own_pair, other_pair)
    server.signal(signal.SIGHUP)
    server.wait_for("reload: certificate read")
    for way in (TlsVm, AuthenticationVm):
        new = dial(way, server)
        assert new.certificate == other_pair.der
        assert new.metadata()["instance-id"] == "my-instance"
    assert old.metadata()["instance-id"] == "my-instance"


def mismatch(own: Pair, other: Pair) -> None:
    shutil.copy(other.key, own.key)


def remove(own: Pair, _other: Pair) -> None:
    own.certificate.unlink()


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (mismatch, "do not match"),
        (remove, "No such file or directory"),
    ],
    ids=["mismatch", "missing"],
)
def test_hup_with_an_unusable_pair_keeps_the_old_one_and_says_so(
    dial: Dial,
    start: Start,
    own_pair: Pair,
    pair: Pair,
    other_pair: Pair,
    change: Callable[[Pair, Pair], None],
    told: str,
) -> None:
    server = start(*own_pair.options)
    old = dial(TlsVm, server)
    change(own_pair, other_pair)
    server.signal(signal.SIGHUP)
    line = server.wait_for("ERROR reload: .*previous certificate stays in use")[0]
    assert told in line
    assert dial(TlsVm, server).certificate == pair.der
    assert old.metadata()["instance-id"] == "my-instance"


def test_hup_without_a_certificate_changes_nothing(dial: Dial, start: Start) -> None:
    server = start()
    server.signal(signal.SIGHUP)
    server.wait_for("reload: there is no certificate")
    assert dial(Vm, server).metadata()["instance-id"] == "my-instance"


# The options


def fails_with_one_line(directory: Path, *arguments: str) -> str:
    """Runs a server that must end with exit 2 and one line; returns the line."""
    opts = json.dumps({"directory": str(directory)})
    ended = run("run", "--uri", "x", "--listen", "127.0.0.1:0", "--driver-opts", opts, *arguments)
    assert ended.returncode == 2, ended
    assert ended.stderr.count("\n") == 1, ended.stderr
    return ended.stderr


@pytest.fixture(scope="module")
def files(
    openssl: str, pair: Pair, other_pair: Pair, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, Path]:
    """Files that can be given as certificate or key, by what they are."""
    directory = tmp_path_factory.mktemp("files")
    (directory / "garbage").write_bytes(random.Random(1).randbytes(1000))
    return {
        "certificate": pair.certificate,
        "key": pair.key,
        "other key": other_pair.key,
        "encrypted key": make_pair(openssl, directory, "encrypted", "secret").key,
        "garbage": directory / "garbage",
        "missing": directory / "missing",
    }


@pytest.mark.parametrize(
    ("certificate", "key", "told"),
    [
        ("missing", "key", "--tls-cert: {certificate}: No such file or directory"),
        ("certificate", "missing", "--tls-key: {key}: No such file or directory"),
        ("certificate", "other key", "{certificate} and {key} do not match"),
        ("certificate", "encrypted key", "--tls-key: the key is encrypted"),
        ("garbage", "key", "PEM"),
        ("certificate", "garbage", "PEM"),
        ("certificate", None, "PEM"),
        (None, "key", "--tls-key needs --tls-cert"),
    ],
    ids=lambda value: None if value is None else value.rpartition("} ")[2],
)
def test_pair_that_cannot_be_used_ends_the_start_with_one_line(
    own_instances: Path,
    files: dict[str, Path],
    certificate: str | None,
    key: str | None,
    told: str,
) -> None:
    options = {"--tls-cert": certificate, "--tls-key": key}
    arguments = [(option, str(files[kind])) for option, kind in options.items() if kind]
    line = fails_with_one_line(own_instances, *(word for pair in arguments for word in pair))
    assert "_ssl.c" not in line  # OpenSSL's own words, such as PEM lib, are not clear
    assert told.format(certificate=files.get(certificate or ""), key=files.get(key or "")) in line


@pytest.mark.parametrize("policy", ["require", "allow"])
def test_tls_without_certificate_ends_the_start_with_one_line(
    own_instances: Path, policy: str
) -> None:
    line = fails_with_one_line(own_instances, "--tls", policy)
    assert f"--tls {policy} needs --tls-cert" in line


def test_tls_off_with_a_certificate_serves_plain_only(dial: Dial, start: Start, pair: Pair) -> None:
    server = start(*pair.options, "--tls", "off")
    with pytest.raises(ssl.SSLError):
        dial(TlsVm, server)
    machine = dial(Vm, server, silent=True)
    assert machine.receive_until(DO_EXTENSION) == GREETING + DO_EXTENSION  # at once
    machine.send(WILL_AUTHENTICATION)
    assert machine.receive_until(DONT_AUTHENTICATION) == DONT_AUTHENTICATION
    assert dial(Vm, server).metadata()["instance-id"] == "my-instance"

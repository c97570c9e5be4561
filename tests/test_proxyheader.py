"""The PROXY protocol: its parser by its laws, a real server, and a real HAProxy before it."""

from __future__ import annotations

import ipaddress
import re
import signal
import socket
import ssl
import struct
import subprocess
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.peer import SocketVm, connected, is_closed, is_served
from tests.process import ServerProcess, counters, with_constants
from tests.vm import BINARY
from vmw_cloudinit_metadata.protocol.proxyheader import Header, Incomplete, NoHeader, parse

Start = Callable[..., ServerProcess]

V2 = b"\r\n\r\n\0\r\nQUIT\n"
LOCAL, PROXY = 0x20, 0x21
TCP4, TCP6 = 0x11, 0x21
HOST4, HOST6 = "10.1.0.5", "fd00:1::5"


def v1(host: str, port: int = 40000, to: str | None = None) -> bytes:
    """As HAProxy's document has it in section 2.1."""
    family, here = ("TCP6", "::1") if ":" in host else ("TCP4", "127.0.0.1")
    return f"PROXY {family} {host} {to or here} {port} 13370\r\n".encode()


def v2(host: str, port: int = 40000, tlvs: bytes = b"") -> bytes:
    """As HAProxy's document has it in section 2.2."""
    kind, family, here = (
        (socket.AF_INET6, TCP6, "::1") if ":" in host else (socket.AF_INET, TCP4, "127.0.0.1")
    )
    addresses = socket.inet_pton(kind, host) + socket.inet_pton(kind, here)
    return v2_of(PROXY, family, addresses + struct.pack("!HH", port, 13370) + tlvs)


def v2_of(command: int, family: int, body: bytes) -> bytes:
    return V2 + struct.pack("!BBH", command, family, len(body)) + body


# The parser

PORTS = st.integers(0, 65535)
HOSTS = st.ip_addresses().map(str)
HEADERS = st.one_of(
    st.builds(v1, HOSTS, PORTS),
    st.builds(v2, HOSTS, PORTS, st.binary(max_size=300)),
    st.builds(v2_of, st.just(LOCAL), st.integers(0, 255), st.binary(max_size=300)),
    st.sampled_from([b"PROXY UNKNOWN\r\n", b"PROXY UNKNOWN ::1 whatever 1 2\r\n"]),
)
# Any bytes, with those that begin a header, or end one, more often than chance has them.
HOSTILE = st.lists(
    st.one_of(
        st.sampled_from([V2, b"PROXY ", b"TCP4 ", b"TCP6 ", b"\r\n", b"1.2.3.4 ", b"::1 ", b"9"]),
        st.sampled_from([v2(HOST4)[:16], v2(HOST6)[:16], v1(HOST4)[:-2], b"%", b"\xff", b"\0"]),
        st.binary(max_size=20),
    )
).map(b"".join)


@given(HOSTILE)
def test_parse_of_anything_never_raises(data: bytes) -> None:
    assert isinstance(parse(data), Header) or parse(data) in (Incomplete, NoHeader)


@given(HEADERS, st.data())
def test_strict_prefix_of_a_header_is_incomplete(header: bytes, draw: st.DataObject) -> None:
    assert parse(header[: draw.draw(st.integers(0, len(header) - 1))]) is Incomplete


@given(HEADERS, st.binary(max_size=200))
def test_header_does_not_depend_on_what_follows(header: bytes, rest: bytes) -> None:
    parsed = parse(header)
    assert isinstance(parsed, Header)
    assert parsed.length == len(header)
    assert parse(header + rest) == parsed


@given(HOSTILE, st.data())
def test_verdict_stands_whatever_follows(data: bytes, draw: st.DataObject) -> None:
    verdict = parse(data[: draw.draw(st.integers(0, len(data)))])
    assert verdict is Incomplete or parse(data) == verdict


@given(st.one_of(HOSTS.flatmap(lambda host: st.tuples(st.just(host), PORTS))), st.booleans())
def test_address_of_a_header_is_its_source(source: tuple[str, int], is_v1: bool) -> None:
    header = v1(*source) if is_v1 else v2(*source)
    parsed = parse(header)
    assert isinstance(parsed, Header)
    assert parsed.address
    assert ipaddress.ip_address(parsed.address[0]) == ipaddress.ip_address(source[0])
    assert parsed.address[1] == source[1]


@given(st.binary(max_size=300))
def test_tlvs_of_version_2_are_passed_over(tlvs: bytes) -> None:
    assert parse(v2(HOST4, 7, tlvs)) == Header(28 + len(tlvs), (HOST4, 7))


@given(st.integers(101, 2000).map(lambda size: b"PROXY " + b"1" * size))
def test_version_1_without_its_end_in_107_bytes_is_malformed(data: bytes) -> None:
    assert parse(data) is NoHeader


def test_version_1_of_107_bytes_is_a_header_and_of_108_is_none() -> None:
    longest = b"PROXY UNKNOWN " + b"f" * 91 + b"\r\n"
    assert len(longest) == 107
    assert parse(longest) == Header(107)
    assert parse(longest[:-2] + b"f\r\n") is NoHeader


@given(st.integers(4097 - 16, 65535), st.binary(max_size=50))
def test_version_2_of_more_than_4096_bytes_is_malformed_at_once(size: int, body: bytes) -> None:
    assert parse(V2 + struct.pack("!BBH", PROXY, TCP4, size) + body) is NoHeader


@pytest.mark.parametrize(
    "header",
    [
        pytest.param(v2_of(LOCAL, 0, b""), id="LOCAL"),
        pytest.param(v2_of(LOCAL, TCP4, v2(HOST4)[16:]), id="LOCAL with an address"),
        pytest.param(v2_of(PROXY, 0, b"tlv"), id="UNSPEC"),
        pytest.param(v2_of(PROXY, 0x31, b"\0" * 216), id="AF_UNIX"),
        pytest.param(b"PROXY UNKNOWN\r\n", id="UNKNOWN"),
        pytest.param(b"PROXY UNKNOWN ffff::1 ffff::2 1 2\r\n", id="UNKNOWN with an address"),
    ],
)
def test_header_of_a_proxy_that_speaks_for_itself_has_no_address(header: bytes) -> None:
    assert parse(header) == Header(len(header))


MALFORMED = [
    pytest.param(b"GET / HTTP/1.0\r\n\r\n", id="HTTP"),
    pytest.param(BINARY, id="telnet"),
    pytest.param(b"PROXY\tTCP4 1.2.3.4 1.2.3.4 1 2\r\n", id="v1 tab"),
    pytest.param(b"PROXY \r\n", id="v1 empty"),
    pytest.param(b"PROXY TCP5 1.2.3.4 1.2.3.4 1 2\r\n", id="v1 protocol"),
    pytest.param(b"PROXY TCP4 ::1 ::1 1 2\r\n", id="v1 other family"),
    pytest.param(b"PROXY TCP6 ::1 1.2.3.4 1 2\r\n", id="v1 two families"),
    pytest.param(b"PROXY TCP4 1.2.3.4 1.2.3.4 1\r\n", id="v1 one port"),
    pytest.param(b"PROXY TCP4 1.2.3.4 1.2.3.4 1 2 3\r\n", id="v1 three ports"),
    pytest.param(b"PROXY TCP4 1.2.3.4 1.2.3.4 1 65536\r\n", id="v1 large port"),
    pytest.param(b"PROXY TCP4 1.2.3.4 1.2.3.4 -1 2\r\n", id="v1 negative port"),
    pytest.param(b"PROXY TCP4 1.2.3.400 1.2.3.4 1 2\r\n", id="v1 no address"),
    pytest.param(b"PROXY TCP4  1.2.3.4 1.2.3.4 1 2\r\n", id="v1 two blanks"),
    pytest.param(b"PROXY TCP4 1.2.3.4 1.2.3.4 \xb2 2\r\n", id="v1 not ASCII"),
    pytest.param(v2_of(0x11, TCP4, v2(HOST4)[16:]), id="v2 version"),
    pytest.param(v2_of(0x22, TCP4, v2(HOST4)[16:]), id="v2 command"),
    pytest.param(v2_of(PROXY, TCP4, b"\0" * 11), id="v2 short IPv4"),
    pytest.param(v2_of(PROXY, TCP6, b"\0" * 35), id="v2 short IPv6"),
]


@pytest.mark.parametrize("data", MALFORMED)
def test_parse_of_what_is_no_header_is_malformed(data: bytes) -> None:
    assert parse(data) is NoHeader


# A server that load balancers at 127.0.0.1 and 127.0.0.9 connect to, for the hosts of HOST4, HOST6


@pytest.fixture(scope="module")
def balanced(instances: Path) -> Iterator[ServerProcess]:
    options = "--proxy-protocol 127.0.0.1 --proxy-protocol 127.0.0.8/30 --allow 127.0.0.2"
    networks = "--allow 10.1.0.0/16 --allow fd00:1::/32 --max-per-host 3 --log-level debug"
    process = ServerProcess(instances, *options.split(), *networks.split())
    yield process
    process.end()


def loud_lines(server: ServerProcess) -> list[str]:
    """The lines since the start that are not for debugging only."""
    start = server.wait_for(r"admin on .*\n").end()
    return [line for line in server.log[start:].splitlines() if " DEBUG " not in line]


def port_of(peer: socket.socket) -> int:
    return int(peer.getsockname()[1])


@pytest.mark.parametrize(
    ("header", "host"),
    [
        pytest.param(v1(HOST4, 40001), rf"{HOST4}:40001", id="v1 IPv4"),
        pytest.param(v1(HOST6, 40002), rf"\[{HOST6}\]:40002", id="v1 IPv6"),
        pytest.param(v2(HOST4, 40003), rf"{HOST4}:40003", id="v2 IPv4"),
        pytest.param(v2(HOST6, 40004), rf"\[{HOST6}\]:40004", id="v2 IPv6"),
        pytest.param(v2(HOST4, 40005, b"\x04\0\x01x" * 300), rf"{HOST4}:40005", id="v2 TLVs"),
        pytest.param(v1(f"::ffff:{HOST4}", 40006), rf"{HOST4}:40006", id="v1 mapped"),
        pytest.param(v2(f"::ffff:{HOST4}", 40007), rf"{HOST4}:40007", id="v2 mapped"),
    ],
)
def test_vm_behind_a_header_is_served_and_logged_with_the_address_in_it(
    balanced: ServerProcess, header: bytes, host: str
) -> None:
    with connected(balanced.port) as peer:
        assert is_served(SocketVm(peer, header=header))
    balanced.wait_for(rf"INFO {host}: 'web1'.*: identified")


@pytest.mark.parametrize(
    "header", [v1(HOST4), v2(HOST4), v2(HOST6, 1, b"x" * 50)], ids=["v1", "v2", "TLVs"]
)
def test_header_that_comes_byte_by_byte_is_understood(
    balanced: ServerProcess, header: bytes
) -> None:
    with connected(balanced.port) as peer:
        peer.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for byte in header:
            peer.sendall(bytes([byte]))
        assert is_served(SocketVm(peer))


@pytest.mark.parametrize("balancer", ["127.0.0.8", "127.0.0.11"])
def test_header_counts_from_every_network_of_proxy_protocol(
    balanced: ServerProcess, balancer: str
) -> None:
    with connected(balanced.port, balancer) as peer:
        assert is_served(SocketVm(peer, header=v2(HOST4)))


@pytest.mark.parametrize("host", ["10.2.0.1", "fd00:2::1", "::ffff:1:2:3"])
def test_host_in_a_header_that_is_outside_allow_is_closed_and_reported(
    balanced: ServerProcess, host: str
) -> None:
    with connected(balanced.port) as peer:
        peer.sendall(v2(host, 7))
        assert is_closed(peer)
    told = f"[{host}]:7" if ":" in host else f"{host}:7"
    balanced.wait_for(rf"WARNING {re.escape(told)}: connection refused: .* --allow")


def test_max_per_host_looks_at_the_address_in_the_header(
    balanced: ServerProcess, peers: ExitStack
) -> None:
    for number in range(3):
        peer = peers.enter_context(connected(balanced.port))
        assert is_served(SocketVm(peer, header=v2("10.1.0.77", number)))
    peer = peers.enter_context(connected(balanced.port))
    peer.sendall(v1("10.1.0.77", 44))
    assert is_closed(peer)
    balanced.wait_for(r" 10\.1\.0\.77:44: connection refused: .* \(--max-per-host\)")
    peer = peers.enter_context(connected(balanced.port))
    assert is_served(SocketVm(peer, header=v2("10.1.0.78")))


def test_host_that_connects_directly_needs_no_header(balanced: ServerProcess) -> None:
    with connected(balanced.port, "127.0.0.2") as peer:
        assert is_served(SocketVm(peer))


@pytest.mark.parametrize("header", [v1(HOST4), v2(HOST4)], ids=["v1", "v2"])
def test_header_from_elsewhere_is_junk(start: Start, header: bytes) -> None:
    server = start("--proxy-protocol", "127.0.0.9")
    with connected(server.port) as peer:
        stranger = SocketVm(peer, header=header)
        assert b"71" not in stranger.receive_all(10)
    server.wait_for(
        r"WARNING 127\.0\.0\.1:\d+: closed: .*a PROXY protocol header, .*--proxy-protocol"
    )
    assert HOST4 not in server.log


@pytest.mark.parametrize("data", MALFORMED)
def test_connection_of_a_balancer_without_a_right_header_is_closed(
    balanced: ServerProcess, data: bytes
) -> None:
    before = balanced.log.count("Traceback")
    with connected(balanced.port) as peer:
        peer.sendall(data)
        assert is_closed(peer)
    balanced.wait_for(
        r"WARNING 127\.0\.0\.1:\d+: closed: it did not begin with a PROXY protocol header"
    )
    assert balanced.log.count("Traceback") == before


def test_wrong_headers_of_one_balancer_are_reported_once_and_counted(start: Start) -> None:
    server = start("--proxy-protocol", "127.0.0.1")
    for _ in range(3):
        with connected(server.port) as peer:
            peer.sendall(BINARY)
            assert is_closed(peer)
    assert counters(server)["refused: PROXY header"] == 3
    assert server.log.count("did not begin with a PROXY protocol header") == 1


@pytest.mark.parametrize(
    "said",
    [
        pytest.param(b"", id="nothing"),
        pytest.param(v2_of(LOCAL, 0, b""), id="LOCAL"),
        pytest.param(b"PROXY UNKNOWN\r\n", id="UNKNOWN"),
        pytest.param(v1(HOST4)[:20], id="half a header"),
    ],
)
@pytest.mark.parametrize("is_reset", [False, True], ids=["closes", "resets"])
def test_health_check_that_comes_and_goes_is_quiet(
    balanced: ServerProcess, said: bytes, is_reset: bool
) -> None:
    before = loud_lines(balanced)
    with connected(balanced.port) as peer:
        peer.sendall(said)
        port = port_of(peer)
        balanced.wait_for(rf":{port}: connected")
        if is_reset:
            peer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
    balanced.wait_for(rf":{port}: disconnected")
    assert loud_lines(balanced) == before


def test_balancer_that_says_nothing_is_closed_in_time_counted_and_quiet(start: Start) -> None:
    limits = with_constants(serving__timeouts__IDENTIFICATION_DEADLINE_S=0.5)
    server = start("--proxy-protocol", "127.0.0.1", command=limits)
    with connected(server.port) as peer:
        assert is_closed(peer, 2)
    assert counters(server)["unidentified"] == 1
    assert "WARNING" not in server.log


def test_host_behind_a_header_that_says_nothing_is_closed_in_time_and_reported(
    start: Start,
) -> None:
    limits = with_constants(serving__timeouts__IDENTIFICATION_DEADLINE_S=0.5)
    server = start("--proxy-protocol", "127.0.0.1", command=limits)
    with connected(server.port) as peer:
        peer.sendall(v2(HOST4, 7))
        while peer.recv(4096):
            pass
    server.wait_for(rf"WARNING {HOST4}:7: .*closed: it identified no VM within 0\.5 s")


# TLS behind a header


@pytest.fixture(scope="module")
def certificate(
    tmp_path_factory: pytest.TempPathFactory, program: Callable[[str, str], str]
) -> Path:
    """A certificate, signed by itself, and its key, in one file."""
    path = tmp_path_factory.mktemp("tls") / "server.pem"
    request = "req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2"
    files = f"-subj /CN=localhost -keyout {path} -out {path}.cert"
    openssl = program("openssl", "openssl")
    subprocess.run([openssl, *request.split(), *files.split()], check=True, capture_output=True)
    path.write_text(path.read_text() + Path(f"{path}.cert").read_text())
    return path


@pytest.fixture
def tls_server(start: Start, certificate: Path) -> ServerProcess:
    options = ("--tls-cert", str(certificate), "--tls", "require")
    return start("--proxy-protocol", "127.0.0.1", *options)


def over_tls(peer: socket.socket) -> ssl.SSLSocket:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context.wrap_socket(peer)


@pytest.mark.parametrize("header", [v1(HOST4, 7), v2(HOST4, 7)], ids=["v1", "v2"])
def test_tls_behind_a_header_is_served(tls_server: ServerProcess, header: bytes) -> None:
    with connected(tls_server.port) as peer:
        peer.sendall(header)
        with over_tls(peer) as secure:
            assert is_served(SocketVm(secure))
    tls_server.wait_for(rf"INFO {HOST4}:7: 'web1'.*: identified")


def test_tls_in_one_segment_with_the_header_is_served(tls_server: ServerProcess) -> None:
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    tls = context.wrap_bio(incoming, outgoing)
    said = v2(HOST4)
    with connected(tls_server.port) as peer:
        while True:
            try:
                tls.do_handshake()
                break
            except ssl.SSLWantReadError:
                peer.sendall(said + outgoing.read())
                said = b""
                incoming.write(peer.recv(65536))
    assert tls.version() == "TLSv1.3"


def test_balancer_without_tls_behind_it_gets_no_explanation_of_a_vm(
    tls_server: ServerProcess,
) -> None:
    with connected(tls_server.port) as peer:
        SocketVm(peer, header=v2(HOST4, 7)).receive_until(b"\xff\xfa\xe8\x49\xff\xf0")
    tls_server.wait_for(
        rf"WARNING {HOST4}:7: 'web1', VC UUID \S+: refused: the VM does not use TLS"
    )


# A real HAProxy


@contextmanager
def haproxy(
    path: str, directory: Path, server: ServerProcess, options: str, family: int = socket.AF_INET
) -> Iterator[int]:
    """HAProxy in front of `server`, which it checks every 0.1 s; its port."""
    with socket.socket(family) as listener:
        if family == socket.AF_INET6:
            listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        listener.bind(("::" if family == socket.AF_INET6 else "127.0.0.1", 0))
        listener.listen()
        config = directory / "haproxy.cfg"
        config.write_text(
            "global\n  maxconn 100\n"
            "defaults\n  mode tcp\n"
            "  timeout connect 2s\n  timeout client 60s\n  timeout server 60s\n"
            f"listen vspc\n  bind fd@{listener.fileno()}\n"
            f"  server one 127.0.0.1:{server.port} {options} check inter 100ms\n"
        )
        fd = listener.fileno()
        process = subprocess.Popen(
            [path, "-f", str(config), "-db", "-q"], pass_fds=[fd], stderr=subprocess.PIPE
        )
        try:
            yield int(listener.getsockname()[1])
        finally:
            process.send_signal(signal.SIGKILL)
            _, told = process.communicate(timeout=10)
            assert b"ALERT" not in told, told


BOTH_VERSIONS = pytest.mark.parametrize("version", ["send-proxy", "send-proxy-v2"])


@pytest.fixture
def haproxy_path(program: Callable[[str, str], str]) -> str:
    return program("haproxy", "haproxy")


@pytest.fixture
def behind(start: Start) -> ServerProcess:
    options = "--proxy-protocol 127.0.0.1 --allow 127.0.0.5 --log-level debug"
    return start(*options.split())


@BOTH_VERSIONS
@pytest.mark.slow
def test_vm_behind_haproxy_is_served_and_logged_with_its_own_address(
    behind: ServerProcess, haproxy_path: str, tmp_path: Path, version: str
) -> None:
    with (
        haproxy(haproxy_path, tmp_path, behind, version) as port,
        connected(port, "127.0.0.5") as peer,
    ):
        assert is_served(SocketVm(peer))
        behind.wait_for(rf"INFO 127\.0\.0\.5:{port_of(peer)}: 'web1'.*: identified")


@BOTH_VERSIONS
@pytest.mark.slow
def test_vm_behind_haproxy_for_both_families_is_known_by_its_ipv4_address(
    behind: ServerProcess, haproxy_path: str, tmp_path: Path, version: str
) -> None:
    with (
        haproxy(haproxy_path, tmp_path, behind, version, socket.AF_INET6) as port,
        connected(port, "127.0.0.5") as peer,
    ):
        assert is_served(SocketVm(peer))
        behind.wait_for(rf"INFO 127\.0\.0\.5:{port_of(peer)}: 'web1'.*: identified")


@pytest.mark.slow
def test_host_behind_haproxy_that_is_outside_allow_is_closed(
    behind: ServerProcess, haproxy_path: str, tmp_path: Path
) -> None:
    with (
        haproxy(haproxy_path, tmp_path, behind, "send-proxy-v2") as port,
        connected(port, "127.0.0.6") as peer,
    ):
        assert is_closed(peer)
        behind.wait_for(rf"WARNING 127\.0\.0\.6:{port_of(peer)}: connection refused: .* --allow")


@pytest.mark.parametrize(
    "options",
    ["send-proxy", "send-proxy-v2", "send-proxy-v2 no-check-send-proxy"],
    ids=["v1", "v2", "connects only"],
)
@pytest.mark.slow
def test_health_checks_of_haproxy_are_quiet(
    behind: ServerProcess, haproxy_path: str, tmp_path: Path, options: str
) -> None:
    with haproxy(haproxy_path, tmp_path, behind, options):
        behind.wait_for(r"(?s)(127\.0\.0\.1:\d+: disconnected.*){3}")
    assert loud_lines(behind) == []

"""What one peer that is not identified can make the server keep: bytes, measured."""

from __future__ import annotations

import gc
import tracemalloc
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path

import pytest

from tests.process import ServerProcess
from tests.vm import BINARY, KNOWN, Vm, suboption
from vmw_cloudinit_metadata.protocol import options, packet, telnet
from vmw_cloudinit_metadata.protocol.events import Refused
from vmw_cloudinit_metadata.protocol.session import Policy, Session, TlsPolicy
from vmw_cloudinit_metadata.protocol.vmotion import KeyedSecrets, Moves
from vmw_cloudinit_metadata.protocol.vmware import MAX_NAME_BYTES, MAX_URI_BYTES

PROMISED_BYTES = 32 * 1024  # docs/protocol.md
WILL_EXTENSION, WILL_AUTHENTICATION = b"\xff\xfb\xe8", b"\xff\xfb\x25"
GREETING = bytes.fromhex("FFFB00 FFFB03 FFFB01 FFFD00 FFFD03 FFFDE8")
WIDE = "\U0001f600"  # such a character makes each of its text take four bytes


def wide(size: int) -> bytes:
    """UTF-8 of `size` bytes that takes the most memory as a text."""
    return b"x" * (size - len(WIDE.encode())) + WIDE.encode()


def requests(count: int) -> bytes:
    """Requests for documents that all differ, with the longest names."""
    digits = str.maketrans("0123456789", "ABCDEFGHIJ")
    names = (f"{number:056}".translate(digits).encode() for number in range(count))
    return b"".join(b"!!REQUEST_%s#\n" % name for name in names)


def new_session(tls: TlsPolicy = TlsPolicy.ALLOW) -> Session:
    secrets = KeyedSecrets(b"k" * 16, lambda size: bytes(size), lambda: 1_800_000_000.0)
    policy = Policy(frozenset({"my-metadata"}), Moves(10, secrets), tls)
    return Session(policy, "10.0.0.1", datetime.now(UTC))


def fresh_claim() -> bytes:
    """A VMOTION-PEER with a secret that may come from another server: nobody has checked it."""
    return suboption(44, b"seq1" + (1_800_000_000).to_bytes(4, "big") + bytes(20))


PROXY = suboption(70, b"Cmy-metadata?" + wide(MAX_URI_BYTES - len("my-metadata?")))
NAME = suboption(82, wide(MAX_NAME_BYTES))

# Each fills one buffer; the last ones leave something incomplete.
FILLS = {
    "requests": BINARY + WILL_EXTENSION + suboption(0, KNOWN) + requests(200),
    "line": b"x" * 4096,
    "identity": NAME,
    "postponed": WILL_AUTHENTICATION + b"".join(suboption(99, b"xy") for _ in range(2000)),
    "subnegotiation": b"\xff\xfa\xe8" + b"x" * 4095,
}
EARLY = {
    "open": BINARY + WILL_EXTENSION + suboption(0, KNOWN) + requests(200) + b"x" * 4096,
    "identity": NAME,
    "claim": fresh_claim() + b"y" * 100_000,
    "postponed": WILL_AUTHENTICATION + b"".join(suboption(99, b"xy") for _ in range(2000)),
    "subnegotiation": b"\xff\xfa\xe8" + b"x" * 4095,
}
NEVER_NAMED = {"proxied": BINARY + WILL_EXTENSION + suboption(0, KNOWN) + PROXY + NAME} | {
    name: fill for name, fill in FILLS.items() if name != "identity"
}


def feed(session: Session, data: bytes) -> None:
    for place in range(0, len(data), 256):
        session.receive_data(data[place : place + 256])
        session.data_to_send()


@pytest.mark.parametrize(
    "fills", [FILLS, EARLY, NEVER_NAMED], ids=["before it is named", "arriving", "named"]
)
def test_one_peer_that_is_not_identified_keeps_little(fills: dict[str, bytes]) -> None:
    for fill in fills.values():  # what all sessions share is there afterwards
        feed(new_session(), fill)
    gc.collect()
    tracemalloc.start()
    try:
        session = new_session()
        before = tracemalloc.get_traced_memory()[0]
        grown = {}
        for name, fill in fills.items():
            feed(session, fill)
            gc.collect()
            grown[name] = tracemalloc.get_traced_memory()[0] - before
    finally:
        tracemalloc.stop()
    assert not session.is_mute
    assert not session.identified
    assert grown["subnegotiation"] <= PROMISED_BYTES, grown
    assert grown["subnegotiation"] > 8192, "nothing was filled"


def test_service_uri_of_1024_bytes_is_served_and_a_longer_one_is_refused() -> None:
    longest = b"my-metadata?" + b"x" * (MAX_URI_BYTES - len("my-metadata?"))
    session = new_session(TlsPolicy.OFF)
    session.receive_data(
        BINARY + WILL_EXTENSION + suboption(0, b"") + suboption(70, b"C" + longest)
    )
    assert session.machine.service_uri.encode() == longest
    session = new_session(TlsPolicy.OFF)
    *_, told = session.receive_data(suboption(70, b"C" + longest + b"x"))
    assert isinstance(told, Refused)
    assert "up to 1,024 bytes" in told.reason
    assert len(told.reason) < 400
    assert session.machine.service_uri == ""
    assert session.data_to_send().endswith(suboption(73))


def test_machine_of_the_longest_uri_has_few_parameters() -> None:
    session = new_session(TlsPolicy.OFF)
    uri = b"my-metadata?" + b"".join(b"%d&" % number for number in range(400))
    session.receive_data(suboption(70, b"C" + uri[:MAX_URI_BYTES]))
    assert len(session.machine.query) <= MAX_URI_BYTES // 2


def test_kept_parses_have_short_keys() -> None:
    for cache in (packet._repeated, packet._whole, telnet._whole):
        cache.cache_clear()
    decoder, lines = telnet.Decoder(), packet.LineSplitter()
    for number in range(1000):
        long = b"\xff\xf1%d" % number + b"x" * 4000
        decoder.receive_data(long)
        for line in lines.receive_data(b"%d" % number + b"x" * 4000 + b"\n"):
            packet.requested(line)
    for cache in (packet._repeated, packet._whole, telnet._whole):
        assert cache.cache_info().currsize == 0
    assert options._received.cache_parameters()["maxsize"] <= 512
    assert options._after.cache_parameters()["maxsize"] <= 512


def test_peers_that_make_the_server_speak_and_do_not_read_cost_no_more(
    server: ServerProcess,
) -> None:
    peers = [Vm(server.port, silent=True, receive_buffer=4096) for _ in range(100)]
    for peer in peers:
        peer.receive_until(GREETING)
    before_kib = resident_kib(server)
    for peer in peers:
        peer.socket.settimeout(0.05)
        with suppress(TimeoutError):
            peer.send(WILL_EXTENSION + suboption(0, KNOWN) * 100_000)
    machine = Vm(server.port)
    assert machine.metadata()["instance-id"] == "my-instance"
    grown_kib = resident_kib(server) - before_kib
    for peer in (machine, *peers):
        peer.close()
    assert grown_kib * 1024 < len(peers) * PROMISED_BYTES


def resident_kib(server: ServerProcess) -> int:
    status = Path(f"/proc/{server.pid}/status").read_text()
    (line,) = (line for line in status.splitlines() if line.startswith("VmRSS"))
    return int(line.split()[1])

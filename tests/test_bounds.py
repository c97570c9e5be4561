"""What one peer that is not identified can make the server keep: bytes, measured."""

from __future__ import annotations

import gc
import socket
import tracemalloc
from datetime import UTC, datetime
from pathlib import Path

import gevent
import pytest

from tests.vm import BINARY, KNOWN, suboption
from vmw_cloudinit_metadata.drivers.file import FileDriver
from vmw_cloudinit_metadata.process.budget import Budget
from vmw_cloudinit_metadata.protocol import packet, telnet, telnetoptions, vmware
from vmw_cloudinit_metadata.protocol.events import Refused
from vmw_cloudinit_metadata.protocol.peer import bare
from vmw_cloudinit_metadata.protocol.phases import IDENTIFIED, MUTE
from vmw_cloudinit_metadata.protocol.session import Policy, Session, TlsPolicy
from vmw_cloudinit_metadata.protocol.vmotion import KeyedSecrets, Moves, RandomSecrets
from vmw_cloudinit_metadata.protocol.vmware import MAX_NAME_BYTES, MAX_URI_BYTES
from vmw_cloudinit_metadata.serving.admission import Admission
from vmw_cloudinit_metadata.serving.connection import Connection
from vmw_cloudinit_metadata.serving.journey import Journeys
from vmw_cloudinit_metadata.serving.lookup import Lookup
from vmw_cloudinit_metadata.serving.services import Services
from vmw_cloudinit_metadata.serving.unsent import Unsent

PROMISED_BYTES = 40 * 1024  # docs/protocol.md
WILL_EXTENSION, WILL_AUTHENTICATION = b"\xff\xfb\xe8", b"\xff\xfb\x25"
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

STATUS = b"!!REQUEST_STATUS#" + b"QUFB" * 1000 + b"\n"  # 3,000 bytes

# Each fills one buffer; the last ones leave something incomplete.
FILLS = {
    "requests": BINARY + WILL_EXTENSION + suboption(0, KNOWN) + STATUS * 8 + requests(200),
    "line": b"x" * 4096,
    "identity": NAME,
    "postponed": WILL_AUTHENTICATION + b"".join(suboption(99, b"xy") for _ in range(2000)),
    "subnegotiation": b"\xff\xfa\xe8" + b"x" * 4095,
}
EARLY = {
    "open": BINARY
    + WILL_EXTENSION
    + suboption(0, KNOWN)
    + STATUS * 8
    + requests(200)
    + b"x" * 4096,
    "identity": NAME,
    "claim": fresh_claim() + b"y" * 100_000,
    "postponed": WILL_AUTHENTICATION + b"".join(suboption(99, b"xy") for _ in range(2000)),
    "subnegotiation": b"\xff\xfa\xe8" + b"x" * 4095,
}
NEVER_NAMED = {"proxied": BINARY + WILL_EXTENSION + suboption(0, KNOWN) + PROXY + NAME} | {
    name: fill for name, fill in FILLS.items() if name != "identity"
}


CACHES = (
    *(packet.requests_of, telnet.events_of, telnetoptions.received),
    *(vmware.questions_for, bare),
)
# Named tuples and dataclasses are made by code that has no file.
OURS = [tracemalloc.Filter(True, name) for name in ("*/vmw_cloudinit_metadata/*", "<string>")]


def feed(session: Session, data: bytes) -> None:
    for place in range(0, len(data), 256):
        session.receive_data(data[place : place + 256])
        session.data_to_send()


def forget_what_all_share() -> None:
    for cache in CACHES:
        cache.cache_clear()
    gc.collect()


@pytest.mark.parametrize(
    "fills", [FILLS, EARLY, NEVER_NAMED], ids=["before it is named", "arriving", "named"]
)
def test_one_peer_that_is_not_identified_keeps_little(fills: dict[str, bytes]) -> None:
    tracemalloc.start()
    try:
        session = new_session()
        grown = {}
        for name, fill in fills.items():
            feed(session, fill)
            forget_what_all_share()
            ours = tracemalloc.take_snapshot().filter_traces(OURS)
            grown[name] = sum(trace.size for trace in ours.traces)
    finally:
        tracemalloc.stop()
    assert session.phase not in (MUTE, IDENTIFIED)
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
    session = new_session()
    session.receive_data(WILL_EXTENSION)
    forget_what_all_share()
    session.receive_data(suboption(0, bytes(300)))
    decoder, lines = telnet.Decoder(), packet.LineSplitter()
    for number in range(1000):
        long = b"\xff\xf1%d" % number + b"x" * 4000
        decoder.receive_data(long)
        lines.requests(b"%d" % number + b"x" * 4000 + b"\n")
    for cache in (packet.requests_of, telnet.events_of):
        assert cache.cache_info().currsize == 0
    assert vmware.questions_for.cache_parameters()["maxsize"] * telnet.MAX_SUBNEGOTIATION_BYTES <= (
        64 * 1024
    )
    assert telnetoptions.received.cache_parameters()["maxsize"] <= 512


def test_peer_that_makes_the_server_speak_and_does_not_read_is_kept_little_for(
    tmp_path: Path,
) -> None:
    driver = FileDriver({"directory": str(tmp_path)})
    secrets = RandomSecrets(lambda size: bytes(size))
    policy = Policy(frozenset({"my-metadata"}), Moves(10, secrets))
    budget = Budget(1 << 40)
    lookup, admission = Lookup(driver, 1, 1.0, budget), Admission((), (), 10, 10)
    services = Services(policy, lookup, admission, Unsent(budget))
    ours, peer = socket.socketpair()
    ours.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
    ours.setblocking(False)
    connection = Connection(services, Journeys(services), ours, "127.0.0.1", 1)
    serving = gevent.spawn(connection.serve)
    peer.sendall(WILL_EXTENSION + suboption(0, KNOWN) * 5000)
    with gevent.Timeout(60):
        while services.counters["bytes received"] < 100_000:
            gevent.sleep(0.01)
    assert services.counters["output dropped"] > 100
    assert 0 < connection.output.waiting_bytes < 4096
    peer.close()
    serving.join(10)
    ours.close()
    services.lookup.close()
    services.deadlines.close()

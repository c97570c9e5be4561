"""Targets: what comes from a network, before anybody is trusted."""

from __future__ import annotations

import ipaddress
import math
from collections.abc import Sequence
from datetime import UTC, datetime

from tests.coverage_fuzz.law import Pieces, kept_bytes, same_for_all_cuts, ways_to_cut
from vmw_cloudinit_metadata.protocol import bootreport, hostkey, packet, proxyheader, telnet
from vmw_cloudinit_metadata.protocol.events import Event, NotHypervisor
from vmw_cloudinit_metadata.protocol.session import Policy, Session
from vmw_cloudinit_metadata.protocol.vmotion import Moves, RandomSecrets

_BEGUN_BYTES = 3  # IAC SB IAC: what a decoder keeps beside the payload
_SHORT = 24  # a limit that inputs exceed


def telnet_decoder(data: bytes) -> None:
    same_for_all_cuts(data, lambda pieces: _decoded(pieces, _SHORT))
    same_for_all_cuts(data, _nvt)
    events = _decoded([data], telnet.MAX_SUBNEGOTIATION_BYTES)
    meant = [event for event in events if not isinstance(event, telnet.Malformed)]
    encoded = b"".join(map(_encoded, meant))
    assert _decoded([encoded], telnet.MAX_SUBNEGOTIATION_BYTES) == _joined(meant)
    assert _nvt([telnet.encode_data(data, binary=False).replace(b"\xff\xff", b"\xff")]) == (
        data.replace(b"\r\n", b"\n").replace(b"\n", b"\r\n")
    )


def _decoded(pieces: Pieces, limit: int) -> list[telnet.Event]:
    decoder = telnet.Decoder(limit)
    events: list[telnet.Event] = []
    for piece in pieces:
        events += decoder.receive_data(piece)
        assert kept_bytes(decoder) <= limit + _BEGUN_BYTES, "the decoder keeps too much"
    return _joined(events)


def _joined(events: Sequence[telnet.Event]) -> list[telnet.Event]:
    """Events with adjacent data put together, since a cut divides data."""
    joined: list[telnet.Event] = []
    for event in events:
        if joined and isinstance(event, telnet.Data) and isinstance(joined[-1], telnet.Data):
            joined[-1] = telnet.Data(joined[-1].payload + event.payload)
        else:
            joined.append(event)
    return joined


def _encoded(event: telnet.Event) -> bytes:
    match event:
        case telnet.Data(payload):
            return telnet.encode_data(payload, binary=True)
        case telnet.Negotiation():
            return telnet.encode_negotiation(event)
        case telnet.Subnegotiation():
            return telnet.encode_subnegotiation(event)
    raise AssertionError(f"an event without an encoding: {event!r}")


def _nvt(pieces: Pieces) -> bytes:
    decoder = telnet.NvtDecoder()
    return b"".join(map(decoder.receive_data, pieces))


def serial_line(data: bytes) -> None:
    same_for_all_cuts(data, lambda pieces: _lines(pieces, _SHORT))
    same_for_all_cuts(data, lambda pieces: _lines(pieces, packet.MAX_LINE_BYTES))
    for line in _lines([data], packet.MAX_LINE_BYTES)[0]:
        parsed = packet.parse(line)
        asked = packet.requested(line)
        document = asked.document if isinstance(asked, packet.GuestRequest) else None
        assert document == (parsed and parsed.requests)
        if parsed:
            assert packet.parse(packet.serialize(parsed).rstrip(b"\n")) == parsed


def _lines(pieces: Pieces, limit: int) -> tuple[list[bytes], int]:
    splitter = packet.LineSplitter(limit)
    lines: list[bytes] = []
    for piece in pieces:
        lines += splitter.receive_data(piece)
        assert kept_bytes(splitter) <= limit, "the splitter keeps too much"
    assert all(0 < len(line) <= limit for line in lines)
    reader = packet.LineSplitter(limit)
    requests = [request for piece in pieces for request in reader.requests(piece)]
    assert requests == [packet.requested(line) for line in lines]
    assert reader.overlong == splitter.overlong
    return lines, splitter.overlong


def proxy_header(data: bytes) -> None:
    """The first verdict stands, whatever follows; before it every prefix is incomplete."""
    verdict = proxyheader.parse(data)
    for pieces in ways_to_cut(data):
        so_far = b""
        for piece in pieces[:300]:
            so_far += piece
            early = proxyheader.parse(so_far)
            assert early in (proxyheader.Incomplete, verdict), (so_far, early, verdict)
    if isinstance(verdict, proxyheader.Header):
        assert 0 < verdict.length <= len(data)
        assert proxyheader.parse(data[: verdict.length - 1]) is proxyheader.Incomplete
        assert proxyheader.parse(data[: verdict.length]) == verdict
        if verdict.address:
            host, port = verdict.address
            assert str(ipaddress.ip_address(host)) == host
            assert 0 <= port < 65536
    elif verdict is proxyheader.Incomplete:
        assert len(data) < 4096, "more is kept than a header can have"


def boot_report(data: bytes) -> None:
    """A report is read whole, or an error that quotes nothing; what is read is safe to show."""
    text, report = "", None
    try:
        report = bootreport.parse(data)
    except bootreport.InvalidReportError as error:
        text = str(error)
    assert text.isascii()
    assert len(text) < 150
    if report is None:
        return
    assert len(data) <= bootreport.MAX_REPORT_BYTES
    assert all(text.isprintable() for text in report.errors)
    assert all(hostkey.host_key(key) == key for key in report.host_keys)
    assert all(0 <= seconds < math.inf for seconds in report.stages.values())
    report.instance_id.encode()


def session(data: bytes) -> None:
    """A whole session: no bytes raise, and output and events do not depend on chunking."""
    same_for_all_cuts(data, _conversation)


def _conversation(pieces: Pieces) -> tuple[list[Event], bytes]:
    secrets = RandomSecrets(lambda size: bytes(range(size)))
    policy = Policy(frozenset({"my-metadata"}), Moves(10, secrets))
    one = Session(policy, "10.0.0.1", datetime(2026, 1, 1, tzinfo=UTC))
    events: list[Event] = []
    for piece in pieces:
        events += map(_certain, one.receive_data(piece))
    return events, one.data_to_send()


def _certain(event: Event) -> Event:
    """What a stranger is, is a guess from what has come so far."""
    return NotHypervisor("") if isinstance(event, NotHypervisor) else event

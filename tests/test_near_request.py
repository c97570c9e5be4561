"""Lines that are almost a request: recognised, counted, reported once a minute."""

from __future__ import annotations

import base64
import signal
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.process import ServerProcess
from tests.vm import Vm
from vmw_cloudinit_metadata.protocol.nearrequest import NearRequest, near_request
from vmw_cloudinit_metadata.protocol.packet import GuestRequest, LineSplitter, parse, requested

OTHER_UUID = "01234567-89ab-cdef-fedc-ba9800000009"
KNOWN = ("METADATA", "NETWORKDATA", "USERDATA", "VENDORDATA", "DIGEST")

Start = Callable[..., ServerProcess]


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        (b"!!REQUEST_USER-DATA#", "!!REQUEST_USERDATA#"),
        (b"!!REQUEST_META.DATA#", "!!REQUEST_METADATA#"),
        (b"!!request_metadata#", "!!REQUEST_METADATA#"),
        (b"!!Request_Metadata#", "!!REQUEST_METADATA#"),
        (b"!REQUEST_METADATA#", "!!REQUEST_METADATA#"),
        (b"!request_userdata", "!!REQUEST_USERDATA#"),
        (b"REQUEST_METADATA#", "!!REQUEST_METADATA#"),
        (b"REQUEST_METADATA", "!!REQUEST_METADATA#"),
        (b"!!REQUEST_METADATA", "!!REQUEST_METADATA#"),
        (b"!!REQUEST_METADATA \0", "!!REQUEST_METADATA#"),
        (b"!!REQUEST-METADATA#", "!!REQUEST_METADATA#"),
        (b"!!REQUEST METADATA#", "!!REQUEST_METADATA#"),
        (b"!!REQUEST:METADATA#", "!!REQUEST_METADATA#"),
        (b"!! REQUEST_METADATA#", "!!REQUEST_METADATA#"),
        (b"!!REQUESTMETADATA#", "!!REQUEST_METADATA#"),
        (b"!!REQUEST_METADAT#?", "!!REQUEST_METADATA#"),
        (b"!!REQUEST_METADATA#abc", "nothing or base64 behind !!REQUEST_METADATA#"),
        (b"!!request_apt-conf#", "!!REQUEST_APTCONF#"),
        (b"[  1.2] login: !!request_digest#", "!!REQUEST_DIGEST#"),
    ],
)
def test_line_that_is_almost_a_request_is_told_what_to_be(line: bytes, expected: str) -> None:
    near = requested(line)
    assert isinstance(near, NearRequest)
    assert near.expected(KNOWN) == expected
    assert near.found in line.decode()


@pytest.mark.parametrize(
    "line",
    [
        b"blk_update_request: I/O error, dev sda, sector 0",
        b"sr 0:0:0:0: [sr0] Request Sense",
        b"cloud-init: request_metadata failed",
        b"Requesting",
        b"requests",
        b"!!! Requested reboot",
        b"HTTP: bad request!",
        b"!!RESPONSE_METADATA#eyJhIjogMX0=",
        b"!!REQUEST",
        b"#",
        b"",
    ],
)
def test_noise_of_a_console_is_no_near_request(line: bytes) -> None:
    assert requested(line) is None


def asked(document: str, body: bytes) -> str:
    found = requested(b"!!REQUEST_%b#%b" % (document.encode(), base64.b64encode(body)))
    assert isinstance(found, GuestRequest)
    return found.document


@given(st.sampled_from(KNOWN), st.binary(max_size=20))
def test_request_is_no_near_request(document: str, body: bytes) -> None:
    assert asked(document, body) == document


@given(
    st.binary()
    | st.lists(st.sampled_from([b"!", b"REQUEST", b"_", b"x", b"#", b"-", b" "])).map(b"".join)
)
def test_what_is_shown_is_short_printable_and_of_the_line(line: bytes) -> None:
    near = near_request(line)
    if near:
        assert near.found.isascii()
        assert near.found.isprintable()
        assert len(near.found) <= 60
        assert near.found.encode() in line
        assert parse(b"!!REQUEST_%b#" % near.document.encode())


@given(st.sampled_from([b"!!REQUEST_USER-DATA#", b"!request_metadata"]), st.integers(1, 30))
def test_near_request_does_not_depend_on_chunks(line: bytes, place: int) -> None:
    splitter = LineSplitter()
    whole = line + b"\n"
    found = [*splitter.requests(whole[:place]), *splitter.requests(whole[place:])]
    assert found == [near_request(line)]


def test_server_counts_each_and_reports_a_vm_once_a_minute(start: Start) -> None:
    server = start()
    vm = Vm(server.port, name="web1")
    other = Vm(server.port, name="db1", vc_uuid=OTHER_UUID)
    for _ in range(5):
        vm.send(b"!!REQUEST_USER-DATA#secret of the guest\n")
    other.send(b"!!request_metadata#\n")
    vm.ask("METADATA")
    other.ask("METADATA")
    server.signal(signal.SIGTERM)
    server.wait()
    lines = [line for line in server.log.splitlines() if "almost a request" in line]
    reported = [line for line in lines if "ignored a line" in line]
    assert len(reported) == 2
    told = "\n".join(reported)
    assert "found !!REQUEST_USER-DATA#, expected !!REQUEST_USERDATA#" in told
    assert "found !!request_metadata#, expected !!REQUEST_METADATA#" in told
    assert "fault: line that is almost a request: 6" in server.log
    assert "secret of the guest" not in server.log

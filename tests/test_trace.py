"""The debug log of a line: what is said is to be understood, and no secret to be read."""

from __future__ import annotations

import base64
import hashlib
import logging
from collections.abc import Iterator
from itertools import pairwise

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from vmw_cloudinit_metadata.monitoring.trace import Trace

IAC, SB, SE = b"\xff", b"\xff\xfa", b"\xff\xf0"

# As it is made: of random bytes. An alphabet of one letter would be found in any text.
SECRETS = st.builds(
    lambda seed, size: hashlib.sha256(bytes([seed])).digest()[:size],
    st.integers(0, 255),
    st.integers(8, 24),
)
NOISE = st.binary(max_size=20)
OPTIONS = st.one_of(st.just(232), st.integers(0, 255))
CODES = st.one_of(st.integers(0, 90), st.integers(0, 255))


def doubled(payload: bytes) -> bytes:
    return payload.replace(IAC, IAC + IAC)


@st.composite
def conversations(draw: st.DrawFn) -> tuple[bytes, list[bytes]]:
    """A secret, and what is said, in pieces: the secret stands in it in whatever shape."""
    secret = draw(SECRETS)
    told = b""
    for _ in range(draw(st.integers(1, 5))):
        inside = draw(NOISE) + secret + draw(NOISE)
        packed = base64.b64encode(inside)
        told += draw(
            st.sampled_from(
                [
                    SB + doubled(bytes([draw(OPTIONS), draw(CODES)]) + inside) + SE,
                    SB + doubled(bytes([232, draw(CODES)]) + secret) + SE,
                    SB + doubled(bytes([draw(OPTIONS), draw(CODES)]) + inside) + b"\xff\xfb\x01",
                    SB + bytes([232, draw(CODES)]) + secret + SE,  # IAC in it is not doubled
                    SB + doubled(inside) + SE,
                    SB + doubled(inside * 300) + SE,
                    doubled(inside),
                    b"\n!!RESPONSE_USERDATA#" + packed + b"\n",
                    b"\n!!REQUEST_USERDATA#" + packed + b"\n",
                    b"\n" + packed + b"\n",
                    b"".join(b"\xff\xfb" + bytes([byte]) for byte in secret),
                    draw(NOISE),
                ]
            )
        )
    cuts = sorted(draw(st.lists(st.integers(0, len(told)), max_size=5)))
    ends = [0, *cuts, len(told)]
    return secret, [told[begin:end] for begin, end in pairwise(ends)]


@pytest.fixture
def at_debug(caplog: pytest.LogCaptureFixture) -> Iterator[pytest.LogCaptureFixture]:
    with caplog.at_level(logging.DEBUG):
        yield caplog


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(conversations())
def test_no_secret_is_shown_in_whatever_shape_it_comes_and_goes(
    at_debug: pytest.LogCaptureFixture, conversation: tuple[bytes, list[bytes]]
) -> None:
    secret, pieces = conversation
    at_debug.clear()
    trace = Trace("10.0.0.1:4")
    for piece in pieces:
        trace.received(piece)
        trace.sent(piece)
    shown = "\n".join(at_debug.messages).lower()
    digits = "".join(c for c in shown if c in "0123456789abcdef")
    for part in (secret[:8], secret[-8:]):
        assert part.hex() not in digits
        assert part.hex(" ") not in shown
        assert " ".join(map(str, part)) not in shown
        assert repr(part)[2:-1].lower() not in shown
        assert part.decode("latin-1").lower() not in shown
        assert base64.b64encode(part)[:10].decode().lower() not in shown


@pytest.mark.parametrize(
    ("said", "shown"),
    [
        (b"\xff\xfb\xe8", "FF FB E8"),
        (SB + b"\xe8\x46Cmy-metadata" + SE, "DO_PROXY, 12 bytes"),
        (SB + b"\xe8\x47" + SE, "WILL_PROXY, 0 bytes"),
        (SB + b"\xe8\x00\x46\x00\x50\x46" + SE, "KNOWN_SUBOPTIONS_1, 4 bytes: 0, 70, 80"),
        (SB + b"\xe8\x02\x55" + SE, "UNKNOWN_SUBOPTION_RCVD_1, 1 bytes: 85"),
        (SB + b"\xe8\x2c12345678" + SE, "VMOTION_PEER, 8 bytes"),
        (SB + b"\xe8\x2a12345678" + SE, "suboption 42, 8 bytes"),
        (SB + b"\x25\x0012345678" + SE, "subnegotiation of option 37, 9 bytes"),
        (SB + b"\xe8" + SE, "subnegotiation of option 232, 0 bytes"),
        (SB + b"\xe812345678\xff\xfb\x01", "unterminated subnegotiation"),
        (b"login: ", "7 bytes of the serial line"),
        (b"!!REQUEST_USERDATA#\n", "20 bytes of the serial line, 'REQUEST_USERDATA'"),
    ],
)
def test_what_is_said_is_shown_by_name_and_length(
    at_debug: pytest.LogCaptureFixture, said: bytes, shown: str
) -> None:
    Trace("10.0.0.1:4").received(said)
    assert at_debug.messages[0] == f"10.0.0.1:4: < {shown}"

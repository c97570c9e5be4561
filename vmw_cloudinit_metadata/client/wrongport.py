"""Finds out what answers at a port where no metadata server does. Uses gevent."""

from __future__ import annotations

from contextlib import suppress
from typing import Any

import gevent
from gevent.socket import socket

from vmw_cloudinit_metadata.client.expectation import DialRefused, VmFailure, server_like
from vmw_cloudinit_metadata.client.wire import Destination, TlsMode, without_verification
from vmw_cloudinit_metadata.protocol.telnet import IAC

QUIET_S = 2.0  # a metadata server greets at once

_QUESTION = b"HEAD / HTTP/1.0\r\n\r\n"
_GREETING = bytes([IAC])
_READ_BYTES = 64


def is_possible(failure: VmFailure) -> bool:
    """Return whether a connection without a greeting may fail like this at the wrong port."""
    return not isinstance(failure, DialRefused) and failure.kind != "wrong port"


def failure_at(route: Destination) -> VmFailure | None:
    """Return why the server, which has not greeted, is the wrong one; None: that is not clear.

    Connects once or twice more.
    """
    if found := _found_at(route):
        return VmFailure("wrong port", f"wrong port: {route.server} is {found}")
    return None


def _found_at(route: Destination) -> str:
    wants_tls = route.tls is TlsMode.TELNETS
    # A metadata server speaks first in plain too, also where it takes TLS.
    secure = _beginning(route, is_tls=True) if wants_tls else None
    if secure is None:
        plain = _beginning(route, is_tls=False)
        if plain and plain.startswith(_GREETING):
            return "a telnet server without TLS: use --tls none" if wants_tls else ""
        if plain and (server := server_like(plain)):
            return server
        secure = None if wants_tls else _beginning(route, is_tls=True)
    if secure is None:
        return ""
    if server := server_like(secure):
        return f"{server}, in TLS"
    return "" if wants_tls else "a TLS server: use --tls telnets if it is a metadata server"


def _beginning(route: Destination, *, is_tls: bool) -> bytes | None:
    """Return how the server answers HTTP, if it does; None: there is no connection, or no TLS."""
    sock: Any = socket(route.family)
    answer = None
    try:
        with suppress(OSError, gevent.Timeout), gevent.Timeout(QUIET_S):
            sock.connect(route.address)
            if is_tls:
                sock = without_verification().wrap_socket(sock)
            answer = b""
            sock.sendall(_QUESTION)
            answer = sock.recv(_READ_BYTES)
    finally:
        sock.close()
    return answer

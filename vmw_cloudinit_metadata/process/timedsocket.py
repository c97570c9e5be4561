"""Sockets whose timeout is one of all waits together.

Else a server that sends a byte now and then could hold a thread for hours: the timeout of a socket
is one of each wait.
"""

from __future__ import annotations

import socket
import ssl
import time
from typing import Any

from vmw_cloudinit_metadata.process import namelookup

MAX_ADDRESSES = 8  # of a host, that are tried

_LEAST_S = 0.001  # a timeout of 0 would not wait at all


class TimedSocket(socket.socket):
    """`settimeout` sets the time that is left for all that is received from then on."""

    _end_s: float | None = None

    def settimeout(self, value: float | None) -> None:
        self._end_s = None if value is None else time.monotonic() + value
        super().settimeout(value)

    def recv_into(self, *args: Any, **kwargs: Any) -> int:
        if self._end_s is not None:
            left_s = self._end_s - time.monotonic()
            if left_s < _LEAST_S:
                raise TimeoutError("timed out")
            super().settimeout(left_s)
        return super().recv_into(*args, **kwargs)


class TimedTlsSocket(TimedSocket, ssl.SSLSocket):
    """The same; set it as a context's `sslsocket_class`."""


def connected(host: str, port: int, timeout_s: float) -> TimedSocket:
    """Return a socket that is connected to one of the host's addresses, with what is left of the
    time after its name was looked up; raise OSError."""
    end_s = time.monotonic() + timeout_s
    found = namelookup.addresses(host, port, timeout_s)[:MAX_ADDRESSES]
    error: OSError = OSError("no address")
    for tried, (family, kind, protocol, _, address) in enumerate(found):
        left_s = end_s - time.monotonic()
        line = TimedSocket(family, kind, protocol)
        try:
            line.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            line.settimeout(max(left_s / (len(found) - tried), _LEAST_S))  # leave time for others
            line.connect(address)
            line.settimeout(max(end_s - time.monotonic(), _LEAST_S))
            return line
        except OSError as failure:
            line.close()
            error = failure
    raise error


def connected_with_tls(host: str, port: int, timeout_s: float) -> TimedSocket:
    """The same inside TLS, with a certificate that this system trusts."""
    end_s = time.monotonic() + timeout_s
    context = ssl.create_default_context()
    context.sslsocket_class = TimedTlsSocket
    line = context.wrap_socket(connected(host, port, timeout_s), server_hostname=host)
    line.settimeout(max(end_s - time.monotonic(), _LEAST_S))
    assert isinstance(line, TimedTlsSocket)
    return line

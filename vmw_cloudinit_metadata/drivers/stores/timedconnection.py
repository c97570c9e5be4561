"""Connections of urllib3 whose timeout is one of all waits together."""

from __future__ import annotations

import socket

from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.exceptions import ConnectTimeoutError, NameResolutionError, NewConnectionError

from vmw_cloudinit_metadata.process.timedsocket import TimedSocket, connected


class _TimedConnection(HTTPConnection):
    line: TimedSocket  # kept, as http.client lets go of it once the answer has begun

    def _new_conn(self) -> socket.socket:
        timeout_s = float(self.timeout or 0)
        try:
            return connected(self.host, self.port, timeout_s)
        except socket.gaierror as error:
            raise NameResolutionError(self.host, self, error) from error
        except TimeoutError as error:
            raise ConnectTimeoutError(self, "timed out") from error
        except OSError as error:
            raise NewConnectionError(self, "no connection") from error

    def connect(self) -> None:
        super().connect()
        assert isinstance(self.sock, TimedSocket)
        self.line = self.sock


class TimedPlainConnection(_TimedConnection):
    pass


class TimedTlsConnection(_TimedConnection, HTTPSConnection):
    pass

"""Errors of HttpClient. Pure, and without its library."""

from __future__ import annotations

from vmw_cloudinit_metadata.drivers.drivererror import DriverError


class ServerError(DriverError):
    """The server is out of reach, or its answer cannot be used."""


class TooLongError(ServerError):
    """An answer has more bytes than were asked for."""


class SilenceError(ServerError):
    """Nothing more of an answer has come in time, and no line of it is incomplete."""

"""sd_notify(3): tells systemd, if it started us, how we are. Without it nothing happens."""

from __future__ import annotations

import os
import socket
import time
from contextlib import suppress

_LIMIT_S = 1.0  # should systemd not read


def ready(status: str) -> None:
    """We serve; `status` is what `systemctl status` shows."""
    _tell("READY=1", f"STATUS={status}")


def reloading() -> None:
    """Settings are read again, until `reloaded`."""
    _tell("RELOADING=1", f"MONOTONIC_USEC={time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000}")


def reloaded() -> None:
    _tell("READY=1")


def stopping() -> None:
    _tell("STOPPING=1", "STATUS=finishing the answers under way")


def _tell(*assignments: str) -> None:
    address = os.environ.get("NOTIFY_SOCKET", "")
    if not address.startswith(("/", "@")):
        return
    with suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        sock.settimeout(_LIMIT_S)
        sock.sendto("\n".join(assignments).encode(), address.replace("@", "\0", 1))

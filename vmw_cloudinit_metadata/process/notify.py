"""sd_notify(3): reports the state of the server to systemd. Does nothing without systemd."""

from __future__ import annotations

import errno
import os
import socket
import time
from collections import deque

import gevent

RETRY_S = 0.1  # while systemd does not read
MAX_WAITING = 32  # messages

_FOR_NOW = (errno.EAGAIN, errno.ENOBUFS, errno.EMFILE, errno.ENFILE)
_waiting: deque[bytes] = deque(maxlen=MAX_WAITING)


def ready(status: str) -> None:
    """Report that the server accepts VMs; `systemctl status` shows `status`."""
    _notify("READY=1", f"STATUS={status}")


def reloading() -> None:
    """Report that settings are being read again, until `reloaded`."""
    _notify("RELOADING=1", f"MONOTONIC_USEC={time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000}")


def reloaded() -> None:
    _notify("READY=1")


def stopping() -> None:
    _notify("STOPPING=1", "STATUS=finishing the answers under way")


def watchdog_s() -> float | None:
    """Return how long the server may be silent (the unit's WatchdogSec=); None: without limit."""
    usec, pid = os.environ.get("WATCHDOG_USEC", ""), os.environ.get("WATCHDOG_PID", "")
    is_for_us = pid in ("", str(os.getpid()))
    return int(usec) / 1e6 if is_for_us and usec.isascii() and usec.isdigit() else None


def keep_alive() -> None:
    """Report to systemd from now on, if it has a watchdog, that this thread's hub runs. If the hub
    blocks, systemd restarts the server."""
    if limit_s := watchdog_s():
        gevent.get_hub().loop.timer(limit_s / 2, repeat=limit_s / 2).start(_alive)


def _alive() -> None:
    if not _waiting:
        _notify("WATCHDOG=1")


def _notify(*assignments: str) -> None:
    if os.environ.get("NOTIFY_SOCKET", "").startswith(("/", "@")):
        _waiting.append("\n".join(assignments).encode())
        if len(_waiting) == 1:  # else they are sent already
            _send()


def _send() -> None:
    """Send without waiting; what systemd does not take now is sent later, in the same order."""
    address = os.environ["NOTIFY_SOCKET"].replace("@", "\0", 1)
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
            sock.setblocking(False)
            while _waiting:
                sock.sendto(_waiting[0], address)
                _waiting.popleft()
    except OSError as error:
        if error.errno in _FOR_NOW:
            gevent.get_hub().loop.timer(RETRY_S).start(_send)
        else:  # there is no reader
            _waiting.clear()

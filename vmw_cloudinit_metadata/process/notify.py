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
# For the next program of an upgrade to report that it is ready; the check before took less.
UPGRADE_S = 300.0

_FOR_NOW = (errno.EAGAIN, errno.ENOBUFS, errno.EMFILE, errno.ENFILE)
_waiting: deque[bytes] = deque(maxlen=MAX_WAITING)


def ready(status: str) -> None:
    """Report that the server accepts VMs; `systemctl status` shows `status`."""
    _notify("READY=1", f"STATUS={status}", *_watchdog())


def reloading() -> None:
    """Report that settings are being read again, until `reloaded`."""
    _notify(*_reloading())


def reloaded() -> None:
    _notify("READY=1")


def upgrading() -> None:
    """Report that the next program starts, until it is `ready`, or this one is `not_upgraded`. It
    has UPGRADE_S for that: it cannot report that its hub runs before its driver is loaded."""
    _notify(*_reloading(), *_watchdog(UPGRADE_S))


def not_upgraded() -> None:
    _notify("READY=1", *_watchdog())


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
        gevent.get_hub().loop.timer(limit_s / 2, repeat=limit_s / 2).start(alive)


def alive() -> None:
    """Report to systemd that the hub runs."""
    if not _waiting:
        _notify("WATCHDOG=1")


def _reloading() -> tuple[str, str]:
    now_usec = time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000
    return "RELOADING=1", f"MONOTONIC_USEC={now_usec}"


def _watchdog(at_least_s: float = 0.0) -> list[str]:
    """Return the assignment that sets the limit of the watchdog, if there is one."""
    limit_s = watchdog_s()
    return [f"WATCHDOG_USEC={max(limit_s, at_least_s) * 1e6:.0f}"] if limit_s else []


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

"""sd_notify(3): tells systemd, if it started us, how we are. Without it nothing happens."""

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
    """We serve; `status` is what `systemctl status` shows."""
    _tell("READY=1", f"STATUS={status}")


def reloading() -> None:
    """Settings are read again, until `reloaded`."""
    _tell("RELOADING=1", f"MONOTONIC_USEC={time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000}")


def reloaded() -> None:
    _tell("READY=1")


def stopping() -> None:
    _tell("STOPPING=1", "STATUS=finishing the answers under way")


def watchdog_s() -> float | None:
    """How long we may be silent (WatchdogSec= of systemd's unit); None: for ever."""
    usec, pid = os.environ.get("WATCHDOG_USEC", ""), os.environ.get("WATCHDOG_PID", "")
    is_for_us = pid in ("", str(os.getpid()))
    return int(usec) / 1e6 if is_for_us and usec.isascii() and usec.isdigit() else None


def keep_alive() -> None:
    """Tells systemd from now on, if it wants to hear it, that this thread's hub runs. One that is
    blocked is silent, and systemd starts us again."""
    if limit_s := watchdog_s():
        gevent.get_hub().loop.timer(limit_s / 2, repeat=limit_s / 2).start(_alive)


def _alive() -> None:
    if not _waiting:
        _tell("WATCHDOG=1")


def _tell(*assignments: str) -> None:
    if os.environ.get("NOTIFY_SOCKET", "").startswith(("/", "@")):
        _waiting.append("\n".join(assignments).encode())
        if len(_waiting) == 1:  # else they are sent already
            _send()


def _send() -> None:
    """Never waits: what systemd does not take now it gets later, in the same order."""
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
        else:  # nobody listens
            _waiting.clear()

"""Addresses of a host's name, within a time: the system's own look-up has no deadline.

It goes on in a thread of its own when the time is over, which its next user finds, so there is at
most one thread for each name. Names come from the settings, so they are few.
"""

from __future__ import annotations

import os
import socket
import threading
import time
from collections.abc import Sequence
from concurrent.futures import Future
from typing import Any

KEPT_S = 30.0  # what came too late for all who asked, for the next one

# Family, kind, protocol, canonical name, address.
Found = tuple[int, int, int, str, tuple[Any, ...]]


class _NameLookup(Future[Sequence[Found]]):
    """One look-up, in a thread that nobody waits for at the end of the process."""

    def __init__(self, host: str, port: int) -> None:
        super().__init__()
        self._name = host, port
        self._until_s = float("inf")

    @property
    def is_old(self) -> bool:
        return time.monotonic() > self._until_s

    def begin(self) -> None:
        """Raise RuntimeError if the system allows no further thread."""
        threading.Thread(target=self._run, name="name look-up", daemon=True).start()

    def _run(self) -> None:
        try:
            found = socket.getaddrinfo(*self._name, type=socket.SOCK_STREAM)
        except OSError as error:
            self._until_s = time.monotonic()
            self.set_exception(error)
        else:
            self._until_s = time.monotonic() + KEPT_S
            self.set_result(found)


_lock = threading.Lock()
_lookups: dict[tuple[str, int], _NameLookup] = {}


def addresses(host: str, port: int, within_s: float) -> Sequence[Found]:
    """Return the addresses for TCP; raise OSError, of which TimeoutError is one."""
    try:
        return socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_NUMERICHOST)
    except UnicodeError:  # such as one with an empty label
        raise socket.gaierror(socket.EAI_NONAME, "no name of a host") from None
    except socket.gaierror:  # no address, but a name
        lookup = _lookup_of(host, port)
    try:
        return lookup.result(max(within_s, 0.0))
    finally:
        if lookup.done():
            _forget(host, port, lookup)


def _lookup_of(host: str, port: int) -> _NameLookup:
    """Return the one that is under way, or has ended without a user; else begin another one."""
    with _lock:
        lookup = _lookups.get((host, port))
        if lookup is None or lookup.is_old:
            lookup = _NameLookup(host, port)
            try:
                lookup.begin()
            except RuntimeError as error:
                raise OSError(f"no thread for the name of a host: {error}") from None
            _lookups[host, port] = lookup
        return lookup


def _forget(host: str, port: int, lookup: _NameLookup) -> None:
    with _lock:
        if _lookups.get((host, port)) is lookup:
            del _lookups[host, port]


def _start_anew() -> None:
    """Forget all in a forked process, which has none of the threads."""
    global _lock
    _lock = threading.Lock()
    _lookups.clear()


os.register_at_fork(after_in_child=_start_anew)

"""What became of an upgrade, for the command that has asked for it.

The command listens on an abstract socket with the server's process id in its name; the server
connects to it when the upgrade is over. Each tells the other by SO_PEERCRED: another user can
neither learn nor say anything.
"""

from __future__ import annotations

import os
import select
import signal
import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass

import ujson

from vmw_cloudinit_metadata.process.peercredentials import credentials_of
from vmw_cloudinit_metadata.settings.errors import ConfigError

UPGRADE = signal.SIGUSR2  # by which the command asks
MAX_BYTES = 16 * 1024


@dataclass(frozen=True, slots=True)
class UpgradeOutcome:
    """`is_done` if the new version runs; the text is for the operator."""

    is_done: bool
    text: str


def _name(pid: int) -> str:
    return f"\0vmw-cloudinit-metadata/upgrade/{pid}"


def tell(outcome: UpgradeOutcome) -> None:
    """Tell the command, if there is one; never waits."""
    with suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as sock:
        sock.setblocking(False)
        sock.connect(_name(os.getpid()))
        if credentials_of(sock).user in (0, os.geteuid()):
            sock.send(ujson.dumps([outcome.is_done, outcome.text]).encode()[:MAX_BYTES])


class ReportListener:
    """The command's side."""

    def __init__(self, pid: int, sock: socket.socket, process: int) -> None:
        self._pid = pid
        self._sock = sock
        self._process = process

    def wait(self, limit_s: float) -> UpgradeOutcome:
        """Return what becomes of the upgrade; raise ConfigError if nothing does."""
        sources = [self._sock.fileno(), self._process]
        ready, _, _ = select.select(sources, [], [], limit_s)
        if sources[0] in ready:
            return self._received()
        if ready:
            raise ConfigError(f"process {self._pid} has ended: its log has the reason")
        raise ConfigError(f"process {self._pid} has said nothing for {limit_s:g} s: see its log")

    def _received(self) -> UpgradeOutcome:
        sock, _ = self._sock.accept()
        with sock:
            pid = credentials_of(sock).process
            sock.settimeout(1.0)
            try:
                found = ujson.loads(sock.recv(MAX_BYTES))
            except (OSError, ValueError):
                found = None
        match found:
            case [bool(is_done), str(text)] if pid == self._pid:
                return UpgradeOutcome(is_done, text)
        raise ConfigError(f"another process than {self._pid} has answered")


@contextmanager
def listen(pid: int) -> Iterator[ReportListener]:
    """Listen for what becomes of the upgrade of a process. Raise ConfigError."""
    try:
        process = os.pidfd_open(pid)
    except OSError as error:
        raise ConfigError(f"process {pid}: {error.strerror}") from error
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as sock:
        try:
            sock.bind(_name(pid))
        except OSError as error:
            os.close(process)
            raise ConfigError(f"process {pid} is being upgraded already") from error
        sock.listen(1)
        try:
            yield ReportListener(pid, sock, process)
        finally:
            os.close(process)

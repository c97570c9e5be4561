"""A driver for tests: its worker also sends messages to the parent that no worker of ours sends."""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from vmw_cloudinit_metadata import Machine
from vmw_cloudinit_metadata.drivers.file import FileDriver

_REST = b'"problem": "", "source": "", "since": 0}'
NONSENSE = (
    b"\0",
    b"{",
    b'{"happenings":[["served"',  # the half of one
    b"[]",
    b'{"ready": true}',
    b'{"happenings": [1, null, [], {}, [[]]]}',
    b'{"happenings": [[["no such kind", "text"], 20, 1.0, "", "", "", null, ""]]}',
    b'{"happenings": [[["failed", "text"], 20, 1.0, "", "", "", null, ""]]}',
    b'{"happenings": [[["failed", "text", "X", "failed", 1], 20, 1.0, "", "", "", null, ""]]}',
    b'{"happenings": [[["failed", "", "", "", ""], 20, 1e99, "", "", "", null, ""]]}',
    b'{"figures": {"counters": {"boots": -5}, "timings": {}, "gauges": {}}, ' + _REST,
    b'{"figures": {"counters": {"boots": "many"}, "timings": {}, "gauges": {}}, ' + _REST,
    b'{"figures": {"counters": {}, "timings": {"boot": [[1], 1]}, "gauges": {}}, ' + _REST,
    b'{"figures": {}, ' + _REST,
    b'{"figures": {"counters": {}, "timings": {}, "gauges": {"connections": 1e999}}, "problem": 1}',
    b"[" * 100_000,
    b"9" * 100_000,
    b'{"failed": "' + b"x" * 150_000,  # longer than any message
)
MESSAGES = len(NONSENSE) + 4  # one of them has five happenings


def pairs() -> list[socket.socket]:
    """Our ends of socket pairs: that with the parent."""
    found = []
    for descriptor in map(int, os.listdir("/proc/self/fd")):
        with suppress(OSError):
            sock = socket.socket(fileno=os.dup(descriptor))
            if sock.family == socket.AF_UNIX and sock.type == socket.SOCK_SEQPACKET:
                found.append(sock)
    return found


class NonsenseDriver(FileDriver):
    """Says it whenever the VM `nonsense` is looked up."""

    def get_instance(self, machine: Machine) -> Any:
        if machine.name == "nonsense":
            (pair,) = pairs()
            for message in NONSENSE:
                self._say(pair, message)
        return super().get_instance(machine)

    @staticmethod
    def _say(pair: socket.socket, message: bytes) -> None:
        for _ in range(500):
            with suppress(BlockingIOError):
                pair.send(message)
                return
            time.sleep(0.01)
        raise AssertionError("the parent does not read")


class HangingDriver(FileDriver):
    """Cannot be loaded while there is the file that its option `hangs` names."""

    def __init__(self, options: Mapping[str, Any]) -> None:
        options = dict(options)
        while Path(options["hangs"]).exists():
            time.sleep(0.01)
        super().__init__({"directory": options["directory"]})

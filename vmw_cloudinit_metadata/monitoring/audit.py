"""The audit log: which VM was served what, and which was refused; one JSON object per line.

It holds only sizes and digests of documents, and service URIs without their query: the rest may be
secret.
"""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import gevent
import ujson

from vmw_cloudinit_metadata.monitoring.counters import DROPPED, Key
from vmw_cloudinit_metadata.monitoring.digests import digests_in
from vmw_cloudinit_metadata.monitoring.facts import (
    DocumentsServed,
    PeerRejected,
    RequestFailed,
    WindowClosed,
    WindowReopened,
)
from vmw_cloudinit_metadata.monitoring.happenings import Happening
from vmw_cloudinit_metadata.monitoring.jsonobject import timestamp
from vmw_cloudinit_metadata.monitoring.ownfile import open_own
from vmw_cloudinit_metadata.monitoring.quota import Quota
from vmw_cloudinit_metadata.monitoring.writer import Writer
from vmw_cloudinit_metadata.settings.errors import ConfigError

LEFT_OUT_S = 60.0  # interval of the lines that count what was left out

_NOTHING: tuple[Any, ...] = (None, "", ())

Audited = DocumentsServed | RequestFailed | PeerRejected | WindowClosed | WindowReopened


class Audit:
    """Writes a line for each happening of an audited kind. Several processes may write to one file.
    Raises ConfigError if the file cannot be opened."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._writer = Writer(open_to_append(path), _dropped)
        self._quota = Quota()
        self._timer = gevent.get_hub().loop.timer(LEFT_OUT_S, repeat=LEFT_OUT_S, ref=False)
        self._timer.start(self._note_left_out)

    def hear(self, happening: Happening) -> None:
        """Write a happening if its kind is audited; a listener, in the hub's thread."""
        if not isinstance(happening.fact, Audited):
            return
        allowances = self._quota.allowances(happening.host, happening.connection, happening.at_s)
        if allowances is None:
            return
        line = _line(_entry(happening) | _about(happening.fact))
        for allowance in allowances:
            allowance.left -= len(line)
        self._writer.put(line)

    def reopen(self) -> None:
        """Continue in the file that now has the name; log an error if it cannot be opened."""
        self._writer.reopen(lambda: open_to_append(self._path))

    def shed(self) -> dict[Key, int]:
        """Return how many lines the file lacks, by counter."""
        count = self._writer.dropped + self._quota.left_out
        return {DROPPED["audit lines"]: count} if count else {}

    def flush(self) -> None:
        """Write the waiting lines; block for a short time. Called at the end."""
        self._note_left_out()
        self._writer.flush()

    def _note_left_out(self) -> None:
        for host, count in self._quota.take_left_out().items():
            self._writer.put(_note("lines left out", count, esxi_host=host))


def open_to_append(path: Path) -> int:
    """Open the file, or create it, and return its descriptor; raise ConfigError, also if it has
    something else in it."""
    try:
        _require_log(path)
        return open_own(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    except OSError as error:
        raise ConfigError(f"--audit-log: {path}: {error.strerror or error}") from error


def _require_log(path: Path) -> None:
    """Raise OSError if there is a file of something else. Zeros are what a power cut may leave."""
    try:
        descriptor = open_own(path, os.O_RDONLY)
    except (FileNotFoundError, PermissionError):  # the server may have to write it only
        return
    with os.fdopen(descriptor, "rb") as file:
        if file.read(1) not in (b"", b"{", b"\0"):
            raise OSError("not an audit log: name another file")


def _entry(happening: Happening) -> dict[str, Any]:
    machine = happening.machine
    entry: dict[str, Any] = {
        "time": timestamp(happening.at_s),
        "kind": happening.kind,
        "esxi_host": happening.host,
        "peer": happening.peer,
        "connection_id": happening.connection,
    }
    if machine:
        entry |= {
            "machine_name": machine.name,
            "vc_uuid": machine.vc_uuid,
            "bios_uuid": machine.bios_uuid,
            "service_uri": machine.service_uri.partition("?")[0],
        }
    return entry


def _about(fact: Audited) -> dict[str, Any]:
    match fact:
        case RequestFailed():  # without its reason, which may quote a file
            return {"document": fact.document, "error": fact.error}
        case PeerRejected():
            return {"error": fact.reason}
        case WindowClosed():
            return {"document": fact.document, "error": "closed"}
        case WindowReopened():
            return {}
    digests = digests_in(fact.digest)
    return {
        # DIGEST itself has no digest.
        "documents": {name: digests.get(name, {}) for name in fact.answered},
        "is_last_good": bool(fact.problem),
        "matched_by": fact.matched_by,
        "files": fact.sources,
    }


def _line(entry: Mapping[str, Any]) -> bytes:
    line = {name: value for name, value in entry.items() if value not in _NOTHING}
    line["process"] = os.getpid()
    text = ujson.dumps(line, escape_forward_slashes=False).replace("\x7f", "\\u007f")
    return f"{text}\n".encode()


def _note(kind: str, count: int, **further: str) -> bytes:
    return _line({"time": timestamp(time.time()), "kind": kind, "count": count, **further})


def _dropped(count: int) -> bytes:
    return _note("lines dropped", count)

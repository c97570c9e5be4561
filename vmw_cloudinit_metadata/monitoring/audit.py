"""The audit stream: who was served what, and who was refused; a file of one JSON object a line.

Of documents it has sizes and digests alone, of a service URI not the query: both can be secret.
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
from vmw_cloudinit_metadata.monitoring.happenings import Happening, digests_in, timestamp
from vmw_cloudinit_metadata.monitoring.quota import Quota
from vmw_cloudinit_metadata.monitoring.regularfile import open_regular
from vmw_cloudinit_metadata.monitoring.writer import Writer
from vmw_cloudinit_metadata.settings.errors import ConfigError

LEFT_OUT_S = 60.0  # so often a line says how many of a host were left out

# Kind of happening: what a line has of its details, and under which name.
_DETAILS: Mapping[str, Mapping[str, str]] = {
    "served": {"matched_by": "matched_by", "files": "sources"},
    "failed": {"document": "document", "error": "error"},  # the reason may quote a file
    "refused": {"error": "reason"},
}
_NOTHING: tuple[Any, ...] = (None, "", ())


class Audit:
    """Writes a line for each happening of some kinds that it hears. Several processes may write to
    one file. Raises ConfigError if that cannot be opened."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._writer = Writer(open_to_append(path), _dropped)
        self._quota = Quota()
        self._timer = gevent.get_hub().loop.timer(LEFT_OUT_S, repeat=LEFT_OUT_S, ref=False)
        self._timer.start(self._tell_left_out)

    def hear(self, happening: Happening) -> None:
        """A listener, in the hub's thread."""
        if happening.kind not in _DETAILS:
            return
        buckets = self._quota.buckets(happening.host, happening.connection, happening.at_s)
        if buckets is None:
            return
        line = _line(_entry(happening))
        for bucket in buckets:
            bucket.left -= len(line)
        self._writer.put(line)

    def reopen(self) -> None:
        """Goes on in the file that has the name now. If it cannot be opened the log says so."""
        self._writer.reopen(lambda: open_to_append(self._path))

    def shed(self) -> dict[Key, int]:
        """What is not in the file, by its counter."""
        count = self._writer.dropped + self._quota.left_out
        return {DROPPED["audit lines"]: count} if count else {}

    def flush(self) -> None:
        """At the end: blocks, but not for long."""
        self._tell_left_out()
        self._writer.flush()

    def _tell_left_out(self) -> None:
        for host, count in self._quota.take_untold().items():
            self._writer.put(_note("lines left out", count, esxi_host=host))


def open_to_append(path: Path) -> int:
    """A descriptor of the file, which is made if there is none. Raises ConfigError."""
    try:
        return open_regular(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    except OSError as error:
        raise ConfigError(f"--audit-log: {path}: {error.strerror or error}") from error


def _entry(happening: Happening) -> dict[str, Any]:
    machine, details = happening.machine, happening.details
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
    if happening.kind == "served":
        entry["documents"] = _documents(details)
        entry["is_last_good"] = bool(details["problem"])
    names = _DETAILS[happening.kind]
    return entry | {name: details.get(detail) for name, detail in names.items()}


def _documents(details: Mapping[str, Any]) -> dict[str, Any]:
    """Of each document that was answered its size and digest; DIGEST itself has none."""
    digests = digests_in(details["digest"])
    return {name: digests.get(name, {}) for name in details["answered"]}


def _line(entry: Mapping[str, Any]) -> bytes:
    told = {name: value for name, value in entry.items() if value not in _NOTHING}
    told["process"] = os.getpid()
    text = ujson.dumps(told, escape_forward_slashes=False).replace("\x7f", "\\u007f")
    return f"{text}\n".encode()


def _note(kind: str, count: int, **further: str) -> bytes:
    return _line({"time": timestamp(time.time()), "kind": kind, "count": count, **further})


def _dropped(count: int) -> bytes:
    return _note("lines dropped", count)

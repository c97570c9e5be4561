"""Catalogue: what the last survey of the driver's data has found. Belongs to the thread of the hub.

It takes the records of the process that surveys (surveyprocess.py). Findings are kept as JSON, in
bounded bytes. A survey replaces the one before when it has ended.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import ujson

from vmw_cloudinit_metadata.drivers.catalogue import records
from vmw_cloudinit_metadata.instance.counts import counted
from vmw_cloudinit_metadata.monitoring.jsonobject import timestamp
from vmw_cloudinit_metadata.protocol.printable import one_line

log = logging.getLogger(__name__)

KEPT_BYTES = 2 * 1024 * 1024  # of findings; further ones are counted
_ABOUT_BYTES = 100  # of one


@dataclass(slots=True)
class _Picture:
    """The findings of one survey."""

    rows: dict[str, list[bytes]] = field(default_factory=lambda: {"fault": [], "warning": []})
    bytes: int = 0
    left_out: int = 0

    def add(self, finding: Mapping[str, Any]) -> None:
        row = ujson.dumps(finding, escape_forward_slashes=False).encode()
        if self.bytes + len(row) + _ABOUT_BYTES > KEPT_BYTES:
            self.left_out += 1
        else:
            self.bytes += len(row) + _ABOUT_BYTES
            self.rows[finding["severity"]].append(row)


class Catalogue:
    def __init__(self) -> None:
        self._picture = _Picture()
        self._coming = _Picture()
        self._done: records.Surveyed | None = None
        self._read_s = 0.0  # when the last survey ended
        self._checked = 0  # of the survey that is under way
        self._is_reading = True
        self._is_unable = False
        self._problem = ""
        self._said: object = None
        self.revision = 0  # another one after each change

    def take(self, record: records.Record) -> None:
        """Take the next record. A further kind has its case here."""
        match record:
            case records.Unable():
                self._is_unable, self._is_reading = True, False
                log.info(
                    "the driver cannot check its data: there is no catalogue, since it has no "
                    "method `validate`, or its store no method `all`"
                )
            case records.Began():
                self._coming, self._checked, self._is_reading = _Picture(), 0, True
            case records.Alive(checked):
                self._checked = checked
            case records.Found(finding):
                self._coming.add(finding)
            case records.Failed(reason):
                self.fail(reason)
            case records.Surveyed():
                self._complete(record)

    def fail(self, reason: str) -> None:
        """Keep what was found before, and say why there is nothing newer."""
        self._is_reading = False
        self._problem = reason
        self.revision += 1

    def _complete(self, done: records.Surveyed) -> None:
        self._picture, self._coming = self._coming, _Picture()
        self._done, self._read_s = done, time.time()
        self._is_reading, self._problem = False, ""
        self.revision += 1
        totals = (done.files, done.vms, done.layers, done.faults, done.warnings)
        if totals != self._said:
            self._said = totals
            self._log(done)

    def _log(self, done: records.Surveyed) -> None:
        text = "instance %ss: %s, %s, %s; %s in %s, %s; read in %.1f s"
        log.log(
            logging.WARNING if done.faults else logging.INFO,
            text,
            done.noun,
            counted(sum(done.files.values()), done.noun),
            counted(done.vms, "VM"),
            counted(done.layers, "layer"),
            counted(done.faults, "fault"),
            counted(done.files["fault"], done.noun),
            counted(done.warnings, "warning"),
            done.seconds,
        )

    @property
    def kept_bytes(self) -> int:
        return self._picture.bytes + self._coming.bytes

    @property
    def files(self) -> Mapping[str, int] | None:
        """The number of files by state; None before all were read."""
        return self._done.files if self._done else None

    @property
    def state(self) -> str:
        if self._is_unable:
            return "unable"
        if self._problem:
            return "failed"
        return "reading" if self._done is None else "complete"

    def summary(self) -> dict[str, Any]:
        """What /api/status shows."""
        done = self._done
        return {
            "state": self.state,
            "problem": one_line(self._problem),
            "checked": self._checked if self._is_reading else None,
            "read": timestamp(self._read_s) if done else None,
            "revision": self.revision,
            "files": dict(done.files) if done else {},
            "vms": done.vms if done else 0,
            "layers": done.layers if done else 0,
            "faults": done.faults if done else 0,
            "warnings": done.warnings if done else 0,
            "left_out": done.left_out + self._picture.left_out if done else 0,
        }

    def rows(self, severity: str = "") -> Sequence[bytes]:
        """The findings as JSON, faults first; of one severity, or all."""
        rows = self._picture.rows
        return rows[severity] if severity else [*rows["fault"], *rows["warning"]]

"""KeptChecks: what was found in each VM's own data, as long as all that it needs is the same.

So a second validation by the same driver reads only what has changed.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from vmw_cloudinit_metadata.drivers.answers.source import SourceChecks
from vmw_cloudinit_metadata.drivers.content.owndata import OwnData
from vmw_cloudinit_metadata.instance.distinct import Value
from vmw_cloudinit_metadata.instance.fault import Fault

MAX_BYTES = 256 * 1024 * 1024  # about 80,000 files; beyond it, they are checked each time

# Measured: 3.4 kB a file with one fault and four values.
_ABOUT_BYTES = 2200  # paths and their signatures
_FAULT_BYTES = 600
_VALUE_BYTES = 150


@dataclass(frozen=True, slots=True)
class Checked:
    """The faults and warnings of a VM's data, and its values that no other VM may have."""

    faults: tuple[Fault, ...]
    values: Sequence[Value] = ()
    is_no_vm: bool = False  # another one names it as its user-data: no instance data


class KeptChecks:
    def __init__(self) -> None:
        self._kept: dict[OwnData, tuple[Any, Checked]] = {}  # each with its token
        self._before: dict[OwnData, tuple[Any, Checked]] = {}
        self._named: frozenset[str] = frozenset()
        self._changed: frozenset[str] = frozenset()
        self._holds: Callable[[Any], bool] = bool
        self._bytes = 0

    def begin(self, checks: SourceChecks[Any]) -> None:
        """Begin a validation, in which each place is asked for once; raise DriverError."""
        named = frozenset(checks.named_files())
        self._before = self._before | self._kept  # the last one may have ended early
        self._kept = {}
        self._changed, self._named = named.symmetric_difference(self._named), named
        self._holds = checks.holds
        self._bytes = 0

    def end(self) -> None:
        """Forget what was not asked for: it is gone."""
        self._before = {}

    def get(self, own: OwnData) -> Checked | None:
        """What was found before, if it still holds."""
        before = self._before.pop(own, None)
        if before is None or (self._changed and os.path.realpath(own.path) in self._changed):
            return None
        if not self._holds(before[0]):
            return None
        self._keep(own, before)
        return before[1]

    def put(self, own: OwnData, token: Any, checked: Checked) -> None:
        """Keep it, if a token says how long."""
        if token is not None:
            self._keep(own, (token, checked))

    def _keep(self, own: OwnData, kept: tuple[Any, Checked]) -> None:
        checked = kept[1]
        size = _FAULT_BYTES * len(checked.faults) + _VALUE_BYTES * len(checked.values)
        if self._bytes + size + _ABOUT_BYTES <= MAX_BYTES:
            self._bytes += size + _ABOUT_BYTES
            self._kept[own] = kept

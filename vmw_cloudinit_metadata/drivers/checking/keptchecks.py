"""KeptChecks: what was found in each VM's own data, as long as all files of it look the same.

So a second validation by the same driver reads only what has changed.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass

from vmw_cloudinit_metadata.drivers.filesystem.snapshot import Looks, Token
from vmw_cloudinit_metadata.instance.distinct import Value
from vmw_cloudinit_metadata.instance.fault import Fault

MAX_BYTES = 256 * 1024 * 1024  # about 80,000 files; beyond it, they are checked each time

# Measured: 3.4 kB a file with one fault and four values.
_ABOUT_BYTES = 2200  # paths and their signatures
_FAULT_BYTES = 600
_VALUE_BYTES = 150


@dataclass(frozen=True, slots=True)
class Checked:
    """The faults and warnings of a file, and its values that no other file may have."""

    faults: tuple[Fault, ...]
    values: Sequence[Value] = ()
    is_user_data: bool = False  # another file names it as its user-data: no instance file


class KeptChecks:
    def __init__(self) -> None:
        self._kept: dict[str, tuple[Token, Checked]] = {}
        self._before: dict[str, tuple[Token, Checked]] = {}
        self._user_data: Collection[str] = frozenset()
        self._changed: frozenset[str] = frozenset()
        self._looks = Looks()
        self._bytes = 0

    def begin(self, user_data: Collection[str]) -> None:
        """Begin a validation, in which each place is asked for once. `user_data` are the files that
        others name as theirs."""
        self._before = self._before | self._kept  # the last one may have ended early
        self._kept = {}
        self._changed = frozenset(user_data).symmetric_difference(self._user_data)
        self._user_data = frozenset(user_data)
        self._looks = Looks()
        self._bytes = 0

    def end(self) -> None:
        """Forget what was not asked for: it is gone."""
        self._before = {}

    def get(self, label: str, real_path: Callable[[], str]) -> Checked | None:
        """What was found before, if it still holds; `real_path` returns where the file lies."""
        before = self._before.pop(label, None)
        if before is None or (self._changed and real_path() in self._changed):
            return None
        if not before[0].holds(self._looks):
            return None
        self._keep(label, before)
        return before[1]

    def put(self, label: str, token: Token | None, checked: Checked) -> None:
        """Keep it, if a token says how long."""
        if token:
            self._keep(label, (token, checked))

    def _keep(self, label: str, kept: tuple[Token, Checked]) -> None:
        checked = kept[1]
        size = _FAULT_BYTES * len(checked.faults) + _VALUE_BYTES * len(checked.values)
        if self._bytes + size + _ABOUT_BYTES <= MAX_BYTES:
            self._bytes += size + _ABOUT_BYTES
            self._kept[label] = kept

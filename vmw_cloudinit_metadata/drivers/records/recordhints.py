"""RecordHints: why a VM has no record, and which one was probably meant."""

from __future__ import annotations

from collections.abc import Sequence

from vmw_cloudinit_metadata.drivers.answers.source import Hints
from vmw_cloudinit_metadata.drivers.records.recordview import RecordView
from vmw_cloudinit_metadata.drivers.store import Key
from vmw_cloudinit_metadata.protocol.printable import quoted
from vmw_cloudinit_metadata.protocol.vmware import Machine

_HIDDEN = "names that begin with a dot are not looked up: give the record the VM's VC UUID"


class RecordHints(Hints[RecordView]):
    def __init__(self, store: str) -> None:
        self._store = store

    def absence(self, keys: Sequence[Key], view: RecordView) -> str:  # noqa: ARG002
        names = " or ".join(quoted(key.value) for key in keys)
        return f"no record named {names or 'after it'} in {self._store}"

    def called(self, value: str) -> str:
        return value

    def named(self, key: Key, view: RecordView) -> str | None:
        return next((record.label for record in view.of(key)), None)

    def unseen(self, machine: Machine) -> str:
        return _HIDDEN if machine.name and machine.name.startswith(".") else ""

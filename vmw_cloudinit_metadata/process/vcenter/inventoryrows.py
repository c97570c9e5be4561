"""InventoryRows: the objects of vCenter's inventory as rows of the table, and what changes. Pure.

An object says what it is (VM, host or folder), and as many of its properties as have changed.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from vmw_cloudinit_metadata.process.vcenter.vcenterrows import (
    GONE,
    HOST,
    InventoryHost,
    InventoryVm,
)
from vmw_cloudinit_metadata.protocol.vmware import parse_uuid

VM, HOST_SYSTEM, FOLDER = "VM", "host", "folder"

_MAX_DEPTH = 32  # of folders


@dataclass(frozen=True, slots=True)
class ObjectChange:
    """What has changed of an object; `values` is None if it is gone."""

    kind: str
    reference: str
    values: Mapping[str, Any] | None


@dataclass(frozen=True, slots=True)
class InventoryPage:
    """A part of what has changed; further pages follow at once unless it is the last one."""

    changes: Sequence[ObjectChange]
    is_last: bool = True


Rows = dict[str, bytes]


@dataclass(slots=True)
class InventoryRows:
    """One reading of vCenter, and what has changed since. Objects beyond `limit` are counted."""

    limit: int
    rows: Rows = field(default_factory=dict)
    shed: int = 0
    _known: dict[str, dict[str, dict[str, Any]]] = field(
        default_factory=lambda: {VM: {}, HOST_SYSTEM: {}, FOLDER: {}}
    )
    _uuids: dict[str, str] = field(default_factory=dict)  # of VMs, by their references
    _paths: dict[str, str] = field(default_factory=dict)  # of folders

    def take(self, changes: Iterable[ObjectChange]) -> Rows:
        """Take what has changed; return the rows that have."""
        vms: set[str] = set()
        before: Rows = {}
        for change in changes:
            self._apply(change)
            if change.kind == VM:
                vms.add(change.reference)
            elif change.kind == HOST_SYSTEM:
                self._put(HOST + change.reference, self._host_row(change.reference), before)
            else:
                self._paths.clear()
                vms.update(self._known[VM])
        for reference in vms:
            self._put_vm(reference, before)
        return {k: self.rows.get(k, GONE) for k, row in before.items() if row != self.rows.get(k)}

    def _apply(self, change: ObjectChange) -> None:
        known = self._known[change.kind]
        if change.values is None:
            known.pop(change.reference, None)
        elif change.reference in known or sum(map(len, self._known.values())) < self.limit:
            known.setdefault(change.reference, {}).update(change.values)
        else:
            self.shed += 1

    def _put(self, key: str, row: bytes, before: Rows) -> None:
        before.setdefault(key, self.rows.get(key, GONE))
        if row:
            self.rows[key] = row
        else:
            self.rows.pop(key, None)

    def _put_vm(self, reference: str, before: Rows) -> None:
        values = self._known[VM].get(reference, {})
        uuid = parse_uuid(values.get("uuid") or "")
        was = self._uuids.pop(reference, None)
        if uuid:
            self._uuids[reference] = uuid
            self._put(uuid, self._vm_row(values), before)
        if was and was != uuid:
            self._put(was, self._row_of_another(was), before)

    def _row_of_another(self, uuid: str) -> bytes:
        """Return the row of another VM that has this UUID: one that was registered anew comes under
        another reference, perhaps before the old one is gone."""
        known = self._known[VM]
        found = [one for one, its in self._uuids.items() if its == uuid and one in known]
        return self._vm_row(known[found[-1]]) if found else GONE

    def _vm_row(self, values: Mapping[str, Any]) -> bytes:
        host = values.get("host")
        return InventoryVm(
            name=values.get("name") or "",
            power=values.get("power") or "",
            host=HOST + host if host else "",
            folder=self._path(values.get("parent") or ""),
            ports=values.get("ports") or (),
            macs=values.get("macs") or (),
            booted_s=values.get("booted_s") or 0.0,
        ).pack()

    def _host_row(self, reference: str) -> bytes:
        values = self._known[HOST_SYSTEM].get(reference)
        if values is None:
            return GONE
        name = values.get("name") or ""
        return InventoryHost(name, (*(values.get("addresses") or ()), name)).pack()

    def _path(self, reference: str) -> str:
        """Return the path of a folder: DC/vm/web."""
        path = self._paths.get(reference)
        if path is None:
            names = list(self._names(reference))
            path = self._paths[reference] = "/".join(reversed(names))
        return path

    def _names(self, reference: str) -> Iterator[str]:
        for _ in range(_MAX_DEPTH):
            values = self._known[FOLDER].get(reference)
            if values is None:
                return
            yield values.get("name") or ""
            reference = values.get("parent") or ""


def differences(before: Rows, now: Rows) -> Rows:
    """Return the rows of `now` that are not in `before`, and those that are gone."""
    gone = {key: GONE for key in before if key not in now}
    return gone | {key: row for key, row in now.items() if before.get(key) != row}

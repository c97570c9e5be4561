"""Keyspace: which key of etcd has which record. Pure.

Under the prefix `/vms/`, `/vms/web1` is the VM of that name, `/vms/UUID` the VM with that UUID, and
`/vms/layers/10-all` a layer. So one VM's key is never another prefix's: `/vms` is `/vms/`.
"""

from __future__ import annotations

from dataclasses import dataclass

from vmw_cloudinit_metadata.drivers.filesystem.filename import usual_stem
from vmw_cloudinit_metadata.drivers.store import (
    BIOS_UUID,
    LAYERS,
    NAME,
    VC_UUID,
    Key,
)
from vmw_cloudinit_metadata.protocol.vmware import parse_uuid

_SEPARATOR = b"/"
_AFTER_SEPARATOR = b"0"  # the next byte
_LAYERS = b"layers/"

UNUSABLE = Key(NAME)  # of a record that no VM is looked up by


@dataclass(frozen=True, slots=True)
class KeyRange:
    """All keys from `start` on that are less than `end`."""

    start: bytes
    end: bytes

    @classmethod
    def single(cls, place: bytes) -> KeyRange:
        """Return one key."""
        return cls(place, place + b"\0")

    @classmethod
    def below(cls, place: bytes) -> KeyRange:
        """Return all keys that begin with a place, which ends with a separator."""
        return cls(place, place.removesuffix(_SEPARATOR) + _AFTER_SEPARATOR)


class Keyspace:
    def __init__(self, prefix: str) -> None:
        """A separator is added to the prefix unless it ends with one."""
        self._root = prefix.encode().removesuffix(_SEPARATOR) + _SEPARATOR
        self.all = KeyRange.below(self._root)
        self.layers = KeyRange.below(self._root + _LAYERS)

    def __str__(self) -> str:
        return self.label(self._root)

    def range_of(self, key: Key) -> KeyRange:
        """Return the keys of etcd that have the records of a key."""
        return self.layers if key == LAYERS else KeyRange.single(self._root + key.value.encode())

    def keys_at(self, place: bytes) -> tuple[Key, ...]:
        """Return the keys whose records stand at a key of etcd; none if it is no VM and no layer.

        A UUID is a VC UUID, or the BIOS UUID of a record whose own `match` says so.
        """
        if not place.startswith(self._root):
            return ()
        name = place[len(self._root) :]
        if name.startswith(_LAYERS):
            return (LAYERS,)
        try:
            stem = name.decode()
        except UnicodeDecodeError:
            return ()
        if usual_stem(stem) != stem:
            return ()
        if parse_uuid(stem):
            return Key(VC_UUID, stem), Key(BIOS_UUID, stem)
        return (Key(NAME, stem),)

    @staticmethod
    def label(place: bytes) -> str:
        """Return a key of etcd as operators read it."""
        return place.decode(errors="backslashreplace")

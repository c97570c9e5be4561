"""What a record says: bounded, copied, and parsed as the content of an instance file is. Pure."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

from vmw_cloudinit_metadata.drivers.content import layer
from vmw_cloudinit_metadata.drivers.content.layer import MAX_FILE_BYTES, FileLayer
from vmw_cloudinit_metadata.drivers.store import Key, Record
from vmw_cloudinit_metadata.instance import fault
from vmw_cloudinit_metadata.instance.fault import Fault, kind_of
from vmw_cloudinit_metadata.instance.keys import FILE_LEVEL
from vmw_cloudinit_metadata.instance.layering.patch import APPENDS
from vmw_cloudinit_metadata.instance.layering.substitution import BEGINS
from vmw_cloudinit_metadata.instance.parsing import seed
from vmw_cloudinit_metadata.instance.values.plain import MAX_DEPTH
from vmw_cloudinit_metadata.protocol.printable import one_line

MAX_LABEL_CHARACTERS = 200
MAX_VERSION_CHARACTERS = 200  # of a longer version nothing is prepared
_VALUE_BYTES = 8  # that a value counts beside its text

_LEAVES = (str, bytes, bool, int, float, type(None))


@dataclass(frozen=True)
class KeptRecord:
    """A record that may be kept: its text, or a copy of its mapping, or what is wrong with it."""

    key: Key
    label: str
    data: bytes | Mapping[str, Any]
    size: int
    fault: Fault | None = None
    marks: str = ""  # of references and appended lists in a mapping
    is_secret: bool = False
    also: tuple[Key, ...] = ()
    version: str = ""
    vm_name: str = ""

    @cached_property
    def digest(self) -> int:
        """Another number for other data."""
        data = self.data if isinstance(self.data, bytes) else repr(self.data)
        return hash((data, self.fault, self.is_secret, self.vm_name))

    def layer(self, known: Collection[str] = FILE_LEVEL) -> FileLayer:
        """Return what it says; `known` keys may be in it."""
        found = self._layer(known)
        return replace(found, is_secret=True) if self.is_secret else found

    def _layer(self, known: Collection[str]) -> FileLayer:
        if self.fault:
            return layer.unusable(self.fault)
        if isinstance(self.data, bytes):
            return layer.parse(self.label, self.data, known)
        return layer.of_seed(self.label, seed.on_line(dict(self.data), 0), self.marks, known)

    def own(self) -> FileLayer:
        """Return what it says as a VM's own data, in which `metadata` may be left out."""
        found = self.layer()
        if found.faults or "metadata" in found.mapping:
            return found
        return replace(found, mapping={"metadata": {}, **found.mapping})


def kept(record: Record, key: Key) -> KeptRecord:
    """Return a copy of the record, of a bounded size; `key` is its own in the usual spelling."""
    found = _kept(record, key)
    if not (record.is_secret or record.also or record.version or record.vm_name):
        return found
    return replace(
        found,
        is_secret=record.is_secret,
        also=record.also,
        version=record.version if len(record.version) <= MAX_VERSION_CHARACTERS else "",
        vm_name=record.vm_name[:MAX_LABEL_CHARACTERS],
    )


def _kept(record: Record, key: Key) -> KeptRecord:
    label = one_line(record.label or str(key))[:MAX_LABEL_CHARACTERS]
    data = record.data
    if isinstance(data, str):  # with a surrogate, which is a fault of the text
        text: str = _plain(data)[: MAX_FILE_BYTES + 1]
        data = text.encode(errors="surrogatepass")
    if isinstance(data, bytes):
        data = _plain(data)[: MAX_FILE_BYTES + 1]
        return KeptRecord(key, label, data, len(data))
    copying = _Copying()
    try:
        value = copying.of(data, ())
    except _NotPlain as error:
        found = replace(error.fault, file=label)
        return KeptRecord(key, label, {}, MAX_FILE_BYTES - copying.left, found)
    if not isinstance(value, dict):
        found = Fault((), kind_of(data), "a mapping, or its text in YAML or JSON", label)
        return KeptRecord(key, label, {}, 0, found)
    size = MAX_FILE_BYTES - copying.left
    return KeptRecord(key, label, value, size, marks=" ".join(sorted(copying.marks)))


def _plain(value: Any) -> Any:
    """Return the plain value of an object of a subclass, whose own methods may say anything.

    A `repr` that never changes would hide a change, and a library's text may hold a document.
    """
    match value:
        case str():
            return str.__str__(value)
        case bytes():
            return b"".join((value,))
        case int():
            return int.__int__(value)
        case _:
            return float.__float__(value)


class _NotPlain(Exception):  # noqa: N818 - caught where a copy is made
    def __init__(self, fault: Fault) -> None:
        super().__init__(str(fault))
        self.fault = fault


@dataclass(slots=True)
class _Copying:
    """Copies a mapping, in bytes that are left, and notes which marks of layers are in it."""

    left: int = MAX_FILE_BYTES
    marks: set[str] = field(default_factory=set)

    def of(self, value: Any, key: fault.Key) -> Any:
        if isinstance(value, _LEAVES):
            if type(value) not in _LEAVES:
                value = _plain(value)
            self._take(len(value) if isinstance(value, str | bytes) else 0)
            if isinstance(value, str) and BEGINS in value:
                self.marks.add(BEGINS)
            return value
        if len(key) >= MAX_DEPTH:
            raise _NotPlain(Fault(key, "too many levels of nesting", f"at most {MAX_DEPTH}"))
        self._take(0)
        if isinstance(value, Mapping):
            return dict(self._items(value, key))
        if isinstance(value, list | tuple):
            return [self.of(item, (*key, index)) for index, item in enumerate(value)]
        raise _NotPlain(Fault(key, kind_of(value), "a text, a number, a list or a mapping"))

    def _items(self, mapping: Mapping[Any, Any], key: fault.Key) -> Iterator[tuple[str, Any]]:
        for name, value in mapping.items():
            if not isinstance(name, str):
                raise _NotPlain(Fault(key, f"{kind_of(name)} as a key", "a string"))
            name = _plain(name)
            self._take(len(name))
            if name.endswith("+"):
                self.marks.add(APPENDS)
            yield name, self.of(value, (*key, name))

    def _take(self, size: int) -> None:
        self.left -= size + _VALUE_BYTES
        if self.left < 0:
            raise _NotPlain(Fault((), "a larger record", f"at most {MAX_FILE_BYTES:,} bytes"))

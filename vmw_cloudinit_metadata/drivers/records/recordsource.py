"""RecordSource: the records of a Store, within bounds; raises DriverError if it is out of reach."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from functools import partial
from itertools import islice
from typing import Any, TypeVar

from vmw_cloudinit_metadata.drivers.answers.source import Source
from vmw_cloudinit_metadata.drivers.content.layer import MAX_FILE_BYTES, FileLayer
from vmw_cloudinit_metadata.drivers.content.owndata import BY_LAYER, OwnData
from vmw_cloudinit_metadata.drivers.driver import DriverError
from vmw_cloudinit_metadata.drivers.foreignerrors import text_of
from vmw_cloudinit_metadata.drivers.layers.sharedlayer import LayerSet
from vmw_cloudinit_metadata.drivers.records.listening import Listening, usual
from vmw_cloudinit_metadata.drivers.records.recordcheck import Listed, RecordCheck
from vmw_cloudinit_metadata.drivers.records.recordhints import RecordHints
from vmw_cloudinit_metadata.drivers.records.recordlayer import KeptRecord, kept
from vmw_cloudinit_metadata.drivers.records.recordlayers import RecordLayers
from vmw_cloudinit_metadata.drivers.records.recordnames import RecordNames
from vmw_cloudinit_metadata.drivers.records.recordnotices import RecordNotices
from vmw_cloudinit_metadata.drivers.records.recordview import (
    Moment,
    Records,
    RecordToken,
    RecordView,
    digest_of,
)
from vmw_cloudinit_metadata.drivers.records.sightings import Sightings, sign_of
from vmw_cloudinit_metadata.drivers.revisions import Revisions
from vmw_cloudinit_metadata.drivers.store import LAYERS, Fetched, Key, Record, Store
from vmw_cloudinit_metadata.instance import fault
from vmw_cloudinit_metadata.instance.fault import Fault, InvalidInstanceData, kind_of
from vmw_cloudinit_metadata.process.budget import Table
from vmw_cloudinit_metadata.protocol.printable import one_line, quoted, shortened

MAX_FETCHED = 1000  # records of one fetch
MAX_FETCHED_BYTES = 8 * MAX_FILE_BYTES  # of their data: a VM has one record, and layers
MAX_LISTED_BYTES = 512 * 1024 * 1024  # of all records, when they are validated: of memory
MAX_LISTING_S = 60.0  # of a look through all records for the names of documents
_ABOUT_BYTES = 1024  # of memory: a record without its data
_BYTES_PER_BYTE = 5  # of memory: a mapping, for each byte that it counts

_NO_FILE = "a text of its own (userdata or vendordata), since a record names no files"

Result = TypeVar("Result")


class RecordSource(Source[RecordView]):
    noun, place = "record", "store"

    def __init__(self, store: Store) -> None:
        self._store = store
        self.can_list = store.can_list
        self._name = name = one_line(shortened(store.name))
        self._changes = Revisions()
        self._layers = RecordLayers(self._changes)
        self._names = RecordNames(self._every_layer)
        self._listening = Listening(store, name, self._changes)
        self.hints = RecordHints(name)
        self._sightings = None if store.tells_all else Sightings(self._changes)
        if store.can_prepare:
            self.notified = RecordNotices(self._changes, store, self._sightings)

    def view(self) -> RecordView:
        return RecordView(Moment(self._fetch, self._changes.told_revision))

    def layers(self, view: RecordView) -> LayerSet:
        return self._layers.all(view)

    def places(self, keys: Sequence[Key], view: RecordView) -> Iterator[Sequence[OwnData]]:
        view.fetch(keys if self._layers.are_known() else [*keys, LAYERS])
        for key in keys:
            yield [OwnData(key.kind, record.label, key.value) for record in view.of(key)]

    def own(self, own: OwnData, view: RecordView) -> FileLayer:
        records = view.of(_key_of(own))
        record = next((one for one in records if one.label == own.label), None)
        if record is None:
            raise InvalidInstanceData([Fault((), "nothing", "a record", own.label)])
        found = record.own()
        self._names.note(found)
        return found

    def vm_name(self, own: OwnData, view: RecordView) -> str:
        if own.matched_by == BY_LAYER:
            return ""
        records = view.of(_key_of(own))
        return next((one.vm_name for one in records if one.label == own.label), "")

    def size_of(self, own: OwnData, view: RecordView) -> int:
        if own.matched_by == BY_LAYER:
            return 0
        return sum(record.size for record in view.of(_key_of(own)))

    def document(self, key: fault.Key, name: Any, view: RecordView) -> Fault:  # noqa: ARG002
        return Fault(key, "the name of a file", _NO_FILE)

    def exists(self, own: OwnData, view: RecordView) -> bool:
        if own.matched_by == BY_LAYER:
            return any(layer.file.path == own.path for layer in self.layers(view).layers)
        return bool(view.of(_key_of(own)))

    def looks(self, layers: LayerSet, view: RecordView) -> Callable[[OwnData], int]:
        """The number is a hash of the data of a key and of all layers."""

        def of(own: OwnData) -> int:
            key = _key_of(own)
            try:
                view.fetch([key])  # the answer does not depend on another VM's record
            except DriverError:
                return 0
            digests = [record.digest for record in view.moment.records[key]]
            return hash((*digests, layers.version))

        return of

    def which_hold(self, tokens: Iterable[RecordToken]) -> Iterator[bool]:
        now_s = time.monotonic()
        return (token.held_at(self._changes, now_s) for token in tokens)

    def watch(self, report: Callable[[str], None]) -> None:
        self._listening.start(report)

    def held_at(self, token: RecordToken, time_s: float) -> bool:
        return token.held_at(self._changes, time_s)

    def revision(self) -> int | None:
        return self._changes.told_revision if self._store.tells_all else None

    def tables(self) -> Mapping[str, Table]:
        return {"contents seen": self._sightings} if self._sightings else {}

    def close(self) -> None:
        self._listening.close()
        self._store.close()

    def document_names(self) -> Collection[str]:
        return self._names.all()

    def checks(self) -> RecordCheck:
        revision = self._changes.told_revision  # from before the records are listed
        listed = self._listed()

        def view() -> RecordView:
            return RecordView(Moment(self._fetch, revision))

        def holds(token: RecordToken) -> bool:
            # A change may not be told here, or have been told to the server earlier.
            if self.notified or self._sightings:
                return token.digest == digest_of(token.keys, listed.records or {})
            return token.held_at(self._changes, time.monotonic())

        return RecordCheck(self._name, listed, view, self.layers, holds)

    def check(self) -> None:
        self._listening.look()
        self._asked(self._store.check)

    def _fetch(self, keys: Collection[Key]) -> tuple[Mapping[Key, Records], Mapping[Key, float]]:
        found: dict[Key, list[KeptRecord]] = {key: [] for key in keys}
        began_s = time.monotonic()
        records = self._asked(lambda: self._store.fetch(keys))
        kept_s = records.kept_s if isinstance(records, Fetched) else {}
        until_s = {key: began_s + seconds for key, seconds in kept_s.items()}
        for record in self._asked(lambda: self._copied(records)):
            if record.key not in found:
                wrong = quoted(str(record.key))
                raise DriverError(f"{self._name}: fetch returned {wrong}, which was not asked for")
            found[record.key].append(record)
        if self._sightings:
            for key in until_s:
                self._sightings.see(key, sign_of(found.get(key, ())))
        return {key: tuple(of_key) for key, of_key in found.items()}, until_s

    def _copied(self, records: Iterable[Record]) -> list[KeptRecord]:
        copied: list[KeptRecord] = []
        left_bytes = MAX_FETCHED_BYTES
        for record in map(partial(_kept, self._name), islice(records, MAX_FETCHED + 1)):
            left_bytes -= record.size
            if left_bytes < 0:
                limit = f"{MAX_FETCHED_BYTES:,} bytes"
                raise DriverError(f"{self._name}: fetch returned more than {limit}")
            copied.append(record)
        if len(copied) > MAX_FETCHED:
            raise DriverError(f"{self._name}: fetch returned more than {MAX_FETCHED} records")
        return copied

    def _listed(self) -> Listed:
        until_s: dict[Key, float] = {}
        records = self._every(until_s)
        if records is None:
            return Listed(None, ())
        listed: dict[Key, list[KeptRecord]] = defaultdict(list)
        unusable: list[KeptRecord] = []
        also: set[str] = set()
        left_bytes = MAX_LISTED_BYTES
        for record in records:
            left_bytes -= memory_of(record)
            if left_bytes < 0:
                limit = f"{MAX_LISTED_BYTES:,} bytes of memory"
                raise DriverError(f"{self._name}: all its records need more than {limit}")
            also.update(key.value for key in filter(None, map(usual, record.also)))
            if usual(record.key):
                listed[record.key].append(record)
            else:
                unusable.append(record)
        records_of = {key: tuple(of_key) for key, of_key in listed.items()}
        return Listed(records_of, unusable, also, until_s)

    def _every(self, until_s: dict[Key, float]) -> Iterator[KeptRecord] | None:
        """Return each record when it is reached, None if they cannot be listed.

        Note in `until_s` until when those of a key may be kept, if not for ever.
        """
        records = self._asked(self._store.all)
        if records is None:
            return None
        reached = self._asked(
            lambda: map(partial(_kept, self._name), _unpacked(iter(records), until_s))
        )
        return iter(lambda: self._asked(lambda: next(reached, None)), None)

    def _every_layer(self) -> Iterator[FileLayer]:
        """Yield what each record says, one at a time: all of them may need much memory."""
        end_s = time.monotonic() + MAX_LISTING_S
        for record in self._every({}) or ():
            if time.monotonic() > end_s:
                raise DriverError(f"{self._name}: `all` has not ended in {MAX_LISTING_S:g} s")
            if record.key != LAYERS:
                yield record.layer()
        for shared in self.layers(self.view()).layers:
            yield shared.file

    def _asked(self, call: Callable[[], Result]) -> Result:
        try:
            return call()
        except DriverError:
            raise
        except BaseException as error:  # a store is foreign code: asyncio's, too, are no Exception
            text = self._store.known_secrets.hide(text_of(error))  # before it is cut
            raise DriverError(f"{self._name}: {shortened(one_line(text))}") from error


def _kept(source: str, record: Record) -> KeptRecord:
    if not isinstance(record, Record):
        raise DriverError(f"{source}: found a {type(record).__name__}, expected a Record")
    for name in ("label", "version", "vm_name"):
        value = getattr(record, name)
        if not isinstance(value, str):
            found = f"a record whose {name} is {kind_of(value)}"
            raise DriverError(f"{source}: found {found}, expected a text")
    try:
        return kept(record, usual(record.key) or Key(*record.key))
    except DriverError as error:
        raise DriverError(f"{source}: {error}") from None


def _unpacked(records: Iterator[Record | Fetched], until_s: dict[Key, float]) -> Iterator[Record]:
    end = Fetched((), {})
    while True:
        began_s = time.monotonic()
        one = next(records, end)
        if one is end:
            return
        if isinstance(one, Fetched):
            yield from one
            until_s.update({usual(key) or key: began_s + one.kept_s[key] for key in one.kept_s})
        else:
            yield one


def memory_of(record: KeptRecord) -> int:
    """Estimate the bytes that a record takes in memory."""
    is_text = isinstance(record.data, bytes)
    return _ABOUT_BYTES + record.size * (1 if is_text else _BYTES_PER_BYTE)


def _key_of(own: OwnData) -> Key:
    return Key(own.matched_by, own.stem)

"""The machines that are or were connected, and the story of each: made of happenings, bounded.

A happening costs a few dictionary steps; views are made when someone asks for them.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from itertools import chain

from vmw_cloudinit_metadata.admin.changes import COMES, NEW_BYTES, add, lose, new_record
from vmw_cloudinit_metadata.admin.machinerecord import MISSING, TROUBLE, MachineRecord
from vmw_cloudinit_metadata.admin.shortening import shorten
from vmw_cloudinit_metadata.monitoring.counters import ADMIN_SHED, Key
from vmw_cloudinit_metadata.monitoring.facts import VmLeft
from vmw_cloudinit_metadata.monitoring.happenings import Happening
from vmw_cloudinit_metadata.monitoring.kept import bytes_of_machine, kept
from vmw_cloudinit_metadata.protocol.vmware import Machine

MAX_GONE = 10_000  # machines that are not connected; the longest unchanged make room
# What the record of a machine holds at most, and to what it is cut if it would hold more than that
# with the last three things that happened.
MAX_CONNECTED_BYTES, CUT_CONNECTED_BYTES = 16 * 1024, 12 * 1024
MAX_LEFT_BYTES, CUT_LEFT_BYTES = 6 * 1024, 4 * 1024

MISSING_S = 24 * 3600.0  # how long to wait for a machine of before the restart


class Chronicle:
    """Records happenings; answers which machines are connected, and what happened to each."""

    def __init__(self) -> None:
        # Each in the order of their last changes.
        self._troubled: dict[str, MachineRecord] = {}
        self._calm: dict[str, MachineRecord] = {}
        self._open: dict[
            str, MachineRecord
        ] = {}  # of happenings that are recorded together; in neither
        self._gone: dict[str, None] = {}
        self._keys: dict[str, str] = {}  # of connections
        self._long: dict[str, None] = {}  # connected, with something to shorten
        self.revision = 0  # another number, another list
        self.states: Counter[str] = Counter()  # how many machines are in each
        self.problems: Counter[str] = Counter()  # how many machines have each of them now
        self.kept_bytes = 0  # that all entries hold at most
        self.shed_counts: Counter[Key] = Counter()  # what was dropped to stay within bounds

    def expect(self, vc_uuids: Iterable[str]) -> None:
        """Wait for these machines, which were connected before a restart."""
        for vc_uuid in vc_uuids:
            machine = Machine(vc_uuid=vc_uuid)
            if not self.get(vc_uuid):
                size = NEW_BYTES + bytes_of_machine(machine)
                self._put(MachineRecord(vc_uuid, machine, "", MISSING, bytes=size))

    def expected(self) -> list[str]:
        """Return the VC UUIDs to wait for after a restart."""
        entries = chain(self._troubled.values(), self._calm.values())
        return [
            record.machine.vc_uuid
            for record in entries
            if record.machine.vc_uuid and (record.is_connected or record.state == MISSING)
        ]

    def process_is_gone(self, process: int, now_s: float) -> None:
        """Record that a worker has died, and its connections with it."""
        for connection, key in list(self._keys.items()):
            if connection.startswith(f"{process}-"):
                self._leave(key, connection, now_s)
        self.settle()

    def forget_missing(self) -> None:
        """Stop waiting for machines that have not reconnected."""
        for record in [record for record in self._calm.values() if record.state == MISSING]:
            self._remove(record)

    # Queries

    def __len__(self) -> int:
        return len(self._troubled) + len(self._calm)

    def get(self, key: str) -> MachineRecord | None:
        return self._troubled.get(key) or self._calm.get(key) or self._open.get(key)

    def named(self, name: str) -> list[MachineRecord]:
        return [record for record in self.entries() if record.machine.name == name]

    def entries(self) -> Iterator[MachineRecord]:
        """Return all machines: those in trouble first, then by their last change, the newest
        first."""
        return chain(reversed(self._troubled.values()), reversed(self._calm.values()))

    # What happened

    def hear(self, happening: Happening) -> None:
        self.take(*kept(happening))
        self.settle()

    def take(self, happening: Happening, size: int) -> None:
        """Record a happening that was cut and holds `size` bytes; call `settle` afterwards.

        A boot is three happenings that come together: its record is sorted in once.
        """
        key = happening.key
        if not key:
            return
        connection = happening.connection
        known = self._keys.get(connection, key)
        if known != key:  # it has another identity now
            self._leave(known, connection, happening.at_s)
        record = self._open.pop(key, None)
        if record is None:
            record = self.get(key)
            if record:
                self._remove(record)
            else:
                record = new_record(key, happening)
        self._open[key] = record
        add(record, happening, size)
        if connection and isinstance(happening.fact, COMES):
            record.port_count += connection not in self._keys
            self._keys[connection] = key
        elif isinstance(happening.fact, VmLeft) and self._keys.pop(connection, ""):
            lose(record, connection, happening.at_s)

    def settle(self) -> None:
        """Sort in the machines whose happenings were recorded, the last changed last."""
        entries, self._open = self._open, {}
        for record in entries.values():
            self._put(record)

    def shed(self) -> int:
        """Forget the machine that disconnected the longest ago; if there is none, the older half of
        the story that is unchanged the longest. Return how many bytes that frees: 0 if nothing is
        left to forget."""
        if self._gone:
            record = self._must_get(next(iter(self._gone)))
            self._forget(record)
            return record.bytes
        if not self._long:
            return 0
        record = self._must_get(next(iter(self._long)))
        del self._long[record.key]
        before = record.bytes
        self._shorten(record, MAX_LEFT_BYTES, CUT_LEFT_BYTES)
        self.kept_bytes += record.bytes - before
        return before - record.bytes

    def _forget(self, record: MachineRecord) -> None:
        self._remove(record)
        self.revision += 1
        self.shed_counts[ADMIN_SHED["machines"]] += 1

    def _shorten(self, record: MachineRecord, most_bytes: int, cut_bytes: int) -> None:
        shorten(record, most_bytes, cut_bytes)
        self.shed_counts[ADMIN_SHED["stories"]] += 1

    def _leave(self, key: str, connection: str, now_s: float) -> None:
        self._keys.pop(connection, None)
        record = self.get(key)
        if record and record.is_connected:
            self._remove(record)
            self._open.pop(key, None)
            lose(record, connection, now_s)
            self._open[key] = record

    def _put(self, record: MachineRecord) -> None:
        if record.port_count:
            if record.bytes > MAX_LEFT_BYTES:
                if record.bytes > MAX_CONNECTED_BYTES:
                    self._shorten(record, MAX_CONNECTED_BYTES, CUT_CONNECTED_BYTES)
                self._long[record.key] = None
        elif record.bytes > MAX_LEFT_BYTES:
            self._shorten(record, MAX_LEFT_BYTES, CUT_LEFT_BYTES)
        self.kept_bytes += record.bytes
        self.revision += 1
        self._shelf_of(record)[record.key] = record
        self.states[record.state] += 1
        if record.state in TROUBLE:
            self.problems[record.problem] += 1
        if not record.port_count:
            self._gone[record.key] = None
            if len(self._gone) > MAX_GONE:
                self._forget(self._must_get(next(iter(self._gone))))

    def _remove(self, record: MachineRecord) -> None:
        if self._shelf_of(record).pop(record.key, None) is None:
            return
        self.kept_bytes -= record.bytes
        if record.port_count:
            self._long.pop(record.key, None)
        else:
            del self._gone[record.key]
        self.states[record.state] -= 1
        if record.state in TROUBLE:
            self.problems[record.problem] -= 1

    def _shelf_of(self, record: MachineRecord) -> dict[str, MachineRecord]:
        return self._troubled if record.state in TROUBLE else self._calm

    def _must_get(self, key: str) -> MachineRecord:
        record = self.get(key)
        assert record
        return record

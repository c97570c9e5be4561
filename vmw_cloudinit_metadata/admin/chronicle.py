"""The machines that are or were connected, and the story of each: made of happenings, bounded.

A happening costs a few dictionary steps; views are made when someone asks for them.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from itertools import chain

from vmw_cloudinit_metadata.admin.awaited import AwaitedOutcomes
from vmw_cloudinit_metadata.admin.changes import COMES, NEW_BYTES, add, lose, new_record
from vmw_cloudinit_metadata.admin.machinerecord import AGEING, MISSING, TROUBLE, MachineRecord
from vmw_cloudinit_metadata.admin.shortening import MAX_STORY, forget_first, shorten
from vmw_cloudinit_metadata.monitoring.counters import ADMIN_SHED, Key
from vmw_cloudinit_metadata.monitoring.facts import VmLeft
from vmw_cloudinit_metadata.monitoring.happenings import Happening
from vmw_cloudinit_metadata.monitoring.kept import bytes_of_machine, kept
from vmw_cloudinit_metadata.monitoring.onceaminute import key_of
from vmw_cloudinit_metadata.protocol.vmware import Machine

MAX_GONE = 10_000  # machines that are not connected; the longest unchanged make room
# What the record of a machine holds at most, and to what it is cut if it would hold more than that
# with the last three things that happened.
MAX_CONNECTED_BYTES, CUT_CONNECTED_BYTES = 16 * 1024, 12 * 1024
MAX_LEFT_BYTES, CUT_LEFT_BYTES = 6 * 1024, 4 * 1024

RECENT_S = 1800.0  # how long a machine that has disconnected counts as one in trouble
MISSING_S = 24 * 3600.0  # how long to wait for a machine of before the restart


class Chronicle:
    """Records happenings; answers which machines are connected, and what happened to each."""

    def __init__(self) -> None:
        # Each in the order of their last changes.
        self._records: dict[str, MachineRecord] = {}
        self._troubled: dict[str, MachineRecord] = {}  # those of them in trouble
        self._open: dict[str, MachineRecord] = {}  # taken out, to record happenings together
        self._gone: dict[str, None] = {}
        self._ageing: dict[str, None] = {}  # disconnected, and forgotten after a while
        self.keys: dict[str, str] = {}  # of connections
        self._long: dict[str, None] = {}  # connected, with something to shorten
        self.revision = 0  # another number, another list
        # Machines that have changed, for whoever takes them out; None: nobody does.
        self.changed: dict[str, None] | None = None
        self.states: Counter[str] = Counter()  # how many machines are in each
        self._connected_states: Counter[str] = Counter()  # how many that are connected
        self.awaited = AwaitedOutcomes()
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
        return [
            record.machine.vc_uuid
            for record in self._records.values()
            if record.machine.vc_uuid and (record.is_connected or record.state == MISSING)
        ]

    def restore(self, record: MachineRecord) -> None:
        """Add a record of the program before an upgrade."""
        if self.get(record.key):
            raise ValueError("a machine has two records")
        self._put(record)

    def process_is_gone(self, process: int, now_s: float) -> None:
        """Record that a worker has died, and its connections with it."""
        for connection, key in list(self.keys.items()):
            if connection.startswith(f"{process}-"):
                self._leave(key, connection, now_s)
        self.settle()

    def forget_missing(self) -> None:
        """Stop waiting for machines that have not reconnected."""
        if not self.states[MISSING]:  # as nearly always: it is asked every second
            return
        for record in [record for record in self._records.values() if record.state == MISSING]:
            self._drop(record)

    def age(self, until_s: float) -> None:
        """Forget machines in trouble, and tests, that have disconnected before that time."""
        while self._ageing:
            record = self._must_get(next(iter(self._ageing)))
            if record.changed_s >= until_s:
                return
            self._drop(record)

    def forget(self, key: str) -> bool:
        """Forget a machine that is not connected, or dismiss the trouble of one that is; return
        whether there was anything to forget."""
        record = self.get(key)
        if record is None or (record.is_connected and record.state not in TROUBLE):
            return False
        if record.is_connected:
            self._remove(record)
            record.dismiss_trouble()
            self._put(record)
        else:
            self._drop(record)
        return True

    # Queries

    def in_trouble(self, now_s: float) -> dict[str, int]:
        """Return how many machines have each kind of trouble and need somebody: those that are
        connected, and those that have disconnected lately."""
        found = {state: self._connected_states[state] for state in TROUBLE}
        for record in reversed(self._troubled.values()):
            if record.changed_s < now_s - RECENT_S:
                break
            found[record.state] += not record.port_count
        return found

    def __len__(self) -> int:
        return len(self._records)

    def get(self, key: str) -> MachineRecord | None:
        return self._records.get(key) or self._open.get(key)

    def named(self, name: str) -> list[MachineRecord]:
        return [record for record in self.entries() if record.machine.name == name]

    def entries(self) -> Iterator[MachineRecord]:
        """Return all machines: those in trouble first, then by their last change, the newest
        first."""
        newest_first = reversed(self._records.values())
        calm = (record for record in newest_first if record.state not in TROUBLE)
        return chain(reversed(self._troubled.values()), calm)

    # What happened

    def hear(self, happening: Happening) -> None:
        self.take(*kept(happening))
        self.settle()

    def take(self, happening: Happening, size: int) -> None:
        """Record a happening that was cut and holds `size` bytes; call `settle` afterwards.

        A boot is three happenings that come together: its record is sorted in once.
        """
        machine, connection = happening.machine, happening.connection
        key = machine and key_of(machine)
        if not key:
            return
        known = self.keys.get(connection, key)
        if known != key:  # it has another identity now
            self._leave(known, connection, happening.at_s)
        record = self._open.pop(key, None) or self._taken_out(key, happening)
        self._open[key] = record
        add(record, happening, size)
        kind = type(happening.fact)
        if kind in COMES and connection:
            record.port_count += connection not in self.keys
            self.keys[connection] = key
        elif kind is VmLeft and self.keys.pop(connection, ""):
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

    def _drop(self, record: MachineRecord) -> None:
        self._remove(record)
        if self.changed is not None:  # it may be long until somebody takes them out
            self.changed.pop(record.key, None)
        self.revision += 1

    def _forget(self, record: MachineRecord) -> None:
        self._drop(record)
        self.shed_counts[ADMIN_SHED["machines"]] += 1

    def _shorten(self, record: MachineRecord, most_bytes: int, cut_bytes: int) -> None:
        shorten(record, most_bytes, cut_bytes)
        self.shed_counts[ADMIN_SHED["stories"]] += 1

    def _leave(self, key: str, connection: str, now_s: float) -> None:
        self.keys.pop(connection, None)
        record = self.get(key)
        if record and record.is_connected:
            if self._open.pop(key, None) is None:
                self._remove(record)
            lose(record, connection, now_s)
            self._open[key] = record

    def _taken_out(self, key: str, happening: Happening) -> MachineRecord:
        """Return the record of a machine, a new one for a new machine; `settle` puts it in."""
        record = self._records.get(key)
        if record is None:
            return new_record(key, happening)
        self._remove(record)
        return record

    def _put(self, record: MachineRecord) -> None:
        key, state = record.key, record.state
        self._bound(record)
        self._records[key] = record
        self.kept_bytes += record.bytes
        self.revision += 1
        if self.changed is not None:
            self.changed[key] = None
        self.states[state] += 1
        if state in TROUBLE:
            self._troubled[key] = record
            self.problems[record.problem] += 1
        if record.port_count:
            self._connected_states[state] += 1
            self.awaited.put(record)
            return
        self._gone[key] = None
        if state in AGEING:
            self._ageing[key] = None
        if len(self._gone) > MAX_GONE:
            self._forget(self._must_get(next(iter(self._gone))))

    def _remove(self, record: MachineRecord) -> None:
        """Take out a record, as it was put in."""
        key, state = record.key, record.state
        del self._records[key]
        self.kept_bytes -= record.bytes
        self.states[state] -= 1
        if state in TROUBLE:
            del self._troubled[key]
            self.problems[record.problem] -= 1
        if record.port_count:
            self._connected_states[state] -= 1
            self.awaited.remove(record)
            self._long.pop(key, None)
            return
        del self._gone[key]
        if state in AGEING:
            del self._ageing[key]

    def _bound(self, record: MachineRecord) -> None:
        """Shorten a record that holds too much."""
        if len(record.story) > MAX_STORY:
            forget_first(record, record.bytes)
        if record.bytes <= MAX_LEFT_BYTES:
            return
        if not record.port_count:
            self._shorten(record, MAX_LEFT_BYTES, CUT_LEFT_BYTES)
            return
        if record.bytes > MAX_CONNECTED_BYTES:
            self._shorten(record, MAX_CONNECTED_BYTES, CUT_CONNECTED_BYTES)
        self._long[record.key] = None

    def _must_get(self, key: str) -> MachineRecord:
        record = self.get(key)
        assert record
        return record

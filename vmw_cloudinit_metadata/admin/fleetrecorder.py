"""Tells the fleet which of this server's machines have changed, and how their boots ended.

A machine that changes often is told once, as it is then: only its key waits, and its record is in
the chronicle already. The next batch is sent when the one before is written, so a slow database
makes fewer batches, not longer queues.
"""

from __future__ import annotations

import logging
import time
from collections import Counter, deque
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import count, islice
from typing import Any, NamedTuple, Protocol

import gevent
import ujson
from gevent.event import AsyncResult, Event

from vmw_cloudinit_metadata.admin.chronicle import Chronicle
from vmw_cloudinit_metadata.admin.fleetbatch import (
    ENDING,
    EndedBoot,
    boot_of,
    dumped,
    outcome_of,
    told_machine,
    told_story,
)
from vmw_cloudinit_metadata.admin.machinerecord import MISSING
from vmw_cloudinit_metadata.monitoring.counters import ADMIN_SHED, Key
from vmw_cloudinit_metadata.monitoring.happenings import Happening
from vmw_cloudinit_metadata.monitoring.kept import bytes_of_machine
from vmw_cloudinit_metadata.process.fleet import machineforgetting, machinestory
from vmw_cloudinit_metadata.process.fleet.frames import Fields, Reply
from vmw_cloudinit_metadata.protocol.state import items, text

log = logging.getLogger(__name__)

INTERVAL_S = 1.0  # from one batch to the next: each wakes the hub some five times
HURRY_S = 0.4  # the same while more waits; a batch is two statements at most
MAX_TOGETHER = 400  # machines of a batch, and as many boots
MAX_BATCH_BYTES = 1024 * 1024  # nearly: then the rest is for the next one
WRITTEN_S = 20.0  # for a batch: then it is told again
STORY_S = 2.0  # for what another server asks about a machine
LAST_S = 1.0  # at the end, for what waits
MAX_BOOT_BYTES = 8 * 1024 * 1024  # of boots that wait

# A turn of building a batch, and the pause for the VMs.
_SLICE_S = 0.001
_PAUSE_S = 0.001
_TOGETHER = 16

_OUTCOME = b"outcome "  # before the JSON of those among the boots that wait

_BOOT_BYTES = 100  # what one that waits costs beside its text, or its happening
_BOOT = text(MAX_BOOT_BYTES)


class WaitingBoot(NamedTuple):
    """A boot that waits: as it ended, or as JSON, which is smaller."""

    boot: EndedBoot | bytes
    bytes: int


@dataclass(slots=True)
class FleetBatch:
    """What is told together."""

    keys: list[str]  # of machines
    boots: list[WaitingBoot]
    payload: bytes = b""


class TellsFleet(Protocol):
    """The part of the fleet link that a recorder uses."""

    @property
    def is_connected(self) -> bool: ...

    def ask(
        self,
        kind: str,
        fields: Fields,
        payload: bytes,
        within_s: float,
        then: Callable[[Reply | None], None],
    ) -> None: ...

    def when_connected(self, call: Callable[[], None]) -> None: ...

    def on(self, kind: str, handler: Callable[[Fields, bytes], None]) -> None: ...


class FleetRecorder:
    """Tells by `link` what changes in `chronicle`."""

    def __init__(self, chronicle: Chronicle, link: TellsFleet) -> None:
        self._chronicle = chronicle
        self._link = link
        self._changed = chronicle.changed = {}
        self._boots: deque[WaitingBoot] = deque()
        self.kept_bytes = 0  # of boots
        # Also after an upgrade in place no number comes twice.
        self._numbers = count(time.time_ns() // 1000)
        self._announced = 0  # the number before those of an announcement; 0: none is under way
        self.shed_counts: Counter[Key] = Counter()
        self._greenlet: gevent.Greenlet[..., Any] | None = None
        self._is_stopping = Event()
        link.when_connected(self.announce)
        link.on(machinestory.ASKED, self._tell_story)
        link.on(machineforgetting.FORGET, lambda told, _: self._forget(str(told["id"])))

    def start(self) -> None:
        self._greenlet = gevent.spawn(self._run)

    def stop(self) -> None:
        """Tell what waits, within LAST_S."""
        self._is_stopping.set()
        with suppress(gevent.Timeout), gevent.Timeout(LAST_S):
            if self._greenlet:
                self._greenlet.join()
            while self._is_due and self._tell_some():
                pass
        if self._greenlet:
            self._greenlet.kill()

    def state(self) -> list[str]:
        """Return the boots that wait, for the next program; it tells of all machines anew."""
        return [packed.decode() for boot, _ in self._boots if (packed := _packed(boot))]

    def restore(self, state: object) -> None:
        """Go on with the boots of the program before an upgrade; raise InvalidState."""
        for packed in items(state, MAX_BOOT_BYTES // _BOOT_BYTES):
            self._note(_waiting(_BOOT.read(packed).encode()))

    def announce(self) -> None:
        """Tell all machines again: what was told before may be lost. Those that the database still
        has as connected afterwards are not."""
        self._changed.update({record.key: None for record in self._chronicle.entries()})
        self._announced = next(self._numbers)

    def take(self, weighed: Sequence[tuple[Happening, int]]) -> None:
        """Note the boots that have ended; their machines are recorded already."""
        for happening, size in weighed:
            if type(happening.fact) not in ENDING:  # as most are
                continue
            if outcome := outcome_of(happening, self._numbers):
                if packed := b"".join(dumped([outcome])):
                    self._note(_waiting(_OUTCOME + packed))
            elif boot := boot_of(happening, self._numbers):
                if self._link.is_connected and len(self._boots) < MAX_TOGETHER:  # for the next one
                    size += bytes_of_machine(happening.machine) + _BOOT_BYTES
                    self._note(WaitingBoot(boot, size))
                elif packed := _packed(boot):
                    self._note(_waiting(packed))
        while self.kept_bytes > MAX_BOOT_BYTES:
            self.shed()

    def _note(self, waiting: WaitingBoot) -> None:
        self._boots.append(waiting)
        self.kept_bytes += waiting.bytes

    def _note_first(self, waiting: WaitingBoot) -> None:
        self._boots.appendleft(waiting)
        self.kept_bytes += waiting.bytes

    def _take_first(self) -> WaitingBoot:
        first = self._boots.popleft()
        self.kept_bytes -= first.bytes
        return first

    def shed(self) -> int:
        """Forget the boot that waits longest; return how many bytes that frees."""
        if not self._boots:
            return 0
        self.shed_counts[ADMIN_SHED["boots"]] += 1
        return self._take_first().bytes

    def _tell_story(self, question: Fields, _payload: bytes) -> None:
        """Tell another server all that is known of a machine."""
        record = self._chronicle.get(str(question["id"]))
        if record:
            story = ujson.dumps(told_story(record), escape_forward_slashes=False).encode()
            fields = {"question": question["question"]}
            self._link.ask(machinestory.TOLD, fields, story, STORY_S, lambda _: None)

    def _forget(self, key: str) -> None:
        """Forget a machine that an operator has dismissed at any server."""
        self._chronicle.forget(key)

    # Batches

    def _run(self) -> None:
        while not self._is_stopping.wait(HURRY_S if self._has_much else INTERVAL_S):
            try:
                if self._is_due:
                    self._tell_some()
            except Exception:  # the next batch is another one
                log.exception("fleet: a batch of machines cannot be told")

    @property
    def _has_much(self) -> bool:
        """Whether a batch is full, or what was told before is to be told again."""
        return self._announced > 0 or max(len(self._changed), len(self._boots)) >= MAX_TOGETHER

    @property
    def _is_due(self) -> bool:
        return self._link.is_connected and bool(self._changed or self._boots or self._announced)

    def _tell_some(self) -> bool:
        """Tell a batch; return whether it is written."""
        batch = self._batch()
        announced = 0 if self._changed else self._announced  # with this batch it is complete
        fields = {"number": next(self._numbers), "announced": announced}
        written: AsyncResult[Reply | None] = AsyncResult()
        self._link.ask("record", fields, batch.payload, WRITTEN_S, written.set)
        reply = written.get()
        if reply is None:
            self._not_written(batch)
            return False
        self.shed_counts[ADMIN_SHED["boots"]] += reply.fields["invalid"]
        if announced == self._announced:
            self._announced = 0
        return True

    def _batch(self) -> FleetBatch:
        """Take out what is told next: machines, some with the boot that has ended, then the other
        boots. What has no room waits again."""
        keys = list(islice(self._changed, MAX_TOGETHER))
        for key in keys:
            del self._changed[key]
        boots = [self._take_first() for _ in range(min(MAX_TOGETHER, len(self._boots)))]
        machines, told, numbers = self._machines(keys, boots)
        self._changed.update(dict.fromkeys(keys[told:]))
        others = deque(
            waiting
            for waiting in boots
            if isinstance(waiting.boot, bytes) or waiting.boot.number not in numbers
        )
        room, packed = MAX_BATCH_BYTES - sum(map(len, machines)), []
        while others and room > 0:
            packed.append(_packed(others.popleft().boot))
            room -= len(packed[-1])
        for waiting in reversed(others):
            self._note_first(waiting)
        waits = set(map(id, others))
        payload = b'{"machines":[%b],"boots":[%b],"outcomes":[%b]}' % (
            b",".join(machines),
            b",".join(one for one in packed if one and not one.startswith(_OUTCOME)),
            b",".join(one.removeprefix(_OUTCOME) for one in packed if one.startswith(_OUTCOME)),
        )
        return FleetBatch(keys[:told], [one for one in boots if id(one) not in waits], payload)

    def _machines(
        self, keys: Sequence[str], boots: Iterable[WaitingBoot]
    ) -> tuple[list[bytes], int, set[int]]:
        """Return the machines that the fleet shall know, how many keys had room, and the numbers of
        the boots that are told with them; pause for the VMs."""
        ended = {boot.key: boot for boot, _ in boots if isinstance(boot, EndedBoot)}
        packed: list[bytes] = []
        numbers = set[int]()
        size = 0
        end_s = time.monotonic() + _SLICE_S
        for first in range(0, len(keys), _TOGETHER):
            if size > MAX_BATCH_BYTES:
                return packed, first, numbers
            if time.monotonic() > end_s:
                gevent.sleep(_PAUSE_S)
                end_s = time.monotonic() + _SLICE_S
            told = []
            for key in keys[first : first + _TOGETHER]:
                record = self._chronicle.get(key)
                if record and record.state != MISSING:
                    one = told_machine(record, ended)
                    told.append(one)
                    if one.end:
                        numbers.add(one.end.number)
            for some in dumped(told):
                packed.append(some)
                size += len(some)
        return packed, len(keys), numbers

    def _not_written(self, batch: FleetBatch) -> None:
        """Tell the machines again that are still known; the boots too if the database is out of
        reach. If it is there, it does not take them, or not in time, and would not the next
        time."""
        self._changed.update({key: None for key in batch.keys if self._chronicle.get(key)})
        if self._link.is_connected:
            self.shed_counts[ADMIN_SHED["boots"]] += len(batch.boots)
            return
        for boot, _ in reversed(batch.boots):
            if packed := _packed(boot):
                self._note_first(_waiting(packed))


def _packed(boot: EndedBoot | bytes) -> bytes:
    """Return the boot as JSON; b"" if it cannot be told."""
    return boot if isinstance(boot, bytes) else b"".join(dumped([boot.told]))


def _waiting(packed: bytes) -> WaitingBoot:
    return WaitingBoot(packed, len(packed) + _BOOT_BYTES)

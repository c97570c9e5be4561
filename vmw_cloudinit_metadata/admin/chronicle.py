"""The machines that were here, and what happened to each: made of happenings, and bounded.

Each happening costs a few dictionary steps; what people read is made when they ask for it. What an
entry holds is added up as it comes. Only an entry that seems to hold too much is weighed, each
object once, and forgets its oldest.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import chain
from operator import itemgetter
from sys import getsizeof

from vmw_cloudinit_metadata.monitoring.counters import ADMIN_SHED, Key
from vmw_cloudinit_metadata.monitoring.happenings import (
    Happening,
    bytes_of_machine,
    cut,
    kept,
    within,
)
from vmw_cloudinit_metadata.protocol.vmware import Machine

MAX_GONE = 10_000  # machines that are not connected; the longest unchanged make room
MAX_STORY = 20  # happenings of one machine
MAX_MOVES = 20
MAX_ASKED = 32  # documents
MAX_DOCUMENT_BYTES = 160  # of a document's name; a file's have 32 letters
MAX_PORTS = 16  # of one machine that are told; more are counted

# What the entry of a machine holds at most, and to what it is cut if it would hold more than that
# with the last three things that happened.
MAX_CONNECTED_BYTES, CUT_CONNECTED_BYTES = 16 * 1024, 12 * 1024
MAX_LEFT_BYTES, CUT_LEFT_BYTES = 6 * 1024, 4 * 1024
_LAST = 3

_ENTRY_BYTES = 400  # an Entry, and its places in dictionaries
_NEW_BYTES = 900  # the same, with what it soon has: its own dictionaries, and the names in them
_PLACE_BYTES = 80  # in a story
_ASKED_BYTES = 300

# How texts are cut, and how many documents and sources stay, until an entry is short enough.
_CUTS = ((256, 4), (128, 1), (128, 0))

MISSING_S = 24 * 3600.0  # so long a machine of before the restart is waited for

# A machine's state: the first ones are trouble.
FAILED, STALE = "failed", "stale"
MISSING, WAITING, MOVING, SERVED, LEFT = "missing", "waiting", "moving", "served", "left"
TROUBLE = (FAILED, STALE)
STATES = (FAILED, STALE, MISSING, MOVING, WAITING, SERVED, LEFT)


# The times of all documents that were answered together; or when one was not, and with which error.
_Answered = Mapping[str, float] | tuple[float, str]


@dataclass(slots=True)
class Entry:
    """One machine."""

    key: str
    machine: Machine
    host: str
    state: str = WAITING
    before_move: str = WAITING
    changed_s: float = 0.0
    left_s: float = 0.0
    port_count: int = 0
    ports: dict[str, Happening] = field(default_factory=dict)  # by connection; how it came
    trouble: Happening | None = None  # the last, also one that is over
    served: Happening | None = None
    asked: dict[str, _Answered] = field(default_factory=dict)  # document: its last answer
    # Tuples, which are small: there are as many as VMs.
    moves: tuple[Happening, ...] = ()
    story: tuple[tuple[Happening, int, int], ...] = ()  # how often, and the bytes that it holds
    bytes: int = 0  # that it holds at most

    @property
    def is_connected(self) -> bool:
        return self.port_count > 0

    @property
    def problem(self) -> str:
        """What its trouble is, by a name that others share; "" if it has none now."""
        if self.state not in TROUBLE or not self.trouble:
            return ""
        return problem_of(self.trouble)

    def answers(self) -> list[tuple[str, float, str]]:
        """Document, when, and outcome of what was asked for last, in the order of time."""
        told = [(name, *_answer_in(answer, name)) for name, answer in self.asked.items()]
        return sorted(told, key=itemgetter(1))


def _answer_in(answered: _Answered, document: str) -> tuple[float, str]:
    return answered if isinstance(answered, tuple) else (answered[document], "answered")


class Chronicle:
    """Hears happenings; answers who is there, and what happened to whom."""

    def __init__(self) -> None:
        # Each in the order of their last changes.
        self._troubled: dict[str, Entry] = {}
        self._calm: dict[str, Entry] = {}
        self._open: dict[str, Entry] = {}  # of happenings that are learned together; in neither
        self._gone: dict[str, None] = {}
        self._keys: dict[str, str] = {}  # of connections
        self._long: dict[str, None] = {}  # connected, with something to shorten
        self.revision = 0  # another number, another list
        self.states: Counter[str] = Counter()  # how many machines are in each
        self.problems: Counter[str] = Counter()  # how many machines have each of them now
        self.kept_bytes = 0  # that all entries hold at most
        self.shed_counts: Counter[Key] = Counter()  # what was given up to stay within bounds

    def expect(self, vc_uuids: Iterable[str]) -> None:
        """These were connected before a restart."""
        for vc_uuid in vc_uuids:
            machine = Machine(vc_uuid=vc_uuid)
            if not self.get(vc_uuid):
                size = _NEW_BYTES + bytes_of_machine(machine)
                self._put(Entry(vc_uuid, machine, "", MISSING, bytes=size))

    def expected(self) -> list[str]:
        """The VC UUIDs that would be missed after a restart."""
        entries = chain(self._troubled.values(), self._calm.values())
        return [
            entry.machine.vc_uuid
            for entry in entries
            if entry.machine.vc_uuid and (entry.is_connected or entry.state == MISSING)
        ]

    def process_is_gone(self, process: int, now_s: float) -> None:
        """A worker has died, and its connections with it."""
        for connection, key in list(self._keys.items()):
            if connection.startswith(f"{process}-"):
                self._leave(key, connection, now_s)
        self.settle()

    def forget_missing(self) -> None:
        """Nobody waits any more for machines that are not back."""
        for entry in [entry for entry in self._calm.values() if entry.state == MISSING]:
            self._remove(entry)

    # What people ask

    def __len__(self) -> int:
        return len(self._troubled) + len(self._calm)

    def get(self, key: str) -> Entry | None:
        return self._troubled.get(key) or self._calm.get(key) or self._open.get(key)

    def named(self, name: str) -> list[Entry]:
        return [entry for entry in self.entries() if entry.machine.name == name]

    def entries(self) -> Iterator[Entry]:
        """All, those with trouble first, and then the last changed first."""
        return chain(reversed(self._troubled.values()), reversed(self._calm.values()))

    # What happened

    def hear(self, happening: Happening) -> None:
        self.take(*kept(happening))
        self.settle()

    def take(self, happening: Happening, size: int) -> None:
        """The same for a happening that was cut, and holds `size` bytes; `settle` has to follow.

        A boot is three happenings that come together: their entry changes its places once.
        """
        key = happening.key
        if not key:
            return
        connection = happening.connection
        known = self._keys.get(connection, key)
        if known != key:  # it has told another identity
            self._leave(known, connection, happening.at_s)
        entry = self._open.pop(key, None)
        if entry is None:
            entry = self.get(key)
            if entry:
                self._remove(entry)
            else:
                entry = _new(key, happening)
        self._open[key] = entry
        _add(entry, happening, size)
        if connection and happening.kind in _COMES:
            entry.port_count += connection not in self._keys
            self._keys[connection] = key
        elif happening.kind == "left" and self._keys.pop(connection, ""):
            _lose(entry, connection, happening.at_s)

    def settle(self) -> None:
        """Puts the machines of what was taken into their places, the last changed last."""
        entries, self._open = self._open, {}
        for entry in entries.values():
            self._put(entry)

    def shed(self) -> int:
        """Forgets the machine that left the longest ago; if there is none, the older half of the
        longest unchanged stories. Returns how many bytes that frees: 0 if there is nothing more."""
        if self._gone:
            entry = self._must_get(next(iter(self._gone)))
            self._forget(entry)
            return entry.bytes
        if not self._long:
            return 0
        entry = self._must_get(next(iter(self._long)))
        del self._long[entry.key]
        before = entry.bytes
        self._shorten(entry, MAX_LEFT_BYTES, CUT_LEFT_BYTES)
        self.kept_bytes += entry.bytes - before
        return before - entry.bytes

    def _forget(self, entry: Entry) -> None:
        self._remove(entry)
        self.revision += 1
        self.shed_counts[ADMIN_SHED["machines"]] += 1

    def _shorten(self, entry: Entry, most_bytes: int, cut_bytes: int) -> None:
        _shorten(entry, most_bytes, cut_bytes)
        self.shed_counts[ADMIN_SHED["stories"]] += 1

    def _leave(self, key: str, connection: str, now_s: float) -> None:
        self._keys.pop(connection, None)
        entry = self.get(key)
        if entry and entry.is_connected:
            self._remove(entry)
            self._open.pop(key, None)
            _lose(entry, connection, now_s)
            self._open[key] = entry

    def _put(self, entry: Entry) -> None:
        if entry.port_count:
            if entry.bytes > MAX_LEFT_BYTES:
                if entry.bytes > MAX_CONNECTED_BYTES:
                    self._shorten(entry, MAX_CONNECTED_BYTES, CUT_CONNECTED_BYTES)
                self._long[entry.key] = None
        elif entry.bytes > MAX_LEFT_BYTES:
            self._shorten(entry, MAX_LEFT_BYTES, CUT_LEFT_BYTES)
        self.kept_bytes += entry.bytes
        self.revision += 1
        self._shelf_of(entry)[entry.key] = entry
        self.states[entry.state] += 1
        if entry.state in TROUBLE:
            self.problems[entry.problem] += 1
        if not entry.port_count:
            self._gone[entry.key] = None
            if len(self._gone) > MAX_GONE:
                self._forget(self._must_get(next(iter(self._gone))))

    def _remove(self, entry: Entry) -> None:
        if self._shelf_of(entry).pop(entry.key, None) is None:
            return
        self.kept_bytes -= entry.bytes
        if entry.port_count:
            self._long.pop(entry.key, None)
        else:
            del self._gone[entry.key]
        self.states[entry.state] -= 1
        if entry.state in TROUBLE:
            self.problems[entry.problem] -= 1

    def _shelf_of(self, entry: Entry) -> dict[str, Entry]:
        return self._troubled if entry.state in TROUBLE else self._calm

    def _must_get(self, key: str) -> Entry:
        entry = self.get(key)
        assert entry
        return entry


def _lose(entry: Entry, connection: str, now_s: float) -> None:
    entry.ports.pop(connection, None)
    entry.port_count -= 1
    if entry.port_count:
        return
    entry.left_s = entry.changed_s = now_s
    if entry.state not in TROUBLE:
        entry.state = LEFT


def _new(key: str, happening: Happening) -> Entry:
    machine = happening.machine
    assert machine
    return Entry(key, machine, happening.host, bytes=_NEW_BYTES + bytes_of_machine(machine))


def _add(entry: Entry, happening: Happening, size: int) -> None:
    machine, ours = happening.machine, entry.machine
    assert machine
    if machine is not ours:
        if machine.connected_since == ours.connected_since and machine == ours:
            happening = happening._replace(machine=ours)  # a worker tells it anew each time
        else:
            entry.machine = machine
            entry.bytes += bytes_of_machine(machine)
    entry.host = happening.host
    entry.changed_s = happening.at_s
    entry.bytes += size
    if step := _STEPS.get(happening.kind):
        step(entry, happening)
    if happening.kind in _COMES and happening.connection:
        entry.ports[happening.connection] = happening
        if len(entry.ports) > MAX_PORTS:
            del entry.ports[next(iter(entry.ports))]
    _remember(entry, happening, size)


# Entries that hold too much


def _shorten(entry: Entry, most_bytes: int, cut_bytes: int) -> None:
    """Forgets the oldest of the story until the entry holds at most `most_bytes`. Where that is not
    enough, weighs it, and cuts all until it holds `cut_bytes`: seldom, since that takes long."""
    if entry.bytes > most_bytes:
        _forget_first(entry, most_bytes)
    if entry.bytes <= most_bytes:
        return
    _weigh(entry)
    while entry.bytes > cut_bytes and _halve(entry):
        _weigh(entry)
    for text_bytes, most in _CUTS:
        if entry.bytes <= cut_bytes:
            return
        _cut(entry, text_bytes, most)
        _weigh(entry)


def _forget_first(entry: Entry, most_bytes: int, most: int = MAX_STORY) -> None:
    """Forgets the first ones of the story, until there are at most so many, and the entry holds at
    most so much; but for the last."""
    story, held, count = entry.story, entry.bytes, 0
    surely, perhaps = len(story) - most, len(story) - _LAST
    while count < surely or (held > most_bytes and count < perhaps):
        first, _, size = story[count]
        count += 1
        if _is_beside_story(entry, first):
            continue
        held -= size
        machine = first.machine
        if story[count][0].machine is not machine and not _is_machine_beside(entry, machine):
            held -= bytes_of_machine(machine)
    entry.story, entry.bytes = story[count:], held


def _is_beside_story(entry: Entry, happening: Happening) -> bool:
    if happening is entry.served or happening is entry.trouble:
        return True
    if not entry.moves and not entry.ports:
        return False
    return any(one is happening for one in _beside_story(entry))


def _is_machine_beside(entry: Entry, machine: Machine | None) -> bool:
    if entry.served and entry.served.machine is machine:
        return True
    if not entry.trouble and not entry.moves and not entry.ports:
        return False
    return any(one.machine is machine for one in _beside_story(entry))


def _beside_story(entry: Entry) -> list[Happening]:
    """What the entry has without its story too."""
    both = (one for one in (entry.served, entry.trouble) if one)
    return [*both, *entry.moves, *entry.ports.values()]


def _halve(entry: Entry) -> bool:
    """Whether there was something to forget: of what was asked only when the rest is gone."""
    if max(len(entry.story), len(entry.moves), len(entry.ports)) > 1:
        entry.story = entry.story[len(entry.story) // 2 :]
        entry.moves = entry.moves[len(entry.moves) // 2 :]
        for connection in list(entry.ports)[: len(entry.ports) // 2]:
            del entry.ports[connection]
        return True
    for name, *_ in entry.answers()[: len(entry.asked) // 2]:
        del entry.asked[name]
    return len(entry.asked) > 1


def _cut(entry: Entry, text_bytes: int, most: int) -> None:
    machine = entry.machine
    known: dict[int, Happening] = {}  # what was one happening stays one

    def shorter(happening: Happening) -> Happening:
        if id(happening) not in known:
            known[id(happening)] = happening._replace(
                machine=machine,
                text=within(happening.text, text_bytes),
                details=cut(happening.details, text_bytes, most),
            )
        return known[id(happening)]

    entry.story = tuple((shorter(one), times, size) for one, times, size in entry.story)
    entry.moves = tuple(map(shorter, entry.moves))
    entry.trouble = entry.trouble and shorter(entry.trouble)
    entry.served = entry.served and shorter(entry.served)
    entry.ports = {name: shorter(happening) for name, happening in entry.ports.items()}
    entry.asked = {name: (at_s, outcome) for name, at_s, outcome in entry.answers()}


def _weigh(entry: Entry) -> None:
    """Counts what the entry holds, each object once: what happenings share with the last that has
    it, so that to forget the first frees what it is said to. Machines: with all in a row."""
    seen: set[int] = set()
    size = _ENTRY_BYTES + _weight(entry.asked, seen)
    size += sum(map(getsizeof, (entry.story, entry.moves, entry.ports)))
    size += sum(_weight_of(happening, seen) for happening in _beside_story(entry))
    machines = [entry.machine, *(happening.machine for happening in _beside_story(entry))]
    size += sum(map(bytes_of_machine, {id(machine): machine for machine in machines}.values()))
    story, newer = [], entry.machine
    for happening, times, _ in reversed(entry.story):
        own = _PLACE_BYTES + _weight_of(happening, seen)
        story.append((happening, times, own))
        size += own
        if happening.machine is not newer:
            size += bytes_of_machine(happening.machine)
            newer = happening.machine or newer
    entry.story = tuple(reversed(story))
    entry.bytes = size


def _weight_of(happening: Happening, seen: set[int]) -> int:
    """Without its machine."""
    if id(happening) in seen:
        return 0
    seen.add(id(happening))
    size = getsizeof(happening) + getsizeof(happening.at_s) + getsizeof(happening.details)
    parts = (happening.text, happening.connection, happening.peer, *happening.details.values())
    return size + sum(_weight(part, seen) for part in parts)


def _weight(value: object, seen: set[int]) -> int:
    if id(value) in seen:
        return 0
    seen.add(id(value))
    size = getsizeof(value)
    if isinstance(value, dict):
        return size + sum(_weight(part, seen) for pair in value.items() for part in pair)
    if isinstance(value, tuple | list):
        return size + sum(_weight(part, seen) for part in value)
    return size


def _remember(entry: Entry, happening: Happening, size: int) -> None:
    """Adds to the story; what happens again and again is there once, with a count."""
    times = 1
    if entry.story:
        last, before, its_size = entry.story[-1]
        if (last.kind, last.text) == (happening.kind, happening.text):
            entry.story = entry.story[:-1]
            if not _is_beside_story(entry, last):
                entry.bytes -= its_size
            times += before
        elif len(entry.story) == MAX_STORY:
            _forget_first(entry, entry.bytes, MAX_STORY - 1)
    entry.story = (*entry.story, (happening, times, size))


# What each kind of happening does to a machine

_COMES = ("identified", "changed", "moved")


def _identified(entry: Entry, _happening: Happening) -> None:
    if entry.state not in TROUBLE:
        entry.state = WAITING


def _served(entry: Entry, happening: Happening) -> None:
    entry.served = happening
    entry.state = SERVED
    if problem := happening.details.get("problem"):
        entry.state = STALE
        if not entry.trouble or entry.trouble.kind != STALE:
            entry.trouble = happening._replace(kind=STALE, text=problem)
    answered = happening.details["answered"]
    entry.asked |= dict.fromkeys(answered, answered)
    _forget_answers(entry)


def _failed(entry: Entry, happening: Happening) -> None:
    details = happening.details
    entry.asked[within(details["document"], MAX_DOCUMENT_BYTES)] = happening.at_s, details["error"]
    entry.bytes += _ASKED_BYTES
    _forget_answers(entry)
    if happening.details["error"] != "unknown-request":
        _in_trouble(entry, happening)


def _refused(entry: Entry, happening: Happening) -> None:
    if not entry.port_count:  # else it is another port of a machine that is served
        _in_trouble(entry, happening)


def _forget_answers(entry: Entry) -> None:
    while len(entry.asked) > MAX_ASKED:
        oldest, *_ = entry.answers()[0]
        del entry.asked[oldest]


def _in_trouble(entry: Entry, happening: Happening) -> None:
    entry.trouble = happening
    entry.state = STALE if happening.kind == "stale" else FAILED


def _moving(entry: Entry, happening: Happening) -> None:
    if entry.state != MOVING:
        entry.before_move = entry.state
    entry.state = MOVING
    _move(entry, happening)


def _back(entry: Entry, happening: Happening) -> None:
    if entry.state == MOVING:
        entry.state = entry.before_move
    _move(entry, happening)


def _arrived(entry: Entry, happening: Happening) -> None:
    entry.state = entry.before_move if entry.state in (MOVING, LEFT) else entry.state
    _move(entry, happening)


def _move(entry: Entry, happening: Happening) -> None:
    entry.moves = (*entry.moves, happening)[-MAX_MOVES:]


_STEPS: dict[str, Callable[[Entry, Happening], None]] = {
    "identified": _identified,
    "served": _served,
    "failed": _failed,
    "refused": _refused,
    "stale": _in_trouble,
    "move begun": _moving,
    "move declined": _move,
    "move aborted": _back,
    "move expired": _back,
    "moved": _arrived,
}


def problem_of(happening: Happening) -> str:
    """A name for it that others share: "not-found", "refused: another service URI"."""
    if happening.kind == "stale":
        return STALE
    return str(happening.details.get("error") or happening.details.get("reason", ""))

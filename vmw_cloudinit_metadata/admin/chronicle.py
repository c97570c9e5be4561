"""The machines that were here, and what happened to each: made of happenings, and bounded.

Each happening costs a few dictionary steps; what people read is made when they ask for it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from itertools import chain
from operator import itemgetter

from vmw_cloudinit_metadata.happenings import Happening
from vmw_cloudinit_metadata.protocol.vmware import Machine

MAX_GONE = 10_000  # machines that are not connected; the longest unchanged make room
MAX_STORY = 20  # happenings of one machine
MAX_MOVES = 20
MAX_ASKED = 32  # documents
MISSING_S = 24 * 3600.0  # so long a machine of before the restart is waited for

# A machine's state: the first ones are trouble.
FAILED, STALE = "failed", "stale"
MISSING, WAITING, MOVING, SERVED, LEFT = "missing", "waiting", "moving", "served", "left"
TROUBLE = (FAILED, STALE)
STATES = (FAILED, STALE, MISSING, MOVING, WAITING, SERVED, LEFT)


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
    ports: dict[str, Happening] = field(default_factory=dict)  # by connection; how it came
    trouble: Happening | None = None  # the last, also one that is over
    served: Happening | None = None
    asked: dict[str, Happening] = field(default_factory=dict)  # document: its last answer
    # Tuples, which are small: there are as many as VMs.
    moves: tuple[Happening, ...] = ()
    story: tuple[tuple[Happening, int], ...] = ()  # and how often

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


def _answer_in(happening: Happening, document: str) -> tuple[float, str]:
    answered = happening.details.get("answered")
    if answered:
        return answered[document], "answered"
    return happening.at_s, happening.details["error"]


class Chronicle:
    """Hears happenings; answers who is there, and what happened to whom."""

    def __init__(self) -> None:
        # Each in the order of their last changes.
        self._troubled: dict[str, Entry] = {}
        self._calm: dict[str, Entry] = {}
        self._gone: dict[str, None] = {}
        self._keys: dict[str, str] = {}  # of connections
        self.revision = 0  # another number, another list
        self.states: Counter[str] = Counter()  # how many machines are in each
        self.problems: Counter[str] = Counter()  # how many machines have each of them now

    def expect(self, vc_uuids: Iterable[str]) -> None:
        """These were connected before a restart."""
        for vc_uuid in vc_uuids:
            machine = Machine(vc_uuid=vc_uuid)
            if not self.get(vc_uuid):
                self._put(Entry(vc_uuid, machine, "", MISSING))

    def expected(self) -> list[str]:
        """The VC UUIDs that would be missed after a restart."""
        entries = chain(self._troubled.values(), self._calm.values())
        return [
            entry.machine.vc_uuid
            for entry in entries
            if entry.machine.vc_uuid and (entry.ports or entry.state == MISSING)
        ]

    def process_is_gone(self, process: int, now_s: float) -> None:
        """A worker has died, and its connections with it."""
        for connection, key in list(self._keys.items()):
            if connection.startswith(f"{process}-"):
                self._leave(key, connection, now_s)

    def forget_missing(self) -> None:
        """Nobody waits any more for machines that are not back."""
        for entry in [entry for entry in self._calm.values() if entry.state == MISSING]:
            self._remove(entry)

    # What people ask

    def __len__(self) -> int:
        return len(self._troubled) + len(self._calm)

    def get(self, key: str) -> Entry | None:
        return self._troubled.get(key) or self._calm.get(key)

    def named(self, name: str) -> list[Entry]:
        return [entry for entry in self.entries() if entry.machine.name == name]

    def entries(self) -> Iterator[Entry]:
        """All, those with trouble first, and then the last changed first."""
        return chain(reversed(self._troubled.values()), reversed(self._calm.values()))

    # What happened

    def hear(self, happening: Happening) -> None:
        key = happening.key
        if not key:
            return
        connection = happening.connection
        known = self._keys.get(connection, key)
        if known != key:  # it has told another identity
            self._leave(known, connection, happening.at_s)
        self._take(key, happening)
        if happening.kind in _COMES and connection:
            self._keys[connection] = key
        elif happening.kind == "left":
            self._keys.pop(connection, None)

    def _take(self, key: str, happening: Happening) -> None:
        assert happening.machine
        entry = self.get(key) or Entry(key, happening.machine, happening.host)
        self._remove(entry)
        entry.machine, entry.host = happening.machine, happening.host
        entry.changed_s = happening.at_s
        _remember(entry, happening)
        if step := _STEPS.get(happening.kind):
            step(entry, happening)
        if happening.kind in _COMES and happening.connection:
            entry.ports[happening.connection] = happening
        self._put(entry)

    def _leave(self, key: str, connection: str, now_s: float) -> None:
        self._keys.pop(connection, None)
        entry = self.get(key)
        if entry and connection in entry.ports:
            self._remove(entry)
            _lose(entry, connection, now_s)
            self._put(entry)

    def _put(self, entry: Entry) -> None:
        self.revision += 1
        self._shelf_of(entry)[entry.key] = entry
        self.states[entry.state] += 1
        if entry.state in TROUBLE:
            self.problems[entry.problem] += 1
        if not entry.ports:
            self._gone[entry.key] = None
            if len(self._gone) > MAX_GONE:
                self._remove(self._must_get(next(iter(self._gone))))

    def _remove(self, entry: Entry) -> None:
        if self._shelf_of(entry).pop(entry.key, None) is None:
            return
        if not entry.ports:
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
    if entry.ports.pop(connection, None) is None or entry.ports:
        return
    entry.left_s = entry.changed_s = now_s
    if entry.state not in TROUBLE:
        entry.state = LEFT


def _remember(entry: Entry, happening: Happening) -> None:
    """Adds to the story; what happens again and again is there once, with a count."""
    if entry.story:
        last, times = entry.story[-1]
        if (last.kind, last.text) == (happening.kind, happening.text):
            entry.story = (*entry.story[:-1], (happening, times + 1))
            return
    entry.story = (*entry.story, (happening, 1))[-MAX_STORY:]


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
    entry.asked |= dict.fromkeys(happening.details["answered"], happening)
    _forget_answers(entry)


def _failed(entry: Entry, happening: Happening) -> None:
    entry.asked[happening.details["document"]] = happening
    _forget_answers(entry)
    if happening.details["error"] != "unknown-request":
        _in_trouble(entry, happening)


def _refused(entry: Entry, happening: Happening) -> None:
    if not entry.ports:  # else it is another port of a machine that is served
        _in_trouble(entry, happening)


def _left(entry: Entry, happening: Happening) -> None:
    _lose(entry, happening.connection, happening.at_s)


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
    "left": _left,
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

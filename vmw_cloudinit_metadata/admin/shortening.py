"""Cuts records that hold too much: the oldest of a story is forgotten first. No I/O.

The size of a record is added up as happenings arrive. Only a record that seems too large is
weighed, each object once.
"""

from __future__ import annotations

from sys import getsizeof

from vmw_cloudinit_metadata.admin.machinerecord import BROKEN, MachineRecord
from vmw_cloudinit_metadata.monitoring.bounded import cut, within
from vmw_cloudinit_metadata.monitoring.facts import BootReported
from vmw_cloudinit_metadata.monitoring.happenings import Happening
from vmw_cloudinit_metadata.monitoring.kept import bytes_of_machine
from vmw_cloudinit_metadata.protocol.vmware import Machine

MAX_STORY = 20  # happenings of one machine
_LAST = 3  # of them stay as long as possible

_RECORD_BYTES = 400  # a record, and its places in dictionaries
_PLACE_BYTES = 80  # in a story

# How texts are cut, and how many documents and sources stay, until a record is short enough.
_CUTS = ((256, 4), (128, 1), (128, 0))
_ERROR_BYTES = 256  # of each error of a boot that has failed, where there is no room for all of it


def shorten(record: MachineRecord, most_bytes: int, cut_bytes: int) -> None:
    """Forget the oldest of the story until the record holds at most `most_bytes`. If that is not
    enough, weigh the record and cut it to `cut_bytes`: rarely, since that takes long.

    The errors of a boot that has failed come on top of that, and are cut last.
    """
    if record.bytes > most_bytes:
        forget_first(record, most_bytes)
    if record.bytes <= most_bytes:
        return
    _weigh(record)
    errors = _errors_of(record)
    cut_bytes = min(cut_bytes + sum(map(getsizeof, errors)), most_bytes)
    while record.bytes > cut_bytes and _halve(record):
        _weigh(record)
    for text_bytes, most in _CUTS:
        if record.bytes <= cut_bytes:
            return
        _cut(record, text_bytes, most, errors)
        _weigh(record)
    for shorter in (tuple(within(error, _ERROR_BYTES) for error in errors), ()):
        if record.bytes <= most_bytes:
            return
        _cut(record, text_bytes, most, shorter)
        _weigh(record)


def _errors_of(record: MachineRecord) -> tuple[str, ...]:
    """Return the errors of a boot that has failed, if that is the machine's trouble."""
    fact = record.outcome.fact if record.outcome else None
    return fact.errors if record.state == BROKEN and isinstance(fact, BootReported) else ()


def forget_first(record: MachineRecord, most_bytes: int) -> None:
    """Forget the first happenings of the story, until there are at most MAX_STORY and the record
    holds at most `most_bytes`; but never the last ones."""
    story, held, count = record.story, record.bytes, 0
    length = len(story)
    surely, perhaps = length - MAX_STORY, length - _LAST
    while count < surely or (held > most_bytes and count < perhaps):
        first, _, size = story[count]
        count += 1
        if is_beside_story(record, first):
            continue
        held -= size
        machine = first.machine
        if story[count][0].machine is not machine and not _is_machine_beside(record, machine):
            held -= bytes_of_machine(machine)
    record.story, record.bytes = story[count:], held


def is_beside_story(record: MachineRecord, happening: Happening) -> bool:
    if happening is record.served or happening is record.trouble or happening is record.outcome:
        return True
    if not record.moves and not record.ports:
        return False
    return any(one is happening for one in _beside_story(record))


def _is_machine_beside(record: MachineRecord, machine: Machine | None) -> bool:
    if record.served and record.served.machine is machine:
        return True
    if not record.trouble and not record.moves and not record.ports and not record.outcome:
        return False
    return any(one.machine is machine for one in _beside_story(record))


def _beside_story(record: MachineRecord) -> list[Happening]:
    """Return the happenings that the record holds besides its story."""
    beside = (one for one in (record.served, record.trouble, record.outcome) if one)
    return [*beside, *record.moves, *record.ports.values()]


def _halve(record: MachineRecord) -> bool:
    """Forget the older half of the story, or of the answers if nothing else is left; return whether
    more can be forgotten."""
    if max(len(record.story), len(record.moves), len(record.ports)) > 1:
        record.story = record.story[len(record.story) // 2 :]
        record.moves = record.moves[len(record.moves) // 2 :]
        for connection in list(record.ports)[: len(record.ports) // 2]:
            del record.ports[connection]
        return True
    for name, *_ in record.answers()[: len(record.asked) // 2]:
        del record.asked[name]
    return len(record.asked) > 1


def _cut(record: MachineRecord, text_bytes: int, most: int, errors: tuple[str, ...]) -> None:
    machine, outcome = record.machine, record.outcome
    known: dict[int, Happening] = {}  # what was one happening stays one

    def shorter(happening: Happening) -> Happening:
        if id(happening) not in known:
            fact = cut(happening.fact, text_bytes, most)
            if errors and happening is outcome and isinstance(fact, BootReported):
                more = {name: count for name, count in fact.more.items() if name != "errors"}
                fact = fact._replace(errors=errors, more=more)
            known[id(happening)] = happening._replace(machine=machine, fact=fact)
        return known[id(happening)]

    record.story = tuple((shorter(one), times, size) for one, times, size in record.story)
    record.moves = tuple(map(shorter, record.moves))
    record.trouble = record.trouble and shorter(record.trouble)
    record.served = record.served and shorter(record.served)
    record.outcome = record.outcome and shorter(record.outcome)
    record.ports = {name: shorter(happening) for name, happening in record.ports.items()}
    record.asked = {name: (at_s, outcome) for name, at_s, outcome in record.answers()}


def _weigh(record: MachineRecord) -> None:
    """Count the bytes of the record again, each object once. What several happenings share counts
    for the newest of them, so forgetting an older one frees exactly the bytes noted for it."""
    seen: set[int] = set()
    size = _RECORD_BYTES + _weight(record.asked, seen)
    size += sum(map(getsizeof, (record.story, record.moves, record.ports)))
    size += sum(_weight_of(happening, seen) for happening in _beside_story(record))
    machines = [record.machine, *(happening.machine for happening in _beside_story(record))]
    size += sum(map(bytes_of_machine, {id(machine): machine for machine in machines}.values()))
    story, newer = [], record.machine
    for happening, times, _ in reversed(record.story):
        own = _PLACE_BYTES + _weight_of(happening, seen)
        story.append((happening, times, own))
        size += own
        if happening.machine is not newer:
            size += bytes_of_machine(happening.machine)
            newer = happening.machine or newer
    record.story = tuple(reversed(story))
    record.bytes = size


def _weight_of(happening: Happening, seen: set[int]) -> int:
    """Return the bytes of a happening without its machine; 0 if it was weighed before."""
    if id(happening) in seen:
        return 0
    seen.add(id(happening))
    size = getsizeof(happening) + getsizeof(happening.at_s) + getsizeof(happening.fact)
    parts = (happening.connection, happening.peer, *happening.fact)
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

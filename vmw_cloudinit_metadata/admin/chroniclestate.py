"""The list of machines as JSON has it, with which the next program goes on. No I/O.

The parts of a record share their happenings, and happenings their machine: each is written once.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import ujson

from vmw_cloudinit_metadata.admin.chronicle import Chronicle
from vmw_cloudinit_metadata.admin.machinerecord import STATES, MachineRecord
from vmw_cloudinit_metadata.monitoring.happenings import Happening
from vmw_cloudinit_metadata.monitoring.packed import pack, unpack
from vmw_cloudinit_metadata.protocol.state import COUNT, SECONDS, InvalidState, State, mapping, text
from vmw_cloudinit_metadata.protocol.vmware import MACHINE

_TEXT = text(4096)
_FIELDS = {
    **dict.fromkeys(("key", "host", "state", "before_move"), _TEXT),
    **dict.fromkeys(("changed_s", "left_s"), SECONDS),
    **dict.fromkeys(("port_count", "bytes"), COUNT),
    "machine": MACHINE,
}


def state_of(chronicle: Chronicle) -> State:
    """Return the state, once all happenings are settled."""
    # As text: all of it at once would take more memory than the list.
    records = [ujson.dumps(_written(record), ensure_ascii=False) for record in chronicle.entries()]
    records.reverse()  # the last changed one is put in last
    return {"records": records, "keys": chronicle.keys, "revision": chronicle.revision}


def restore(chronicle: Chronicle, state: object) -> int:
    """Let a new chronicle go on from a state; return how many records are lost, because they cannot
    be read. Raise InvalidState."""
    match mapping(state):
        case {"records": [*records], "keys": dict(keys), "revision": int(revision)}:
            pass
        case _:
            raise InvalidState("a list of machines has other parts")
    lost = 0
    for written in records:
        try:
            chronicle.restore(_read(ujson.loads(written)))
        except Exception:  # whatever it has: the list has the others
            lost += 1
    for connection, key in keys.items():
        if chronicle.get(key):
            chronicle.keys[connection] = key
    chronicle.revision = revision + 1
    return lost


def _written(record: MachineRecord) -> State:
    happenings: dict[int, tuple[int, Happening]] = {}  # by identity: their place

    def place(happening: Happening | None) -> int | None:
        if happening is None:
            return None
        return happenings.setdefault(id(happening), (len(happenings), happening))[0]

    state = {name: form.write(getattr(record, name)) for name, form in _FIELDS.items()}
    state |= {
        "ports": {connection: place(came) for connection, came in record.ports.items()},
        "trouble": place(record.trouble),
        "served": place(record.served),
        "outcome": place(record.outcome),
        "metadata_s": record.metadata_s,
        "moves": [place(move) for move in record.moves],
        "story": [[place(happening), times, size] for happening, times, size in record.story],
        "asked": [[document, at_s, error] for document, at_s, error in record.answers()],
    }
    machine = record.machine
    state["happenings"] = [
        pack(one._replace(machine=None) if one.machine is machine else one)
        for _, one in happenings.values()
    ]
    return state


def _read(written: object) -> MachineRecord:
    state = mapping(written)
    fields = {name: form.read(state[name]) for name, form in _FIELDS.items()}
    if fields["state"] not in STATES or fields["before_move"] not in STATES:
        raise InvalidState("a machine in an unknown state")
    record = MachineRecord(**fields)
    happenings = [_happening(one, record) for one in state["happenings"]]

    def at(place: int | None) -> Happening | None:
        return None if place is None else happenings[place]

    record.ports = {connection: happenings[place] for connection, place in state["ports"].items()}
    record.trouble, record.served = at(state["trouble"]), at(state["served"])
    # An older program writes none of them.
    record.outcome = at(state.get("outcome"))
    record.metadata_s = SECONDS.read(state.get("metadata_s", 0.0))
    record.moves = tuple(happenings[place] for place in state["moves"])
    record.story = tuple((happenings[place], times, size) for place, times, size in state["story"])
    record.asked = dict(_asked(state["asked"], record))
    return record


def _happening(packed: Any, record: MachineRecord) -> Happening:
    happening = unpack(packed)
    return happening if happening.machine else happening._replace(machine=record.machine)


def _asked(written: Any, record: MachineRecord) -> Iterator[tuple[str, Any]]:
    """Yield each document and its last answer; those that were answered together share one."""
    answered = getattr(record.served and record.served.fact, "answered", {})
    for document, at_s, error in written:
        if error != "answered":
            yield document, (at_s, error)
        elif answered.get(document) == at_s:
            yield document, answered
        else:
            yield document, {document: at_s}

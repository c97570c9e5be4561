"""FleetState: whether a server reaches what the fleet shares, since when, and why not. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

# The last line of the fleet process's input: mark the server as stopped, or leave it as it is.
STOP, PAUSE = b"stop\n", b"pause\n"

MAX_TEXT = 500  # characters
_MAX_TIME_S = 1e11  # since 1970
_MAX_COUNT = 2**63


@dataclass(frozen=True, slots=True)
class FleetState:
    """What the fleet process says of itself, every second and at each change."""

    is_connected: bool = False
    since_s: float = 0.0  # since 1970; when it became so. 0: it has never been heard of
    problem: str = ""  # why it is not connected
    server: str = ""  # the id of this start of the server, in the database
    place: str = ""  # of the database, without user and password
    schema: int = 0  # the version of the schema
    fault: str = ""  # the last statement that the database refused, and why
    epoch: int = 0  # another number after each connect
    counts: Mapping[str, int] = field(default_factory=dict)  # since the process has begun
    namesake: str = ""  # since when another server of this name runs; "": there is none

    @property
    def name(self) -> str:
        if self.is_connected:
            return "connected"
        return "out of reach" if self.problem else "connecting"

    def pack(self) -> dict[str, Any]:
        return {
            "connected": self.is_connected,
            "since": self.since_s,
            "problem": self.problem,
            "server": self.server,
            "place": self.place,
            "schema": self.schema,
            "fault": self.fault,
            "epoch": self.epoch,
            "counts": dict(self.counts),
            "namesake": self.namesake,
        }

    @classmethod
    def unpack(cls, packed: object) -> FleetState:
        """Return what `pack` has packed, after JSON; raise ValueError for anything else."""
        match packed:
            case {
                "connected": bool(is_connected),
                "since": float(since_s) | int(since_s),
                "problem": str(problem),
                "server": str(server),
                "place": str(place),
                "schema": int(schema),
                "fault": str(fault),
                "epoch": int(epoch),
                "counts": dict(counts),
                "namesake": str(namesake),
            } if 0 <= since_s < _MAX_TIME_S and all(map(_is_count, counts.values())):
                problem, place, fault = (one[:MAX_TEXT] for one in (problem, place, fault))
                texts = problem, server[:MAX_TEXT], place
                return cls(
                    is_connected, since_s, *texts, schema, fault, epoch, counts, namesake[:MAX_TEXT]
                )
        raise ValueError("not the state of a fleet process")


def _is_count(value: object) -> bool:
    return type(value) is int and 0 <= value <= _MAX_COUNT

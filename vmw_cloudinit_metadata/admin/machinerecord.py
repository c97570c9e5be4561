"""The record of one machine: its state, its last answers, and its story. No I/O."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from operator import itemgetter

from vmw_cloudinit_metadata.monitoring.facts import (
    BootReported,
    ConnectionClosed,
    PeerRejected,
    RequestFailed,
    StaleServed,
)
from vmw_cloudinit_metadata.monitoring.happenings import Happening
from vmw_cloudinit_metadata.protocol.vmware import Machine

# A machine's state: the first ones are trouble.
FAILED, STALE, BROKEN = "failed", "stale", "broken"
MISSING, WAITING, MOVING, SERVED, LEFT = "missing", "waiting", "moving", "served", "left"
BOOTED = "booted"
TEST = "test"  # an administrator plays it, whatever becomes of it
TROUBLE = (FAILED, STALE, BROKEN)
ENDED = (BOOTED, BROKEN)  # the guest has said so
AGEING = (*TROUBLE, TEST)  # forgotten a while after the machine has disconnected
STATES = (FAILED, STALE, BROKEN, MISSING, MOVING, WAITING, SERVED, BOOTED, LEFT, TEST)
GONE = "gone"  # in a fleet: of a machine that was connected to a server that is gone
FLEET_STATES = (*STATES, GONE)

# The times of all documents that were answered together; or when one was not, and with which error.
_Answered = Mapping[str, float] | tuple[float, str]


@dataclass(slots=True)
class MachineRecord:
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
    metadata_s: float = 0.0  # when it had its meta-data last
    outcome: Happening | None = None  # of a boot, the last that its guest has reported
    asked: dict[str, _Answered] = field(default_factory=dict)  # document: its last answer
    # Tuples, which are small: there are as many as VMs.
    moves: tuple[Happening, ...] = ()
    story: tuple[tuple[Happening, int, int], ...] = ()  # how often, and the bytes that it holds
    bytes: int = 0  # that it holds at most

    @property
    def is_connected(self) -> bool:
        return self.port_count > 0

    @property
    def awaits_outcome(self) -> bool:
        """Whether its guest has not said yet how its boot ended."""
        is_new = self.outcome is None or self.outcome.at_s < self.metadata_s
        return bool(self.metadata_s) and is_new and self.state != TEST

    def dismiss_trouble(self) -> None:
        """An operator knows of its trouble, and wants to see no more of it."""
        if self.state in TROUBLE:
            self.state = SERVED if self.served else WAITING

    @property
    def problem(self) -> str:
        """The name of its problem, which others share; "" if it has none now."""
        if self.state not in TROUBLE or not self.trouble:
            return ""
        return problem_of(self.trouble)

    def answers(self) -> list[tuple[str, float, str]]:
        """Return document, time and outcome of each last answer, in the order of time."""
        answers = [(name, *_answer_in(answer, name)) for name, answer in self.asked.items()]
        return sorted(answers, key=itemgetter(1))


def _answer_in(answered: _Answered, document: str) -> tuple[float, str]:
    return answered if isinstance(answered, tuple) else (answered[document], "answered")


def problem_of(happening: Happening) -> str:
    """Return a name for a problem, which others share: "not-found", "refused: another service
    URI"."""
    match happening.fact:
        case StaleServed():
            return STALE
        case BootReported():
            return "boot failed"
        case RequestFailed(error=error):
            return error
        case PeerRejected(reason=reason) | ConnectionClosed(reason=reason):
            return reason
    return ""

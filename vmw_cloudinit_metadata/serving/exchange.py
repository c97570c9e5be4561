"""What moves between processes need: an Exchange connects this process with the others."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from vmw_cloudinit_metadata.protocol.handover import Handover


@dataclass(frozen=True, slots=True)
class MoveOver:
    """The move has ended at its source: its target is none."""


Fetched = Handover | MoveOver | None  # None: nobody hands the VM over


class Sources(Protocol):
    """The sources of moves in this process, by the numbers of the moves."""

    def target_elsewhere(self, number: int, *, is_there: bool) -> None:
        """Note that the target of a move has connected to another process, or disconnected."""

    def hand_over(self, number: int) -> Handover | None:
        """End a move here: the VM goes on elsewhere. None: the move is over."""


class Exchange(Protocol):
    """Connects the moves of this process with those of others. Nothing here waits or raises."""

    def attend(self, sources: Sources) -> None:
        """Answer, from now on, what targets in other processes ask of the sources here."""

    def announce(self, number: int, token: bytes) -> None:
        """Let targets in other processes find the source of this move."""

    def arrive(self, number: int) -> None:
        """Let the secret of an announced move be used nowhere else: its target is here."""

    def end(self, number: int, *, is_over: bool) -> None:
        """Let nobody ask for this move any more; `is_over`: its target is to be refused."""

    def claim(self, token: bytes, then: Callable[[bool], None]) -> None:
        """Call `then`, once and soon: whether nobody has used this secret, as far as is known."""

    def fetch(self, token: bytes, then: Callable[[Fetched], None]) -> None:
        """Call `then`, once and soon, with what the source of a claimed move hands over."""

    def leave(self, token: bytes) -> None:
        """Note that the target of a claimed move has disconnected before VMOTION-COMPLETE."""

    def when_connected(self, call: Callable[[], None]) -> None:
        """Call it, once, as soon as others can be asked, or when that takes too long."""

    @property
    def is_asking(self) -> bool:
        """Whether a claim or fetch waits for its reply."""

    def hold(self) -> None:
        """Ask nothing more until `go_on`: the next program asks."""

    def go_on(self) -> None:
        """Ask what was held back."""

"""WaitingAnswers: what waits for the disk, by file. Filled in the hub, emptied by one thread."""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass
from threading import Condition

from vmw_cloudinit_metadata.protocol.vmware import Machine
from vmw_cloudinit_metadata.serving.answer import Answer
from vmw_cloudinit_metadata.serving.ondisk.answerfile import name_of

MAX_WAITING = 20_000
MAX_WAITING_BYTES = 256 * 1024 * 1024  # most of it is kept as cached answers, too
_REMOVAL_BYTES = 4096  # one that waits, with its machine
_BATCH = 256  # files that are synced together
_BATCH_BYTES = 8 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class WaitingAnswer:
    """A VM's answer, or None: its file is to be removed."""

    machine: Machine
    answer: Answer | None
    since_s: float  # since 1970: when it was looked up

    @property
    def size(self) -> int:
        return self.answer.size if self.answer else _REMOVAL_BYTES


class WaitingAnswers:
    """A later answer replaces an earlier one that still waits. Nothing in here blocks for long."""

    def __init__(self) -> None:
        self._changed = Condition()
        self._waiting: OrderedDict[str, WaitingAnswer] = OrderedDict()
        self._bytes = 0
        self._is_taken = False  # what was taken is not written yet
        self.is_closed = False
        self.dropped = 0

    def put(self, machine: Machine, answer: Answer | None) -> None:
        """Let the answer wait; drop it if too many do."""
        one, name = WaitingAnswer(machine, answer, time.time()), name_of(machine)
        with self._changed:
            before = self._waiting.pop(name, None)
            self._bytes -= before.size if before else 0
            self._add(name, one)
            self._changed.notify()

    def _add(self, name: str, one: WaitingAnswer) -> None:
        is_full = len(self._waiting) >= MAX_WAITING
        if is_full or self._bytes + one.size > MAX_WAITING_BYTES:
            self.dropped += 1
            return
        self._waiting[name] = one
        self._bytes += one.size

    def put_back(self, batch: Mapping[str, WaitingAnswer]) -> None:
        """Let what could not be written wait again, behind the others; nothing once closed."""
        with self._changed:
            for name, one in batch.items():
                if not self.is_closed and name not in self._waiting:
                    self._add(name, one)

    @property
    def kept_bytes(self) -> int:
        return self._bytes

    def shed(self) -> bool:
        """Drop the answer that has waited longest; return False if there is none."""
        with self._changed:
            if not self._waiting:
                return False
            self._take_one()
            self.dropped += 1
            return True

    @property
    def is_busy(self) -> bool:
        """Whether something waits, or is being written."""
        return bool(self._waiting) or self._is_taken

    def close(self) -> None:
        with self._changed:
            self.is_closed = True
            self._changed.notify()

    def pause(self, limit_s: float) -> None:
        """Wait so long, or until it is closed."""
        with self._changed:
            self._changed.wait_for(lambda: self.is_closed, limit_s)

    def take(self, limit_s: float) -> dict[str, WaitingAnswer]:
        """Wait until there is something, or it is closed, at most `limit_s`; return a batch.

        What the previous call has returned counts as written.
        """
        with self._changed:
            self._is_taken = False
            if not self._waiting and not self.is_closed:
                self._changed.wait(limit_s)
            batch: dict[str, WaitingAnswer] = {}
            count = size = 0
            while self._waiting and count < _BATCH and size < _BATCH_BYTES:
                name, one = self._take_one()
                batch[name] = one
                count += one.answer is not None  # to remove a file is cheap
                size += one.size
            self._is_taken = bool(batch)
            return batch

    def _take_one(self) -> tuple[str, WaitingAnswer]:
        name, one = self._waiting.popitem(last=False)
        self._bytes -= one.size
        return name, one

"""Gathering: what several threads want to know at the same time is one question. Blocks.

One request is under way, and what is asked meanwhile waits for the next one. A thread that asks
alone waits for nobody. With 8 threads at a time a look-up costs 0.14 ms of CPU and not 0.30, with
32 threads 0.07 ms.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Generic, TypeVar

from vmw_cloudinit_metadata.drivers.drivererror import DriverError

Part = TypeVar("Part")
Found = TypeVar("Found")


@dataclass(slots=True)
class _Gathered(Generic[Part, Found]):
    """The parts of one request, and what was found, or why nothing was."""

    parts: list[Part] = field(default_factory=list)
    is_over: threading.Event = field(default_factory=threading.Event)
    found: Sequence[Found] = ()
    error: DriverError | None = None


class Gathering(Generic[Part, Found]):
    def __init__(
        self,
        ask: Callable[[Sequence[Part], float], Sequence[Found]],
        max_parts: int,
        within_s: float,
    ) -> None:
        """`ask` gets parts and a time of time.monotonic(); it returns what it found for each.

        It may raise DriverError.
        """
        self._ask = ask
        self._max_parts = max_parts
        self._within_s = within_s
        self._under_way = threading.Lock()
        self._lock = threading.Lock()
        self._waiting: _Gathered[Part, Found] = _Gathered()

    def ask(self, parts: Sequence[Part]) -> Sequence[Found]:
        """Return what was found for each part; raise DriverError after `within_s` at the latest."""
        end_s = time.monotonic() + self._within_s
        with self._lock:
            batch = self._waiting
            place = len(batch.parts)
            if place + len(parts) > self._max_parts:
                batch = self._waiting = _Gathered()  # the full one has a thread that sends it
                place = 0
            batch.parts += parts
        if place == 0:
            self._send(batch, end_s)
        elif not batch.is_over.wait(end_s - time.monotonic()):
            raise DriverError("etcd has not answered the requests of other VMs")
        if batch.error:
            raise batch.error
        return batch.found[place : place + len(parts)]

    def _send(self, batch: _Gathered[Part, Found], end_s: float) -> None:
        try:
            has_turn = self._under_way.acquire(timeout=end_s - time.monotonic())
            with self._lock:
                if self._waiting is batch:  # whoever asks from now on asks later
                    self._waiting = _Gathered()
            try:
                if not has_turn:
                    raise DriverError("etcd has not answered the requests of other VMs")
                batch.found = self._ask(batch.parts, end_s)
            finally:
                if has_turn:
                    self._under_way.release()
        except DriverError as error:
            batch.error = error
        finally:
            batch.is_over.set()

"""Threads for blocking work: drivers. Like gevent's ThreadPool, at a third of its cost per look-up:
one watcher returns all results to the hub."""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable
from functools import partial
from queue import SimpleQueue
from threading import Thread
from typing import Any

import gevent

log = logging.getLogger(__name__)

Work = Callable[[], Any]
Callback = Callable[[Any, BaseException | None], None]  # what was returned, or what was raised


class Threads:
    """Grows to peak concurrency; never shrinks. Belongs to the thread of its hub.

    The threads are daemons: one that hangs does not block the end of the process.
    """

    def __init__(self) -> None:
        self._count = 0
        self._under_way = 0
        self._is_short = False  # of threads, and this was logged
        self._work: SimpleQueue[tuple[Work, Callback] | None] = SimpleQueue()
        self._done: deque[Callable[[], None]] = deque()
        self._loop = gevent.get_hub().loop
        self._waker = self._loop.async_(ref=False)
        self._waker.start(self._call_back)

    def run(self, work: Work, callback: Callback) -> None:
        """Call `work` in a thread, and then `callback` in the hub."""
        self._under_way += 1
        self._work.put((work, callback))
        if self._count < self._under_way:
            self._begin_one()

    def _begin_one(self) -> None:
        try:
            Thread(target=self._run, name=f"driver {self._count + 1}", daemon=True).start()
        except RuntimeError as error:  # the system allows no further thread: the others continue
            if not self._is_short:
                log.warning(
                    "the driver has %d threads and cannot start another one: %s", self._count, error
                )
            self._is_short = True
            if not self._count:
                self._refuse(error)
        else:
            self._count += 1
            self._is_short = False

    def _refuse(self, error: RuntimeError) -> None:
        """Fail the task: no thread can be started."""
        task = self._work.get()
        assert task
        self._done.append(partial(task[1], None, error))
        self._waker.send()

    def close(self) -> None:
        """End each thread after the queued work; call nothing back from now on."""
        self._waker.stop()
        for _ in range(self._count):
            self._work.put(None)

    def _run(self) -> None:
        while self._run_one():
            pass

    def _run_one(self) -> bool:
        """Run one task in a frame of its own, so that a waiting thread keeps none of its
        objects."""
        task = self._work.get()
        if task is None:
            return False
        work, callback = task
        try:
            self._done.append(partial(callback, work(), None))
        except BaseException as error:  # whatever it is, a caller waits for it
            self._done.append(partial(callback, None, error))
        self._waker.send()
        return True

    def _call_back(self) -> None:
        while self._done:
            self._under_way -= 1
            self._loop.run_callback(self._done.popleft())

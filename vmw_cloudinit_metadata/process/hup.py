"""Reload on HUP: a thread reads files, since their file system may hang; the hub applies the
content."""

from __future__ import annotations

import logging
from collections.abc import Callable

import gevent

from vmw_cloudinit_metadata.process.threads import Threads
from vmw_cloudinit_metadata.settings.errors import ConfigError

log = logging.getLogger(__name__)

READ_S = 10.0  # then an error is logged
PAUSE_S = 0.2  # between two readings: a storm of signals costs no more than these

Take = Callable[[], None]


def _nothing() -> None:
    pass


class Reload:
    """Calls `read` in a thread, one call at a time, and then, in the hub, the function that it
    returned. If `read` raises ConfigError, nothing changes.

    `on_begin` and `on_end` are called around it; `on_end` also when it takes longer than READ_S.
    """

    def __init__(
        self,
        read: Callable[[], Take],
        on_begin: Callable[[], None] = _nothing,
        on_end: Callable[[], None] = _nothing,
        threads: Threads | None = None,
    ) -> None:
        self._read = read
        self._on_begin = on_begin
        self._on_end = on_end
        self._threads = threads or Threads()
        loop = gevent.get_hub().loop
        self._limit = loop.timer(READ_S)
        self._pause = loop.timer(PAUSE_S)
        self._is_reading = False
        self.is_in_time = False  # a reading is under way, and does not hang yet
        self._is_pausing = False
        self._is_wanted = False  # once more

    def ask(self) -> None:
        """Read now, or once more after the present reading."""
        self._is_wanted = True
        if not self._is_reading and not self._is_pausing:
            self._begin()

    def _begin(self) -> None:
        self._is_wanted = False
        self._is_reading = self.is_in_time = True
        self._on_begin()
        self._limit.start(self._overdue, update=True)  # a turn may have been long
        self._threads.run(self._read, self._has_read)

    def _overdue(self) -> None:
        self.is_in_time = False
        log.error(
            "reload: the files cannot be read within %g s; nothing is changed until they can",
            READ_S,
        )
        self._on_end()

    def _has_read(self, take: Take | None, error: BaseException | None) -> None:
        self._limit.stop()
        was_in_time, self.is_in_time = self.is_in_time, False
        self._is_reading, self._is_pausing = False, True
        self._pause.start(self._go_on)
        if was_in_time or not self._is_wanted:  # else it is old, and read again now
            self._take(take, error)
        if was_in_time:
            self._on_end()

    def _take(self, take: Take | None, error: BaseException | None) -> None:
        if isinstance(error, ConfigError):
            log.error("reload: %s; nothing is changed", error)
        elif error:
            log.error("reload: internal error; nothing is changed", exc_info=error)
        elif take:
            try:
                take()
            except Exception:  # a callback of the hub: nothing would catch it
                log.exception("reload: not all could be changed")

    def _go_on(self) -> None:
        self._is_pausing = False
        if self._is_wanted:
            self._begin()

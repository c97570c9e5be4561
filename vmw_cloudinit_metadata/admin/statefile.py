"""StateFile: keeps a file of lines, from which the next start goes on."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from threading import Thread

import gevent

from vmw_cloudinit_metadata.admin import remembered
from vmw_cloudinit_metadata.settings.errors import ConfigError

log = logging.getLogger(__name__)

SAVE_S = 1.0  # the longest age of the state file


class StateFile:
    """Saves `lines`, when they have another `revision`, every `every_s` at most."""

    def __init__(
        self,
        path: Path,
        lines: Callable[[], Iterable[str]],
        is_own: Callable[[str], object],
        take: Callable[[list[str]], None],
        revision: Callable[[], int],
        every_s: float = 0.0,
        *,
        at_end: bool = False,
    ) -> None:
        """`is_own`: whether a line is one of such a file. `at_end`: what it has at the end of the
        server is right too."""
        self._path = path
        self._lines = lines  # read in the thread
        self._is_own = is_own
        self._take = take
        self._revision = revision
        self._every_s = every_s
        self._at_end = at_end
        self._saved_revision = -1
        self._saved_s = 0.0
        self._thread: Thread | None = None
        self._is_reported = False

    def load(self) -> None:
        """Take the lines in the file; raise ConfigError if it is unusable."""
        try:
            lines = remembered.load(self._path)
            remembered.require_own(lines, self._is_own)
            self._take(lines)
            remembered.save(self._path, self._lines())
        except OSError as error:
            reason = error.strerror or error
            raise ConfigError(f"--state-file: {self._path}: {reason}") from error
        self._saved_revision = self._revision()

    def save(self) -> None:
        """Save now, and wait for it, but not long: a disk may hang."""
        self._begin()
        end_s = time.monotonic() + SAVE_S
        while self._thread and self._thread.is_alive() and time.monotonic() < end_s:
            gevent.sleep(0.01)

    def end(self) -> None:
        """Save what is right at the end of the server too."""
        if self._at_end:
            self.save()

    def save_changes(self) -> None:
        """Begin to save if there are changes, and the last time was long ago."""
        is_due = time.monotonic() - self._saved_s >= self._every_s
        if is_due and self._revision() != self._saved_revision:
            self._begin()

    def _begin(self) -> None:
        """Save in a thread that ends afterwards, since the parent of workers may have none when it
        forks. A thread that hangs with its file system delays neither the next one nor the end of
        the process."""
        if self._thread and self._thread.is_alive():
            return
        thread = Thread(target=self._save, args=(self._lines(),), name="state file", daemon=True)
        try:
            thread.start()
        except RuntimeError:  # the system has no thread left: retried in a second
            return
        self._thread = thread
        self._saved_revision, self._saved_s = self._revision(), time.monotonic()

    def _save(self, lines: Iterable[str]) -> None:
        try:
            remembered.save(self._path, lines)
        except OSError as error:
            if not self._is_reported:
                log.error("--state-file: %s: %s; retrying", self._path, error.strerror or error)
            self._is_reported = True
        else:
            self._is_reported = False

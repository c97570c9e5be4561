"""Upgrade in place: the program of this process is replaced by the one on disk, with its lines.

    USR2 ─> check ─> prepare ─────> hold ────────> state ──> memfd ──> execv ═══> the next program
            a child, TLS lines end, signals wait   one turn of the hub;           reads the memfd,
            a thread children end   in the pipe    sockets become inheritable     serves, reports
              │ fails   │ stopping                   │ fails
              v         v                            v
            the reason: log and command   <────── go_on: all as before

Until execv everything can be taken back; what could fail behind it was tried by the check.
"""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import Protocol, TypeVar

import gevent
from gevent.event import Event

from vmw_cloudinit_metadata import __version__
from vmw_cloudinit_metadata.process import notify, upgradecheck, upgradefile
from vmw_cloudinit_metadata.process.signals import Signals
from vmw_cloudinit_metadata.process.threads import Threads
from vmw_cloudinit_metadata.process.upgradecheck import UpgradeError
from vmw_cloudinit_metadata.process.upgradereport import UpgradeOutcome
from vmw_cloudinit_metadata.protocol.state import State

log = logging.getLogger(__name__)

# For the files of the program on disk. The check ends sooner, unless a file system hangs.
DISK_S = upgradecheck.CHECK_S + 5.0

Descriptors = Iterable[int]
Found = TypeVar("Found")


class Upgradable(Protocol):
    """What this process does, and the next program goes on with."""

    @property
    def is_stopping(self) -> bool: ...

    def prepare(self) -> None:
        """End what cannot be handed over, such as child processes; may wait."""

    def state(self) -> tuple[State, Descriptors]:
        """Return the state, and the descriptors in it; does not wait."""

    def go_on(self) -> None:
        """Do again what `prepare` has ended: there was no upgrade."""


class Upgrade:
    """Replaces the program once it is asked to; each attempt has a greenlet of its own.

    `check` raises UpgradeError, in a thread; None: the parent of this worker has checked already.
    """

    def __init__(
        self,
        whole: Upgradable,
        signals: Signals,
        report: Callable[[UpgradeOutcome], None],
        check: Callable[[Sequence[str]], str] | None,
    ) -> None:
        self._whole = whole
        self._signals = signals
        self._report = report
        self._check = check
        self._threads = Threads()
        self.is_under_way = False

    def ask(self) -> None:
        """Upgrade now, unless an upgrade is under way."""
        if not self.is_under_way:
            self.is_under_way = True
            gevent.spawn(self._run)

    def _run(self) -> None:
        try:
            self._replace()
        except UpgradeError as error:
            self._failed(str(error))
        except Exception as error:  # whatever it is, VMs are served as before
            log.exception("upgrade: internal error")
            self._failed(f"internal error: {error!r}")
        finally:
            self.is_under_way = False

    def _failed(self, reason: str) -> None:
        text = f"{reason}; version {__version__} serves on"
        log.error("upgrade: %s", text)
        self._report(UpgradeOutcome(is_done=False, text=text))

    def _replace(self) -> None:
        """Replace the program, or raise UpgradeError with everything as before."""
        command = self._from_disk(upgradecheck.program)
        if self._check:
            log.info("upgrade: checking the program on disk")
            version = self._from_disk(partial(self._check, command))
            log.info("upgrade: from version %s to %s", __version__, version)
            notify.upgrading()
        try:
            self._raise_if_stopping()
            self._whole.prepare()
            self._raise_if_stopping()
            self._execute(command)
        except BaseException:
            if not self._whole.is_stopping:
                self._whole.go_on()
                notify.not_upgraded()  # of a worker this is of no interest to systemd
            raise

    def _raise_if_stopping(self) -> None:
        if self._whole.is_stopping:
            raise UpgradeError("the server is stopping")

    def _from_disk(self, look: Callable[[], Found]) -> Found:
        """Return what `look` finds in a thread; raise UpgradeError if that takes too long."""
        ended, results = Event(), list[tuple[Found, BaseException | None]]()

        def looked(found: Found, error: BaseException | None) -> None:
            results.append((found, error))
            ended.set()

        self._threads.run(look, looked)
        if not ended.wait(DISK_S):
            text = f"the program on disk cannot be read within {DISK_S:g} s: a file system may hang"
            raise UpgradeError(text)
        found, error = results[0]
        if error:
            raise error
        return found

    def _execute(self, command: list[str]) -> None:
        """Execute what was checked; return only by an exception, with everything as before."""
        began_s = time.time()
        signals = self._signals
        pipe, file, open_ones = signals.hold(), -1, list[int]()
        try:
            notify.alive()
            state, descriptors = self._whole.state()
            open_ones += descriptors
            about = {"signals": pipe, "version": __version__, "began_s": began_s}
            file = upgradefile.write(state | about)
            for descriptor in open_ones:
                os.set_inheritable(descriptor, True)
            os.execve(command[0], command, upgradefile.for_state(file))  # nosec B606
        except OSError as error:
            raise UpgradeError(f"cannot execute: {error.strerror}") from error
        finally:
            for descriptor in open_ones:
                os.set_inheritable(descriptor, False)
            if file >= 0:
                os.close(file)
            signals.go_on()

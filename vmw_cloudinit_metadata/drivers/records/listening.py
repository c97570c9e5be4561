"""Listening: runs a store's listener in a thread, again and again, and counts what it tells."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable, Iterable
from math import inf

from vmw_cloudinit_metadata.drivers.drivererror import DriverError
from vmw_cloudinit_metadata.drivers.filesystem.filename import stem_of
from vmw_cloudinit_metadata.drivers.foreignerrors import text_of
from vmw_cloudinit_metadata.drivers.revisions import Revisions
from vmw_cloudinit_metadata.drivers.store import IDENTITIES, LAYERS, NAME, Changes, Key, Store
from vmw_cloudinit_metadata.protocol.printable import one_line, quoted, shortened
from vmw_cloudinit_metadata.protocol.vmware import parse_uuid
from vmw_cloudinit_metadata.settings.knownsecrets import KnownSecrets

# Before the listener is called again: doubled up to the longest, and a random part of that less, so
# that a store's servers do not all return at once.
FIRST_PAUSE_S = 0.5
LONGEST_PAUSE_S = 30.0
QUIET_S = 60.0  # from one report that changes are not told to the next

_ENDED = "its listener has ended"
_NO_SECRETS = KnownSecrets()

Report = Callable[[str], None]


def usual(key: object) -> Key | None:
    """Return the key as VMs are looked up by it; None if none is.

    Raise DriverError if it is no key at all.
    """
    match key:
        case (LAYERS.kind, _):
            return LAYERS
        case (str() as kind, str() as value) if kind in IDENTITIES:
            found = stem_of(value) if kind == NAME else parse_uuid(value)
            return Key(kind, found) if found else None
        case _:
            kinds = ", ".join(IDENTITIES)
            raise DriverError(
                f"found the key {_shown(key)}, expected LAYERS or Key(kind, value), two texts, "
                f"the kind one of {kinds}"
            )


def _shown(key: object) -> str:
    return quoted(key) if isinstance(key, str) else one_line(shortened(ascii(key), 200))


class ToldChanges(Changes):
    """Counts changes; `report` gets a sentence when they are no longer told, and when again."""

    def __init__(
        self, name: str, changes: Revisions, report: Report, secrets: KnownSecrets = _NO_SECRETS
    ) -> None:
        self.closed = threading.Event()
        self._secrets = secrets
        self._name = name
        self._changes = changes
        self._report = report
        self._lock = threading.Lock()
        self._silence_s = inf
        self._loss = ""  # why changes are not told, once the listener has said so
        self._is_reported = False  # that they are not told
        self._quiet_until_s = -inf
        self.is_connected = False
        self.was_connected = False  # ever

    def connected(self, silence_s: float = inf) -> None:
        with self._lock:
            self._changes.all_changed()
            self._changes.source = self._name
            self._silence_s = silence_s
            self.is_connected = self.was_connected = True
        self.alive()

    def alive(self) -> None:
        with self._lock:
            if not self.is_connected:
                return
            self._changes.complete_until(time.monotonic() + self._silence_s)
            was_reported, self._is_reported = self._is_reported, False
        if was_reported:
            self._report(f"{self._name} tells changes again")

    def changed(self, keys: Iterable[tuple[str, str]]) -> None:
        try:
            for key in filter(None, map(usual, keys)):
                self._changes.changed(key)
        except BaseException:  # whatever it is: which keys have changed is not known
            self._changes.all_changed()
            raise
        self.alive()

    def everything(self) -> None:
        self._changes.all_changed()
        self.alive()

    def lost(self, reason: object) -> None:
        with self._lock:
            self._changes.complete_until(-inf)
            self.is_connected = False
            self._loss = one_line(shortened(self._secrets.hide(str(reason))))
        self._report_loss(self._loss)

    def look(self) -> None:
        """Report a listener that has fallen silent, and a loss that was not reported at once."""
        if not self.is_connected:
            if self._loss:
                self._report_loss(self._loss)
        elif not self._changes.is_told_at(time.monotonic()):
            self._report_loss(f"its listener has said nothing for {self._silence_s:g} s")

    def _report_loss(self, reason: str) -> None:
        """Report that changes are not told, once, and not often if that comes and goes."""
        now_s = time.monotonic()
        with self._lock:
            if self._is_reported or now_s < self._quiet_until_s or self.closed.is_set():
                return
            self._is_reported = True
            self._quiet_until_s = now_s + QUIET_S
        self._report(f"{self._name} does not tell changes, so each request asks it: {reason}")

    def close(self) -> None:
        with self._lock:
            self._changes.complete_until(-inf)
            self.is_connected = False
        self.closed.set()


class Listening:
    """Calls `listen` of the store until it is closed, or says that it cannot tell changes."""

    def __init__(self, store: Store, name: str, changes: Revisions) -> None:
        self._store = store
        self._name = name
        self._changes = changes
        self._told: ToldChanges | None = None

    def start(self, report: Report) -> None:
        told = self._told = ToldChanges(
            self._name, self._changes, report, self._store.known_secrets
        )
        run = threading.Thread(target=self._run, args=[told], name="store listener", daemon=True)
        run.start()

    def look(self) -> None:
        """Report a listener that has fallen silent; called every second."""
        if self._told:
            self._told.look()

    def close(self) -> None:
        if self._told:
            self._told.close()

    def _run(self, told: ToldChanges) -> None:
        pause_s = FIRST_PAUSE_S
        while not told.closed.is_set():
            began_s = time.monotonic()
            reason = _ENDED
            try:
                self._store.listen(told)
                if not told.was_connected:
                    return  # the store cannot tell changes
            except BaseException as error:  # whatever it is: nothing tells changes any more
                reason = text_of(error)
            if told.closed.is_set():
                return
            told.lost(reason)
            if time.monotonic() - began_s > LONGEST_PAUSE_S:
                pause_s = FIRST_PAUSE_S
            share = random.uniform(0.5, 1.0)  # nosec B311 # servers shall not come back together
            told.closed.wait(pause_s * share)
            pause_s = min(2 * pause_s, LONGEST_PAUSE_S)

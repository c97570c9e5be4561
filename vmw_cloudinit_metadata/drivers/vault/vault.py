"""Vault: the values of the secrets to which data refers.

They are kept in memory for a bounded time, and nowhere else. All that one look-up needs is read in
the time of one request, and each secret once. While their source does not answer, one look-up waits
for it, and all others fail at once.
"""

from __future__ import annotations

import importlib
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from math import inf

from cachetools import TTLCache

from vmw_cloudinit_metadata.drivers.drivererror import DriverError, SecretUnavailableError
from vmw_cloudinit_metadata.drivers.shedding import shed_one
from vmw_cloudinit_metadata.drivers.vault.secretfiles import SecretFiles
from vmw_cloudinit_metadata.drivers.vault.secretsource import READ_S, Content, SecretSource
from vmw_cloudinit_metadata.drivers.vault.vaultoptions import VaultOptions
from vmw_cloudinit_metadata.instance.layering.secretreference import (
    SecretReference,
    reference_of,
    shown,
)

KEPT_BYTES = 8 * 1024 * 1024
_ABOUT_BYTES = 512  # a secret without its texts

AWAY_S = 1.0  # from a failed request to the next one
_AWAY = frozenset({"unreachable", "sealed"})
_SHORT_S = 0.8 * READ_S  # a read with less time fails for it, and not for a source that is away
_OVER_S = 0.1  # so little time is as good as none
_LONGEST_PAUSE_S = 60.0
LEAST_PAUSE_S = 0.5
_QUIET_S = 60.0  # from one report that a token cannot be renewed to the next

# It is imported only where it is used: its library belongs to the extra `http`.
_OPENBAO = "vmw_cloudinit_metadata.drivers.stores.openbao.openbaosecrets"

_LATE = (
    f"it was not read within {READ_S:g} s, together with the secrets before it: find out why their "
    "server is slow, or put the values into fewer secrets"
)

Report = Callable[[str], None]


def vault_of(options: VaultOptions | None) -> Vault | None:
    """Return the vault of these options, None without any; raise DriverError."""
    if options is None:
        return None
    return Vault(_source_of(options), options.max_age_s)


def _source_of(options: VaultOptions) -> SecretSource:
    if options.directory is not None:
        return SecretFiles(options.directory)
    try:
        module = importlib.import_module(_OPENBAO)
    except ImportError as error:
        raise DriverError(
            "vault.url needs the extra `http`: pip install 'vmw-cloudinit-metadata[http]' "
            f"({error.name} is missing)"
        ) from None
    source: SecretSource = module.OpenBaoSecrets(options)
    return source


@dataclass(slots=True)
class _Reads:
    """What one look-up has read."""

    end_s: float = field(default_factory=lambda: time.monotonic() + READ_S)
    contents: dict[str, Content] = field(default_factory=dict)


class Vault:
    """`is_hidden`: values are read, and their references stand for them."""

    is_hidden = False

    def __init__(self, source: SecretSource, max_age_s: float) -> None:
        self._source = source
        self._max_age_s = max_age_s
        self._lock = threading.Lock()
        self._kept: TTLCache[str, Content] = TTLCache(
            KEPT_BYTES, max_age_s, timer=time.monotonic, getsizeof=_size
        )
        self._failure: SecretUnavailableError | None = None  # of the last request, if it did
        self._again_s = -inf
        self._trial = threading.Lock()
        self._closed = threading.Event()

    def values(self) -> Callable[[str], str | None]:
        """Return `value` for all references of one look-up."""
        return partial(self._value, _Reads())

    def value(self, text: str) -> str | None:
        """Return the value of a reference; None if it lacks a key.

        Raise SecretUnavailableError.
        """
        return self._value(_Reads(), text)

    def _value(self, reads: _Reads, text: str) -> str | None:
        reference = reference_of(text)
        if self._lacks_key(reference):
            return None
        try:
            content = self._content(reference.path, reads)
            value = self._source.value_in(content, reference.key)
        except SecretUnavailableError as error:
            raise SecretUnavailableError(error.problem, f"{shown(text)}: {error}") from None
        return shown(text) if self.is_hidden else value

    def stand_in(self, text: str) -> str | None:
        """Return what stands for a value in a check, which asks nobody; None as `value` does."""
        return None if self._lacks_key(reference_of(text)) else shown(text)

    @property
    def kept_bytes(self) -> int:
        with self._lock:  # it drops what is too old
            return int(self._kept.currsize)

    def shed(self) -> bool:
        """Drop the secret that was used longest ago; return False if there is none."""
        return shed_one(self._kept, self._lock)

    def watch(self, report: Report) -> None:
        """Drop what is too old, and keep a token valid, in a thread of its own."""
        threading.Thread(target=self._tend, args=[report], name="secrets", daemon=True).start()

    def close(self) -> None:
        self._closed.set()
        self._source.close()

    def _lacks_key(self, reference: SecretReference) -> bool:
        return self._source.needs_key and not reference.key

    def _content(self, path: str, reads: _Reads) -> Content:
        content = reads.contents.get(path)
        if content is None:
            content = reads.contents[path] = self._present(path, reads.end_s)
        return content

    def _present(self, path: str, end_s: float) -> Content:
        with self._lock:
            kept = self._kept.get(path)
        if kept is not None:
            return kept
        content = self._read(path, end_s)
        if self._max_age_s and _size(content) <= KEPT_BYTES:
            with self._lock:
                self._kept[path] = content
        return content

    def _read(self, path: str, end_s: float) -> Content:
        failure = self._failure
        if failure is None:
            return self._asked(path, end_s)
        if time.monotonic() < self._again_s or not self._trial.acquire(blocking=False):
            raise SecretUnavailableError(failure.problem, str(failure))
        try:
            return self._asked(path, end_s)
        finally:
            self._trial.release()

    def _asked(self, path: str, end_s: float) -> Content:
        is_short = end_s - time.monotonic() < _SHORT_S
        failure = None
        try:
            return self._source.read(path, end_s)
        except SecretUnavailableError as error:
            if error.problem in _AWAY:
                if is_short and time.monotonic() > end_s - _OVER_S:
                    raise SecretUnavailableError("late", _LATE) from error
                failure = error
            raise
        finally:
            self._again_s = time.monotonic() + AWAY_S
            self._failure = failure

    def _tend(self, report: Report) -> None:
        quiet_until_s = -inf
        pause_s = LEAST_PAUSE_S
        while not self._closed.wait(pause_s):
            with self._lock:
                self._kept.expire()
            try:
                pause_s = self._source.tend()
            except DriverError as error:
                pause_s = _LONGEST_PAUSE_S / 10
                if time.monotonic() >= quiet_until_s:
                    quiet_until_s = time.monotonic() + _QUIET_S
                    report(f"the token for secrets cannot be renewed: {error}")
            longest_s = min(_LONGEST_PAUSE_S, self._max_age_s or _LONGEST_PAUSE_S)
            pause_s = max(LEAST_PAUSE_S, min(pause_s, longest_s))


def _size(content: Content) -> int:
    texts = [content] if isinstance(content, str) else [*content, *content.values()]
    return _ABOUT_BYTES + 4 * sum(len(text) for text in texts if text)

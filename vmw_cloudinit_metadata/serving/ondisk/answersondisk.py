"""AnswersOnDisk: writes last good answers in a thread of its own, and reads them again.

What fails on the disk is logged, and VMs are served without. An answer with a probable secret is
not written.
"""

from __future__ import annotations

import errno
import logging
import time
from collections import OrderedDict
from collections.abc import Iterator
from pathlib import Path
from threading import Condition, Thread
from typing import get_args

from cachetools import LRUCache

from vmw_cloudinit_metadata.drivers import contract
from vmw_cloudinit_metadata.drivers.driver import Driver
from vmw_cloudinit_metadata.instance.secretsearch import secret_in
from vmw_cloudinit_metadata.monitoring.counters import LAST_GOOD_ON_DISK, Key, OnDisk
from vmw_cloudinit_metadata.monitoring.onceaminute import OnceAMinute
from vmw_cloudinit_metadata.protocol import packet
from vmw_cloudinit_metadata.protocol.vmware import Machine
from vmw_cloudinit_metadata.serving.answer import Answer, answer_of
from vmw_cloudinit_metadata.serving.ondisk import answerfile
from vmw_cloudinit_metadata.serving.ondisk.answerdirectory import AnswerDirectory, NotOurs
from vmw_cloudinit_metadata.serving.ondisk.answerfile import NotAnAnswer, StoredAnswer
from vmw_cloudinit_metadata.settings.errors import ConfigError

log = logging.getLogger(__name__)

MAX_WAITING = 20_000  # answers that wait to be written
MAX_WAITING_BYTES = 64 * 1024 * 1024
_BATCH = 256  # files that are synced together
_BATCH_BYTES = 8 * 1024 * 1024
PAUSE_S = 0.2  # between two batches: what changes meanwhile is written once
SOURCE_S = 30.0  # how often the source is asked, and its answer noted
_SKEW_S = 300.0  # by which the clock may be corrected backwards
_MAX_NAMED = 20  # VMs that a minute's log names because their answers are not written
_MAX_KNOWN = 100_000
_OWN_TIME = "last_good_max_age_s"


class AnswersOnDisk:
    """`keep` and `forget` are called in the hub and do not block; `recall` does."""

    def __init__(self, path: Path, driver: Driver) -> None:
        """Raise ConfigError if the directory cannot be used, or would have no effect."""
        if not driver.stale_if_error:
            name = type(driver).__name__
            option = "stale_if_error" if type(driver).stale_if_error is not None else _OWN_TIME
            raise ConfigError(
                f"--last-good-dir has no effect: {name} gives no last good answers, since its "
                f"{option} is 0: set that in --driver-opts"
            )
        self._directory = AnswerDirectory(path)
        self._driver = driver
        # A driver that sets its time itself counts it from the failure, as in memory.
        self._counts_from_failure = type(driver).stale_if_error is None
        self._began_s = time.monotonic()
        self._has_work = Condition()
        self._waiting: OrderedDict[Machine, Answer | None] = OrderedDict()  # None: to be removed
        self._waiting_bytes = 0
        self._is_writing = False
        self._is_closed = False
        self._source_fails = True  # until it has answered
        self._counts: dict[OnDisk, int] = dict.fromkeys(get_args(OnDisk), 0)
        self._throttle = OnceAMinute()
        self._withheld: LRUCache[str, str] = LRUCache(_MAX_KNOWN)
        self._thread: Thread | None = None

    # In the hub

    def keep(self, machine: Machine, answer: Answer) -> None:
        """Have the answer written, unless it is itself a last good one."""
        if answer.origin.problem:
            self._source_fails |= answer.token is None
            return
        self._source_fails = False
        if machine.vc_uuid:
            self._put(machine, answer)

    def forget(self, machine: Machine, *, is_invalid: bool) -> None:
        """Have the answer removed: the source has answered, and has another one or none.

        A driver that counts from its failure keeps the last good answer of invalid data.
        """
        self._source_fails = False
        if machine.vc_uuid and not (is_invalid and self._counts_from_failure):
            self._put(machine, None)

    def source_failed(self) -> None:
        self._source_fails = True

    def counts(self) -> dict[Key, int]:
        """Return what was written, read and dropped, by counter."""
        return {LAST_GOOD_ON_DISK[what]: count for what, count in self._counts.items()}

    @property
    def kept_bytes(self) -> int:
        return self._waiting_bytes

    def shed(self) -> bool:
        """Drop the answer that has waited longest; return False if there is none."""
        with self._has_work:
            if not self._waiting:
                return False
            self._take()
        self._count("dropped")
        return True

    @property
    def is_busy(self) -> bool:
        return bool(self._waiting) or self._is_writing

    def start(self) -> None:
        self._thread = Thread(target=self._run, name="last good answers", daemon=True)
        self._thread.start()

    def close(self) -> None:
        with self._has_work:
            self._is_closed = True
            self._has_work.notify()

    def _put(self, machine: Machine, answer: Answer | None) -> None:
        size = answer.size if answer else 0
        with self._has_work:
            if machine in self._waiting:
                before = self._waiting[machine]
                self._waiting_bytes -= before.size if before else 0
            elif len(self._waiting) >= MAX_WAITING:
                self._count("dropped")
                return
            if self._waiting_bytes + size > MAX_WAITING_BYTES:
                self._waiting.pop(machine, None)
                self._count("dropped")
                return
            self._waiting[machine] = answer
            self._waiting_bytes += size
            self._has_work.notify()

    def _take(self) -> tuple[Machine, Answer | None]:
        machine, answer = self._waiting.popitem(last=False)
        self._waiting_bytes -= answer.size if answer else 0
        return machine, answer

    # In any thread

    def _count(self, what: OnDisk, count: int = 1) -> None:
        with self._has_work:
            self._counts[what] += count

    def recall(self, machine: Machine) -> Answer | None:
        """Return the VM's answer; its `seen_s` is when it, or the source, was last known good."""
        if not machine.vc_uuid:
            return None
        try:
            found = self._directory.read(answerfile.name_of(machine))
            if found is None:
                return None
            content, written_at_s = found
            stored = answerfile.parse(content, machine)
            answered_at_s = self._directory.source_answered_at()
        except (NotAnAnswer, NotOurs):
            self._count("unusable")
            self._warn(f"{self._directory.path}: found files that are not the server's, or damaged")
            return None
        except OSError as error:
            self._failed("read", error)
            return None
        if stored is None:
            return None
        if self._counts_from_failure:
            written_at_s = max(written_at_s, answered_at_s)
        packets_size = len(content)
        answer = answer_of(stored.documents, stored.matched_by, stored.sources, packets_size)
        answer.seen_s = time.monotonic() - self._age_s(written_at_s)
        self._count("read")
        return answer

    def _age_s(self, since_s: float) -> float:
        """Return the age of what is from that time, in seconds since 1970."""
        age_s = time.time() - since_s
        if age_s >= -_SKEW_S:
            return max(age_s, 0.0)
        self._warn(
            "the clock is behind the time of the last good answers on disk: "
            "their age counts from the start of the server"
        )
        return time.monotonic() - self._began_s

    # In the thread

    def _run(self) -> None:
        if problem := self._source_problem():
            log.warning("%s; until this is fixed, VMs get their last good answers", problem)
        noted_s = 0.0
        while True:
            with self._has_work:
                if not self._waiting and not self._is_closed:
                    self._has_work.wait(SOURCE_S)
                batch = self._batch()
                self._is_writing = bool(batch)
            if self._is_closed and not batch:
                return
            try:
                self._write(batch)
                if time.monotonic() - noted_s >= SOURCE_S and not self._is_closed:
                    self._note_source()
                    noted_s = time.monotonic()
                self._count("shed", self._directory.tidy())
            except OSError as error:
                self._count("failed", len(batch))
                self._failed("write", error)
            self._is_writing = False
            if not self._is_closed:
                time.sleep(PAUSE_S)

    def _batch(self) -> list[tuple[Machine, Answer | None]]:
        batch: list[tuple[Machine, Answer | None]] = []
        size = 0
        while self._waiting and len(batch) < _BATCH and size < _BATCH_BYTES:
            machine, answer = self._take()
            size += answer.size if answer else 0
            batch.append((machine, answer))
        return batch

    def _write(self, batch: list[tuple[Machine, Answer | None]]) -> None:
        contents = dict(self._contents(batch))
        if contents:
            written = len(self._directory.write(contents))
            self._count("written", written)
            self._count("failed", len(contents) - written)

    def _contents(self, batch: list[tuple[Machine, Answer | None]]) -> Iterator[tuple[str, bytes]]:
        """Yield what is to be written; remove what is no longer good."""
        for machine, answer in batch:
            name = answerfile.name_of(machine)
            content = self._content(name, machine, answer) if answer else b""
            if not content:
                self._count("removed", self._directory.remove(name))
            elif self._directory.has(name, content):
                self._directory.touch(name)
            else:
                yield name, content

    def _content(self, name: str, machine: Machine, answer: Answer) -> bytes:
        """Return the content of the file; b"" if there must be none."""
        documents = {
            document: packet.body_of(response)
            for document, response in answer.packets.items()
            if document != "DIGEST"
        }
        reason = self._reason(documents, answer)
        stored = StoredAnswer(documents, answer.origin.matched_by, answer.origin.sources)
        content = b"" if reason else answerfile.content_of(machine, stored)
        if len(content) > answerfile.MAX_BYTES or len(documents) > answerfile.MAX_DOCUMENTS:
            reason = "it is too large"
        if not reason:
            self._withheld.pop(name, None)
            return content
        self._count("withheld")
        if self._withheld.get(name) != reason:
            self._withheld[name] = reason
            self._name(machine, reason)
        return b""

    def _reason(self, documents: dict[str, bytes], answer: Answer) -> str:
        if answer.origin.is_secret:
            return "the driver says that it is secret"
        place = secret_in(documents)
        return f"it may hold a secret: {place}" if place else ""

    def _name(self, machine: Machine, reason: str) -> None:
        """Log which VM will have no answer on disk, and why; at most so many a minute."""
        slot = hash(machine.vc_uuid) % _MAX_NAMED
        if (held_back := self._throttle.passes("withheld", slot)) is not None:
            log.info("%s: no last good answer on disk: %s%s", machine, reason, held_back)

    def _note_source(self) -> None:
        """Note that the source answers, if it does."""
        if not self._source_fails and not self._source_problem():
            self._directory.note_source()

    def _source_problem(self) -> str:
        try:
            contract.run(self._driver, "check")
        except (Exception, SystemExit) as error:  # a driver is foreign code
            return str(error) or type(error).__name__
        return ""

    def _failed(self, what: str, error: OSError) -> None:
        self._warn(
            f"--last-good-dir: {self._directory.path}: cannot {what}: {error.strerror or error}"
            f"{_REMEDY.get(error.errno or 0, '')}"
        )

    def _warn(self, text: str) -> None:
        if (held_back := self._throttle.passes(text)) is not None:
            log.warning("%s%s", text, held_back)


_REMEDY = {
    errno.ENOSPC: "; free space on its file system",
    errno.EROFS: "; mount it writable",
    errno.ENOENT: "; create it (mode 700), or restart the server",
}

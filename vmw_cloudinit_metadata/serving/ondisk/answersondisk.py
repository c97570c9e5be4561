"""AnswersOnDisk: writes last good answers in a thread of its own, and reads them again.

What fails on the disk is logged, and VMs are served without. An answer with a probable secret is
not written.
"""

from __future__ import annotations

import errno
import logging
import time
from collections.abc import Mapping
from pathlib import Path
from threading import Lock, Thread
from typing import get_args

from vmw_cloudinit_metadata.drivers.driver import Driver
from vmw_cloudinit_metadata.monitoring.counters import LAST_GOOD_ON_DISK, Key, OnDisk
from vmw_cloudinit_metadata.monitoring.onceaminute import OnceAMinute
from vmw_cloudinit_metadata.protocol import packet
from vmw_cloudinit_metadata.protocol.vmware import Machine
from vmw_cloudinit_metadata.serving.answer import Answer, answer_of
from vmw_cloudinit_metadata.serving.health import problem_of
from vmw_cloudinit_metadata.serving.ondisk import answerfile
from vmw_cloudinit_metadata.serving.ondisk.answerdirectory import AnswerDirectory, NotOurs
from vmw_cloudinit_metadata.serving.ondisk.answerfile import NotAnAnswer, StoredAnswer
from vmw_cloudinit_metadata.serving.ondisk.waitinganswers import WaitingAnswer, WaitingAnswers
from vmw_cloudinit_metadata.serving.ondisk.withholding import Withholding
from vmw_cloudinit_metadata.settings.errors import ConfigError

log = logging.getLogger(__name__)

PAUSE_S = 0.2  # between two batches: what changes meanwhile is written once
RETRY_S = 10.0  # after a failure: then all of the batch is written again
SOURCE_S = 30.0  # how often the source is asked, and its answer noted
_SKEW_S = 300.0  # by which the clock may be corrected backwards
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
        self.waiting = WaitingAnswers()
        self._withholding = Withholding()
        self._lock = Lock()
        self._source_fails = True  # until it has answered
        self._counts: dict[OnDisk, int] = dict.fromkeys(get_args(OnDisk), 0)
        self._throttle = OnceAMinute()

    # In the hub

    def keep(self, machine: Machine, answer: Answer) -> None:
        """Have the answer written, unless it is itself a last good one."""
        if answer.origin.problem:
            self._source_fails |= answer.token is None
            return
        self._source_fails = False
        if machine.vc_uuid:
            self.waiting.put(machine, answer)

    def forget(self, machine: Machine, *, is_invalid: bool) -> None:
        """Have the answer removed: the source has answered, and has another one or none.

        A driver that counts from its failure keeps the last good answer of invalid data.
        """
        self._source_fails = False
        if machine.vc_uuid and not (is_invalid and self._counts_from_failure):
            self.waiting.put(machine, None)

    def source_failed(self) -> None:
        self._source_fails = True

    def reading_failed(self, reason: str) -> None:
        self._warn(f"--last-good-dir: {self._directory.path}: cannot read: {reason}")

    def counts(self) -> dict[Key, int]:
        """Return what was written, read and dropped, by counter."""
        counts = {**self._counts, "dropped": self.waiting.dropped}
        return {LAST_GOOD_ON_DISK[what]: count for what, count in counts.items()}

    def start(self) -> None:
        Thread(target=self._run, name="last good answers", daemon=True).start()

    # In any thread

    def _count(self, what: OnDisk, count: int = 1) -> None:
        with self._lock:
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
        answer = answer_of(stored.documents, stored.matched_by, stored.sources, len(content))
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
        if problem := problem_of(self._driver):
            log.warning("%s; until this is fixed, VMs get their last good answers", problem)
        noted_s = 0.0
        while True:
            batch = self.waiting.take(SOURCE_S)
            if self.waiting.is_closed and not batch:
                return
            pause_s = PAUSE_S
            try:
                self._write(batch)
                if time.monotonic() - noted_s >= SOURCE_S and not self.waiting.is_closed:
                    self._note_source()
                    noted_s = time.monotonic()
                self._count("shed", self._directory.tidy())
            except OSError as error:
                self._count("failed", len(batch))
                self._failed("write", error)
                self.waiting.put_back(batch)
                pause_s = RETRY_S
            self.waiting.pause(pause_s)

    def _write(self, batch: Mapping[str, WaitingAnswer]) -> None:
        drafts: dict[str, tuple[bytes, float]] = {}
        for name, one in batch.items():
            content = self._content(one)
            if not content:
                self._count("removed", self._directory.remove(name))
            elif not self._directory.has(name, content, one.since_s):
                drafts[name] = content, one.since_s
        if drafts:
            written = self._directory.write(drafts)
            self._count("written", written)
            self._count("failed", len(drafts) - written)

    def _content(self, one: WaitingAnswer) -> bytes:
        """Return the content of the file; b"" if there must be none."""
        if one.answer is None:
            return b""
        documents = {
            document: packet.body_of(response)
            for document, response in one.answer.packets.items()
            if document != "DIGEST"
        }
        if self._withholding.concerns(one.machine, one.answer, documents):
            self._count("withheld")
            return b""
        origin = one.answer.origin
        stored = StoredAnswer(documents, origin.matched_by, origin.sources)
        return answerfile.content_of(one.machine, stored)

    def _note_source(self) -> None:
        """Note that the source answers, if it does."""
        if not self._source_fails and not problem_of(self._driver):
            self._directory.note_source()

    def _failed(self, what: str, error: OSError) -> None:
        self._warn(
            f"--last-good-dir: {self._directory.path}: cannot {what}: {error.strerror or error}"
            f"{_REMEDY.get(error.errno or 0, '')}"
        )

    def _warn(self, text: str) -> None:
        with self._lock:
            held_back = self._throttle.passes(text)
        if held_back is not None:
            log.warning("%s%s", text, held_back)


_REMEDY = {
    errno.ENOSPC: "; free space on its file system",
    errno.EROFS: "; mount it writable",
    errno.ENOENT: "; create it (mode 700), or restart the server",
}

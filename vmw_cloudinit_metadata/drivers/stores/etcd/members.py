"""Members: asks any member of a cluster that answers, as a user that etcd knows. Blocks.

A token of etcd expires, and a member that is restarted forgets it: so it is fetched again when it
is refused.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

from vmw_cloudinit_metadata.drivers.drivererror import DriverError
from vmw_cloudinit_metadata.drivers.stores.etcd import gateway
from vmw_cloudinit_metadata.drivers.stores.etcd.gateway import EtcdError, WatchMessage
from vmw_cloudinit_metadata.drivers.stores.httperrors import ServerError, TooLongError
from vmw_cloudinit_metadata.drivers.stores.httpoptions import REQUEST_S

if TYPE_CHECKING:
    from vmw_cloudinit_metadata.drivers.stores.httpclient import HttpClient

LEAST_S = 0.1  # with less left, no other member is asked

# Each record of a VM's three keys and all layers have at most 4 MiB, and base64 adds a third.
MAX_ANSWER_BYTES = 24 * 1024 * 1024

# Of a member that has no leader, is overloaded or stops, and of a balancer in front of it.
_AWAY = frozenset({408, 429, 502, 503, 504})


class CompactedError(DriverError):
    """A watch was to begin with changes that etcd has forgotten: anything may have changed."""


class Members:
    """The one that answered last is asked first."""

    def __init__(self, members: Sequence[HttpClient], user: str | None, password: str) -> None:
        self._members = members
        self._user = user
        self._password = password
        self._first = 0
        self._token: str | None = None  # None: not fetched yet
        self._authenticating = threading.Lock()

    def ask(self, path: str, question: bytes, end_s: float | None = None) -> bytes:
        """Return the answer; raise EtcdError, or another DriverError if no member answers.

        `end_s` is the time of time.monotonic() until when that is tried.
        """
        end_s = end_s or time.monotonic() + REQUEST_S
        token = self._present_token(end_s)
        try:
            return self._answer(path, question, token, end_s)
        except EtcdError as error:
            if not error.is_of_token or self._user is None:
                raise
        return self._answer(path, question, self._next_token(token, end_s), end_s)

    @contextmanager
    def watch(
        self, question: bytes, *, max_bytes: int, silence_s: float
    ) -> Iterator[Iterator[WatchMessage]]:
        """Give the messages of a watch, the first of which says that it was created.

        They end with SilenceError when none has come for `silence_s`, and with CompactedError.
        """
        token = self._present_token(time.monotonic() + REQUEST_S)
        member = self._members[self._first]
        with member.stream(
            *("POST", self._target(member, gateway.WATCH)),
            headers=_headers(token),
            body=question,
            max_line_bytes=max_bytes,
            silence_s=silence_s,
        ) as lines:
            yield (self._message(line, str(member.origin)) for line in lines)

    def _message(self, line: bytes, origin: str) -> WatchMessage:
        message = gateway.watch_message(line, origin)
        if not message.is_canceled:
            return message
        if message.compact_revision:
            raise CompactedError(f"etcd at {origin} has compacted its history")
        refusal = EtcdError(message.reason, origin)
        if refusal.is_of_token:
            self._token = None
        raise refusal

    def close(self) -> None:
        for member in self._members:
            member.close()

    def _answer(self, path: str, question: bytes, token: str, end_s: float) -> bytes:
        """Return the answer of the first member that gives one; raise as `ask` does."""
        first, count = self._first, len(self._members)
        reason: DriverError | None = None
        for number in range(count):
            left_s = end_s - time.monotonic()
            if reason and left_s < LEAST_S:
                break
            index = (first + number) % count
            member = self._members[index]
            try:
                answer = member.request(
                    *("POST", self._target(member, path)),
                    headers=_headers(token),
                    body=question,
                    max_bytes=MAX_ANSWER_BYTES,
                    within_s=left_s if number == count - 1 else left_s / 2,
                )
            except TooLongError:
                raise  # of what etcd has, whoever answers
            except ServerError as error:
                reason = reason or error
                continue
            if answer.status == 200:
                self._first = index
                return answer.body
            refusal = gateway.error(answer.body, str(member.origin))
            if answer.status not in _AWAY:
                raise refusal
            reason = reason or refusal
        assert reason
        raise reason

    @staticmethod
    def _target(member: HttpClient, path: str) -> str:
        return member.target.rstrip("/") + path

    def _present_token(self, end_s: float) -> str:
        return self._next_token(None, end_s) if self._token is None else self._token

    def _next_token(self, refused: str | None, end_s: float) -> str:
        """Return another token than the refused one, which is fetched once for all threads."""
        if self._user is None:
            return ""
        if not self._authenticating.acquire(timeout=max(end_s - time.monotonic(), 0)):
            raise DriverError("etcd: another thread has waited for a token all the time")
        try:
            if self._token in (None, refused):
                self._token = self._fetched_token(self._user, end_s)
            return self._token or ""
        finally:
            self._authenticating.release()

    def _fetched_token(self, user: str, end_s: float) -> str:
        question = gateway.question_of_token(user, self._password)
        try:
            return gateway.token(self._answer(gateway.AUTHENTICATE, question, "", end_s))
        except EtcdError as error:
            if error.is_without_authentication:
                return ""  # everybody may read until it is enabled
            raise


def _headers(token: str) -> dict[str, str]:
    return {"content-type": "application/json"} | ({"authorization": token} if token else {})

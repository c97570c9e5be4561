"""OpenBaoSession: the token of requests, from a file or from a login by AppRole.

https://openbao.org/api-docs/auth/approle/ and /auth/token/. A token is renewed in the background
when two thirds of its time are over, and otherwise replaced: by another login, or by what its file
has then.
"""

from __future__ import annotations

import os
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Hashable, Mapping
from dataclasses import dataclass
from math import inf
from typing import Any

from vmw_cloudinit_metadata.drivers.drivererror import DriverError, SecretUnavailableError
from vmw_cloudinit_metadata.drivers.stores.httpfiles import token_in
from vmw_cloudinit_metadata.drivers.stores.httpoptions import REQUEST_S
from vmw_cloudinit_metadata.drivers.stores.openbao.openbaoapi import OpenBaoApi, data_in, refused
from vmw_cloudinit_metadata.drivers.vault.vaultoptions import VaultOptions

RENEWED_AFTER = 2 / 3  # of a token's time
AGAIN_S = 5.0  # from a login to the next one because of a 403
FAILED_S = 1.0  # a login that failed fails for all who have waited for it


@dataclass(frozen=True, slots=True)
class ServerToken:
    text: str
    ttl_s: float  # inf: it does not expire, as far as we know
    is_renewable: bool
    since_s: float  # time.monotonic(), before it was asked for

    @property
    def is_over(self) -> bool:
        return time.monotonic() >= self.since_s + self.ttl_s

    @property
    def renewed_at_s(self) -> float:
        return self.since_s + RENEWED_AFTER * self.ttl_s


class Login(ABC):
    """How a token is had; raises SecretUnavailableError."""

    def __init__(self, api: OpenBaoApi) -> None:
        self.api = api

    @abstractmethod
    def new(self, end_s: float) -> ServerToken: ...

    def stamp(self) -> Hashable:
        """Return another value once there is another token without a request."""
        return None

    def renewed(self, token: ServerToken, end_s: float) -> ServerToken | None:
        """Return the token with its new time; None if the server gives it none."""
        if not token.is_renewable:
            return None
        since_s = time.monotonic()
        answer = self.api.ask("POST", "auth/token/renew-self", end_s, token=token.text, body={})
        if answer.status != 200:
            return None
        found = _token_of(data_in(self.api, answer).get("auth"), token.text, since_s)
        # One that ends soon for good is replaced before it does.
        return found if found and found.ttl_s > token.ttl_s / 2 else None


class TokenFile(Login):
    def __init__(self, api: OpenBaoApi, path: str) -> None:
        super().__init__(api)
        self._path = path
        token_in("vault.token_file", path)

    def new(self, end_s: float) -> ServerToken:
        since_s = time.monotonic()
        text = _in_file(self._path, "token_file")
        answer = self.api.ask("GET", "auth/token/lookup-self", end_s, token=text)
        if answer.status == 403:  # its policy may forbid that; if it is invalid, the read tells it
            return ServerToken(text, inf, is_renewable=False, since_s=since_s)
        if answer.status != 200:
            raise refused(self.api, answer)
        data = data_in(self.api, answer).get("data")
        data = data if isinstance(data, Mapping) else {}
        return ServerToken(text, _seconds(data.get("ttl")), data.get("renewable") is True, since_s)

    def stamp(self) -> Hashable:
        try:
            found = os.stat(self._path)
        except OSError:
            return None
        return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns


class AppRoleLogin(Login):
    def __init__(self, api: OpenBaoApi, mount: str, role_id: str, path: str) -> None:
        super().__init__(api)
        self._place = f"auth/{mount}/login"
        self._role_id = role_id
        self._path = path
        token_in("vault.secret_id_file", path)

    def new(self, end_s: float) -> ServerToken:
        since_s = time.monotonic()
        given = {"role_id": self._role_id, "secret_id": _in_file(self._path, "secret_id_file")}
        answer = self.api.ask("POST", self._place, end_s, body=given)
        if answer.status in (400, 403, 404):
            raise self.api.error(
                "denied", f"{self._place} refuses role_id and secret_id_file: write new ones"
            )
        if answer.status != 200:
            raise refused(self.api, answer)
        token = _token_of(data_in(self.api, answer).get("auth"), None, since_s)
        if token is None:
            raise self.api.error("unusable", f"no token in the answer of {self._place}: check url")
        return token


def login_of(api: OpenBaoApi, options: VaultOptions) -> Login:
    """Return the login that the options describe; raise DriverError if its file is unusable."""
    if options.token_file:
        return TokenFile(api, options.token_file)
    assert options.role_id
    assert options.secret_id_file
    return AppRoleLogin(api, options.approle_mount, options.role_id, options.secret_id_file)


class OpenBaoSession:
    """The present token. Thread-safe: one thread asks for a new one, and all others wait for it."""

    def __init__(self, login: Login) -> None:
        self._login = login
        self._lock = threading.Lock()
        self._token: ServerToken | None = None
        self._stamp: Hashable = None
        self._tried_s = -inf  # when a token was last asked for
        self._failure: SecretUnavailableError | None = None  # of that, if it did

    def token(self, end_s: float) -> str:
        """Return a token; raise SecretUnavailableError."""
        return self._present(end_s).text

    def another(self, refused: str, end_s: float) -> str | None:
        """Return a token in place of one that was refused; None if there is no other.

        Raise SecretUnavailableError if a new one cannot be had. The present one stays: it may be
        valid, and its policy forbid that path alone.
        """
        with self._locked(end_s):
            token = self._token
            if token and token.text != refused:
                return token.text
            if time.monotonic() < self._tried_s + AGAIN_S:
                self._raise_failure()
                return None
            fresh = self._new(end_s)
        return fresh.text if fresh.text != refused else None

    def tend(self) -> float:
        """Renew the token if it is time; return within how many seconds again."""
        token = self._token
        if token is None:
            return inf  # nobody has asked for a secret yet
        if time.monotonic() >= token.renewed_at_s:
            end_s = time.monotonic() + REQUEST_S
            with self._locked(end_s):
                if self._token is token:
                    self._token = self._login.renewed(token, end_s) or self._new(end_s)
                token = self._token or token
        return max(token.renewed_at_s - time.monotonic(), 0.0)

    def _present(self, end_s: float) -> ServerToken:
        token = self._token
        if token and not token.is_over and self._stamp == self._login.stamp():
            return token
        with self._locked(end_s):
            token = self._token
            if token and not token.is_over and self._stamp == self._login.stamp():
                return token
            if time.monotonic() < self._tried_s + FAILED_S:
                self._raise_failure()
            return self._new(end_s)

    def _raise_failure(self) -> None:
        if self._failure:
            raise SecretUnavailableError(self._failure.problem, str(self._failure))

    def _new(self, end_s: float) -> ServerToken:
        stamp = self._login.stamp()  # from before the file is read
        self._tried_s = time.monotonic()
        try:
            token = self._login.new(end_s)
        except SecretUnavailableError as error:
            self._failure = error
            self._tried_s = time.monotonic()
            raise
        self._token, self._stamp, self._failure = token, stamp, None
        return token

    def _locked(self, end_s: float) -> _Locked:
        return _Locked(self._lock, self._login.api, end_s)


class _Locked:
    """Holds a lock that is waited for until a time."""

    def __init__(self, lock: threading.Lock, api: OpenBaoApi, end_s: float) -> None:
        self._lock = lock
        self._api = api
        self._end_s = end_s

    def __enter__(self) -> None:
        if not self._lock.acquire(timeout=max(self._end_s - time.monotonic(), 0)):
            raise self._api.error("unreachable", "a login has not ended in time")

    def __exit__(self, *_error: object) -> None:
        self._lock.release()


def _token_of(auth: Any, text: str | None, since_s: float) -> ServerToken | None:
    """Return the token of an answer's `auth`; `text` where it is known."""
    if not isinstance(auth, Mapping):
        return None
    found = text or auth.get("client_token")
    if not found or not isinstance(found, str) or not found.isascii() or not found.isprintable():
        return None
    ttl_s = _seconds(auth.get("lease_duration"))
    return ServerToken(found, ttl_s, auth.get("renewable") is True, since_s)


def _seconds(value: Any) -> float:
    """Return a time to live; 0 stands for none."""
    return float(value) if isinstance(value, int) and 0 < value < 1e12 else inf


def _in_file(path: str, option: str) -> str:
    try:
        return token_in(f"vault.{option}", path)
    except DriverError as error:
        raise SecretUnavailableError("denied", str(error)) from None

"""OpenBaoSecrets: the KV secrets engine of OpenBao or Vault, version 1 or 2.

https://openbao.org/api-docs/secret/kv/. Answers are never quoted: they are secrets.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any
from urllib.parse import quote

from vmw_cloudinit_metadata.drivers import driveroptions
from vmw_cloudinit_metadata.drivers.drivererror import DriverError, SecretUnavailableError
from vmw_cloudinit_metadata.drivers.stores.httpclient import HttpAnswer, HttpClient
from vmw_cloudinit_metadata.drivers.stores.httpoptions import HttpOptions
from vmw_cloudinit_metadata.drivers.stores.openbao.openbaoapi import (
    OpenBaoApi,
    data_in,
    is_trouble,
    refused,
)
from vmw_cloudinit_metadata.drivers.stores.openbao.openbaosession import OpenBaoSession, login_of
from vmw_cloudinit_metadata.drivers.vault.secretsource import MAX_BYTES, Content, SecretSource
from vmw_cloudinit_metadata.drivers.vault.vaultoptions import VaultOptions

_HALF = re.compile("[\ud800-\udfff]")  # of a surrogate pair


class OpenBaoSecrets(SecretSource):
    """All that a read takes, with a login, ends in its time."""

    def __init__(self, options: VaultOptions) -> None:
        """Raise DriverError if the options or their files cannot be used."""
        try:
            self._client = HttpClient(_http_options(options))
        except DriverError as error:
            raise DriverError(f"vault: {error}") from error
        self._api = OpenBaoApi(self._client, options.base, options.namespace)
        self._session = OpenBaoSession(login_of(self._api, options))
        self._mount = options.mount
        self._version = options.kv_version

    def read(self, path: str, end_s: float) -> Content:
        place = f"{self._mount}{'/data' if self._version == 2 else ''}/{quote(path)}"
        answer = self._answer(place, end_s)
        if answer.status == 200:
            return self._content(answer)
        if answer.status == 403:
            raise self._api.error(
                "denied", f"permission denied: allow read of {place} in the token's policy"
            )
        if answer.status == 404:
            raise self._api.error(
                "absent",
                f"there is nothing at {place}: add the secret, or check mount and kv_version",
            )
        raise self._refused(place, answer, end_s)

    def tend(self) -> float:
        return self._session.tend()

    def close(self) -> None:
        self._client.close()

    def _answer(self, place: str, end_s: float) -> HttpAnswer:
        """Read with a valid token: after a 403 with a new one, since it may be revoked."""
        token = self._session.token(end_s)
        answer = self._api.ask("GET", place, end_s, token=token)
        if answer.status == 403 and (fresh := self._another(token, place, end_s)):
            answer = self._api.ask("GET", place, end_s, token=fresh)
        return answer

    def _another(self, token: str, place: str, end_s: float) -> str | None:
        try:
            return self._session.another(token, end_s)
        except SecretUnavailableError as error:
            text = f"permission denied for {place}, and no new token: {error}"
            raise SecretUnavailableError(error.problem, text) from None

    def _refused(self, place: str, answer: HttpAnswer, end_s: float) -> SecretUnavailableError:
        """Return what is wrong: with the server, by its own health, or with this path alone."""
        if not is_trouble(answer.status):
            return refused(self._api, answer)
        health = self._api.health(end_s)
        if is_trouble(health.status):
            return refused(self._api, health)
        reason = f"{self._api.status_text(answer.status)} for {place} alone"
        return SecretUnavailableError("failing", f"{reason}: its log has the reason")

    def _content(self, answer: HttpAnswer) -> Content:
        data: Any = data_in(self._api, answer).get("data")
        if self._version == 2:
            data = data.get("data") if isinstance(data, Mapping) else None
        if not isinstance(data, Mapping):
            raise SecretUnavailableError(
                "unusable", f"{self._client.origin}: no secret in its answer: check kv_version"
            )
        if sum(map(len, filter(_is_text, data.values()))) > MAX_BYTES:
            reason = f"the secret has more than {MAX_BYTES:,} characters"
            raise self._api.error("unusable", reason)
        return {str(name): value if _is_text(value) else None for name, value in data.items()}


def _is_text(value: object) -> bool:
    """Return whether it is a string that UTF-8 can encode."""
    return isinstance(value, str) and not _HALF.search(value)


def _http_options(options: VaultOptions) -> HttpOptions:
    files = ("ca_file", "client_certificate_file", "client_key_file")
    given = {name: value for name in files if (value := getattr(options, name)) is not None}
    checked: HttpOptions = driveroptions.checked(
        HttpOptions, {"url": options.url, "headers": {"X-Vault-Request": "true"}, **given}
    )
    return checked

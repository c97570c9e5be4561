"""OpenBaoApi: requests to OpenBao, and what its statuses mean."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

import ujson

from vmw_cloudinit_metadata.drivers.drivererror import DriverError, SecretUnavailableError
from vmw_cloudinit_metadata.drivers.stores.httpclient import HttpAnswer, HttpClient
from vmw_cloudinit_metadata.drivers.stores.httperrors import ServerError, TooLongError
from vmw_cloudinit_metadata.drivers.vault.secretsource import MAX_BYTES
from vmw_cloudinit_metadata.instance.layering.secretreference import SecretProblem

_LEAST_S = 0.05  # with less left, nothing is asked any more
_JSON_BYTES = 6  # of a character, at most: \u0000
_ABOUT_BYTES = 16 * 1024  # of an answer without the secret

# https://openbao.org/api-docs/#http-status-codes and sys/health
_PROBLEMS: Mapping[int, tuple[SecretProblem, str]] = {
    429: ("unreachable", "it limits the rate of requests"),
    472: ("unreachable", "it is a standby server: write the address of the active one in url"),
    473: ("unreachable", "it is a standby server: write the address of the active one in url"),
    501: ("sealed", "it is not initialized"),
    503: ("sealed", "it is sealed, or in maintenance: unseal it"),
}


# https://openbao.org/api-docs/system/health/: a standby server hands requests on.
_HEALTH = "sys/health?standbyok=true&perfstandbyok=true"


class OpenBaoApi:
    def __init__(self, client: HttpClient, base: str, namespace: str | None) -> None:
        self._client = client
        self._base = base
        self._namespace = {"x-vault-namespace": namespace} if namespace else {}

    def ask(
        self, method: str, place: str, end_s: float, *, token: str = "", body: Any = None
    ) -> HttpAnswer:
        """Return the answer of `/v1/PLACE` until that time; raise SecretUnavailableError."""
        headers = {"x-vault-token": token} if token else {}
        return self._ask(method, place, end_s, {**headers, **self._namespace}, body)

    def health(self, end_s: float) -> HttpAnswer:
        """Return how the server is itself: that is asked outside of any namespace."""
        return self._ask("GET", _HEALTH, end_s, {})

    def _ask(
        self,
        method: str,
        place: str,
        end_s: float,
        headers: Mapping[str, str],
        body: Any = None,
    ) -> HttpAnswer:
        left_s = end_s - time.monotonic()
        if left_s < _LEAST_S:
            raise self.error("unreachable", "it answers too slowly")
        try:
            return self._client.request(
                method,
                f"{self._base}/v1/{place}",
                headers=headers,
                body=ujson.dumps(body).encode() if body is not None else None,
                max_bytes=_JSON_BYTES * MAX_BYTES + _ABOUT_BYTES,
                within_s=left_s,
            )
        except TooLongError as error:
            raise SecretUnavailableError("unusable", str(error)) from None
        except ServerError as error:
            raise SecretUnavailableError("unreachable", str(error)) from None
        except DriverError as error:  # a file of the options
            raise SecretUnavailableError("unusable", str(error)) from None

    def error(self, problem: SecretProblem, reason: str) -> SecretUnavailableError:
        return SecretUnavailableError(problem, str(self._client.error(reason)))

    def status_text(self, status: int) -> str:
        return str(self._client.status_error(status))


def is_trouble(status: int) -> bool:
    """Return whether a status may mean that the server answers no request at all."""
    return status in _PROBLEMS or status >= 500


def refused(api: OpenBaoApi, answer: HttpAnswer) -> SecretUnavailableError:
    """Return what a status means that the caller does not expect."""
    if answer.status in _PROBLEMS:
        return api.error(*_PROBLEMS[answer.status])
    problem: SecretProblem = "unreachable" if answer.status >= 500 else "unusable"
    return SecretUnavailableError(problem, api.status_text(answer.status))


def data_in(api: OpenBaoApi, answer: HttpAnswer) -> Mapping[str, Any]:
    """Return the JSON object of an answer; raise SecretUnavailableError."""
    try:
        found = ujson.loads(answer.body)
    except ValueError:
        found = None
    if not isinstance(found, dict):
        raise api.error("unusable", "its answer is no JSON object: check url")
    return found

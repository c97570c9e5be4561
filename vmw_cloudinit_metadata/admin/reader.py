"""Reads the admin port of a running server, as `status` and `tail` do."""

from __future__ import annotations

import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from http.client import HTTPException
from typing import Any
from urllib.parse import urlsplit

import ujson

from vmw_cloudinit_metadata.settings.errors import ConfigError

ANSWER_S = 15.0  # events are silent for at most 10 s
MAX_BYTES = 16 * 1024 * 1024


class AdminReader:
    """Reads the server at `url`, with `token` if there is one."""

    def __init__(self, url: str, token: bytes | None) -> None:
        if urlsplit(url).scheme not in ("http", "https"):
            raise ConfigError(f"--admin: found {url!r}, expected a URL: http://127.0.0.1:13371")
        self._url = url.rstrip("/")
        self._headers = {"Authorization": f"Bearer {token.decode()}"} if token else {}

    def json(self, path: str) -> Any:
        """Return the JSON of an API path; raise ConfigError if it cannot be read."""
        with self._open(path) as answer:
            try:
                return ujson.loads(answer.read(MAX_BYTES))
            except (OSError, HTTPException, ValueError) as error:
                raise self._no_answer(error) from error

    def events(self, path: str) -> Iterator[str]:
        """Yield the data of each event, until the server closes the stream."""
        with self._open(path) as answer:
            try:
                for line in answer:
                    if line.startswith(b"data: "):
                        yield line[6:].decode("utf-8", "replace").rstrip("\n")
            except (OSError, HTTPException):
                return

    def _open(self, path: str) -> Any:
        request = urllib.request.Request(self._url + path, headers=self._headers)
        try:
            return _OPENER.open(request, timeout=ANSWER_S)
        except urllib.error.HTTPError as error:
            if error.code == 401:
                raise ConfigError(f"{self._url} needs the right --admin-token-file") from None
            raise ConfigError(f"{self._url}{path} answers {error.code} {error.reason}") from None
        except urllib.error.URLError as error:
            raise self._no_answer(error.reason) from error
        except (OSError, HTTPException, ValueError) as error:
            raise self._no_answer(error) from error

    def _no_answer(self, error: object) -> ConfigError:
        return ConfigError(
            f"{self._url} does not answer ({error}): is the server running with this "
            "--admin-listen? Use --admin for another address"
        )


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    """Follows no redirect: the token is for this server alone."""

    def redirect_request(self, *_: Any, **__: Any) -> None:
        return None


# No proxy of the environment: the port is on this machine, or known by its address.
_OPENER = urllib.request.build_opener(urllib.request.ProxyHandler({}), _NoRedirect())


def line_of(event: Mapping[str, Any]) -> str:
    """Return an event as a line, not yet safe for a terminal."""
    if "event" not in event:
        return f"... {event.get('count', 'some')} events were left out: they came too fast"
    about = [event.get("machine_name"), event.get("vc_uuid")]
    machine = ", ".join(str(part) for part in about if part)
    parts = (event.get("peer"), machine, event["event"])
    text = ": ".join(str(part) for part in parts if part)
    return f"{event.get('time', '')} {str(event.get('level', '')).upper():7} {text}"

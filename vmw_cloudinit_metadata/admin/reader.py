"""Reads the admin port of a running server, as `status` and `tail` do."""

from __future__ import annotations

import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from http.client import HTTPException, InvalidURL
from types import MappingProxyType
from typing import Any
from urllib.parse import quote, urlsplit

import ujson

from vmw_cloudinit_metadata.settings.errors import ConfigError

ANSWER_S = 15.0  # events are silent for at most 10 s
MAX_BYTES = 64 * 1024 * 1024
_MAX_IDS = 20  # of machines with one name


_NOT_IN_FLEET = "at this server only: the fleet's database did not answer"


class AdminRefusedError(ConfigError):
    """The server does not do it, and says why: there is no such machine, or several."""


class AdminReader:
    """Reads the server at `url`, with `token` if there is one."""

    def __init__(self, url: str, token: bytes | None) -> None:
        if urlsplit(url).scheme not in ("http", "https"):
            raise ConfigError(f"--admin: found {url!r}, expected a URL: http://127.0.0.1:13371")
        self.url = url.rstrip("/")
        self._headers = {"Authorization": f"Bearer {token.decode()}"} if token else {}

    def json(self, path: str) -> Any:
        """Return the JSON of an API path; raise ConfigError if it cannot be read."""
        with self._open(path) as answer:
            try:
                return ujson.loads(answer.read(MAX_BYTES))
            except (OSError, HTTPException, ValueError) as error:
                raise self._no_answer(error) from error

    def text(self, path: str) -> str:
        """Return the text of an API path; raise ConfigError if it cannot be read whole."""
        with self._open(path) as answer:
            try:
                found: bytes = answer.read(MAX_BYTES + 1)
            except (OSError, HTTPException) as error:
                raise self._no_answer(error) from error
        if len(found) > MAX_BYTES:
            raise ConfigError(f"{self.url}{path} answers more than {MAX_BYTES:,} bytes")
        return found.decode("utf-8", "replace")

    def forget(self, name: str) -> str:
        """Let the server forget a machine; return its id, and what is missing. Raise
        AdminRefusedError, ConfigError."""
        headers = {"X-VMW-Metadata-Action": "forget"}
        with self._open(f"/api/forget/{quote(name, safe='')}", "POST", headers) as answer:
            try:
                found = ujson.loads(answer.read(MAX_BYTES))
                remark = "" if found.get("scope") != "server" else f" ({_NOT_IN_FLEET})"
                return f"{found['forgotten']}{remark}"
            except (OSError, HTTPException, ValueError, LookupError) as error:
                raise self._no_answer(error) from error

    def machine(self, name: str) -> Any:
        """Return all that is known of the machine with this id or name; raise AdminRefusedError,
        ConfigError."""
        return self.json(f"/api/machines/{quote(name, safe='')}")

    def events(self, path: str) -> Iterator[str]:
        """Yield the data of each event, until the server closes the stream."""
        with self._open(path) as answer:
            try:
                for line in answer:
                    if line.startswith(b"data: "):
                        yield line[6:].decode("utf-8", "replace").rstrip("\n")
            except (OSError, HTTPException):
                return

    def _open(
        self, path: str, method: str = "GET", headers: Mapping[str, str] = MappingProxyType({})
    ) -> Any:
        request = urllib.request.Request(
            self.url + path, method=method, headers={**self._headers, **headers}
        )
        try:
            return _OPENER.open(request, timeout=ANSWER_S)
        except urllib.error.HTTPError as error:
            if error.code == 401:
                raise ConfigError(f"{self.url} needs the right --admin-token-file") from None
            if error.code in (404, 409) and (reason := _reason_in(error)):
                raise AdminRefusedError(reason) from None
            raise ConfigError(f"{self.url}{path} answers {error.code} {error.reason}") from None
        except urllib.error.URLError as error:
            raise self._no_answer(error.reason) from error
        except (OSError, InvalidURL, ValueError) as error:
            raise self._no_answer(error) from error
        except HTTPException as error:  # its text is what was received: not for a terminal
            raise ConfigError(
                f"{self.url} is no admin port: it does not answer in HTTP. Use --admin for another "
                "address"
            ) from error

    def _no_answer(self, error: object) -> ConfigError:
        return ConfigError(
            f"{self.url} does not answer ({error}): is the server running with this "
            "--admin-listen? Use --admin for another address"
        )


def _reason_in(error: urllib.error.HTTPError) -> str:
    """Return the reason of the API, with the machines among which one must choose; "" if it has
    none."""
    try:
        found = ujson.loads(error.read(MAX_BYTES))
        ids = [str(machine["id"]) for machine in found.get("machines", ())]
        reason = str(found["error"])
    except (OSError, HTTPException, ValueError, LookupError, TypeError, AttributeError):
        return ""
    if not ids:
        return reason
    return f"{reason}: {', '.join(ids[:_MAX_IDS])}{', …' if len(ids) > _MAX_IDS else ''}"


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
    machine += " (test)" if machine and event.get("test") else ""
    parts = (event.get("peer"), machine, event["event"])
    text = ": ".join(str(part) for part in parts if part)
    return f"{event.get('time', '')} {str(event.get('level', '')).upper():7} {text}"

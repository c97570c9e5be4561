"""The process that delivers webhooks: in order, each until it is taken, refused, or too old.

One attempt at a time: a receiver that hangs holds up what is behind, and nothing else.
"""

from __future__ import annotations

import asyncio
import hmac
import http.client
import os
import socket
import ssl
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from threading import Thread
from urllib.parse import urlsplit

from vmw_cloudinit_metadata import __version__
from vmw_cloudinit_metadata.process import keptchild
from vmw_cloudinit_metadata.process.outcomes.hookwork import (
    BEAT,
    BEAT_S,
    SIGNATURE_HEADER,
    HookWork,
)
from vmw_cloudinit_metadata.process.timedsocket import connected, connected_with_tls
from vmw_cloudinit_metadata.settings import hookkey
from vmw_cloudinit_metadata.settings.errors import ConfigError

MEMORY_BYTES = 256 * 1024 * 1024
ATTEMPT_S = 10.0
FIRST_RETRY_S, MAX_RETRY_S = 1.0, 60.0  # doubled each time
EXPIRES_S = 24 * 3600.0  # after the boot

# Statuses of a receiver that will not say otherwise the next time, unless it says so.
_AGAIN = (408, 425, 429)


class AttemptError(Exception):
    """Why a webhook was not taken; `is_final` if it would not be the next time."""

    def __init__(self, text: str, *, is_final: bool = False) -> None:
        super().__init__(text)
        self.is_final = is_final


def deliver_all(work: HookWork) -> None:
    """Deliver what the server writes, until it is gone."""
    for line in sys.stdin.buffer:
        _, at_s, body = line.rstrip(b"\n").split(b" ", 2)
        outcome = _delivered(work, body, float(at_s) + EXPIRES_S)
        _say(outcome)


def _delivered(work: HookWork, body: bytes, until_s: float) -> str:
    """Deliver one; return what became of it."""
    for pause_s in _pauses_s():
        try:
            post(work, body)
        except AttemptError as error:
            if error.is_final:
                return f"refused {error}"
            if time.time() + pause_s > until_s:
                return f"expired {error}"
            _say(f"failed {error}")
            time.sleep(pause_s)
        else:
            return "delivered"
    raise AssertionError("pauses have no end")


def _pauses_s() -> Iterator[float]:
    pause_s = FIRST_RETRY_S
    while True:
        yield pause_s
        pause_s = min(2 * pause_s, MAX_RETRY_S)


def post(work: HookWork, body: bytes) -> None:
    """Send the body once; raise AttemptError. No redirect is followed: the key is for this URL."""
    try:
        key = hookkey.read(Path(work.key_file))  # each time, so that a new one counts at once
    except ConfigError as error:
        raise AttemptError(str(error)) from None
    signature = hmac.digest(key, body, "sha512").hex()
    url = urlsplit(work.url)
    headers = {
        "Content-Type": "application/json",
        "User-Agent": f"vmw-cloudinit-metadata/{__version__}",
        SIGNATURE_HEADER: signature,
    }
    connection = connection_to(url.scheme, url.hostname or "", url.port)
    path = f"{url.path or '/'}{f'?{url.query}' if url.query else ''}"
    try:
        connection.request("POST", path, body, headers)
        status = connection.getresponse().status
    except (OSError, http.client.HTTPException) as error:
        raise AttemptError(_text_of(error)) from None
    finally:
        connection.close()
    if not 200 <= status < 300:
        is_final = 300 <= status < 500 and status not in _AGAIN
        raise AttemptError(f"the receiver answers {status}", is_final=is_final)


def connection_to(scheme: str, host: str, port: int | None) -> http.client.HTTPConnection:
    # Without a port, the last group of an IPv6 address would be taken for one.
    if scheme == "https":
        return _TlsConnection(host, port or 443)
    return _PlainConnection(host, port or 80)


class _PlainConnection(http.client.HTTPConnection):
    """All that is received in one exchange comes within ATTEMPT_S."""

    def connect(self) -> None:
        self.sock = connected(self.host, self.port, ATTEMPT_S)


class _TlsConnection(http.client.HTTPConnection):
    def connect(self) -> None:
        self.sock = connected_with_tls(self.host, self.port, ATTEMPT_S)


def _text_of(error: BaseException) -> str:
    match error:
        case ssl.SSLCertVerificationError():
            return f"the certificate of the receiver: {error.verify_message}"
        case TimeoutError():
            return f"the receiver has not answered within {ATTEMPT_S:g} s"
        case socket.gaierror() | OSError():
            return f"the receiver is out of reach: {error.strerror or type(error).__name__}"
    return f"the receiver does not speak HTTP: {type(error).__name__}"


def _say(text: str) -> None:
    os.write(1, " ".join(text.split()).encode("utf-8", "replace")[:2000] + b"\n")


async def _run(line: bytes) -> None:
    """Deliver in a thread, which this process does not wait for when the server is gone."""
    delivering = Thread(target=deliver_all, args=(HookWork.of(line),), daemon=True)
    delivering.start()
    while delivering.is_alive():
        try:
            os.write(1, BEAT + b"\n")
        except BrokenPipeError:  # the server is gone
            return
        await asyncio.sleep(BEAT_S)


if __name__ == "__main__":
    keptchild.run(_run, MEMORY_BYTES)

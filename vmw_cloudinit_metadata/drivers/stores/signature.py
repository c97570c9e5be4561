"""Signed webhooks: HMAC of the body with a key that a file holds. Reads the file."""

from __future__ import annotations

import hmac
from collections.abc import Mapping
from pathlib import Path

from vmw_cloudinit_metadata.drivers.drivererror import (
    DriverError,
    NoWebhooksError,
    WebhookRefusedError,
)
from vmw_cloudinit_metadata.protocol.webhook import Webhook
from vmw_cloudinit_metadata.settings import permissions
from vmw_cloudinit_metadata.settings.errors import ConfigError

OPTION = "webhook-key-file"
MIN_KEY_BYTES = 16
MAX_KEY_BYTES = 4096

_ALGORITHMS: Mapping[str, tuple[str, str]] = {  # what precedes the hexadecimal digits
    "x-hub-signature-256": ("sha256", "sha256="),
    "x-hook-signature": ("sha512", ""),  # as NetBox sends it
}


class Signature:
    """Checks the signature that webhooks have in `header`; without a file, all are refused."""

    def __init__(self, header: str, key_file: str | None) -> None:
        """Raise DriverError if the key cannot be used."""
        self._header = header
        self._key_file = key_file
        if key_file:
            _key_in(key_file)

    def check(self, hook: Webhook) -> None:
        """Raise WebhookRefusedError unless it is signed with the key; NoWebhooksError without one.

        The file is read each time, so that a new key counts at once.
        """
        if not self._key_file:
            raise NoWebhooksError(f"webhooks need a key to be signed with: set {OPTION}")
        algorithm, prefix = _ALGORITHMS[self._header]
        try:
            key = _key_in(self._key_file)
        except DriverError as error:  # its text names a file, and the sender may be anybody
            raise RuntimeError("the key of webhooks cannot be read") from error
        expected = prefix + hmac.digest(key, hook.body, algorithm).hex()
        if not hmac.compare_digest(hook.headers.get(self._header, ""), expected):
            raise WebhookRefusedError(f"the signature in {self._header} is missing or wrong")


def _key_in(path: str) -> bytes:
    try:
        key = permissions.read(OPTION, Path(path), MAX_KEY_BYTES).strip()
    except ConfigError as error:
        raise DriverError(str(error)) from error
    if len(key) < MIN_KEY_BYTES:
        raise DriverError(
            f"{OPTION}: {path} has {len(key)} bytes, expected at least {MIN_KEY_BYTES}: make a key "
            f"with: (umask 077; openssl rand -hex 32 > {path})"
        )
    return key

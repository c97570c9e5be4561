"""The file of the server's certificate, and whether it has expired. Does file I/O."""

from __future__ import annotations

import ssl
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

from vmw_cloudinit_metadata.settings import permissions
from vmw_cloudinit_metadata.settings.certificatenames import valid_until
from vmw_cloudinit_metadata.settings.errors import ConfigError

MAX_FILE_BYTES = 1024 * 1024

_BEGIN, _END = "-----BEGIN CERTIFICATE-----", "-----END CERTIFICATE-----"


def certificate_in(path: Path) -> bytes:
    """Return the first certificate of a PEM file, as DER: the server's own, before its chain."""
    text = permissions.read("--tls-cert", path, MAX_FILE_BYTES).decode("ascii", "replace")
    begin = text.find(_BEGIN)
    end = text.find(_END, begin)
    if begin < 0 or end < 0:
        raise ConfigError(f"--tls-cert: {path}: no PEM certificate found")
    try:
        return ssl.PEM_cert_to_DER_cert(text[begin : end + len(_END)])
    except ValueError as error:
        raise ConfigError(f"--tls-cert: {path}: invalid certificate ({error})") from error


def expiry_warnings(path: Path) -> Iterator[str]:
    """Warn of an expired certificate; a file that cannot be used is an error elsewhere."""
    try:
        end = valid_until(certificate_in(path))
    except (ConfigError, ValueError):
        return
    if end < datetime.now(UTC):
        yield f"--tls-cert: {path} expired on {end:%Y-%m-%d %H:%M:%S} UTC: renew it"

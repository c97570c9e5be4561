"""What the files of HttpOptions hold: token, certificates and key. Reads files.

Each function raises DriverError if a file cannot be used, and quotes nothing of it.
"""

from __future__ import annotations

import os
import ssl
from collections.abc import Mapping
from pathlib import Path

from vmw_cloudinit_metadata.drivers.drivererror import DriverError
from vmw_cloudinit_metadata.drivers.stores.httpoptions import HttpOptions
from vmw_cloudinit_metadata.settings import permissions
from vmw_cloudinit_metadata.settings.errors import ConfigError

MAX_TOKEN_BYTES = 16 * 1024
MAX_CERTIFICATES_BYTES = 4 * 1024 * 1024

_USER_AGENT = "vmw-cloudinit-metadata"


def headers(options: HttpOptions, scheme: str, authorization: str) -> Mapping[str, str]:
    """Return the header fields of each request, with the token that a file may hold."""
    found = {"user-agent": _USER_AGENT, "accept-encoding": "identity"}
    if authorization:
        found["authorization"] = authorization
    if options.token_file:
        found["authorization"] = f"{scheme} {token_in('token-file', options.token_file)}".strip()
    given = {name: secret.get_secret_value() for name, secret in options.headers.items()}
    return found | {name.lower(): value for name, value in given.items()}


def token_in(option: str, path: str) -> str:
    """Return the one line of a file; raise DriverError."""
    try:
        content = permissions.read(option, Path(path), MAX_TOKEN_BYTES).strip()
    except ConfigError as error:
        raise DriverError(str(error)) from error
    if not content or any(not 0x21 <= byte <= 0x7E for byte in content):
        raise DriverError(f"{option}: {path} must have one line with the token, of printable ASCII")
    return content.decode()


def tls_context(options: HttpOptions) -> ssl.SSLContext:
    certificate = options.client_certificate_file
    key = options.client_key_file or certificate
    files = {
        "ca-file": options.ca_file,
        "client-certificate-file": certificate,
        "client-key-file": key,
    }
    try:
        for option, path in files.items():
            if path:
                permissions.read(option, Path(path), MAX_CERTIFICATES_BYTES)
    except ConfigError as error:
        raise DriverError(str(error)) from error
    try:
        context = ssl.create_default_context(cafile=options.ca_file)
    except OSError as error:
        raise DriverError(f"ca-file: {options.ca_file} has no certificates in PEM") from error
    if certificate:
        try:
            context.load_cert_chain(certificate, key, _no_passphrase)
        except OSError as error:
            raise DriverError(
                f"client-certificate-file, client-key-file: {certificate} and {key} are not a "
                "certificate and its key in PEM"
            ) from error
    return context


def _no_passphrase() -> str:
    raise DriverError("client-key-file: the key is encrypted; it must have no passphrase")


def stats(options: HttpOptions) -> tuple[object, ...]:
    """Return other values once a file has changed."""
    paths = (
        *(options.token_file, options.ca_file),
        *(options.client_certificate_file, options.client_key_file),
    )
    return tuple(_stat(path) for path in paths if path)


def _stat(path: str) -> tuple[int, ...] | None:
    try:
        found = os.stat(path)
    except OSError:
        return None
    return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns

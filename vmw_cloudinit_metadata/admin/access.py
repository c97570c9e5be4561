"""Access control of the admin port."""

from __future__ import annotations

import hmac
from pathlib import Path

from vmw_cloudinit_metadata.settings import permissions
from vmw_cloudinit_metadata.settings.errors import ConfigError
from vmw_cloudinit_metadata.settings.values import Address, is_loopback

MIN_TOKEN_BYTES = 16  # of letters and digits: too many to try
MAX_TOKEN_BYTES = 4096


def read_token(path: Path) -> bytes:
    """Return the token in the file, without white space around it; raise ConfigError."""
    token = permissions.read("--admin-token-file", path, MAX_TOKEN_BYTES).strip()
    if not token.isascii() or len(token.split()) > 1:
        found = "something else"
    elif len(token) < MIN_TOKEN_BYTES:
        found = f"{len(token)} characters"
    else:
        return token
    raise ConfigError(
        f"--admin-token-file: {path}: found {found}, expected one word of ASCII of at least "
        f"{MIN_TOKEN_BYTES} characters: make one with: (umask 077; openssl rand -hex 32 > {path})"
    )


def check_address(address: Address, token: bytes | None) -> None:
    """Raise ConfigError for an address that other machines reach, if there is no token."""
    if token is None and not is_loopback(address.host):
        raise ConfigError(
            f"--admin-listen {address}: an address other than loopback needs --admin-token-file, "
            "or everyone who reaches it can read which VMs there are"
        )


class Access:
    """Decides who may read: with a `token`, clients that send it; without one, requests whose
    `Host` names this machine."""

    def __init__(self, token: bytes | None) -> None:
        self._token = token

    def is_right_host(self, host: str) -> bool:
        """Return whether a request may name this `Host`.

        A foreign page can make a browser on this machine send requests to this port, under a name
        of its own that resolves to here (DNS rebinding). It does not have the token.
        """
        if self._token is not None:
            return True
        name, bracket, rest = host.partition("]")
        if bracket:
            return is_loopback(name.removeprefix("[")) and rest.lstrip(":0123456789") == ""
        name, _, port = host.partition(":")
        return is_loopback(name) and (not port or port.isdigit())

    def has_token(self, authorization: str) -> bool:
        """Return whether an `Authorization` header has the token."""
        if self._token is None:
            return True
        scheme, _, given = authorization.partition(" ")
        is_same = hmac.compare_digest(given.strip().encode("utf-8", "replace"), self._token)
        return is_same and scheme.lower() == "bearer"

"""Who may read what the admin port tells."""

from __future__ import annotations

import hmac
from pathlib import Path

from vmw_cloudinit_metadata.settings import permissions
from vmw_cloudinit_metadata.settings.errors import ConfigError
from vmw_cloudinit_metadata.settings.values import Address, is_loopback

MIN_TOKEN_BYTES = 16  # of letters and digits: more than can be tried
MAX_TOKEN_BYTES = 4096


def read_token(path: Path) -> bytes:
    """What the file says, without white space around it; raises ConfigError."""
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
    """Raises ConfigError for an address that others reach, without a token."""
    if token is None and not is_loopback(address.host):
        raise ConfigError(
            f"--admin-listen {address}: an address other than loopback needs --admin-token-file, "
            "or everyone who reaches it can read which VMs there are"
        )


class Access:
    """With a `token` those who have it; without one those who call this machine by its name."""

    def __init__(self, token: bytes | None) -> None:
        self._token = token

    def is_right_host(self, host: str) -> bool:
        """Whether a request may name this `Host`.

        A page of somebody else can make a browser on this machine ask us, under a name of its own
        that it lets point here (DNS rebinding). A token it does not have.
        """
        if self._token is not None:
            return True
        name, bracket, rest = host.partition("]")
        if bracket:
            return is_loopback(name.removeprefix("[")) and rest.lstrip(":0123456789") == ""
        name, _, port = host.partition(":")
        return is_loopback(name) and (not port or port.isdigit())

    def has_token(self, authorization: str) -> bool:
        """Whether an `Authorization` header lets in."""
        if self._token is None:
            return True
        scheme, _, given = authorization.partition(" ")
        is_same = hmac.compare_digest(given.strip().encode("utf-8", "replace"), self._token)
        return is_same and scheme.lower() == "bearer"

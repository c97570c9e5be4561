"""Which driver options are secrets, and how to show options without them. Pure."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from vmw_cloudinit_metadata.instance.secrecy import is_secret_name

HIDDEN = "(hidden)"

_LOCATION = re.compile(r"(file|path|dir|directory|url)s?$", re.IGNORECASE)
_REFERENCE = re.compile(r"\$\{\w+\}")  # to the environment: the secret is there
_SECRET_IN_QUERY = re.compile(  # of an address
    r"([?&][\w.-]{0,64}(?:pass|pwd|secret|token|key|auth|sig)[\w.-]{0,64}=)[^&#\s]+", re.IGNORECASE
)
# To the last @: a password may have some, and slashes.
_PASSWORD_IN_URL = re.compile(r"(?<=://)(?:[^/\s:@]{0,256}:\S{0,1024}|[^/\s]*)@")


def holds_secret(value: Any) -> bool:
    """Return whether a driver's options have a non-empty value under a secret's name."""
    match value:
        case Mapping():
            return any(
                (item and is_secret_option(str(key)) and not _is_reference(item))
                or holds_secret(item)
                for key, item in value.items()
            )
        case list():
            return any(map(holds_secret, value))
        case _:
            return False


def masked(value: Any) -> Any:
    """Return driver options with HIDDEN in place of secrets and of passwords in URLs."""
    match value:
        case Mapping():
            return {
                key: HIDDEN if is_secret_option(str(key)) and item != {} else masked(item)
                for key, item in value.items()
            }
        case list():
            return list(map(masked, value))
        case str():
            return _SECRET_IN_QUERY.sub(rf"\1{HIDDEN}", _PASSWORD_IN_URL.sub(f"{HIDDEN}@", value))
        case _:
            return value


def _is_reference(value: Any) -> bool:
    return isinstance(value, str) and bool(_REFERENCE.fullmatch(value))


def is_secret_option(key: str) -> bool:
    """Return whether a name is a secret's: `password`, but not `password-file`; and `headers`,
    which are sent to a server."""
    return (is_secret_name(key) and not is_location(key)) or key == "headers"


def is_location(key: str) -> bool:
    """Return whether a name is that of a path or an address."""
    return bool(_LOCATION.search(key))

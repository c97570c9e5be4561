"""Which values of a driver's options are secrets: the texts of its exceptions hide them. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from pydantic import BaseModel, SecretBytes, SecretStr

from vmw_cloudinit_metadata.drivers.optionvalues import FromEnvironment
from vmw_cloudinit_metadata.settings.knownsecrets import parts_of
from vmw_cloudinit_metadata.settings.masking import is_location, is_secret_option


def secrets_in(value: Any, name: str = "", *, is_secret: bool = False) -> Iterator[str]:
    """Yield the secrets in options, or in the value of one: those that have a secret's name or
    type, those of the environment, and passwords in addresses.

    A path or an address of the environment is none: faults name it.
    """
    is_secret = is_secret or is_secret_option(name)
    match value:
        case SecretStr():
            yield value.get_secret_value()
        case SecretBytes():
            yield value.get_secret_value().decode(errors="replace")
        case BaseModel() | Mapping():
            for key, item in dict(value).items():
                yield from secrets_in(item, str(key), is_secret=is_secret)
        case list() | tuple() | set() | frozenset():
            for item in value:
                yield from secrets_in(item, name, is_secret=is_secret)
        case str():
            plain = str.__str__(value)
            if is_secret or (isinstance(value, FromEnvironment) and _may_be_secret(name, plain)):
                yield plain
            else:
                yield from parts_of(plain)


def _may_be_secret(name: str, text: str) -> bool:
    return not (is_location(name) or text.startswith("/") or text.isdigit())

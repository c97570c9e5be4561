"""Types of option values, and options that several commands share."""

from __future__ import annotations

import re
from collections.abc import Callable
from ipaddress import ip_address
from pathlib import Path
from typing import Any, Generic, TypeVar

import click

from vmw_cloudinit_metadata.protocol.identitytoken import MIN_KEY_BYTES, QUERY_KEY, without_token
from vmw_cloudinit_metadata.protocol.vmware import parse_uuid
from vmw_cloudinit_metadata.settings import identitykeys
from vmw_cloudinit_metadata.settings.errors import ConfigError
from vmw_cloudinit_metadata.settings.values import (
    DEFAULT_DRIVER,
    Address,
    parse_driver_options,
    parse_network,
    parse_optional_address,
    parse_size,
)

_Command = TypeVar("_Command", bound=Callable[..., Any])
_Value = TypeVar("_Value")

DIRECTORY = click.Path(path_type=Path)
FILE = click.Path(dir_okay=False, path_type=Path)


class Parsed(click.ParamType[_Value], Generic[_Value]):
    """A value that `parse` makes from a string, or raises ConfigError; keeps other values."""

    def __init__(self, name: str, parse: Callable[[str], _Value]) -> None:
        self.name = name
        self._parse = parse

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> _Value:
        try:
            return self._parse(value) if isinstance(value, str) else value
        except ConfigError as error:
            self.fail(str(error), param, ctx)

    def split_envvar_value(self, rv: str) -> list[str]:
        """Split several values in one variable at blanks or commas."""
        return [value for value in re.split(r"[\s,]+", rv) if value]


def _parse_thumbprint(text: str) -> str:
    digits = text.replace(":", "").lower()
    if not re.fullmatch(r"[0-9a-f]{40}|[0-9a-f]{64}", digits):
        raise ConfigError(f"found {text!r}, expected the SHA-1 or SHA-256 of a certificate")
    return digits


def _parse_uuid(text: str) -> str:
    canonical = parse_uuid(text)
    if canonical is None:
        raise ConfigError(f"found {text!r}, expected a UUID of 32 hexadecimal digits")
    return canonical


def _parse_ip(text: str) -> str:
    try:
        return str(ip_address(text))
    except ValueError:
        raise ConfigError(f"found {text!r}, expected an IP address") from None


def _parse_uri(text: str) -> str:
    if without_token(text) != text:
        raise ConfigError(
            f"found the key {QUERY_KEY}, which is the identity token, another one for each VM: "
            "leave it out"
        )
    return text


URI = Parsed("URI", _parse_uri)
IP = Parsed("ADDRESS", _parse_ip)
ADDRESS = Parsed("ADDRESS:PORT", Address.parse)
OPTIONAL_ADDRESS = Parsed("ADDRESS:PORT", parse_optional_address)
NETWORK = Parsed("CIDR", parse_network)
JSON = Parsed("JSON", parse_driver_options)
SIZE = Parsed("SIZE", parse_size)
UUID = Parsed("UUID", _parse_uuid)
THUMBPRINT = Parsed("HEX", _parse_thumbprint)
KEY_FILE = Parsed("[N=]FILE", identitykeys.parse)


identity_keys_option = click.option(
    identitykeys.OPTION,
    "identity_key_files",
    type=KEY_FILE,
    metavar="[N=]FILE",
    multiple=True,
    help=f"Check identity tokens with this key of at least {MIN_KEY_BYTES} bytes, whose number is "
    "N or 1; may be repeated, while a new key takes the place of an old one.",
)


identity_key_option = click.option(
    identitykeys.OPTION,
    "identity_key_file",
    type=KEY_FILE,
    metavar="[N=]FILE",
    help="Put the identity token of each VM into its service URI, made with this key of the "
    "server, whose number is N or 1.",
)


format_option = click.option(
    "--format",
    "form",
    type=click.Choice(["text", "json"]),
    default="text",
    show_default=True,
    help="Print text, or one JSON document.",
)


def driver_options(command: _Command) -> _Command:
    """Add --driver and --driver-opts."""
    opts = click.option(
        "--driver-opts",
        type=JSON,
        default={},
        help='Pass options to the driver, as a JSON object: \'{"directory": "/srv/instances"}\'.',
    )
    spec = click.option(
        "--driver",
        "driver_spec",
        metavar="MODULE:CLASS",
        default=DEFAULT_DRIVER,
        show_default=True,
        help="Get instance data from this driver or store: a class, or an installed name.",
    )
    return spec(opts(command))


def key_pair_options(*, is_required: bool) -> Callable[[_Command], _Command]:
    """Add --tls-cert and --tls-key."""

    def add(command: _Command) -> _Command:
        key = click.option(
            "--tls-key",
            type=FILE,
            metavar="FILE",
            help="Use this private key: PEM, no passphrase. Default: the one in --tls-cert's file.",
        )
        certificate = click.option(
            "--tls-cert",
            type=FILE,
            metavar="FILE",
            required=is_required,
            help="Use this server certificate with its chain: PEM.",
        )
        return certificate(key(command))

    return add

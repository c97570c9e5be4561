"""Types of option values, and options that several commands share."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from ipaddress import ip_address
from pathlib import Path
from typing import Any, Generic, TypeVar

import click

from vmw_cloudinit_metadata.protocol.identitytoken import MIN_KEY_BYTES, QUERY_KEY, without_token
from vmw_cloudinit_metadata.protocol.vmware import parse_uuid
from vmw_cloudinit_metadata.settings import hookkey, identitykeys, signingkeys, vcenterpassword
from vmw_cloudinit_metadata.settings.errors import ConfigError
from vmw_cloudinit_metadata.settings.values import (
    DEFAULT_DRIVER,
    DEFAULT_LISTEN,
    Address,
    SecretUrl,
    parse_driver_options,
    parse_hook_url,
    parse_network,
    parse_optional_address,
    parse_server_name,
    parse_size,
    parse_vcenter,
)

_Command = TypeVar("_Command", bound=Callable[..., Any])
_Value = TypeVar("_Value")

_MAX_ISSUER = 255


class _Path(click.Path):
    """A path that is not empty: `--ledger "$UNSET"` would be the working directory."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        if value == "":
            self.fail("found nothing, expected a path", param, ctx)
        return super().convert(value, param, ctx)


DIRECTORY = _Path(path_type=Path)
FILE = _Path(dir_okay=False, path_type=Path)


class WholeRange(click.IntRange):
    """A whole number."""

    name = "number"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        try:
            return int(super().convert(value, param, ctx))
        except click.BadParameter:
            self.fail(_out_of_range(self, "a whole number", value, param), param, ctx)


class FiniteRange(click.FloatRange):
    """A number that is neither infinite, which timers do not take, nor NaN, which has no range."""

    name = "number"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> float:
        try:
            found = float(super().convert(value, param, ctx))
        except click.BadParameter:
            self.fail(_out_of_range(self, "a number", value, param), param, ctx)
        if not math.isfinite(found):
            self.fail(f"found {value!r}, expected a finite number", param, ctx)
        return found


_UNITS = ("SECONDS", "HOURS", "DAYS")


def _out_of_range(
    limits: click.IntRange | click.FloatRange,
    kind: str,
    value: Any,
    param: click.Parameter | None,
) -> str:
    """Return what was found, and what the range expects, with the unit that the metavar names."""
    unit = param.metavar if param and param.metavar in _UNITS else ""
    bounds = [f"{'more than' if limits.min_open else 'at least'} {limits.min:,g}"]
    if limits.max is not None:
        bounds.append(f"at most {limits.max:,g}")
    kind += f" of {unit.lower()}" if unit else ""
    return f"found {value!r}, expected {kind}, {' and '.join(bounds)}"


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
    if not text:
        raise ConfigError("found nothing, expected a service URI, as in the VM's serial port")
    if without_token(text) != text:
        raise ConfigError(
            f"found the key {QUERY_KEY}, which is the identity token, another one for each VM: "
            "leave it out"
        )
    return text


def _parse_issuer(text: str) -> str:
    if len(text) > _MAX_ISSUER or not re.fullmatch(r"https?://[!-~]+", text):
        raise ConfigError(
            f"found {text!r}, expected a URL of at most {_MAX_ISSUER} characters: https://HOST/..."
        )
    return text


URI = Parsed("URI", _parse_uri)
IP = Parsed("ADDRESS", _parse_ip)
ADDRESS = Parsed("ADDRESS:PORT", Address.parse)
OPTIONAL_ADDRESS = Parsed("ADDRESS:PORT", parse_optional_address)
NETWORK = Parsed("CIDR", parse_network)
JSON = Parsed("JSON", parse_driver_options)
DATABASE_URL = Parsed("URL", SecretUrl.parse)
SERVER_NAME = Parsed("NAME", parse_server_name)
SIZE = Parsed("SIZE", parse_size)
UUID = Parsed("UUID", _parse_uuid)
VCENTER = Parsed("HOST", parse_vcenter)
THUMBPRINT = Parsed("HEX", _parse_thumbprint)
KEY_FILE = Parsed("[N=]FILE", identitykeys.parse)
ISSUER = Parsed("URL", _parse_issuer)
HOOK_URL = Parsed("URL", parse_hook_url)


def _at_least_one(ctx: click.Context, option: click.Parameter, values: tuple[Any, ...]) -> Any:
    """Refuse an empty list, which only a file or the environment can have: it has no effect."""
    if not values:
        raise click.BadParameter("found no value, expected at least one", ctx, option)
    return values


def listen_option(text: str) -> Callable[[_Command], _Command]:
    """The addresses of the server; `text` is for the help."""
    return click.option(
        "--listen",
        type=ADDRESS,
        multiple=True,
        default=[DEFAULT_LISTEN],
        show_default=str(DEFAULT_LISTEN),
        callback=_at_least_one,
        help=text,
    )


def together(*options: Callable[[Any], Any]) -> Callable[[_Command], _Command]:
    """Combine options into one decorator, in the order of the help text."""

    def add(command: _Command) -> _Command:
        for option in reversed(options):
            command = option(command)
        return command

    return add


identity_keys_option = click.option(
    identitykeys.OPTION,
    "identity_key_files",
    type=KEY_FILE,
    metavar="[N=]FILE",
    multiple=True,
    help=f"Check identity tokens with this key of at least {MIN_KEY_BYTES} bytes, whose number is "
    "N or 1; may be repeated, while a new key takes the place of an old one.",
)


identity_document_options = together(
    click.option(
        signingkeys.OPTION,
        "identity_signing_keys",
        type=FILE,
        metavar="FILE",
        multiple=True,
        help="Sign identity documents (JWT) of VMs with this private key, PEM of Ed25519 or P-256; "
        "may be repeated: the first signs, and the public halves of all are published.",
    ),
    click.option(
        "--identity-issuer",
        type=ISSUER,
        help="Name the issuer of identity documents, as services that check them are told.",
    ),
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


driver_options = together(
    click.option(
        "--driver",
        "driver_spec",
        metavar="MODULE:CLASS",
        default=DEFAULT_DRIVER,
        show_default=True,
        help="Get instance data from this driver or store: a class, or an installed name.",
    ),
    click.option(
        "--driver-opts",
        type=JSON,
        default={},
        help='Pass options to the driver, as a JSON object: \'{"directory": "/srv/instances"}\'.',
    ),
)


fleet_options = together(
    click.option(
        "--fleet",
        "fleet_url",
        type=DATABASE_URL,
        metavar="URL",
        help="Share machines, moves and history with the other servers behind a load balancer, in "
        "this database of PostgreSQL: postgresql://USER@HOST,HOST/DATABASE.",
    ),
    click.option(
        "--server-name",
        type=SERVER_NAME,
        metavar="NAME",
        help="Show this server to the fleet under this name. Default: the host name.",
    ),
    click.option(
        "--fleet-retention",
        "fleet_retention_days",
        type=WholeRange(1, 3650),
        default=90,
        show_default=True,
        metavar="DAYS",
        help="Delete from the fleet's database what is older: servers that are gone, and history.",
    ),
)


forget_failed_option = click.option(
    "--forget-failed",
    "forget_failed_hours",
    type=FiniteRange(min=0, min_open=True, max=24 * 3650),
    default=24.0,
    show_default=True,
    metavar="HOURS",
    help="Forget a VM that got nothing or an old answer this long after it has disconnected; a "
    "test of an administrator too.",
)


vcenter_options = together(
    click.option(
        "--vcenter",
        type=VCENTER,
        help="Read from this vCenter, or single ESXi host, which VMs there are, where they run "
        "and which network cards they have; for VMs that it manages.",
    ),
    click.option(
        "--vcenter-user",
        metavar="NAME",
        help="Log in as this user, who needs no more than to read.",
    ),
    click.option(
        "--vcenter-password-file",
        type=FILE,
        metavar="FILE",
        help="The first line is the password; it is read at each login. Default: "
        f"${vcenterpassword.VARIABLE}.",
    ),
    click.option(
        "--vcenter-ca-file",
        type=FILE,
        metavar="FILE",
        help="Authorities to verify the vCenter's certificate. Default: the system's.",
    ),
    click.option(
        "--vcenter-thumbprint",
        type=THUMBPRINT,
        help="The SHA-1 or SHA-256 of the vCenter's certificate, instead of authorities.",
    ),
    click.option(
        "--vcenter-check",
        type=click.Choice(["off", "warn", "require"]),
        default="warn",
        show_default=True,
        help="Compare each VM with what vCenter says: report VMs that it does not confirm, or "
        "refuse them; off: only show what it says.",
    ),
    click.option(
        "--vcenter-wait",
        "vcenter_wait_s",
        type=FiniteRange(min=0, max=3600),
        default=30.0,
        show_default=True,
        metavar="SECONDS",
        help="With require: wait so long for vCenter to confirm a VM, then refuse it. "
        "Meanwhile its guest gets `timeout`, and asks again.",
    ),
)


outcome_options = together(
    click.option(
        "--expect-outcomes",
        is_flag=True,
        help="Expect each guest to report how its boot ended, for the alert about those that "
        "do not. Default: those that have reported before.",
    ),
    click.option(
        "--outcome-hook",
        type=HOOK_URL,
        metavar="URL",
        help="Tell this URL by a signed webhook how each boot has ended.",
    ),
    click.option(
        hookkey.OPTION,
        type=FILE,
        metavar="FILE",
        help="Sign these webhooks with the key in this file, of at least "
        f"{hookkey.MIN_BYTES} bytes; it is read each time.",
    ),
)


def key_pair_options(*, is_required: bool) -> Callable[[_Command], _Command]:
    return together(
        click.option(
            "--tls-cert",
            type=FILE,
            metavar="FILE",
            required=is_required,
            help="Use this server certificate with its chain: PEM.",
        ),
        click.option(
            "--tls-key",
            type=FILE,
            metavar="FILE",
            help="Use this private key: PEM, no passphrase. Default: the one in --tls-cert's file.",
        ),
    )

"""Values of settings as operators write them: addresses, networks, sizes, driver options."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Collection, Iterator
from typing import Any, NamedTuple
from urllib.parse import urlsplit

import ujson

from vmw_cloudinit_metadata.protocol.printable import quoted
from vmw_cloudinit_metadata.settings.errors import ConfigError
from vmw_cloudinit_metadata.settings.knownsecrets import parts_of
from vmw_cloudinit_metadata.settings.masking import HIDDEN, masked

Network = ipaddress.IPv4Network | ipaddress.IPv6Network

DEFAULT_DRIVER = "vmw_cloudinit_metadata.drivers.file:FileDriver"


class Address(NamedTuple):
    """An IPv4 or IPv6 address or a host name, and a port (0: any free one)."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    @classmethod
    def parse(cls, text: str) -> Address:
        """Parse `0.0.0.0:13370` or `[::]:13370`; raise ConfigError."""
        host, _, port = text.rpartition(":")
        bracketed = host.startswith("[") and host.endswith("]")
        if not (port.isascii() and port.isdigit() and int(port) < 65536):
            raise ConfigError(f"found {text!r}, expected ADDRESS:PORT with a port of 0 to 65535")
        if not host or (":" in host and not bracketed):
            raise ConfigError(f"found {text!r}, expected 0.0.0.0:13370 or [::]:13370")
        return cls(host[1:-1] if bracketed else host, int(port))


_HTTPS = 443


def parse_vcenter(text: str) -> Address:
    """Parse `vcenter.example.com`, `vcenter.example.com:8443` or `[fd00::1]:443`."""
    try:
        found = urlsplit(f"//{text}")
        if found.hostname and found.netloc == text and "@" not in text:
            return Address(found.hostname, found.port or _HTTPS)
    except ValueError:
        pass
    raise ConfigError(f"found {text!r}, expected HOST or HOST:PORT")


def is_loopback(host: str) -> bool:
    """Return whether a host name or address is this machine's loopback."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host.lower() == "localhost"


OFF = "off"


def parse_optional_address(text: str) -> Address | str:
    """Parse an address; return `off` unchanged; raise ConfigError."""
    return OFF if text.lower() == OFF else Address.parse(text)


def parse_network(text: str) -> Network:
    """Parse `10.0.0.0/24`, `fd00::/8`, or one address; raise ConfigError.

    An IPv4-mapped network such as `::ffff:10.0.0.0/104` becomes the IPv4 network, 10.0.0.0/8.
    """
    try:
        _reject_mapped_superset(ipaddress.ip_network(text, strict=False))
        return _unmapped(ipaddress.ip_network(text))
    except ValueError as error:
        raise ConfigError(
            f"found {text!r}, expected a network such as 10.0.0.0/24 or fd00::/8 ({error})"
        ) from None


_MAPPED = ipaddress.IPv6Network("::ffff:0:0/96")


def _reject_mapped_superset(network: Network) -> None:
    """Raise ValueError for an IPv6 network that seems to hold IPv4 and would match none of it."""
    if network.overlaps(_MAPPED) and 0 < network.prefixlen < _MAPPED.prefixlen:
        raise ValueError("it contains all IPv4-mapped addresses: use 0.0.0.0/0 for IPv4")


def _unmapped(network: Network) -> Network:
    """Return the IPv4 network of an IPv4-mapped one, others unchanged."""
    if not network.overlaps(_MAPPED) or not network.prefixlen:
        return network
    bits = int(network.network_address) & 0xFFFFFFFF
    return ipaddress.IPv4Network((bits, network.prefixlen - _MAPPED.prefixlen))


def network_warnings(option: str, networks: Collection[Network]) -> Iterator[str]:
    """Warn about addresses that the networks omit, probably by mistake."""
    versions = {network.version for network in networks}
    if versions == {6} and any(not network.prefixlen for network in networks):
        yield f"{option} ::/0 matches IPv6 only: add 0.0.0.0/0 to match IPv4"


_SIZE = re.compile(r"(\d{1,15})([KMGT]?)(?:iB|B)?", re.IGNORECASE)
_UNITS = {"": 1, "K": 1024, "M": 1024**2, "G": 1024**3, "T": 1024**4}


def parse_size(text: str) -> int:
    """Parse a size in bytes, or `512M`, `2G` (powers of 1,024); raise ConfigError."""
    found = _SIZE.fullmatch(text.strip())
    if not found:
        raise ConfigError(f"found {text!r}, expected a size in bytes, or such as 512M or 2G")
    return int(found[1]) * _UNITS[found[2].upper()]


DEFAULT_LISTEN = Address("0.0.0.0", 13370)  # nosec B104 # ESXi hosts connect from other machines
DEFAULT_ADMIN_LISTEN = Address("127.0.0.1", 13371)


MAX_SERVER_NAME = 100  # characters

_POSTGRESQL = re.compile(r"postgres(?:ql)?://", re.IGNORECASE)


def parse_server_name(text: str) -> str:
    """Take the name of a server of a fleet; raise ConfigError."""
    if not (text.strip() and len(text) <= MAX_SERVER_NAME and text.isprintable()):
        expected = f"1 to {MAX_SERVER_NAME} printable characters"
        raise ConfigError(f"found {quoted(text)}, expected {expected}")
    return text


class SecretUrl(str):
    """An address that may have a password."""

    __slots__ = ()

    def __repr__(self) -> str:
        return HIDDEN

    @property
    def shown(self) -> str:
        return str(masked(str.__str__(self)))

    @property
    def has_password(self) -> bool:
        return any(parts_of(self))

    @classmethod
    def parse(cls, text: str) -> SecretUrl:
        """Take an address of PostgreSQL; raise ConfigError, which quotes nothing of it."""
        if not _POSTGRESQL.match(text):
            raise ConfigError("expected postgresql://USER@HOST/DATABASE")
        if not text.isprintable():
            raise ConfigError("found a character that is not printable, expected it as %XX")
        return cls(text)


def parse_hook_url(text: str) -> str:
    """Parse the URL of a receiver of webhooks; raise ConfigError, which quotes nothing of it."""
    expected = "expected http://HOST[:PORT]/PATH or https://HOST[:PORT]/PATH"
    try:
        url = urlsplit(text)
        is_complete = url.scheme in ("http", "https") and bool(url.hostname) and url.port != 0
        (url.hostname or "").encode("idna")  # or it is looked up nowhere
    except ValueError:
        is_complete = False
    if not is_complete or not re.fullmatch("[!-~]{1,2048}", text):
        raise ConfigError(expected)
    if "@" in url.netloc or url.fragment:
        raise ConfigError(f"{expected}, without a user or a fragment: webhooks are signed")
    return text


_EXPECTED_OPTIONS = 'expected a JSON object such as {"directory": "/srv/instances"}'


def parse_driver_options(text: str) -> dict[str, Any]:
    """Parse a JSON object; raise ConfigError."""
    try:
        options = ujson.loads(text)
    except ValueError as error:
        raise ConfigError(f"{_EXPECTED_OPTIONS} ({error})") from None
    if not isinstance(options, dict):
        raise ConfigError(_EXPECTED_OPTIONS)
    return options

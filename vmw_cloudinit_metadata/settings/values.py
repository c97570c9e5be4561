"""Settings, as operators write them."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Collection, Iterator
from typing import Any, NamedTuple

import ujson

from vmw_cloudinit_metadata.settings.errors import ConfigError

Network = ipaddress.IPv4Network | ipaddress.IPv6Network

DEFAULT_DRIVER = "vmw_cloudinit_metadata.drivers.file:FileDriver"


class Address(NamedTuple):
    """Where to listen: an IPv4 or IPv6 address or a host name, and a port (0: any free one)."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    @classmethod
    def parse(cls, text: str) -> Address:
        """Reads `0.0.0.0:13370` or `[::]:13370`; raises ConfigError."""
        host, _, port = text.rpartition(":")
        bracketed = host.startswith("[") and host.endswith("]")
        if not (port.isascii() and port.isdigit() and int(port) < 65536):
            raise ConfigError(f"found {text!r}, expected ADDRESS:PORT with a port of 0 to 65535")
        if not host or (":" in host and not bracketed):
            raise ConfigError(f"found {text!r}, expected 0.0.0.0:13370 or [::]:13370")
        return cls(host[1:-1] if bracketed else host, int(port))


OFF = "off"


def parse_optional_address(text: str) -> Address | str:
    """Reads an address, or `off`, which it returns as it is; raises ConfigError."""
    return OFF if text.lower() == OFF else Address.parse(text)


def parse_network(text: str) -> Network:
    """Reads `10.0.0.0/24`, `fd00::/8`, or one address; raises ConfigError.

    `::ffff:10.0.0.0/104` is 10.0.0.0/8: peers with such addresses are IPv4's.
    """
    try:
        _refuse_all_of_ipv4(ipaddress.ip_network(text, strict=False))
        return _plain(ipaddress.ip_network(text))
    except ValueError as error:
        raise ConfigError(
            f"found {text!r}, expected a network such as 10.0.0.0/24 or fd00::/8 ({error})"
        ) from None


_MAPPED = ipaddress.IPv6Network("::ffff:0:0/96")


def _refuse_all_of_ipv4(network: Network) -> None:
    """Raises ValueError for a network that would match none of what it seems to hold."""
    if network.overlaps(_MAPPED) and 0 < network.prefixlen < _MAPPED.prefixlen:
        raise ValueError("it holds all of IPv4 as IPv6 writes it: write 0.0.0.0/0 for that")


def _plain(network: Network) -> Network:
    """The IPv4 network, if it is one as IPv6 writes it."""
    if not network.overlaps(_MAPPED) or not network.prefixlen:
        return network
    bits = int(network.network_address) & 0xFFFFFFFF
    return ipaddress.IPv4Network((bits, network.prefixlen - _MAPPED.prefixlen))


def network_warnings(option: str, networks: Collection[Network]) -> Iterator[str]:
    """What networks leave out that was probably meant."""
    versions = {network.version for network in networks}
    if versions == {6} and any(not network.prefixlen for network in networks):
        yield f"{option} ::/0 is IPv6 alone, and matches no IPv4 address: add 0.0.0.0/0 for these"


_SIZE = re.compile(r"(\d{1,15})([KMGT]?)(?:iB|B)?", re.IGNORECASE)
_UNITS = {"": 1, "K": 1024, "M": 1024**2, "G": 1024**3, "T": 1024**4}


def parse_size(text: str) -> int:
    """Read bytes, or `512M`, `2G` (powers of 1,024); raise ConfigError."""
    found = _SIZE.fullmatch(text.strip())
    if not found:
        raise ConfigError(f"found {text!r}, expected bytes, or a size such as 512M or 2G")
    return int(found[1]) * _UNITS[found[2].upper()]


DEFAULT_LISTEN = Address("0.0.0.0", 13370)  # nosec B104 # hosts come from other machines
DEFAULT_ADMIN_LISTEN = Address("127.0.0.1", 13371)


def parse_driver_options(text: str) -> dict[str, Any]:
    """Reads a JSON object; raises ConfigError."""
    try:
        options = ujson.loads(text)
    except ValueError as error:
        raise ConfigError(f"expected a JSON object ({error})") from None
    if not isinstance(options, dict):
        raise ConfigError('expected a JSON object such as {"directory": "."}')
    return options

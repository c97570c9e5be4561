"""Settings, as operators write them."""

from __future__ import annotations

import ipaddress
import re
from typing import Any, NamedTuple

import ujson

from vmw_cloudinit_metadata.errors import ConfigError

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


def parse_network(text: str) -> ipaddress.IPv4Network | ipaddress.IPv6Network:
    """Reads `10.0.0.0/24`, `fd00::/8`, or one address; raises ConfigError."""
    try:
        return ipaddress.ip_network(text)
    except ValueError as error:
        raise ConfigError(
            f"found {text!r}, expected a network such as 10.0.0.0/24 or fd00::/8 ({error})"
        ) from None


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

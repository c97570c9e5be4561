"""The PROXY protocol of load balancers, versions 1 and 2: the address of their client.

Follows HAProxy's "The PROXY protocol" (proxy-protocol.txt), sections 2.1 and 2.2. Pure.
"""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass

_MAX_V1_BYTES = 107  # section 2.1
_V1 = b"PROXY "
_V2 = b"\r\n\r\n\0\r\nQUIT\n"
_V2_HEAD_BYTES = 16
_MAX_V2_BYTES = 4096  # the longest address has 216 bytes; the rest is TLVs, which are ignored

_LOCAL, _PROXY = 0x20, 0x21
_TCP4, _TCP6 = 0x11, 0x21
_ADDRESS_BYTES = {_TCP4: 4, _TCP6: 16}


@dataclass(frozen=True, slots=True)
class Header:
    """The client of the proxy, and the length of the header.

    `address` is None where the proxy connects for itself (a health check: LOCAL), or does not know
    the client.
    """

    length: int
    address: tuple[str, int] | None = None


class Incomplete:
    """More bytes are needed."""


class NoHeader:
    """The data is not a header, and no more bytes will make it one."""


def parse(data: bytes) -> Header | type[Incomplete] | type[NoHeader]:
    """Return the header that `data` begins with."""
    if data.startswith(_V2):
        return _parse_v2(data)
    if data.startswith(_V1):
        return _parse_v1(data)
    return Incomplete if _V2.startswith(data) or _V1.startswith(data) else NoHeader


def _parse_v1(data: bytes) -> Header | type[Incomplete] | type[NoHeader]:
    line, end, _ = data[:_MAX_V1_BYTES].partition(b"\r\n")
    if not end:
        return Incomplete if len(data) < _MAX_V1_BYTES else NoHeader
    length = len(line) + len(end)
    match line.split(b" "):
        case [_, b"UNKNOWN", *_]:
            return Header(length)
        case [_, b"TCP4" | b"TCP6" as family, source, destination, source_port, destination_port]:
            version = 4 if family == b"TCP4" else 6
            address = _address(version, source, source_port)
            if address and _address(version, destination, destination_port):
                return Header(length, address)
    return NoHeader


def _address(version: int, host: bytes, port: bytes) -> tuple[str, int] | None:
    try:
        address = ipaddress.ip_address(host.decode("ascii"))
        number = int(port) if port.isdigit() else -1
    except ValueError:
        return None
    is_right = address.version == version and 0 <= number < 65536
    return (str(address), number) if is_right else None


def _parse_v2(data: bytes) -> Header | type[Incomplete] | type[NoHeader]:
    if len(data) < _V2_HEAD_BYTES:
        return Incomplete
    command, family = data[12], data[13]
    length = _V2_HEAD_BYTES + int.from_bytes(data[14:16], "big")
    if command not in (_LOCAL, _PROXY) or length > _MAX_V2_BYTES:
        return NoHeader
    if len(data) < length:
        return Incomplete
    if command == _LOCAL or family not in _ADDRESS_BYTES:
        return Header(length)
    size = _ADDRESS_BYTES[family]
    if length < _V2_HEAD_BYTES + 2 * size + 4:
        return NoHeader
    body = data[_V2_HEAD_BYTES:]
    host = str(ipaddress.ip_address(body[:size]))
    return Header(length, (host, int.from_bytes(body[2 * size : 2 * size + 2], "big")))

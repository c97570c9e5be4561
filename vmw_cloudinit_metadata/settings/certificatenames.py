"""Host names and end of a certificate (RFC 5280); ssl tells those of verified peers only. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from ipaddress import ip_address

_EXTENSIONS, _DNS_NAME, _IP_ADDRESS = 0xA3, 0x82, 0x87
_VERSION = 0xA0
_VALIDITY, _SUBJECT = 3, 4  # behind serial number, algorithm and issuer
_TIMES = {0x17: "%y%m%d%H%M%SZ", 0x18: "%Y%m%d%H%M%SZ"}  # UTCTime, GeneralizedTime
_SUBJECT_ALT_NAME, _COMMON_NAME = bytes.fromhex("551d11"), bytes.fromhex("550403")

_HOST = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.:-]*")


def names_in(certificate: bytes) -> list[str]:
    """Return the DNS names and IP addresses in a certificate (DER); without any, its common name.

    Raise ValueError for what is no certificate.
    """
    try:
        fields = _fields(certificate)
        subject = fields[_SUBJECT][1]
        extensions = [value for tag, value in fields if tag == _EXTENSIONS]
        names = [name for value in extensions for name in _alternative_names(_only(value))]
        return names or [*_common_names(subject)]
    except (IndexError, ValueError):
        raise ValueError("not a certificate") from None


def valid_until(certificate: bytes) -> datetime:
    """Return when a certificate (DER) expires, in UTC; raise ValueError for what is none."""
    try:
        _, (tag, text) = _items(_fields(certificate)[_VALIDITY][1])
        return datetime.strptime(text.decode("ascii"), _TIMES[tag]).replace(tzinfo=UTC)
    except (LookupError, ValueError):
        raise ValueError("not a certificate") from None


def host_of(names: Sequence[str], own: str) -> str:
    """Return the name for a URI: this machine's own if the certificate has it, else its first. A
    common name may be any text, and is passed over if it is no host."""
    if any(_covers(name, own) for name in names):
        return own
    return next(filter(_HOST.fullmatch, names), own)


def _covers(name: str, host: str) -> bool:
    """Return whether a name, which may begin with `*.`, is that of the host (RFC 6125)."""
    name, host = name.lower(), host.lower()
    return name == host or (name.startswith("*.") and name[1:] == host[host.find(".") :])


def _alternative_names(extensions: bytes) -> Iterator[str]:
    for _, extension in _items(extensions):
        (_, oid), *_, (_, content) = _items(extension)
        if oid == _SUBJECT_ALT_NAME:
            for tag, value in _items(_only(content)):
                if tag == _DNS_NAME:
                    yield value.decode("ascii")
                elif tag == _IP_ADDRESS:
                    yield str(ip_address(value))


def _common_names(subject: bytes) -> Iterator[str]:
    for _, names in _items(subject):
        for _, name in _items(names):
            (_, oid), (_, value), *_ = _items(name)
            if oid == _COMMON_NAME:
                yield value.decode()


def _fields(certificate: bytes) -> list[tuple[int, bytes]]:
    return [item for item in _items(_only(_only(certificate))) if item[0] != _VERSION]


def _only(data: bytes) -> bytes:
    """Return the content of the first item."""
    content = next(_items(data), None)
    if content is None:
        raise ValueError("nothing")
    return content[1]


def _items(data: bytes) -> Iterator[tuple[int, bytes]]:
    """Yield tag and content of each item of DER."""
    place = 0
    while place < len(data):
        tag, length, place = data[place], data[place + 1], place + 2
        if length & 0x80:
            size = length & 0x7F
            length, place = int.from_bytes(data[place : place + size], "big"), place + size
        content = data[place : place + length]
        if len(content) < length:
            raise ValueError("cut off")
        yield tag, content
        place += length

"""SSH host keys as a guest reports them: type and key, in the form of OpenSSH's known_hosts. Pure.

RFC 4253 (6.6), RFC 5656 (3.1) and RFC 8709 (4) say of which fields a key consists. A key with
other ones would be a line that ssh(1) ignores, or one of several programs that disagree.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Callable, Iterator, Mapping

_CURVES = {"nistp256": 32, "nistp384": 48, "nistp521": 66}  # bytes of a coordinate
_MIN_RSA_BITS, _MAX_RSA_BITS = 1024, 16384  # of OpenSSH

_Fields = list[bytes]


def _is_ed25519(fields: _Fields) -> bool:
    return [len(field) for field in fields] == [32]


def _is_rsa(fields: _Fields) -> bool:
    if len(fields) != 2 or not all(map(_is_positive, fields)):
        return False
    exponent, modulus = (int.from_bytes(field, "big") for field in fields)
    is_odd = bool(exponent & modulus & 1)
    return is_odd and exponent > 1 and _MIN_RSA_BITS <= modulus.bit_length() <= _MAX_RSA_BITS


def _is_positive(mpint: bytes) -> bool:
    """Return whether it is a positive number, without bytes that it does not need."""
    return bool(mpint.lstrip(b"\0")) and mpint[0] < 0x80 and (mpint[0] > 0 or mpint[1] >= 0x80)


def _is_on(curve: str) -> Callable[[_Fields], bool]:
    point_bytes = 1 + 2 * _CURVES[curve]

    def is_key(fields: _Fields) -> bool:
        is_so = len(fields) == 2 and fields[0] == curve.encode()
        return is_so and len(fields[1]) == point_bytes and fields[1][0] == 4  # uncompressed

    return is_key


_KINDS: Mapping[str, Callable[[_Fields], bool]] = {
    "ssh-ed25519": _is_ed25519,
    "ssh-rsa": _is_rsa,
    **{f"ecdsa-sha2-{curve}": _is_on(curve) for curve in _CURVES},
}


def host_key(line: str) -> str | None:
    """Return `type key` of a public key without its comment; None if its type is unknown.

    Raise ValueError if it is no key.
    """
    kind, _, rest = line.partition(" ")
    if kind not in _KINDS:
        return None
    try:
        blob = base64.b64decode(rest.partition(" ")[0], validate=True)
    except (binascii.Error, ValueError):
        raise ValueError("not base64") from None
    first, *fields = _fields_of(blob)
    if first != kind.encode() or not _KINDS[kind](fields):
        raise ValueError("not a key of its type")
    return f"{kind} {base64.b64encode(blob).decode()}"


def _fields_of(blob: bytes) -> Iterator[bytes]:
    """Yield the fields, each of which has its length before it; raise ValueError."""
    if not blob:
        raise ValueError("an empty key")
    while blob:
        size = int.from_bytes(blob[:4], "big")
        field, blob = blob[4 : 4 + size], blob[4 + size :]
        if len(field) != size:
            raise ValueError("an incomplete key")
        yield field

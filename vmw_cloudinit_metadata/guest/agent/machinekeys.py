"""The machine's public SSH host keys, as far as the server takes them.

It takes no report with a key that is not of its type (RFC 4253, RFC 5656, RFC 8709), so a damaged
file would cost the whole report.
"""

import base64
import re
from functools import partial
from typing import Callable, Dict, Iterator, List

from vmw_cloudinit_metadata.guest.agent.osfiles import names_in
from vmw_cloudinit_metadata.guest.agent.system import System

SSH = "/etc/ssh/"
# OpenSSH has given up DSA.
HOST_KEY = re.compile(r"((?!ssh-dss )[a-z0-9@.-]{1,64}) ([A-Za-z0-9+/]{1,1400}={0,2})(\s|\Z)")
POINT_BYTES = {b"nistp256": 65, b"nistp384": 97, b"nistp521": 133}
RSA_BITS = range(1024, 16384 + 1)  # of OpenSSH


def host_keys(system: System) -> Iterator[str]:
    """Yield the type and the key of each public host key, without its comment."""
    for name in names_in(system.at(SSH)):
        if re.match(r"ssh_host_\w+_key\.pub\Z", name):
            found = HOST_KEY.match(system.read(SSH + name))
            if found and is_of_type(found.group(1), found.group(2)):
                yield "%s %s" % found.group(1, 2)


def is_of_type(kind: str, text: str) -> bool:
    """Return whether it is a key of its type; the server ignores types that it does not know."""
    try:
        first, *fields = key_fields(base64.b64decode(text, validate=True))
    except ValueError:
        return False
    return first == kind.encode() and (kind not in KEY_TYPES or KEY_TYPES[kind](fields))


def key_fields(blob: bytes) -> Iterator[bytes]:
    """Yield the fields, each of which has its length before it; raise ValueError."""
    while blob:
        end = 4 + int.from_bytes(blob[:4], "big")
        if len(blob) < end:
            raise ValueError("an incomplete key")
        yield blob[4:end]
        blob = blob[end:]


def is_ed25519(fields: List[bytes]) -> bool:
    return [len(field) for field in fields] == [32]


def is_ecdsa(curve: bytes, fields: List[bytes]) -> bool:
    if len(fields) != 2 or fields[0] != curve:
        return False
    return len(fields[1]) == POINT_BYTES[curve] and fields[1][0] == 4  # uncompressed


def is_rsa(fields: List[bytes]) -> bool:
    if len(fields) != 2 or not all(is_positive(field) for field in fields):
        return False
    exponent, modulus = (int.from_bytes(field, "big") for field in fields)
    return exponent > 1 and exponent & modulus & 1 == 1 and modulus.bit_length() in RSA_BITS


def is_positive(number: bytes) -> bool:
    """Return whether it is above 0, and has no byte that it does not need."""
    lead = number[:2].ljust(2, b"\0")
    return 0 < lead[0] < 0x80 or (lead[0] == 0 and lead[1] >= 0x80)


KEY_TYPES: Dict[str, Callable[[List[bytes]], bool]] = {
    "ssh-ed25519": is_ed25519,
    "ssh-rsa": is_rsa,
    **{"ecdsa-sha2-" + curve.decode(): partial(is_ecdsa, curve) for curve in POINT_BYTES},
}

"""The identity token: what proves, in the query of the service URI, which VM it is. Pure.

`my-metadata?t=1.MFRGGZDFMZTWQ2LKNNWG23TP`: the number of a key, and 120 bits of an HMAC-SHA-256
with that key over the canonical VC UUID. The token is a secret, so it is taken out of the URI when
that arrives: what the server knows, logs and shows has `t=…`.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import re
from collections.abc import Mapping
from enum import Enum
from functools import lru_cache
from urllib.parse import unquote_plus

from vmw_cloudinit_metadata.protocol.state import one_of

QUERY_KEY = "t"
HIDDEN = f"{QUERY_KEY}=…"

MIN_KEY_BYTES = 16
MAX_KEY_NUMBER = 999_999_999
_HASH_BYTES = 15

Keys = Mapping[int, bytes]  # by number: several, while one takes another's place

_NAMES = frozenset({QUERY_KEY, f"%{ord(QUERY_KEY):x}"})  # plain, and as a URI may write it too

# RFC 4648's digits -> those of int(), which is written in C: 0.2 instead of 5 us.
_BASE_32 = bytes.maketrans(
    b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz234567",
    b"0123456789abcdefghijklmnop0123456789abcdefghijklmnopqrstuv",
)
_TOKEN = re.compile(r"(0|[1-9][0-9]{0,8})\.([A-Za-z2-7]{24})", re.ASCII)
_LEAST_CHARACTERS = 26
# One in the wrong place, as in `a=1?t=1.…` or `my-metadata&t=1.…`: it is a secret all the same.
_MISPLACED = re.compile(r"\b[0-9]{1,9}(?:\.|%2e)[a-z2-7]{24}\b", re.ASCII | re.IGNORECASE)


class Proof(Enum):
    """What proves a VM's identity, or why nothing does."""

    UNASKED = ""  # the server has no keys, and vCenter does not confirm it
    TOKEN = "token"  # nosec B105 # no secret
    MOVE = "move"  # by vMotion, from a server that has proved it
    VCENTER = "vcenter"  # which has it running on the host that dials, with this service URI
    NO_UUID = "no VC UUID"
    MISSING = "missing"
    MALFORMED = "malformed"
    OLD = "old"
    WRONG = "wrong"

    is_doubt: bool
    is_proved: bool
    __hash__ = object.__hash__  # Enum's is Python, and each look-up in a cache hashes a machine

    def __init__(self, _value: str) -> None:
        self.is_proved = _value in ("token", "move", "vcenter")
        self.is_doubt = bool(_value) and not self.is_proved


PROOF = one_of({proof.value: proof for proof in Proof}, Proof.UNASKED)

# For the operator: what is wrong, and what to do.
_AGAIN = "set it again, with `vm-port add` or `token print`"
REASONS: Mapping[Proof, str] = {
    Proof.NO_UUID: "the VM has sent no VC UUID, which a token proves: only VMs of a vCenter have "
    "one",
    Proof.MISSING: f"the service URI of the VM has no identity token: {_AGAIN}",
    Proof.MALFORMED: "the identity token in the service URI of the VM is not N.BASE32 with 24 "
    f"characters, or there are two: {_AGAIN}",
    Proof.OLD: "the identity token in the service URI of the VM is of a key that this server does "
    f"not have (--identity-key-file): {_AGAIN}",
    Proof.WRONG: "the identity token in the service URI of the VM is not of its VC UUID and our "
    f"key; a clone has a new VC UUID: {_AGAIN}",
}


def token(number: int, key: bytes, vc_uuid: str) -> str:
    """Return the token of the VM with this canonical VC UUID: `1.` and 24 characters of base32."""
    return f"{number}.{base64.b32encode(_hash(key, vc_uuid)).decode()}"


def _hash(key: bytes, vc_uuid: str) -> bytes:
    mac = _begun(key).copy()
    mac.update(vc_uuid.encode())
    return mac.digest()[:_HASH_BYTES]


@lru_cache(maxsize=16)
def _begun(key: bytes) -> hmac.HMAC:
    """Return the HMAC that begins with the key: a copy of it takes 1.1 us in all, a new one 1.7."""
    return hmac.new(key, digestmod=hashlib.sha256)


def proof(found: str | None, vc_uuid: str | None, keys: Keys) -> Proof:
    """Return what a token, None if there is none, proves of the VM with this VC UUID."""
    if not keys:
        return Proof.UNASKED
    if not vc_uuid:
        return Proof.NO_UUID
    if found is None:
        return Proof.MISSING
    parts = _TOKEN.fullmatch(found)
    if not parts:
        return Proof.MALFORMED
    key = keys.get(int(parts[1]))
    if key is None:
        return Proof.OLD
    given = int(parts[2].encode().translate(_BASE_32), 32).to_bytes(_HASH_BYTES, "big")
    return Proof.TOKEN if hmac.compare_digest(given, _hash(key, vc_uuid)) else Proof.WRONG


def with_token(uri: str, text: str) -> str:
    """Return the service URI with this token, in place of any other one."""
    plain = without_token(uri)
    return f"{plain}{'&' if '?' in plain else '?'}{QUERY_KEY}={text}"


def taken_from(uri: str) -> tuple[str, str | None]:
    """Return a service URI with its token hidden, and the token; None if it has none.

    Two tokens, or one that stands elsewhere, are one that no VM has.
    """
    before, mark, query = uri.partition("?")
    if not mark and len(uri) < _LEAST_CHARACTERS:  # as nearly all
        return uri, None
    name, _, value = query.partition("=")
    if name == QUERY_KEY and value.replace(".", "").isalnum():  # nothing beside it, as it is usual
        return f"{before}?{HIDDEN}", value
    parts = query.split("&")
    found = [part.partition("=")[2] for part in parts if _is_token(part)]
    rest = "&".join(HIDDEN if _is_token(part) else part for part in parts)
    hidden, misplaced = _MISPLACED.subn("…", f"{before}{mark}{rest}")
    if not found and not misplaced:
        return uri, None
    return hidden, unquote_plus(found[0]) if len(found) == 1 and not misplaced else ""


def without_token(uri: str) -> str:
    """Return a service URI without its token, hidden or not."""
    before, mark, query = uri.partition("?")
    parts = query.split("&")
    rest = [part for part in parts if not _is_token(part)]
    if not mark or len(rest) == len(parts):
        return uri
    return f"{before}?{'&'.join(rest)}" if rest else before


def _is_token(part: str) -> bool:
    return part.partition("=")[0] in _NAMES

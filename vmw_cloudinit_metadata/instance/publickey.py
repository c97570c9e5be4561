"""SSH public keys as authorized_keys has them: sshd(8), RFC 4253, OpenSSH's PROTOCOL. Pure."""

from __future__ import annotations

import base64
import binascii
import re

# The fields of a key behind its type: s is a string or a number, behind its length in 4 bytes.
_FIELDS = {
    "ssh-rsa": "ss",
    "ssh-dss": "ssss",
    "ssh-ed25519": "s",
    "ssh-ed448": "s",
    "ecdsa-sha2-nistp256": "ss",
    "ecdsa-sha2-nistp384": "ss",
    "ecdsa-sha2-nistp521": "ss",
    "sk-ssh-ed25519@openssh.com": "ss",
    "sk-ecdsa-sha2-nistp256@openssh.com": "sss",
    "webauthn-sk-ecdsa-sha2-nistp256@openssh.com": "sss",
}


def _certificate(kind: str) -> str:
    return kind.removesuffix("@openssh.com") + "-cert-v01@openssh.com"


# A certificate: nonce, the key's fields, serial (8 bytes), type (4), id, principals, valid after
# and before (8 each), critical options, extensions, reserved, the authority's key, signature.
LAYOUTS = {kind: "s" + fields for kind, fields in _FIELDS.items()} | {
    _certificate(kind): f"ss{fields}QIssQQsssss" for kind, fields in _FIELDS.items()
}
_FIXED_BYTES = {"Q": 8, "I": 4}

# [options] type blob [comment]; options hold quoted strings, in which \\" is a quote.
_OPTIONS = r'(?:(?:"(?:[^"\\]|\\.)*"|[^\s"])+[ \t]+)?'
_LINE = re.compile(rf"{_OPTIONS}(?P<type>[a-z0-9@.-]+)[ \t]+(?P<blob>[A-Za-z0-9+/]+=*)(?:[ \t].*)?")


def fault_of(line: str) -> str | None:
    """What was expected of `line`, which is no public key, or None if it is one."""
    match = _LINE.fullmatch(line.strip())
    if match is None or match["type"] not in LAYOUTS or line.lstrip().startswith("#"):
        return "an SSH public key such as 'ssh-ed25519 AAAA... name'"
    try:
        blob = base64.b64decode(match["blob"], validate=True)
    except binascii.Error:
        return "an SSH public key whose second part is base64 (is it cut off?)"
    kind = match["type"].encode()
    if not blob.startswith(len(kind).to_bytes(4, "big") + kind):
        return f"an SSH public key whose base64 says {match['type']} too"
    if not _has_layout(blob, LAYOUTS[match["type"]]):
        return "a whole SSH public key (this one is cut off, or goes on behind its end)"
    return None


def _has_layout(blob: bytes, layout: str) -> bool:
    """Whether the blob is these fields, to the last byte."""
    position = 0
    for field in layout:
        if position + 4 > len(blob):
            return False
        length = 4 + int.from_bytes(blob[position : position + 4], "big")
        position += _FIXED_BYTES.get(field, length)
    return position == len(blob)

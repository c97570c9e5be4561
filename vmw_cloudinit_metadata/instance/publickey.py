"""SSH public keys as authorized_keys has them (sshd(8), RFC 4253 section 6.6). Pure."""

from __future__ import annotations

import base64
import binascii
import re

_CERTIFICATE = "-cert-v01@openssh.com"
_KEY_TYPES = (
    *("ssh-rsa", "ssh-dss", "ssh-ed25519", "ssh-ed448"),
    *(f"ecdsa-sha2-nistp{size}" for size in (256, 384, 521)),
    *("sk-ssh-ed25519@openssh.com", "sk-ecdsa-sha2-nistp256@openssh.com"),
    *("webauthn-sk-ecdsa-sha2-nistp256@openssh.com", "ssh-xmss@openssh.com"),
)
KEY_TYPES = frozenset(_KEY_TYPES) | {
    kind.removesuffix("@openssh.com") + _CERTIFICATE for kind in _KEY_TYPES
}

# [options] type blob [comment]; options hold quoted strings, in which \" is a quote.
_OPTIONS = r'(?:(?:"(?:[^"\\]|\\.)*"|[^\s"])+[ \t]+)?'
_LINE = re.compile(rf"{_OPTIONS}(?P<type>[a-z0-9@.-]+)[ \t]+(?P<blob>[A-Za-z0-9+/]+=*)(?:[ \t].*)?")


def fault_of(line: str) -> str | None:
    """Why `line` is no public key, or None if it is one."""
    match = _LINE.fullmatch(line.strip())
    if match is None or match["type"] not in KEY_TYPES:
        return "an SSH public key such as 'ssh-ed25519 AAAA... name'"
    try:
        blob = base64.b64decode(match["blob"], validate=True)
    except binascii.Error:
        return "an SSH public key whose second part is base64 (is it cut off?)"
    kind = match["type"].encode()
    if not blob.startswith(len(kind).to_bytes(4, "big") + kind):
        return f"an SSH public key whose base64 says {match['type']} too"
    if _CERTIFICATE not in match["type"] and not _is_whole(blob):
        return "a whole SSH public key (this one is cut off)"
    return None


def _is_whole(blob: bytes) -> bool:
    """Whether the blob is strings and numbers, each behind its length, to the last byte."""
    position = fields = 0
    while position < len(blob):
        position += 4 + int.from_bytes(blob[position : position + 4], "big")
        fields += 1
    return position == len(blob) and fields > 1

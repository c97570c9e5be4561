"""SSH public keys in the format of authorized_keys: sshd(8), RFC 4253, OpenSSH's PROTOCOL. Pure.

meta-data may have them in each form that cloud-init knows (`normalize_pubkey_data`): a list, a
string with one key per line, or a mapping whose values are a key or a list of keys.
"""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Iterator, Mapping
from typing import Any

from vmw_cloudinit_metadata.instance.fault import Fault, Key, describe
from vmw_cloudinit_metadata.instance.values import placeholder
from vmw_cloudinit_metadata.instance.values.text import MAX_ITEMS

# The fields of a key after its type: s is a string or a number, after its length in 4 bytes.
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

# Types that are ignored, and by whom: cloud-init skips lines of a type that it does not know.
_IGNORED_BY = {
    kind: who
    for plain, who in (
        ("ssh-ed448", "cloud-init"),
        ("webauthn-sk-ecdsa-sha2-nistp256@openssh.com", "cloud-init"),
        ("ssh-dss", "newer cloud-init and OpenSSH"),
    )
    for kind in (plain, _certificate(plain))
}
_FIXED_BYTES = {"Q": 8, "I": 4}

_KEY = "an SSH public key such as 'ssh-ed25519 AAAA... name'"
_FORMS = "a list of SSH public keys, a string with one per line, or a mapping of names to keys"
_PUBLIC = "the public key, from the file that ends with .pub"
_PRIVATE = re.compile("PRIVATE KEY-----|PuTTY-User-Key-File-|AGE-SECRET-KEY-")
_OTHER_FORMS = (  # how other things than a public key begin, and what to write instead
    ("---- BEGIN SSH2 PUBLIC KEY", "a key in OpenSSH format: ssh-keygen -i -f FILE"),
    ("-----BEGIN RSA PUBLIC KEY", "a key in OpenSSH format: ssh-keygen -i -m PEM -f FILE"),
    ("-----BEGIN PUBLIC KEY", "a key in OpenSSH format: ssh-keygen -i -m PKCS8 -f FILE"),
    (("gh:", "lp:", "https://"), "the key itself (user-data can fetch it: ssh_import_id)"),
    (("~", "/", "./", "file:"), "the key itself: the content of that file"),
)

# [options] type blob [comment]; options hold quoted strings, in which \\" is a quote.
_OPTIONS = r'(?:(?:"(?:[^"\\]|\\.)*"|[^\s"])+[ \t]+)?'
_KEY_LINE = re.compile(
    rf"{_OPTIONS}(?P<type>[a-z0-9@.-]+)[ \t]+(?P<blob>[A-Za-z0-9+/]+=*)(?:[ \t](?P<comment>.*))?"
)
_SECOND = re.compile(r"(?:ssh-|ecdsa-|@openssh\.com)[a-z0-9-]{0,40}[ \t]{1,9}AAAA[A-Za-z0-9+/]{9}")


def served(value: Any) -> Any:
    """Return the value for the document: as it is written, but one key alone becomes a list."""
    if isinstance(value, str):
        return value if len(value.strip().splitlines()) > 1 else [value.strip()]
    if isinstance(value, list | tuple):
        return [item.strip() if isinstance(item, str) else item for item in value]
    return value


def faults_in(value: Any, key: Key) -> Iterator[Fault]:
    """Yield what is wrong with the public keys of meta-data, which are at `key`."""
    match value:
        case str():
            yield from _text_faults(value, key)
        case list() | tuple() | Mapping() if len(value) > MAX_ITEMS:
            yield Fault(key, describe(value, key), f"at most {MAX_ITEMS:,} items")
        case list() | tuple():
            for index, item in enumerate(value):
                yield from _key_faults(item, (*key, index))
        case Mapping():
            for name, item in value.items():
                yield from _named_faults(item, (*key, str(name)))
        case _:
            yield Fault(key, describe(value, key), _FORMS)


def warnings_in(value: Any, key: Key) -> Iterator[Fault]:
    """Yield warnings for valid public keys that cloud-init ignores."""
    match value:
        case str():
            for line in value.splitlines():
                form = _KEY_LINE.fullmatch(line.strip())
                if form and form["type"] in _IGNORED_BY:
                    who = _IGNORED_BY[form["type"]]
                    expected = f"another type, such as ssh-ed25519: {who} ignores this one"
                    found = f"a key of the type {form['type']}"
                    yield Fault(key, found, expected, is_warning=True)
        case list():
            for index, item in enumerate(value):
                yield from warnings_in(item, (*key, index))
        case Mapping():
            for name, item in value.items():
                yield from warnings_in(item, (*key, str(name)))


def _text_faults(text: str, key: Key) -> Iterator[Fault]:
    lines = [line for line in text.splitlines() if line.strip()]
    if len(lines) < 2 or _PRIVATE.search(text) or text.lstrip().startswith("---"):
        yield from _key_faults(text, key)
        return
    keys = [(n, line) for n, line in enumerate(text.splitlines(), 1) if not _is_comment(line)]
    if not keys:
        yield Fault(key, "only comments", _KEY)
    elif len(keys) > MAX_ITEMS:
        yield Fault(key, f"{len(keys):,} lines", f"at most {MAX_ITEMS:,} public keys")
    else:
        for number, line in keys:
            for fault in _key_faults(line, key):
                yield Fault(key, f"{fault.found} on line {number} of the value", fault.expected)


def _is_comment(line: str) -> bool:
    return not line.strip() or line.lstrip().startswith("#")


def _named_faults(value: Any, key: Key) -> Iterator[Fault]:
    """Check the value of one name in a mapping: a key, or a list of keys."""
    if not isinstance(value, str | list | tuple):
        yield Fault(key, describe(value, key), f"{_KEY}, or a list of them")
        return
    if isinstance(value, str):
        yield from _key_faults(value, key)
        return
    if len(value) > MAX_ITEMS:
        yield Fault(key, describe(value, key), f"at most {MAX_ITEMS:,} items")
        return
    # EC2 has an empty string after the last key, which cloud-init skips.
    keys = value[:-1] if len(value) > 1 and value[-1] == "" else value
    for index, item in enumerate(keys):
        yield from _key_faults(item, (*key, index))


def _key_faults(value: Any, key: Key) -> Iterator[Fault]:
    """Check the value of one public key."""
    if not isinstance(value, str):
        yield Fault(key, describe(value, key), _KEY)
    elif expected := fault_of(value):
        if _PRIVATE.search(value):
            yield Fault(key, "a private key", _PUBLIC)
            return
        if placeholder.found_in(value):
            expected += f" ({placeholder.HINT})"
        yield Fault(key, describe(value, key), expected)


def fault_of(line: str) -> str | None:
    """Return what is expected in place of `line`, or None if it is a public key."""
    line = line.strip()
    match = _KEY_LINE.fullmatch(line)
    if match is None or match["type"] not in LAYOUTS or line.startswith("#"):
        return _meant(line)
    if match["comment"] and _SECOND.search(match["comment"]):
        return "one public key per line (use |: without it, the lines become one)"
    try:
        blob = base64.b64decode(match["blob"], validate=True)
    except binascii.Error:
        return "an SSH public key whose second part is base64 (is it cut off?)"
    kind = match["type"].encode()
    if not blob.startswith(len(kind).to_bytes(4, "big") + kind):
        return f"an SSH public key whose base64 contains the same type, {match['type']}"
    if not _has_layout(blob, LAYOUTS[match["type"]]):
        return "a complete SSH public key (this one is cut off, or has extra data at its end)"
    return None


def _meant(line: str) -> str:
    """Return what is expected in place of a string that does not look like a public key."""
    for start, expected in _OTHER_FORMS:
        if line.startswith(start):
            return expected
    if len(line.splitlines()) > 1:
        return "one public key (write several as a list)"
    return _KEY


def _has_layout(blob: bytes, layout: str) -> bool:
    """Return whether the blob consists of these fields, to the last byte."""
    position = 0
    for field in layout:
        if position + 4 > len(blob):
            return False
        length = 4 + int.from_bytes(blob[position : position + 4], "big")
        position += _FIXED_BYTES.get(field, length)
    return position == len(blob)

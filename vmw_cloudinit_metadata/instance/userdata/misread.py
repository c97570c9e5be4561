"""What cloud-init ignores in user-data, or reads differently than it was meant. Pure.

Messages show nothing of the content but its size, its lines and names that cloud-init defines.
"""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Iterator
from itertools import islice

from vmw_cloudinit_metadata.instance.fault import MAX_FAULTS, Fault, kind_of
from vmw_cloudinit_metadata.instance.userdata import cloudconfig, formats
from vmw_cloudinit_metadata.instance.userdata.formats import Part, Trouble

_EXPECTED = "a first line that cloud-init recognizes, such as #cloud-config or #!"
_LINES = "userdata: | (not > or quotes), which keeps the line breaks"

# How many words may follow the beginning of the first line if there is no other line.
_WORDS = {
    formats.CLOUD_CONFIG: 0,
    formats.ARCHIVE: 0,
    formats.BOOTHOOK: 0,
    formats.PART_HANDLER: 0,
    formats.SCRIPT: 2,  # an interpreter and its argument
    formats.INCLUDE: 1,
    formats.INCLUDE_ONCE: 1,
}
_LITERAL_LINE_BREAK = re.compile(rb"\\r?\\?n|\\n")
_LETTERS = re.compile(r"[^a-z]+")
_SEARCHED_BYTES = 4096
_BOOTHOOK = b"#cloud-boothook"
_JINJA_BELOW = re.compile(rb"^## *template: *jinja", re.IGNORECASE | re.MULTILINE)
_CONTENT_TYPE = re.compile(rb"^content-type:", re.IGNORECASE | re.MULTILINE)
_BASE64 = re.compile(rb"[A-Za-z0-9+/\s]{16,}(?:={1,2}\s*)?")
_LONG_BASE64 = 60  # a run of so many characters is not a word
_KEY = re.compile(rb"^([a-z_-]{3,40}):(?:\s|$)", re.MULTILINE)


def faults_in(document: bytes, key: str) -> Iterator[Fault]:
    """Yield warnings for the document at `key`."""
    if not document:
        return
    parts = list(islice(formats.parts_of(document), MAX_FAULTS + 1))
    types = {part.type for part in parts if isinstance(part, Part)}
    for part in parts:
        if isinstance(part, Trouble):
            yield _fault(part, key)
        elif part.content.strip() or part.content == document:
            yield from _part(part, key, has_handler=formats.PART_HANDLER in types)


def _part(part: Part, key: str, *, has_handler: bool) -> Iterator[Fault]:
    if part.type is None and formats.is_for_windows(part.content):
        return
    if part.type is None:
        found, expected = _unknown(part.content)
        yield _fault(Trouble(f"{found}{part.place}", expected), key)
    elif part.type not in formats.TYPES and not has_handler:
        expected = (
            "a type that cloud-init supports, such as text/cloud-config or text/x-shellscript"
        )
        yield _fault(Trouble(f"an unsupported Content-Type{part.place}", expected), key)
    else:
        for trouble in _first_line(part):
            yield _fault(trouble, key)
        if part.type == formats.CLOUD_CONFIG:
            yield from _cloud_config(part, key)


def _first_line(part: Part) -> Iterator[Trouble]:
    start = part.content.lstrip()
    if part.type == formats.BOOTHOOK:
        yield from _boothook(part)
    first, _, behind = start.partition(b"\n")
    if part.type not in _WORDS or formats.type_of(start) != part.type:
        if part.type == formats.SCRIPT:
            yield Trouble(f"a script without #!{part.place}", "#!/bin/sh on its first line")
        return
    begin = next(b for b, kind in formats.BEGINNINGS.items() if kind == part.type)
    if _LITERAL_LINE_BREAK.search(first):
        found = f"a backslash and n on the first line{part.place}, in place of a line break"
        yield Trouble(found, "userdata: | and lines below it, or double quotes")
    elif not behind.strip() and len(first[len(begin) :].split()) > _WORDS[part.type]:
        found = f"everything on the first line{part.place}, which "
        found += "is a comment" if part.type == formats.CLOUD_CONFIG else f"begins with {begin}"
        yield Trouble(found, _LINES)


def _boothook(part: Part) -> Iterator[Trouble]:
    """Check what cloud-init runs: the boothook without its first line."""
    script = part.content.lstrip()
    if script[: len(_BOOTHOOK)].lower() == _BOOTHOOK:
        script = script[len(_BOOTHOOK) :].lstrip()
    if script and not script.startswith((b"#!", b"\x7fELF")) and b"\n" in part.content.strip():
        found = f"a #cloud-boothook without #!{part.place}, which the kernel cannot execute"
        yield Trouble(found, "#!/bin/sh on the line after #cloud-boothook")


def _cloud_config(part: Part, key: str) -> Iterator[Fault]:
    if _JINJA_BELOW.search(part.content):
        found = f"## template: jinja below the first line{part.place}, where it is a comment"
        yield _fault(Trouble(found, "it on the first line, above #cloud-config"), key)
    read = formats.yaml_of(part, key)
    if isinstance(read, Trouble):
        yield _fault(read, key)
        return
    if mark := formats.mark_within(part, "#cloud-config"):
        yield _fault(mark, key)
    for trouble in formats.troubles_of(read, part, "#cloud-config"):
        yield _fault(trouble, key)
    if isinstance(read.value, dict):
        for name, expected in cloudconfig.advice_on(read.value):
            line = read.line((key, name))
            found = f"an unknown key on line {line} of the #cloud-config{part.place}"
            if name in cloudconfig.KEYS:
                found = f"the key {name} on line {line} of the #cloud-config{part.place}"
            yield Fault((key, name), found, expected)
    elif read.value is not None and not read.faults:
        found = f"{kind_of(read.value)} after #cloud-config{part.place}"
        yield _fault(Trouble(found, "a mapping"), key)


def _unknown(content: bytes) -> tuple[str, str]:
    """Return what unrecognized user-data seems to be, and what to write instead."""
    size = kind_of(content)
    start = content[:_SEARCHED_BYTES]
    if start.startswith((b"\xff\xfe", b"\xfe\xff")) or b"\0" in start[:4]:
        return f"{size} of UTF-16", "UTF-8: save the file as UTF-8"
    if start.startswith(formats.MARK):
        return "a byte order mark before the first line", formats.NO_MARK
    if b"PRIVATE KEY-----" in start:
        return "a private key", f"{_EXPECTED}; put keys in write_files or ssh_keys"
    if _is_base64(content):
        return "base64 text, which cloud-init does not decode", "!!binary before it, or plain text"
    if _CONTENT_TYPE.search(start):
        return f"{size} with Content-Type: but without MIME-Version:", (
            "MIME-Version: 1.0 and Content-Type: at the top, with no line before them"
        )
    near = _resembles(content)
    if near:
        return f"{size} whose first line resembles {near}", _EXPECTED
    keys = {found.decode() for found in _KEY.findall(start)} & cloudconfig.KEYS
    if keys:
        name = min(keys)
        return (
            f"{size} with the #cloud-config key {name}, but without a #cloud-config line",
            _EXPECTED,
        )
    return size, _EXPECTED


def _resembles(content: bytes) -> str | None:
    first = content.lstrip().partition(b"\n")[0][:64].decode("utf-8", "replace").lower()
    letters = _LETTERS.sub("", first)
    for begin in formats.BEGINNINGS:
        name = _LETTERS.sub("", begin)
        if name and cloudconfig.edits(letters[: len(name)], name, 2) <= 2:
            return begin
    return None


def _is_base64(content: bytes) -> bool:
    if not content.strip() or not _BASE64.fullmatch(content):
        return False
    text = b"".join(content.split())
    try:
        decoded = base64.b64decode(text + b"=" * (-len(text) % 4), validate=True)
    except binascii.Error:
        return False
    is_known = decoded.startswith(b"\x1f\x8b") or formats.type_of(decoded) is not None
    return is_known or len(content.split()[0]) >= _LONG_BASE64


def _fault(trouble: Trouble, key: str) -> Fault:
    return Fault((key,), trouble.found, trouble.expected)

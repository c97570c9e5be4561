"""The formats of user-data: its parts as cloud-init sees them, and the type of each. Pure.

Follows cloud-init's "User-data formats" and its UserDataProcessor.
"""

from __future__ import annotations

import email
import re
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from email.message import Message
from typing import Any

from vmw_cloudinit_metadata.instance.fault import kind_of
from vmw_cloudinit_metadata.instance.parsing import seed

CLOUD_CONFIG = "text/cloud-config"
ARCHIVE = "text/cloud-config-archive"
JSONP = "text/cloud-config-jsonp"
JINJA = "text/jinja2"
SCRIPT = "text/x-shellscript"
INCLUDE = "text/x-include-url"
INCLUDE_ONCE = "text/x-include-once-url"
BOOTHOOK = "text/cloud-boothook"
PART_HANDLER = "text/part-handler"

# How a part begins, in any case and after any blanks; prefixes of others come after them.
BEGINNINGS = {
    "#cloud-config-archive": ARCHIVE,
    "#cloud-config-jsonp": JSONP,
    "#cloud-config": CLOUD_CONFIG,
    "#cloud-boothook": BOOTHOOK,
    "#include-once": INCLUDE_ONCE,
    "#include": INCLUDE,
    "#part-handler": PART_HANDLER,
    "## template: jinja": JINJA,
    "#!": SCRIPT,
}
TYPES = frozenset(
    {
        *BEGINNINGS.values(),
        *(f"{SCRIPT}-per-{when}" for when in ("boot", "instance", "once")),
    }
)
# What cloudbase-init runs in Windows, besides what begins with #!; cloud-init ignores it.
_FOR_WINDOWS = re.compile(rb"#ps1(?:_sysnative|_x86)?\s|rem\s+cmd\s|<(?:script|powershell)>")
_UNTYPED = ("text/plain", "text/x-not-multipart", SCRIPT)  # the type follows from the beginning
_GZIP_TYPE = re.compile(r"application/(?:x-)?(?:g(?:un)?zip(?:-compressed|ped)?|compress(?:ed)?)")
_GZIP = b"\x1f\x8b"
MARK = b"\xef\xbb\xbf"  # a byte order mark
NO_MARK = "UTF-8 without a byte order mark (BOM)"
_JINJA_SYNTAX = re.compile(rb"\{[{%#]")
_JINJA_LINE = re.compile(rb"##\s*template:\s*jinja\s*", re.IGNORECASE)
_MIME = b"mime-version:"
_MIME_WITHIN_BYTES = 4096
_CONTAINER = re.compile(rb"multipart/|message/", re.IGNORECASE)
_CONTENT_TYPE = re.compile(
    rb"(?:^|(?<=\r))content-type:[^\r\n]*(?:(?:\r\n?|\n)[ \t][^\r\n]*)*",
    re.IGNORECASE | re.MULTILINE,
)

# Parsing takes time as lines times depth, and as the square of the length of a Content-Type.
MAX_CONTAINERS = 20
MAX_CONTENT_TYPE_BYTES = 4096
MAX_UNPACKED_BYTES = 4 * 1024 * 1024  # more compressed user-data is not checked


@dataclass(frozen=True)
class Part:
    """A part as cloud-init sees it; `type` is None if cloud-init does not recognize it."""

    content: bytes
    type: str | None
    place: str = ""  # " in part 2"
    lines_before: int = 0  # lines of the document that are not in `content`


@dataclass(frozen=True)
class Trouble:
    """Why a part cannot be read; quotes nothing of the content."""

    found: str
    expected: str


def type_of(content: bytes) -> str | None:
    """Return the type by the beginning, as cloud-init does."""
    start = content.decode("utf-8", "surrogateescape").lstrip()[:64].lower()
    return next((kind for begin, kind in BEGINNINGS.items() if start.startswith(begin)), None)


def is_for_windows(content: bytes) -> bool:
    return _FOR_WINDOWS.match(content) is not None


def parts_of(document: bytes) -> Iterator[Part | Trouble]:
    if document.startswith(_GZIP):
        unpacked = _unpacked(document)
        if isinstance(unpacked, Trouble):
            yield unpacked
            return
        document = unpacked
        if not document:
            return
    if _MIME in document[:_MIME_WITHIN_BYTES].lower():
        yield from _parts_of_mime(document)
    else:
        yield from _parts_in(Part(document, type_of(document)))


def _unpacked(content: bytes) -> bytes | Trouble:
    try:
        stream = zlib.decompressobj(wbits=31)
        unpacked = stream.decompress(content, MAX_UNPACKED_BYTES)
    except zlib.error:
        return Trouble("corrupt compressed data", "gzip data, as !!binary")
    if stream.unconsumed_tail:
        found = f"compressed data of more than {MAX_UNPACKED_BYTES:,} bytes"
        return Trouble(found, "less data: the content was not checked")
    if not stream.eof:
        return Trouble("truncated compressed data", "all of the gzip data")
    return unpacked


def _parts_of_mime(document: bytes) -> Iterator[Part | Trouble]:
    if len(_CONTAINER.findall(document)) > MAX_CONTAINERS:
        found = f"MIME with more than {MAX_CONTAINERS} multipart containers"
        yield Trouble(found, "one container: the content was not checked")
        return
    if any(len(one[0]) > MAX_CONTENT_TYPE_BYTES for one in _CONTENT_TYPE.finditer(document)):
        found = f"MIME with a Content-Type of more than {MAX_CONTENT_TYPE_BYTES:,} bytes"
        yield Trouble(found, "a shorter one: the content was not checked")
        return
    try:
        message = email.message_from_string(document.decode())
    except UnicodeDecodeError:
        yield Trouble("MIME that is not UTF-8", "UTF-8, or parts in base64")
        return
    leaves = [
        (part.get_content_type(), _payload(part))
        for part in message.walk()
        if part.get_content_maintype() != "multipart"
    ]
    if not any(content.strip() for _, content in leaves):
        expected = "parts between boundary lines, each with a Content-Type"
        yield Trouble("MIME without any part", expected)
    for number, (declared, content) in enumerate(leaves, 1):
        yield from _part_of_mime(declared, content, f" in part {number}" if leaves[1:] else "")


def _payload(part: Message[str, str]) -> bytes:
    payload = part.get_payload(decode=True)
    return payload if isinstance(payload, bytes) else b""


def _part_of_mime(declared: str, content: bytes, place: str) -> Iterator[Part | Trouble]:
    if _GZIP_TYPE.fullmatch(declared):
        unpacked = _unpacked(content) if content else b""
        if isinstance(unpacked, Trouble):
            yield Trouble(f"{unpacked.found}{place}", unpacked.expected)
            return
        content, declared = unpacked, _UNTYPED[0]
    kind: str | None = type_of(content) if declared in _UNTYPED else None
    kind = kind or (declared if declared not in _UNTYPED[:2] else None)
    yield from _parts_in(Part(content, kind, place))


def _parts_in(part: Part) -> Iterator[Part | Trouble]:
    yield part
    if part.type == ARCHIVE:
        yield from _parts_of_archive(part)
    elif part.type == JINJA:
        yield from _behind_jinja(part)


def _behind_jinja(part: Part) -> Iterator[Part | Trouble]:
    """Yield the rendered part of a template, if rendering does not change it."""
    first, _, rest = part.content.lstrip().partition(b"\n")
    if not _JINJA_LINE.fullmatch(first):
        expected = "## template: jinja alone on the first line, and everything else below it"
        yield Trouble(f"more text after ## template: jinja{part.place}", expected)
    elif rest.strip() and not _JINJA_SYNTAX.search(rest):
        yield Part(rest, type_of(rest), part.place, part.lines_before + 1)
    elif rest.strip() and type_of(rest) is None and not _JINJA_SYNTAX.match(rest.lstrip()):
        expected = "#cloud-config or #! on the line after ## template: jinja"
        yield Trouble(f"a template of an unknown format{part.place}", expected)


def _parts_of_archive(part: Part) -> Iterator[Part | Trouble]:
    read = yaml_of(part)
    if isinstance(read, Trouble):
        yield read
    elif mark := mark_within(part, "#cloud-config-archive"):
        yield mark
    elif read.faults:
        yield from troubles_of(read, part, "#cloud-config-archive")
    elif not isinstance(read.value, list):
        found = f"{kind_of(read.value)} after #cloud-config-archive{part.place}"
        yield Trouble(found, "a list of parts, such as - {type: text/cloud-config, content: ...}")
    else:
        for number, entry in enumerate(read.value, 1):
            item = _part_of_archive(entry, f" in item {number} of the archive{part.place}")
            yield item
            if isinstance(item, Part) and item.type == JINJA:
                yield from _behind_jinja(item)


def _part_of_archive(entry: Any, place: str) -> Part | Trouble:
    values = {"content": entry} if isinstance(entry, str) else entry
    if not isinstance(values, Mapping):
        return Trouble(f"{kind_of(entry)}{place}", "a string, or a mapping with content and type")
    content, kind = values.get("content", ""), values.get("type")
    if not isinstance(content, str | bytes):
        return Trouble(f"{kind_of(content)} as content{place}", "a string or !!binary")
    if kind and (not isinstance(kind, str) or "/" not in kind):
        return Trouble(f"an invalid type{place}", "a type such as text/cloud-config")
    raw = content.encode() if isinstance(content, str) else content
    untyped = "application/octet-stream" if isinstance(content, bytes) else CLOUD_CONFIG
    return Part(raw, kind or type_of(raw) or untyped, place)


def yaml_of(part: Part, root: str = "userdata") -> seed.Seed | Trouble:
    """Read the YAML of a part; its keys are below `root`, its lines are those of the document."""
    try:
        return seed.read("\n" * part.lines_before + part.content.decode(), root=(root,))
    except UnicodeDecodeError:
        return Trouble(f"a #cloud-config that is not UTF-8{part.place}", "YAML in UTF-8")


def mark_within(part: Part, name: str) -> Trouble | None:
    """Return the trouble of a line that begins with a byte order mark: PyYAML, unlike libyaml,
    rejects it.
    """
    before, mark, _ = part.content.partition(b"\n" + MARK)
    if not mark:
        return None
    line = before.count(b"\n") + part.lines_before + 2
    return Trouble(f"a byte order mark on line {line} of the {name}{part.place}", NO_MARK)


def troubles_of(read: seed.Seed, part: Part, name: str) -> Iterator[Trouble]:
    for fault in read.faults:
        yield Trouble(
            f"{fault.found} on line {fault.line} of the {name}{part.place}", fault.expected
        )

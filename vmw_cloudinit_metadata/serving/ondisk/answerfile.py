"""The file of one answer: a line with a checksum, a line of JSON, and the documents. Pure.

The content of a file is hostile until it is parsed here.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from vmw_cloudinit_metadata.instance.model import MAX_DOCUMENT_BYTES
from vmw_cloudinit_metadata.protocol.vmware import Machine

MAX_DOCUMENT_SUM = 3 * 1024 * 1024  # bytes
MAX_BYTES = 4 * 1024 * 1024  # of a file
MAX_DOCUMENTS = 200
MAX_SOURCES = 50
_MAX_HEAD_BYTES = 256 * 1024

_FORM = b"vmw-cloudinit-metadata last good answer 1 "
_START = re.compile(re.escape(_FORM) + rb"([0-9a-f]{64})\n")
_NAME = re.compile(r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}\.[0-9a-f]{16}")


class NotAnAnswer(Exception):  # noqa: N818 - the name says what is wrong
    """The content of a file is truncated, changed, or of something else."""


class _Who(BaseModel):
    """What a driver may decide by, without what changes when a VM starts elsewhere."""

    model_config = ConfigDict(strict=True, extra="forbid")

    vc_uuid: str
    bios_uuid: str | None
    name: str | None
    service_uri: str
    direction: str


class _Head(BaseModel):
    model_config = ConfigDict(strict=True, extra="forbid")

    who: _Who
    matched_by: str
    sources: list[str] = Field(max_length=MAX_SOURCES)
    lengths: dict[str, int] = Field(max_length=MAX_DOCUMENTS)  # of the documents, in their order


@dataclass(frozen=True, slots=True)
class StoredAnswer:
    documents: Mapping[str, bytes]
    matched_by: str
    sources: tuple[str, ...]


def name_of(machine: Machine) -> str:
    """Return the file name for a machine with a VC UUID; a VM may have several serial ports."""
    port = hashlib.sha256(f"{machine.direction}\n{machine.service_uri}".encode()).hexdigest()
    return f"{machine.vc_uuid}.{port[:16]}"


def is_name(name: str) -> bool:
    """Return whether a file of that name is an answer's."""
    return bool(_NAME.fullmatch(name))


def content_of(machine: Machine, answer: StoredAnswer) -> bytes:
    """Return the content of the file."""
    head = _Head(
        who=_who(machine),
        matched_by=_plain(answer.matched_by),
        sources=[_plain(source) for source in answer.sources[:MAX_SOURCES]],
        lengths={name: len(document) for name, document in answer.documents.items()},
    )
    rest = b"\n".join((head.model_dump_json().encode(), b"".join(answer.documents.values())))
    return b"%s%s\n%s" % (_FORM, hashlib.sha256(rest).hexdigest().encode(), rest)


def parse(content: bytes, machine: Machine) -> StoredAnswer | None:
    """Return the answer; None if it is another machine's. Raise NotAnAnswer."""
    start = _START.match(content)
    if not start or hashlib.sha256(content[start.end() :]).hexdigest().encode() != start[1]:
        raise NotAnAnswer
    head, separator, rest = content[start.end() :].partition(b"\n")
    if not separator or len(head) > _MAX_HEAD_BYTES:
        raise NotAnAnswer
    try:
        found = _Head.model_validate_json(head)
    except ValidationError:
        raise NotAnAnswer from None
    lengths = found.lengths.values()
    if not all(0 <= length <= MAX_DOCUMENT_BYTES for length in lengths):
        raise NotAnAnswer
    if "METADATA" not in found.lengths or sum(lengths) != len(rest):
        raise NotAnAnswer
    if found.who != _who(machine):
        return None
    documents, end = {}, 0
    for name, length in found.lengths.items():
        documents[name], end = rest[end : end + length], end + length
    return StoredAnswer(documents, found.matched_by, tuple(found.sources))


def _who(machine: Machine) -> _Who:
    return _Who(
        vc_uuid=machine.vc_uuid or "",
        bios_uuid=machine.bios_uuid,
        name=machine.name,
        service_uri=machine.service_uri,
        direction=machine.direction,
    )


def _plain(text: str) -> str:
    """Return the text; names of files may have what is no character in UTF-8."""
    return text.encode(errors="replace").decode()

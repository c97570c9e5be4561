"""The files that `userdata-file` and `vendordata-file` name."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping
from pathlib import PurePath
from typing import Any

from vmw_cloudinit_metadata.drivers.files.contents import OUTSIDE_EXPECTED, OUTSIDE_FOUND
from vmw_cloudinit_metadata.drivers.filesystem.root import LeadsOut
from vmw_cloudinit_metadata.drivers.filesystem.snapshot import Snapshot
from vmw_cloudinit_metadata.instance.fault import Fault, Key, kind_of
from vmw_cloudinit_metadata.instance.keys import FILE_KEYS
from vmw_cloudinit_metadata.instance.model import MAX_DOCUMENT_BYTES
from vmw_cloudinit_metadata.instance.secrecy import is_secret_text

_EXPECTED = "the name of a file inside the directory"
_SMALL_ENOUGH = f"a file of at most {MAX_DOCUMENT_BYTES:,} bytes"
_FILE_NAME = re.compile(r"[\w./@+-]{1,100}", re.ASCII)


def read(key: Key, file: Any, directory: str, snapshot: Snapshot) -> tuple[str, bytes] | Fault:
    """Return path and content of the file named at `key`; raise DriverError if it is unreadable."""
    if not isinstance(file, str) or not is_inside(file):
        found = _quoted(file) if isinstance(file, str) else kind_of(file)
        return Fault(key, found, _EXPECTED)
    path = os.path.join(directory, file)
    if not snapshot.exists(path):
        return Fault(key, f"{_quoted(file)}, which does not exist", _EXPECTED)
    try:
        content = snapshot.read(path, MAX_DOCUMENT_BYTES)
    except LeadsOut:
        return Fault(key, f"{_quoted(file)}, {OUTSIDE_FOUND}", OUTSIDE_EXPECTED)
    if content is None:
        return Fault(key, f"{_quoted(file)}, which is not a regular file", _EXPECTED)
    if len(content) > MAX_DOCUMENT_BYTES:
        return Fault(key, f"{_quoted(file)}, which is larger", _SMALL_ENOUGH)
    return path, content


def named_in(mapping: Mapping[str, Any]) -> Iterator[str]:
    """Return the files inside the directory that an instance file names."""
    files = (mapping.get(key) for key in FILE_KEYS)
    return (file for file in files if isinstance(file, str) and is_inside(file))


def is_inside(file: str) -> bool:
    path = PurePath(file)
    return (
        bool(path.parts) and not path.is_absolute() and ".." not in path.parts and "\0" not in file
    )


def _quoted(file: str) -> str:
    """Return the name for a message only if it looks like one: the value may be user-data."""
    is_name = _FILE_NAME.fullmatch(file) and not is_secret_text(file)
    return repr(file) if is_name else f"a text of {len(file):,} characters"

"""The keys of identity tokens: how their option is written, and how they are read."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from vmw_cloudinit_metadata.protocol import identitytoken
from vmw_cloudinit_metadata.protocol.identitytoken import MAX_KEY_NUMBER, MIN_KEY_BYTES
from vmw_cloudinit_metadata.settings import permissions
from vmw_cloudinit_metadata.settings.errors import ConfigError

OPTION = "--identity-key-file"


class NumberedFile(NamedTuple):
    """The file of a key, and its number."""

    number: int
    path: Path

    def __str__(self) -> str:
        return f"{self.number}={self.path}"


def parse(text: str) -> NumberedFile:
    """Parse `FILE`, which is key 1, or `2=FILE`."""
    numbered = re.fullmatch(r"([0-9]+)=(.*)", text, re.ASCII | re.DOTALL)
    digits, path = numbered.groups() if numbered else ("1", text)
    if not path or len(digits) > len(str(MAX_KEY_NUMBER)):
        raise ConfigError(f"found {text!r}, expected FILE or N=FILE, N up to {MAX_KEY_NUMBER:,}")
    return NumberedFile(int(digits), Path(path))


@dataclass(frozen=True, slots=True)
class NumberedKey:
    """A key with which tokens are made."""

    number: int
    key: bytes = field(repr=False)

    def token(self, vc_uuid: str) -> str:
        return identitytoken.token(self.number, self.key, vc_uuid)

    def uri_with_token(self, uri: str, vc_uuid: str) -> str:
        return identitytoken.with_token(uri, self.token(vc_uuid))


def read_one(file: NumberedFile, name: str = OPTION) -> NumberedKey:
    """Return one key; raise ConfigError."""
    ((number, key),) = read([file], name).items()
    return NumberedKey(number, key)


def read(files: Sequence[NumberedFile], name: str = OPTION) -> dict[int, bytes]:
    """Return the keys by number; raise ConfigError."""
    keys: dict[int, bytes] = {}
    for number, path in files:
        if number in keys:
            raise ConfigError(f"{name}: two keys have number {number}: name one of them N={path}")
        keys[number] = permissions.read_key(name, path, MIN_KEY_BYTES)
    return keys

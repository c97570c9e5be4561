"""The key that signs outcome hooks: text in a file, without the white space around it."""

from __future__ import annotations

from pathlib import Path

from vmw_cloudinit_metadata.settings import permissions
from vmw_cloudinit_metadata.settings.errors import ConfigError

OPTION = "--outcome-hook-key-file"
MIN_BYTES, MAX_BYTES = 16, 4096


def read(path: Path) -> bytes:
    """Return the key; raise ConfigError."""
    key = permissions.read(OPTION, path, MAX_BYTES).strip()
    if len(key) < MIN_BYTES:
        raise ConfigError(
            f"{OPTION}: {path} has {len(key)} bytes, expected at least {MIN_BYTES}: "
            f"make a key with: (umask 077; openssl rand -hex 32 > {path})"
        )
    return key

"""The password for vCenter: the first line of a file, or a variable; never on the command line."""

from __future__ import annotations

import os
from pathlib import Path

from vmw_cloudinit_metadata.settings.errors import ConfigError

VARIABLE = "VMW_METADATA_VCENTER_PASSWORD"


def read(option: str, file: Path | None) -> str:
    """Return it; "" if there is neither file nor variable. Raise ConfigError."""
    if file is None:
        return os.environ.get(VARIABLE, "")
    try:
        first, *_ = file.read_text("utf-8").splitlines() or [""]
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "not UTF-8"
        raise ConfigError(f"{option}: {file}: {reason}") from None
    if not first:
        raise ConfigError(f"{option}: {file}: the first line is empty")
    return first

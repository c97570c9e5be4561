"""An operator's error, which ends a command with one line and exit 2."""

from __future__ import annotations

import click

from vmw_cloudinit_metadata.drivers.drivererror import DriverError
from vmw_cloudinit_metadata.settings.errors import ConfigError

FAILURES = (click.ClickException, ConfigError, DriverError)


def text_of(error: Exception) -> str:
    """Return the text of a failure as one line."""
    text = error.format_message() if isinstance(error, click.ClickException) else str(error)
    return " ".join(text.split())

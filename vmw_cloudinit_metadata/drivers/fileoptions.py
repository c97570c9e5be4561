"""FileOptions: --driver-opts of the file driver."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import Field

from vmw_cloudinit_metadata.drivers import storeoptions
from vmw_cloudinit_metadata.drivers.storeoptions import StoreOptions


class FileOptions(StoreOptions):
    directory: str = Field(min_length=1)
    defaults: str | None = None  # a file; a relative name is one in the directory
    links_outside: bool = False  # links in the directory may lead out of it


def checked(options: Mapping[str, Any]) -> FileOptions:
    """Return the options by name; raise DriverError."""
    return storeoptions.checked(options, FileOptions, "the directory of the instance files")

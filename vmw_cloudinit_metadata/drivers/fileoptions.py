"""FileOptions: --driver-opts of the file driver."""

from __future__ import annotations

from pydantic import Field

from vmw_cloudinit_metadata.drivers.storeoptions import StoreOptions


class FileOptions(StoreOptions):
    directory: str = Field(min_length=1, description="the directory of the instance files")
    defaults: str | None = Field(
        default=None, description="a file, in the directory or elsewhere, with keys for every VM"
    )
    may_be_absent: bool = Field(
        default=False,
        description="whether the server starts although the directory does not exist; always with "
        "--last-good-dir",
    )
    links_outside: bool = Field(
        default=False, description="whether links in the directory may lead out of it"
    )

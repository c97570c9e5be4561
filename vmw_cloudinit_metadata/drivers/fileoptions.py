"""FileOptions: --driver-opts of the file driver."""

from __future__ import annotations

from typing import Literal

from pydantic import ConfigDict, Field

from vmw_cloudinit_metadata.drivers.driveroptions import DriverOptions


class FileOptions(DriverOptions):
    model_config = ConfigDict(strict=True)

    directory: str = Field(min_length=1, description="the directory of the instance files")
    match: list[Literal["vc-uuid", "bios-uuid", "name"]] | None = Field(
        default=None,
        min_length=1,
        description="the identities that count; by default all three, but a file counts for a BIOS "
        "UUID only if its own `match` has that",
    )
    defaults: str | None = Field(
        default=None, description="a file, in the directory or elsewhere, with keys for every VM"
    )
    last_good_max_age_s: float = Field(
        default=86_400,
        ge=0,
        allow_inf_nan=False,
        description="for how long a last good answer replaces a faulty one; 0: never",
    )
    links_outside: bool = Field(
        default=False, description="whether links in the directory may lead out of it"
    )

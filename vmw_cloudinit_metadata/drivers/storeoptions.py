"""StoreOptions: those of --driver-opts that each store has."""

from __future__ import annotations

from typing import Literal

from pydantic import ConfigDict, Field

from vmw_cloudinit_metadata.drivers.driveroptions import DriverOptions
from vmw_cloudinit_metadata.drivers.vault.vaultoptions import VaultOptions


class StoreOptions(DriverOptions):
    model_config = ConfigDict(strict=True)

    match: list[Literal["vc-uuid", "bios-uuid", "name"]] | None = Field(
        default=None,
        min_length=1,
        description="the identities that count; by default all three, but data counts for a BIOS "
        "UUID only if its own `match` has that",
    )
    last_good_max_age_s: float = Field(
        default=86_400,
        ge=0,
        allow_inf_nan=False,
        description="for how long a last good answer replaces a faulty one; 0: never",
    )
    vault: VaultOptions | None = Field(
        default=None, description="where the values of ${secret:…} in the data come from"
    )

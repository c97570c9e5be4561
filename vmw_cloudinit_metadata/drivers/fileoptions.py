"""FileOptions: --driver-opts of the file driver."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from vmw_cloudinit_metadata.drivers.driver import DriverError
from vmw_cloudinit_metadata.instance.fault import describe, joined, unknown
from vmw_cloudinit_metadata.instance.secrecy import shown


class FileOptions(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)

    directory: str = Field(min_length=1)
    # None: all three, but a file counts for a BIOS UUID only if its own `match` has that.
    match: list[Literal["vc-uuid", "bios-uuid", "name"]] | None = Field(default=None, min_length=1)
    defaults: str | None = None  # a file; a relative name is one in the directory
    last_good_max_age_s: float = Field(default=86_400, ge=0)  # 0: no last good answers
    links_outside: bool = False  # links in the directory may lead out of it


def checked(options: Mapping[str, Any]) -> FileOptions:
    """Return the options by name; raise DriverError."""
    try:
        return FileOptions.model_validate(dict(options))
    except ValidationError as error:
        raise DriverError(joined(map(_fault, error.errors()))) from None


def _fault(error: Any) -> str:
    key = tuple(error["loc"])
    if error["type"] == "extra_forbidden":
        fault = unknown(key, key[-1], FileOptions.model_fields)
        return f"found {fault.found}, expected {fault.expected}"
    name = shown(key, FileOptions.model_fields)
    if error["type"] == "missing":
        return f"{name}: missing, expected the directory of the instance files"
    return f"{name}: found {describe(error['input'], key)}, expected: {error['msg']}"

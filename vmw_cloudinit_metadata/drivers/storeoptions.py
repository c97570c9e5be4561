"""StoreOptions: those of --driver-opts that each store has."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from vmw_cloudinit_metadata.drivers.driver import DriverError
from vmw_cloudinit_metadata.instance.fault import describe, joined, unknown
from vmw_cloudinit_metadata.instance.secrecy import shown


class StoreOptions(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)

    # None: all three, but data counts for a BIOS UUID only if its own `match` has that.
    match: list[Literal["vc-uuid", "bios-uuid", "name"]] | None = Field(default=None, min_length=1)
    last_good_max_age_s: float = Field(default=86_400, ge=0)  # 0: no last good answers


Options = TypeVar("Options", bound=StoreOptions)


def split(options: Mapping[str, Any]) -> tuple[StoreOptions, dict[str, Any]]:
    """Return these options, and the others, which are the store's own; raise DriverError."""
    ours = {name: value for name, value in options.items() if name in StoreOptions.model_fields}
    others = {name: value for name, value in options.items() if name not in ours}
    return checked(ours, StoreOptions), others


def checked(options: Mapping[str, Any], model: type[Options], missing: str = "") -> Options:
    """Return the options by name; raise DriverError, which says that `missing` was expected."""

    def text(error: Any) -> str:
        key = tuple(error["loc"])
        if error["type"] == "extra_forbidden":
            fault = unknown(key, key[-1], model.model_fields)
            return f"found {fault.found}, expected {fault.expected}"
        name = shown(key, model.model_fields)
        if error["type"] == "missing":
            return f"{name}: missing, expected {missing}"
        return f"{name}: found {describe(error['input'], key)}, expected: {error['msg']}"

    try:
        return model.model_validate(dict(options))
    except ValidationError as error:
        raise DriverError(joined(map(text, error.errors()))) from None

"""Which keys of an instance file are strings, as they are written. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from enum import Enum
from typing import Any

from vmw_cloudinit_metadata.instance.documents import FILE_KEYS

TEXT = "text"  # scalars below this key are strings, as they are written


class Below(Enum):
    EACH = "each"  # whatever its key is
    ITSELF = "itself"  # the value itself, if it is no mapping


def _appendable(schema: dict[str, Any]) -> dict[str, Any]:
    """Add `key+` of each key, which appends to a list of the same kind."""
    return schema | {f"{name}+": below for name, below in schema.items()}


_INTERFACE = _appendable(
    {
        **dict.fromkeys(
            ("name", "mac-address", "address", "netmask", "gateway", "search", "nameservers"), TEXT
        ),
        "routes": {"to": TEXT, "via": TEXT},
    }
)
_METADATA = _appendable(
    dict.fromkeys(
        (
            *("ami-id", "instance-id", "region", "availability-zone", "hostname", "local-hostname"),
            *("tags", "public-keys"),
        ),
        TEXT,
    )
)
SCHEMA: Mapping[str, Any] = {
    "metadata": _METADATA,
    "network": _INTERFACE,
    "match": TEXT,
    **dict.fromkeys(FILE_KEYS, TEXT),
    "documents": {Below.EACH: {"text": TEXT, Below.ITSELF: TEXT}},
}


def below(schema: Any, name: str | int) -> Any:
    """Return the schema of what is at the key `name`."""
    if not isinstance(schema, dict):
        return schema
    return schema.get(name) or schema.get(Below.EACH)


def is_text(schema: Any) -> bool:
    """Return whether a scalar is a string, as it is written."""
    return schema is TEXT or (isinstance(schema, dict) and Below.ITSELF in schema)

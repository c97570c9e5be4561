"""Facts of every kind, for tests."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, get_args, get_type_hints

from vmw_cloudinit_metadata.monitoring.facts import KINDS, Fact

BY_KIND: dict[str, Any] = {KINDS[fact].name: fact for fact in get_args(Fact)}


def fact_of(kind: str, text: str = "text", name: str = "name", count: int = 0) -> Fact:
    """A fact of this kind, whose further texts are `name`."""
    values = {
        str: name,
        float: 1.5,
        tuple[str, ...]: (name, text),
        Mapping[str, float]: {name: 1.5},
        Mapping[str, int]: {"sources": count} if count else {},
    }
    fields = {field: values[its] for field, its in get_type_hints(BY_KIND[kind]).items()}
    fact: Fact = BY_KIND[kind](**fields | {"text": text})
    return fact

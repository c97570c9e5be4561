"""Substitution: `${vm.name}` and the like in the values of an instance. No language. Pure.

It happens after YAML is parsed, and only in values, so that no name of a VM can change what is a
key and what is a list. What comes from the VM may have few characters. `$${` writes `${`. A
`${…}` that begins with another word stays as it is: it may be shell.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from vmw_cloudinit_metadata.instance.documents import USER_DATA_KEYS
from vmw_cloudinit_metadata.instance.fault import Fault, Faults, Key, kind_of
from vmw_cloudinit_metadata.instance.parsing.seed import MAX_CHARACTERS
from vmw_cloudinit_metadata.protocol.identitytoken import QUERY_KEY
from vmw_cloudinit_metadata.protocol.vmware import Machine

BEGINS = "${"
MAX_VALUE_CHARACTERS = 64

# A name of shell has no dot: `${match}` is its variable.
_REFERENCE = re.compile(r"\$\$\{|\$\{(vm|query|match|metadata)\.([^{}\n]{0,200})\}")
_FROM_VM = re.compile(rf"[A-Za-z0-9._-]{{1,{MAX_VALUE_CHARACTERS}}}")
_SCALARS = frozenset({int, float, bool, type(None)})
_ALLOWED = f"1 to {MAX_VALUE_CHARACTERS} of the characters A-Z a-z 0-9 . _ -"

# Where values come from, by the first word; each returns None if it has no such value.
Sources = Mapping[str, Callable[[str], "str | None"]]


def sources_of(machine: Machine, captures: Mapping[str, str]) -> Sources:
    vm = {"name": machine.name, "vc-uuid": machine.vc_uuid}
    return {"vm": vm.get, "query": machine.query.get, "match": captures.get}


def stand_in(machine: Machine, captures: Mapping[str, str]) -> Sources:
    """Return sources for a check without a VM: what is not known is `1`, a number and a name."""
    vm = {"name": machine.name or "1", "vc-uuid": machine.vc_uuid or "1"}
    return {"vm": vm.get, "query": lambda _: "1", "match": lambda name: captures.get(name, "1")}


def substituted(
    mapping: Mapping[str, Any], sources: Sources
) -> tuple[dict[str, Any], tuple[Fault, ...]]:
    """Return the instance's mapping with values for references, and a fault for each without one.

    A reference to meta-data gets its value after substitution; in meta-data there is none.
    """
    work = _Substitution(sources)
    result = dict(mapping)
    if isinstance(mapping.get("metadata"), Mapping):
        result["metadata"] = work.value(mapping["metadata"], ("metadata",))
    work.metadata = result.get("metadata") or {}
    for name in ("network", "documents", *USER_DATA_KEYS):
        value = mapping.get(name)
        if isinstance(value, Mapping) or (name == "network" and isinstance(value, list)):
            result[name] = work.value(value, (name,))
    return result, work.faults.all()


def _stays(value: Any) -> bool:
    """Whether it is a value without a reference, as most are: told without a place for faults."""
    return BEGINS not in value if type(value) is str else type(value) in _SCALARS


class _Unavailable(Exception):  # noqa: N818 - the text of a fault: what was expected
    pass


@dataclass
class _Substitution:
    sources: Sources
    metadata: Mapping[str, Any] | None = None  # not yet, while its own values are put in
    faults: Faults = field(default_factory=Faults)
    left_characters: int = MAX_CHARACTERS

    def value(self, value: Any, key: Key) -> Any:
        match value:
            case str() if BEGINS in value:
                return self._text(value, key)
            case dict():
                return {
                    name: item if _stays(item) else self.value(item, (*key, str(name)))
                    for name, item in value.items()
                }
            case list():
                return [
                    item if _stays(item) else self.value(item, (*key, index))
                    for index, item in enumerate(value)
                ]
            case _:
                return value

    def _text(self, text: str, key: Key) -> str:
        parts: list[str] = []
        end = 0
        for found in _REFERENCE.finditer(text):
            try:
                value = self._of(found)
            except _Unavailable as error:
                self.faults.add(Fault(key, f"{BEGINS}{found[1]}.…}}", str(error)))
                return ""
            parts += (text[end : found.start()], value)
            end = found.end()
            self.left_characters -= len(value)
            if self.left_characters < 0:
                expected = f"at most {MAX_CHARACTERS:,} characters in total"
                self.faults.add(Fault(key, "too much data after substitution", expected))
                return ""
        return "".join((*parts, text[end:]))

    def _of(self, found: re.Match[str]) -> str:
        source, name = found[1], found[2]
        if source is None:
            return BEGINS
        if source == "metadata":
            return self._of_metadata(name)
        if source == "query" and name == QUERY_KEY:
            raise _Unavailable("another key: this one is the VM's identity token, a secret")
        value = self.sources[source](name)
        if value is None:
            raise _Unavailable(_EXPECTED[source])
        if not _FROM_VM.fullmatch(value):
            raise _Unavailable(f"a value of this VM with {_ALLOWED}")
        return value

    def _of_metadata(self, name: str) -> str:
        value: Any = self.metadata
        if value is None:
            raise _Unavailable("vm, query or match: meta-data cannot refer to itself")
        for part in name.split("."):
            value = value.get(part) if isinstance(value, Mapping) else None
        if not isinstance(value, str | int | float) or isinstance(value, bool):
            raise _Unavailable(
                f"the key of a string or number below metadata, not {kind_of(value)}"
            )
        return str(value)


_EXPECTED = {
    "vm": "vm.name or vm.vc-uuid, which this VM has sent",
    "query": "a key that the service URI of this VM has in its query",
    "match": "a {word} of the match of a layer that counts for this VM",
}

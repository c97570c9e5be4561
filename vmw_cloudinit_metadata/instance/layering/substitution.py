"""Substitution: `${vm.name}` and the like in the values of an instance. No language. Pure.

It happens after YAML is parsed, and only in values, so that no name of a VM can change what is a
key and what is a list. What comes from the VM may have few characters. `$${` writes `${`. A
`${…}` that begins with another word stays as it is: it may be shell.

`${secret:PATH#KEY}` is the value of a secret, and PATH may have references of the other kinds. It
is put in where nothing of the document is ever shown: in user-data, vendor-data and documents.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from vmw_cloudinit_metadata.instance.documents import USER_DATA_KEYS
from vmw_cloudinit_metadata.instance.fault import Fault, Faults, Key, kind_of
from vmw_cloudinit_metadata.instance.layering.secretreference import REFERENCE_BEGINS, reference_of
from vmw_cloudinit_metadata.instance.parsing.seed import MAX_CHARACTERS
from vmw_cloudinit_metadata.protocol.identitytoken import QUERY_KEY
from vmw_cloudinit_metadata.protocol.vmware import Machine

BEGINS = "${"
MAX_VALUE_CHARACTERS = 64

# A name of shell has no dot: `${match}` is its variable. Nor does it end in a colon, unless one of
# its operators follows: `${secret:-none}`.
_OF_VM = r"\$\{(vm|query|match|metadata)\.([^{}\n]{0,200})\}"
_OF_VAULT = r"\$\{secret:(?![-=?+ ])((?:[^${}\n]|\$\{[^{}\n]{0,200}\}){0,600}\})?"
_REFERENCE = re.compile(rf"\$\$\{{|{_OF_VM}|{_OF_VAULT}")
_INNER = re.compile(rf"{_OF_VM}|\$\{{[^{{}}\n]*\}}")
_SECRET_PLACES = frozenset({"documents", *USER_DATA_KEYS})
_FROM_VM = re.compile(rf"[A-Za-z0-9._-]{{1,{MAX_VALUE_CHARACTERS}}}")
_SCALARS = frozenset({int, float, bool, type(None)})
_IN_TEXT = "a reference to a secret in a text, which is never changed"
_ALLOWED = f"1 to {MAX_VALUE_CHARACTERS} of the characters A-Z a-z 0-9 . _ -"

# Where values come from, by the first word; each returns None if it has no such value.
Value = Callable[[str], "str | None"]
Sources = Mapping[str, Value]


class Substituted(NamedTuple):
    """A mapping with values for its references, and a fault for each without one."""

    mapping: dict[str, Any]
    faults: tuple[Fault, ...]
    secrets: tuple[str, ...]  # to which it refers, each once


def sources_of(
    machine: Machine, captures: Mapping[str, str], secrets: Value | None = None
) -> Sources:
    """Return the sources for a VM; without `secrets`, each reference to one is a fault."""
    vm = {"name": machine.name, "vc-uuid": machine.vc_uuid}
    of_vm: Sources = {"vm": vm.get, "query": machine.query.get, "match": captures.get}
    return {**of_vm, "secret": secrets} if secrets else of_vm


def stand_in(
    machine: Machine, captures: Mapping[str, str], secrets: Value | None = None
) -> Sources:
    """Return sources for a check without a VM: what is not known is `1`, a number and a name."""
    vm = {"name": machine.name or "1", "vc-uuid": machine.vc_uuid or "1"}
    of_vm: Sources = {
        "vm": vm.get,
        "query": lambda _: "1",
        "match": lambda name: captures.get(name, "1"),
    }
    return {**of_vm, "secret": secrets} if secrets else of_vm


def substituted(mapping: Mapping[str, Any], sources: Sources) -> Substituted:
    """Put values in place of the references in an instance's mapping.

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
    return Substituted(result, work.faults.all(), tuple(work.secrets))


def unreplaced(mapping: Mapping[str, Any]) -> Iterator[Fault]:
    """Yield a warning for each text that is never changed, and has a reference to a secret."""
    for name in USER_DATA_KEYS:
        if _refers_to_secret(mapping.get(name)):
            yield Fault((name,), _IN_TEXT, f"{name} that is a mapping")
    documents = mapping.get("documents")
    for name, value in documents.items() if isinstance(documents, Mapping) else ():
        text = value.get("text") if isinstance(value, Mapping) else value
        if isinstance(text, bytes) and _refers_to_secret(text):
            yield Fault(("documents", str(name)), _IN_TEXT, "a string, not !!binary")


def _refers_to_secret(text: Any) -> bool:
    if isinstance(text, bytes) and REFERENCE_BEGINS.encode() in text:
        text = text.decode(errors="replace")
    if not isinstance(text, str) or REFERENCE_BEGINS not in text:
        return False
    return any(_is_surely_ours(found[3]) for found in _REFERENCE.finditer(text) if found[3])


def _is_surely_ours(body: str) -> bool:
    """Return whether it is no `${secret:3}` of shell, by what stands behind `${secret:`."""
    try:
        reference = reference_of(_INNER.sub("1", body[:-1]))
    except ValueError:
        return False
    return bool(reference.key) or not body[0].isdigit()


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
    secrets: dict[str, None] = field(default_factory=dict)
    left_characters: int = MAX_CHARACTERS

    def value(self, value: Any, key: Key) -> Any:
        match value:
            case str() if BEGINS in value:
                return self._text(value, key)
            case dict():
                self._check_keys(value, key)
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

    def _check_keys(self, mapping: dict[Any, Any], key: Key) -> None:
        for name in mapping:
            if type(name) is str and REFERENCE_BEGINS in name and _refers_to_secret(name):
                found = f"{REFERENCE_BEGINS}…}} in a key"
                self.faults.add(Fault((*key, name), found, "it in a value: keys are not changed"))

    def _text(self, text: str, key: Key) -> str:
        parts: list[str] = []
        end = 0
        for found in _REFERENCE.finditer(text):
            try:
                value = self._of(found, key)
            except _Unavailable as error:
                name = f"{BEGINS}{found[1]}.…}}" if found[1] else f"{REFERENCE_BEGINS}…}}"
                self.faults.add(Fault(key, name, str(error)))
                return ""
            parts += (text[end : found.start()], value)
            end = found.end()
            self.left_characters -= len(value)
            if self.left_characters < 0:
                expected = f"at most {MAX_CHARACTERS:,} characters in total"
                self.faults.add(Fault(key, "too much data after substitution", expected))
                return ""
        return "".join((*parts, text[end:]))

    def _of(self, found: re.Match[str], key: Key) -> str:
        if found[1]:
            return self._of_vm(found)
        return BEGINS if found[0] == "$${" else self._secret(found[3], key)

    def _secret(self, body: str | None, key: Key) -> str:
        """Return a secret by what stands behind `${secret:`, with the brace at its end."""
        if key[0] not in _SECRET_PLACES:
            raise _Unavailable("it in userdata, vendordata or documents: all else may be shown")
        if body is None:
            raise _Unavailable("a } at its end, and only ${vm.name} and the like in it")
        try:
            reference = str(reference_of(_INNER.sub(self._inner, body[:-1])))
        except ValueError as error:
            raise _Unavailable(str(error)) from None
        if "secret" not in self.sources:
            raise _Unavailable("the driver option vault, which says where secrets are")
        value = self.sources["secret"](reference)
        if value is None:
            raise _Unavailable("a #KEY behind the path: a secret has several values")
        self.secrets[reference] = None
        return value

    def _inner(self, found: re.Match[str]) -> str:
        """Return a part of a reference to a secret, which is a part of one name."""
        if not found[1]:
            raise _Unavailable("only ${vm.name} and the like in it")
        value = self._of_vm(found)
        if not _FROM_VM.fullmatch(value):
            raise _Unavailable(f"values in it with {_ALLOWED}")
        return value

    def _of_vm(self, found: re.Match[str]) -> str:
        source, name = found[1], found[2]
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

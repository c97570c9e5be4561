"""InstanceData: the data of one VM, made from the mapping in an instance file. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeVar

import yaml
from pydantic import BaseModel, ValidationError

from vmw_cloudinit_metadata.instance.documents import STANDARD, USER_DATA, StandardDocument
from vmw_cloudinit_metadata.instance.fault import (
    Fault,
    Faults,
    InvalidInstanceData,
    Key,
    describe,
    unknown,
)
from vmw_cloudinit_metadata.instance.keys import TOP_LEVEL, canonical, misplaced_faults
from vmw_cloudinit_metadata.instance.metadata import publickey
from vmw_cloudinit_metadata.instance.metadata.fields import Match, Metadata
from vmw_cloudinit_metadata.instance.network import interfaces, native, networkconfig, shortform
from vmw_cloudinit_metadata.instance.network.shortform import Interface
from vmw_cloudinit_metadata.instance.values import placeholder, plain
from vmw_cloudinit_metadata.instance.values.dump import block_text
from vmw_cloudinit_metadata.instance.values.plain import MAPPING
from vmw_cloudinit_metadata.instance.vmname import normal
from vmw_cloudinit_metadata.protocol.packet import WITH_ARGUMENT
from vmw_cloudinit_metadata.protocol.vmware import Machine

MAX_DOCUMENT_BYTES = 1024 * 1024

STANDARD_DOCUMENTS = frozenset(document.code for document in STANDARD)
RESERVED_DOCUMENTS = STANDARD_DOCUMENTS | {"DIGEST", "ERROR"} | WITH_ARGUMENT

_DOCUMENT_KEYS = frozenset({"text", "once"})
_LEADING_BLANK_LINES = re.compile(r"\A(?:[ \t]*\r?\n)+")

_Model = TypeVar("_Model", bound=BaseModel)


@dataclass(frozen=True, slots=True)
class InstanceData:
    """The data of one VM. `from_mapping` makes it; a driver may set the last nine with `replace`.

    `metadata` has the known keys first; `network` is cloud-init's network-config, version 1 or 2;
    documents are bytes, empty if there is none. `documents` has the other ones by the name with
    which a VM requests them ("SECURITYDATA"); `once` names those that a VM gets one time only.
    """

    metadata: Mapping[str, Any]
    network: Mapping[str, Any] | None = None
    userdata: bytes = b""
    vendordata: bytes = b""
    documents: Mapping[str, bytes] = field(default_factory=dict)
    match: Mapping[str, str] = field(default_factory=dict)
    network_is_native: bool = False  # the operator wrote cloud-init's own document
    interfaces: Mapping[Key, Interface] = field(default_factory=dict)  # of a short `network`
    once: frozenset[str] = frozenset()

    matched_by: str = ""  # the identity by which the VM was found: "vc-uuid"
    sources: tuple[str, ...] = ()  # the files, the VM's own first
    problem: str = ""  # why this is the last good answer instead of the current one
    duplicates: tuple[str, ...] = ()  # values shared with another VM, for the log
    warnings: tuple[Fault, ...] = ()  # of how it was put together
    is_secret: bool = False  # never written to disk, not even as a last good answer
    secrets: tuple[str, ...] = ()  # whose values it has: it is made anew for each request
    lacks_secrets: bool = False  # their references stand for the values, which were not read
    token: object = None  # for Driver.still_holds; None: ask again at the next request

    @classmethod
    def from_mapping(
        cls, mapping: Mapping[str, Any], sources: tuple[str, ...] = ()
    ) -> InstanceData:
        """Check the mapping of an instance file; raise InvalidInstanceData with every fault."""
        check = _Check(mapping)
        if check.faults.found:
            raise InvalidInstanceData(check.faults.all())
        return cls(
            metadata=check.metadata,
            network=check.network,
            network_is_native=native.is_native(mapping.get("network")),
            userdata=check.user_data.pop("USERDATA"),
            vendordata=check.user_data.pop("VENDORDATA"),
            documents=check.documents | check.user_data,
            match=check.match,
            interfaces=check.interfaces,
            once=frozenset(check.once),
            sources=sources,
        )

    def content_of(self, document: StandardDocument) -> bytes:
        """Return the content of one in user-data format; empty if there is none."""
        own = {"USERDATA": self.userdata, "VENDORDATA": self.vendordata}
        return own.get(document.code) or self.documents.get(document.code, b"")

    def is_for(self, machine: Machine) -> bool:
        """Return whether the machine is the one that `match` names, if it names one."""
        return not self.match or not self.differences(machine)

    def differences(self, machine: Machine) -> list[str]:
        """Return the keys of `match` in which the machine differs."""
        name = machine.name and normal(machine.name)
        actual = {"vc-uuid": machine.vc_uuid, "bios-uuid": machine.bios_uuid, "name": name}
        return [
            key
            for key, wanted in self.match.items()
            if actual[key] != (normal(wanted) if key == "name" else wanted)
        ]


class _Check:
    """Checks a mapping part by part; `faults` collects what is wrong in any of them."""

    def __init__(self, mapping: Mapping[str, Any]) -> None:
        self.faults = Faults()
        seed, twice = canonical(mapping)
        self.faults.extend(twice)
        not_plain = plain.faults_in(mapping)
        if not_plain:  # nothing else can be checked
            self.faults.extend(not_plain)
            seed = {"metadata": {}}
        self.faults.extend(misplaced_faults(seed, TOP_LEVEL))
        self.metadata = self._metadata(seed)
        self.match = self._match(seed.get("match"))
        self.interfaces: dict[Key, Interface] = {}
        self.network = self._network(seed.get("network"))
        self.user_data = {
            row.code: self._document(seed.get(row.key), (row.key,)) for row in USER_DATA
        }
        self.once: set[str] = set()
        self.documents = self._documents(seed.get("documents"))

    def _metadata(self, seed: Mapping[str, Any]) -> dict[str, Any]:
        if "metadata" not in seed:
            self._fault(("metadata",), "nothing", "a mapping (it may be empty: {})", absence=True)
            return {}
        value = {} if seed["metadata"] is None else seed["metadata"]
        if isinstance(value, MAPPING) and (keys := value.get("public-keys")) is not None:
            self.faults.extend(publickey.faults_in(keys, ("metadata", "public-keys")))
        checked = self._validate(Metadata, value, ("metadata",))
        return checked.model_dump(by_alias=True, exclude_none=True) if checked else {}

    def _match(self, value: Any) -> dict[str, str]:
        checked = None if value is None else self._validate(Match, value, ("match",))
        return checked.model_dump(by_alias=True, exclude_none=True) if checked else {}

    def _network(self, value: Any) -> Mapping[str, Any] | None:
        if value is None or native.is_native(value):
            self.faults.extend(native.native_faults(value) if value else ())
            return value  # type: ignore[no-any-return]
        without_version = native.without_version(value)
        if without_version:
            self.faults.add(without_version)
            return None
        items: dict[Key, Any] = {("network",): value}
        if isinstance(value, list):
            items = {("network", index): item for index, item in enumerate(value)}
        if not items:
            self._fault(("network",), "an empty list", "at least one interface")
        for key, item in items.items():
            interface = self._interface(item, key)
            if interface:
                self.interfaces[key] = interface
        self.faults.extend(interfaces.faults_between(self.interfaces))
        if self.faults.found:
            return None
        return networkconfig.rendered(list(self.interfaces.values()))

    def _interface(self, value: Any, key: Key) -> Interface | None:
        if self.faults.has_more:
            return None
        if isinstance(value, MAPPING):
            known = shortform.KEYS
            value = {k: v for k, v in value.items() if v is not None or k not in known}
        before = len(self.faults.found)
        interface = self._validate(Interface, value, key)
        if interface:
            self.faults.extend(interfaces.faults_within(interface, key))
        elif isinstance(value, Mapping) and not self.faults.has_more:
            self._check_the_rest(value, key, self.faults.found[before:])
        return interface

    def _check_the_rest(self, value: Mapping[str, Any], key: Key, found: Iterable[Fault]) -> None:
        """Report what is wrong between the keys of an interface that are valid by themselves."""
        faulty = {fault.key[len(key)] for fault in found if len(fault.key) > len(key)}
        right = {k: v for k, v in value.items() if k in shortform.KEYS and k not in faulty}
        rest = Interface.model_validate(right)
        faults = interfaces.faults_within(rest, key)
        self.faults.extend(fault for fault in faults if not fault.is_absence)

    def _document(self, value: Any, key: Key) -> bytes:
        try:
            document = _text(value) if key[0] == "documents" else _user_data(value)
        except _UnfitError as error:
            self._fault(key, describe(value, key), str(error))
            return b""
        if len(document) > MAX_DOCUMENT_BYTES:
            self._fault(key, describe(document, key), f"at most {MAX_DOCUMENT_BYTES:,} bytes")
        return document

    def _documents(self, value: Any) -> dict[str, bytes]:
        if value is None:
            return {}
        if not isinstance(value, Mapping):
            key = ("documents",)
            self._fault(key, describe(value, key), "a mapping of names to strings")
            return {}
        documents: dict[str, bytes] = {}
        for number, (name, text) in enumerate(value.items(), 1):
            place = ("documents", str(name))
            code = str(name).upper()
            found = f"name {number} ({describe(name, place)})"
            if not re.fullmatch("[A-Z]{1,32}", code):
                self._fault(place, found, "a name of letters only, at most 32")
            elif code in RESERVED_DOCUMENTS:
                self._fault(place, found, "a name that the protocol does not reserve")
            elif code in documents:
                self._fault(place, f"name {number}, a duplicate", "each document once")
            else:
                text, is_once = self._long_form(text, place)
                documents[code] = self._document(text, place)
                if is_once:
                    self.once.add(code)
        return documents

    def _long_form(self, value: Any, key: Key) -> tuple[Any, bool]:
        """Return the text of a document that may be written as {text: …, once: true}, and whether
        it is served once."""
        if not isinstance(value, Mapping):
            return value, False
        is_once, text = value.get("once"), value.get("text")
        if any(name not in _DOCUMENT_KEYS for name in value):
            self._fault(key, "a mapping with other keys", "a string, or text and once")
        elif is_once is not None and not isinstance(is_once, bool):
            self._fault(key, describe(is_once, key), "once: true or false")
        elif text is None:
            self._fault(key, "a mapping without text", "text, with once", absence=True)
        return text, is_once is True

    def _validate(self, model: type[_Model], value: Any, key: Key) -> _Model | None:
        try:
            return model.model_validate(value)
        except ValidationError as error:
            errors = error.errors(include_url=False)
            self.faults.extend(_fault_of(item, model, value, key) for item in errors)
            return None

    def _fault(self, key: Key, found: str, expected: str, absence: bool = False) -> None:
        self.faults.add(Fault(key, found, expected, is_absence=absence))


class _UnfitError(Exception):
    """Raised for a value that cannot be a document; its text is what was expected."""


def _text(value: Any) -> bytes:
    """Return the bytes of a document; raise _UnfitError."""
    match value:
        case None:
            return b""
        case bytes():
            return value
        case str():
            return _LEADING_BLANK_LINES.sub("", value).encode()
        case _:
            raise _UnfitError("a string or !!binary")


def _user_data(value: Any) -> bytes:
    """Like `_text`, but a mapping becomes a #cloud-config."""
    if value is None or isinstance(value, str | bytes):
        return _text(value)
    if not isinstance(value, Mapping):
        raise _UnfitError("a string, !!binary, or a mapping, which is served as #cloud-config")
    if "once" in value:
        raise _UnfitError("no once, which is for documents alone")
    try:
        return b"#cloud-config\n" + block_text(dict(value)).encode()
    except (TypeError, ValueError, yaml.YAMLError):
        raise _UnfitError("a mapping that YAML can represent") from None


# Error types of pydantic -> what was expected, filled in from the error's context.
_EXPECTED = {
    "model_type": "a mapping",
    "model_attributes_type": "a mapping",
    "list_type": "a list",
    "int_type": "a whole number",
    "bool_type": "true or false",
    "greater_than_equal": "a number of at least {ge}",
    "less_than_equal": "a number of at most {le}",
    "value_error": "{error}",
    "missing": "a value",
    "invalid_key": "string keys",
}


def _fault_of(error: Any, model: type[BaseModel], value: Any, key: Key) -> Fault:
    """Convert a pydantic error to a fault; `value`, at `key`, is what was validated."""
    place = tuple(error["loc"])
    if error["type"] == "extra_forbidden":
        if model is Interface and len(place) == 1 and place[0] in shortform.FOREIGN_KEYS:
            expected = shortform.FOREIGN_KEYS[place[0]]
            return Fault((*key, *place), repr(place[0]), expected, is_named=True)
        if place[:1] == ("routes",) and place[-1] in shortform.FOREIGN_ROUTE_KEYS:
            expected = shortform.FOREIGN_ROUTE_KEYS[place[-1]]
            return Fault((*key, *place), repr(place[-1]), expected, is_named=True)
        return unknown((*key, *place), place[-1], _fields_at(model, place[:-1]))
    form = _EXPECTED.get(error["type"], "a value of another type")
    expected = form.format(**error.get("ctx", {}))
    if error["type"] == "model_type":
        expected += _about(error["input"])
        if model is Interface:
            expected += _about_network(error["input"])
    if place[:1] == ("address",) and error["input"] in ("dhcp", "dhcp4", "auto"):
        expected += ", or dhcp: true instead"
    if isinstance(error["input"], str) and placeholder.found_in(error["input"]):
        expected += f" ({placeholder.HINT})"
    missing = error["type"] == "missing"
    place = (*key, *(place if missing else _existing(place, value)))
    found = "nothing" if missing else describe(error["input"], place)
    return Fault(place, found, expected, is_absence=missing)


def _about(value: Any) -> str:
    """Return a hint for a value in place of a mapping."""
    if isinstance(value, list) and value and all(isinstance(item, Mapping) for item in value):
        return ": write its keys without '- '"
    if isinstance(value, str) and re.match(r"[\w-]+:\S", value):
        return ": KEY: VALUE, with a space after the colon"
    if isinstance(value, str) and (odd := re.match(r"[\w-]+:([^\S \t\n])", value)):
        return f": KEY: VALUE, with a plain space, not U+{ord(odd[1]):04X}, after the colon"
    return ""


def _about_network(value: Any) -> str:
    """Return a hint for a network that is a string."""
    if value == "disabled":
        return ": {config: disabled}"
    if isinstance(value, str) and re.match(r"\s*[\w-]+:\s.*\n", value):
        return ": the lines themselves, without | or quotes"
    return ""


def _existing(place: tuple[Any, ...], value: Any) -> Key:
    """Cut from `place` what is not in the file: a string in place of a list has no item 0."""
    for depth, part in enumerate(place):
        try:
            value = value[part] if isinstance(value, Mapping | list) else None
        except (KeyError, IndexError):
            return place[:depth]
        if value is None:
            return place[:depth]
    return place


def _fields_at(model: type[BaseModel], place: Key) -> frozenset[str]:
    if place[:1] == ("routes",):
        return shortform.ROUTE_KEYS
    return frozenset(str(item.alias) for item in model.model_fields.values())

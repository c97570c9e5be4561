"""Check documents with cloud-init's own JSON schemas, for `validate`. Reads the schema files.

jsonschema is imported only here; it comes with the extra `schema`. Its errors are reported by place
and kind: of user-data, only names that the schema knows are quoted.
"""

from __future__ import annotations

import importlib
import json
import re
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

from vmw_cloudinit_metadata.instance.advice import warnings_of
from vmw_cloudinit_metadata.instance.documents import USER_DATA
from vmw_cloudinit_metadata.instance.fault import MAX_FAULTS, Fault, Key, describe, kind_of
from vmw_cloudinit_metadata.instance.model import InstanceData
from vmw_cloudinit_metadata.instance.userdata import formats
from vmw_cloudinit_metadata.instance.userdata.formats import Part
from vmw_cloudinit_metadata.settings.errors import ConfigError

# In the packages of Debian, Ubuntu and others.
INSTALLED = Path("/usr/lib/python3/dist-packages/cloudinit/config/schemas")
FILES = {
    "network-1": "schema-network-config-v1.json",  # from 24.1 on
    "network-2": "schema-network-config-v2.json",  # from 24.3 on
    "cloud-config": "schema-cloud-config-v1.json",
}
MAX_SCHEMA_BYTES = 4 * 1024 * 1024

# Limit per document: alternatives multiply, and lists of lists are compared item by item.
MAX_SECONDS = 5.0

Judge = Callable[[InstanceData], Iterator[Fault]]


def judge(directory: Path | None, installed: Path = INSTALLED) -> tuple[Judge | None, str]:
    """Return a check by the schemas of `directory`, else by `installed` ones, and a note.

    Raise ConfigError if `directory` has no usable schemas.
    """
    place = directory or installed
    paths = {name: place / file for name, file in FILES.items() if (place / file).is_file()}
    if not paths:
        if directory is None:
            return None, ""
        raise ConfigError(
            f"--schema-dir {directory}: found none of {', '.join(FILES.values())}, expected the "
            "directory cloudinit/config/schemas of cloud-init 22.2 or later"
        )
    try:
        schemas = Schemas({name: _read(path) for name, path in paths.items()})
    except ImportError:
        missing = "jsonschema is not installed: pip install 'vmw-cloudinit-metadata[schema]'"
        if directory is None:
            return None, f"cloud-init's schemas in {place} were not used: {missing}"
        raise ConfigError(f"--schema-dir: {missing}") from None
    return schemas.warnings, ""


def _read(path: Path) -> dict[str, Any]:
    try:
        with path.open("rb") as file:
            schema = json.loads(file.read(MAX_SCHEMA_BYTES))
    except (OSError, ValueError, RecursionError) as error:
        raise ConfigError(f"{path}: found {type(error).__name__}, expected a JSON schema") from None
    if not isinstance(schema, dict):
        raise ConfigError(f"{path}: found {kind_of(schema)}, expected a JSON schema")
    return schema


def _jsonschema() -> Any:
    return importlib.import_module("jsonschema")


class _OutOfTime(Exception):  # noqa: N818 - not an error
    """A document takes longer than the limit."""


class Schemas:
    """The validators, named as in FILES; raises ImportError if jsonschema is not installed."""

    def __init__(self, schemas: Mapping[str, dict[str, Any]], limit_s: float = MAX_SECONDS) -> None:
        self._limit_s = limit_s
        self._end_s = 0.0
        self._validators = {name: self._validator(schema) for name, schema in schemas.items()}
        self._names = {name: frozenset(_names(schema)) for name, schema in schemas.items()}

    def _validator(self, schema: dict[str, Any]) -> Any:
        validators = _jsonschema().validators
        own = validators.validator_for(schema)
        texts = own.TYPE_CHECKER.redefine("string", lambda _, value: isinstance(value, str | bytes))
        checks: dict[str, Any] = {**own.VALIDATORS, "uniqueItems": _unique_items}
        timed = {word: partial(self._timed, check) for word, check in checks.items()}
        return validators.extend(own, timed, type_checker=texts)(schema)

    def _timed(self, check: Any, *arguments: Any) -> Any:
        if time.monotonic() > self._end_s:
            raise _OutOfTime
        return check(*arguments)

    def warnings(self, instance: InstanceData) -> Iterator[Fault]:
        """Yield the faults that only the schemas find."""
        known = {warning.key for warning in warnings_of(instance)}
        found = islice(self._faults(instance), MAX_FAULTS)
        return (fault for fault in found if fault.key not in known)

    def _faults(self, instance: InstanceData) -> Iterator[Fault]:
        if instance.network and instance.network_is_native:
            version = instance.network.get("version")
            yield from self._refused(f"network-{version}", dict(instance.network), ("network",))
        for document in USER_DATA:
            content = instance.content_of(document)
            for part in formats.parts_of(content) if content else ():
                if isinstance(part, Part) and part.type == formats.CLOUD_CONFIG:
                    yield from self._cloud_config(part, document.key)

    def _cloud_config(self, part: Part, key: str) -> Iterator[Fault]:
        read = formats.yaml_of(part, key)
        if isinstance(read, formats.Trouble) or read.faults or not isinstance(read.value, dict):
            return  # reported without the schemas
        for fault in self._refused("cloud-config", read.value, (key,)):
            place = self._shown("cloud-config", fault.key[1:])
            line = read.line(fault.key)
            at = f" at {place}" if place else ""
            found = f"{fault.found}{at} on line {line} of the #cloud-config{part.place}"
            yield Fault(fault.key, found, fault.expected, is_warning=True)

    def _refused(self, name: str, document: Any, root: Key) -> Iterator[Fault]:
        validator = self._validators.get(name)
        if validator is None or document.get("config") == "disabled":
            return
        self._end_s = time.monotonic() + self._limit_s
        try:
            for error in validator.iter_errors(_with_texts_as_keys(document)):
                for innermost in _innermost(error):
                    yield from _faults_of(innermost, root)
        except (_OutOfTime, RecursionError):
            found = f"a document that takes more than {self._limit_s:g} s to check"
            yield Fault(
                root, found, "a smaller one: it was not checked by its schema", is_warning=True
            )

    def _shown(self, name: str, place: Key) -> str:
        """Return the place of a fault, with names that the schema knows: `users.0.name`."""
        return ".".join(
            str(part)
            if isinstance(part, int) or part in self._names[name]
            else f"<{len(part):,} characters>"
            for part in place
        )


def _unique_items(validator: Any, wanted: Any, value: Any, _: Any) -> Iterator[Any]:
    """Check uniqueness in linear time; jsonschema compares each item with each."""
    if wanted and validator.is_type(value, "array"):
        texts = [json.dumps(item, sort_keys=True, default=repr) for item in value]
        if len(set(texts)) < len(texts):
            yield _jsonschema().ValidationError("not unique")


def _with_texts_as_keys(value: Any) -> Any:
    """Convert all keys to strings: jsonschema cannot compare YAML's other keys with names."""
    match value:
        case dict() | Mapping():
            return {str(name): _with_texts_as_keys(item) for name, item in value.items()}
        case list() | tuple():
            return [_with_texts_as_keys(item) for item in value]
        case _:
            return value


def _names(schema: Any) -> Iterator[str]:
    """Yield all property names in a schema."""
    if isinstance(schema, dict):
        properties = schema.get("properties")
        if isinstance(properties, dict):
            yield from properties
        for below in schema.values():
            yield from _names(below)
    elif isinstance(schema, list):
        for below in schema:
            yield from _names(below)


def _innermost(error: Any) -> Iterator[Any]:
    """Yield the errors of the alternative that was most likely meant."""
    branches: dict[Any, list[Any]] = {}
    for below in error.context:
        branches.setdefault(below.schema_path[0], []).append(below)
    if not branches or _types_of(error):
        yield error
        return
    for below in min(branches.values(), key=_distance):
        yield from _innermost(below)


def _distance(errors: Sequence[Any]) -> tuple[bool, int]:
    """Rate how far off an alternative is: of another `type`, or with many errors."""
    has_another_type = any(list(error.path) == ["type"] for error in errors)
    return has_another_type, sum(not error.path for error in errors)


def _types_of(error: Any) -> list[str]:
    """Return the allowed types, if the value has none of them."""
    is_by_type = all(below.validator == "type" and not below.path for below in error.context)
    rules = [below.validator_value for below in error.context] if is_by_type else []
    return [name for rule in rules for name in ([rule] if isinstance(rule, str) else rule)]


def _faults_of(error: Any, root: Key) -> Iterator[Fault]:
    key = (*root, *error.absolute_path)
    value, rule = error.instance, error.validator_value
    types = _types_of(error)
    if types or error.validator == "type":
        yield _fault(key, describe(value, key), _type(types or rule))
        return
    match error.validator:
        case "enum":
            yield _fault(key, describe(value, key), f"one of {', '.join(map(_text, rule))}")
        case "required":
            for name in rule:
                if name not in value:
                    yield _fault((*key, name), "nothing", f"the key {name}")
        case "additionalProperties":
            yield from _unknown(value, error.schema, key)
        case "pattern":
            yield _fault(key, describe(value, key), f"a text that matches {rule}")
        case "minItems" | "minProperties":
            yield _fault(key, f"{kind_of(value)} of {len(value)}", f"at least {rule}")
        case "maxItems" | "maxProperties" | "maxLength":
            yield _fault(key, f"{kind_of(value)} of {len(value)}", f"at most {rule}")
        case "uniqueItems":
            yield _fault(key, "a duplicate value", "unique values")
        case word:
            yield _fault(key, describe(value, key), f"what cloud-init's schema allows ({word})")


def _unknown(value: Mapping[str, Any], schema: Mapping[str, Any], key: Key) -> Iterator[Fault]:
    known = sorted(schema.get("properties", ()))
    patterns = schema.get("patternProperties", ())
    for name in value:
        if name not in known and not any(re.search(pattern, name) for pattern in patterns):
            found = f"an unknown key ({len(name):,} characters)"
            yield _fault((*key, name), found, f"one of {', '.join(known)}")


def _fault(key: Key, found: str, expected: str) -> Fault:
    return Fault(key, found, expected, is_warning=True)


_TYPES = {
    "object": "a mapping",
    "array": "a list",
    "string": "a text",
    "integer": "a whole number",
    "number": "a number",
    "boolean": "true or false",
    "null": "nothing",
}


def _type(rule: Any) -> str:
    names = [rule] if isinstance(rule, str) else rule
    return " or ".join(_TYPES.get(name, str(name)) for name in names)


def _text(value: Any) -> str:
    return json.dumps(value) if not isinstance(value, str) else value

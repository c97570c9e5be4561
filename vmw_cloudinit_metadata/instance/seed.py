"""The text of an instance file: YAML -> a mapping, with the line of every key.

One pass over libyaml's events, because a seed needs what a YAML loader does not give: text keys
keep their scalar as it is written (`instance-id: 2024-01-01` is text), duplicate keys are faults,
every key has a line, and nesting and alias expansion are bounded. Timestamps are text. Pure.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import yaml

from vmw_cloudinit_metadata.instance.fault import Fault, Key, describe

MAX_DEPTH = 40
MAX_NODES = 100_000  # after aliases are expanded
MAX_CHARACTERS = 8 * 1024 * 1024  # likewise

TEXT = "text"  # scalars below this key are text as it is written
_INTERFACE = {
    **dict.fromkeys(
        ("name", "mac-address", "address", "netmask", "gateway", "search", "nameservers"), TEXT
    ),
    "routes": {"to": TEXT, "via": TEXT},
}
_METADATA = dict.fromkeys(
    (
        *("ami-id", "instance-id", "region", "availability-zone", "hostname", "local-hostname"),
        *("tags", "public-keys"),
    ),
    TEXT,
)
SCHEMA: Mapping[str, Any] = {
    "metadata": _METADATA,
    "network": _INTERFACE,
    "match": TEXT,
    "userdata-file": TEXT,
    "vendordata-file": TEXT,
    "documents": TEXT,
}

_INT, _FLOAT, _BOOL, _NULL, _STR, _BINARY, _SEQ, _MAP, _MERGE = (
    f"tag:yaml.org,2002:{name}"
    for name in ("int", "float", "bool", "null", "str", "binary", "seq", "map", "merge")
)
_constructor = yaml.constructor.SafeConstructor()
_CONSTRUCT = {
    _INT: _constructor.construct_yaml_int,
    _FLOAT: _constructor.construct_yaml_float,
    _BOOL: _constructor.construct_yaml_bool,
    _NULL: _constructor.construct_yaml_null,
    _BINARY: _constructor.construct_yaml_binary,
    _STR: _constructor.construct_yaml_str,
}
_RESOLVERS = yaml.resolver.Resolver.yaml_implicit_resolvers
_MERGE_KEY = object()


@dataclass(frozen=True)
class Seed:
    """An instance file's content. `lines` maps a key, written with `-`, to its line from 1."""

    value: Any
    faults: tuple[Fault, ...]
    lines: Mapping[Key, int] = field(repr=False)

    def line(self, key: Key) -> int:
        """The line of `key`, or of what it stands in if the file does not have it."""
        key = dashed(key)
        while key not in self.lines and key:
            key = key[:-1]
        return self.lines.get(key, 1)

    def has(self, key: Key) -> bool:
        return dashed(key) in self.lines


def dashed(key: Key) -> Key:
    return tuple(part.replace("_", "-") if isinstance(part, str) else part for part in key)


def read(text: str) -> Seed:
    """Reads one YAML document. Never raises: what is wrong is in `faults`."""
    return _Reader(text).seed()


class _TooMuchError(Exception):
    """A bound is exceeded; the fault is already told."""


class _Reader:
    def __init__(self, text: str) -> None:
        self._text = text
        self._events: Iterator[Any] = yaml.parse(text, Loader=yaml.CSafeLoader)
        self._faults: list[Fault] = []
        self._lines: dict[Key, int] = {}
        self._anchors: dict[str, tuple[Any, int, int]] = {}  # value, nodes, characters
        self._nodes = 0
        self._characters = 0

    def seed(self) -> Seed:
        value = None
        try:
            value = self._document()
        except yaml.YAMLError as error:
            self._syntax(error)
        except _TooMuchError:
            pass
        return Seed(value, tuple(self._faults), self._lines)

    def _document(self) -> Any:
        next(self._events)  # the stream's start
        if isinstance(next(self._events), yaml.StreamEndEvent):
            return None
        value = self._node(next(self._events), (), SCHEMA)
        next(self._events)  # the document's end
        event = next(self._events)
        if not isinstance(event, yaml.StreamEndEvent):
            self._fault(event, (), "a second YAML document", "one document a file")
        return value

    def _node(self, event: Any, key: Key, schema: Any) -> Any:
        if isinstance(event, yaml.AliasEvent):
            return self._alias(event, key)
        nodes, characters = self._nodes, self._characters
        self._spend(event, key, nodes=1)
        if isinstance(event, yaml.ScalarEvent):
            self._spend(event, key, characters=len(event.value))
            value = self._scalar(event, key, schema)
        else:
            if event.tag not in (None, "!", _SEQ, _MAP):
                self._fault(event, key, f"the tag {event.tag}", "a plain mapping or list")
            if len(key) >= MAX_DEPTH:
                self._too_much(event, key, "deeper nesting", f"at most {MAX_DEPTH} levels")
            if isinstance(event, yaml.SequenceStartEvent):
                value = self._sequence(key, schema)
            else:
                value = self._mapping(event, key, schema)
        if event.anchor:
            cost = self._nodes - nodes, self._characters - characters
            self._anchors[event.anchor] = (value, *cost)
        return value

    def _alias(self, event: Any, key: Key) -> Any:
        if event.anchor not in self._anchors:
            self._fault(event, key, f"the alias *{event.anchor}", "an anchor above and outside it")
            return None
        value, nodes, characters = self._anchors[event.anchor]
        self._spend(event, key, nodes, characters)
        return value

    def _sequence(self, key: Key, schema: Any) -> list[Any]:
        items: list[Any] = []
        while not isinstance(event := next(self._events), yaml.SequenceEndEvent):
            place = (*key, len(items))
            self._lines[place] = event.start_mark.line + 1
            items.append(self._node(event, place, schema))
        return items

    def _mapping(self, start: Any, key: Key, schema: Any) -> dict[Any, Any]:
        mapping: dict[Any, Any] = {}
        merged: list[Any] = []
        while not isinstance(event := next(self._events), yaml.MappingEndEvent):
            name = self._key(event, key, schema)
            place = (*key, name.replace("_", "-") if isinstance(name, str) else str(name))
            if name is not _MERGE_KEY and name in mapping:
                self._fault(event, place, "the key for the second time", "each key once")
            below = schema.get(place[-1]) if isinstance(schema, Mapping) else schema
            if name is _MERGE_KEY:
                merged += self._merge(next(self._events), place)
                continue
            self._lines.setdefault(place, event.start_mark.line + 1)
            mapping[name] = self._node(next(self._events), place, below)
        self._lines.setdefault(key, start.start_mark.line + 1)
        for other in merged:
            mapping = {**other, **mapping}
        return mapping

    def _merge(self, event: Any, key: Key) -> list[dict[Any, Any]]:
        value = self._node(event, key, None)
        others = value if isinstance(value, list) else [value]
        if not all(isinstance(other, dict) for other in others):
            self._fault(event, key, describe(value), "a mapping, or a list of mappings, to merge")
            return []
        return others

    def _key(self, event: Any, key: Key, schema: Any) -> Any:
        """A mapping's key: text where the file format names the keys, else as YAML has it."""
        if isinstance(event, yaml.ScalarEvent) and event.implicit[0] and event.value == "<<":
            return _MERGE_KEY
        name = self._node(event, key, TEXT if isinstance(schema, Mapping) else schema)
        if isinstance(name, dict | list):
            self._fault(event, key, f"{describe(name)} as a key", "a text")
            return ""
        return name

    def _scalar(self, event: Any, key: Key, schema: Any) -> Any:
        if event.implicit[1] or event.tag == "!":  # quoted, or a block
            return event.value
        tag = event.tag if not event.implicit[0] else _resolve(event.value)
        if schema is TEXT and event.implicit[0] and tag != _NULL:
            return event.value
        construct = _CONSTRUCT.get(tag)
        if construct is None:
            self._fault(event, key, f"the tag {tag}", "a plain value, or !!binary")
            return None
        try:
            return construct(yaml.ScalarNode(tag, event.value))
        except (ValueError, KeyError, yaml.YAMLError):
            self._fault(event, key, f"a value that is no {tag.rpartition(':')[2]}", "one")
            return None

    def _spend(self, event: Any, key: Key, nodes: int = 0, characters: int = 0) -> None:
        self._nodes += nodes
        self._characters += characters
        if self._nodes > MAX_NODES or self._characters > MAX_CHARACTERS:
            expected = f"at most {MAX_NODES:,} values of {MAX_CHARACTERS:,} characters together"
            self._too_much(event, key, "more, after aliases are expanded", expected)

    def _too_much(self, event: Any, key: Key, found: str, expected: str) -> None:
        self._fault(event, key, found, expected)
        raise _TooMuchError

    def _fault(self, event: Any, key: Key, found: str, expected: str) -> None:
        self._faults.append(Fault(key, found, expected, line=event.start_mark.line + 1))

    def _syntax(self, error: yaml.YAMLError) -> None:
        mark = getattr(error, "problem_mark", None) or getattr(error, "context_mark", None)
        if mark:
            line = mark.line + 1
            problem = getattr(error, "problem", None) or "no YAML"
        else:  # a character that YAML does not allow
            line = self._text.count("\n", 0, getattr(error, "position", 0)) + 1
            problem = getattr(error, "reason", "no YAML")
        self._faults.append(Fault((), f"no valid YAML ({problem})", "YAML", line=line))


def _resolve(value: str) -> str:
    for tag, pattern in _RESOLVERS.get(value[:1], ()):
        if tag in _CONSTRUCT and pattern.match(value):
            return str(tag)
    return _STR

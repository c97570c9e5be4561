"""The text of an instance file: YAML -> a mapping, with the line of every key. Pure.

It is read in one pass over libyaml's events, because YAML loaders lack what is needed here: string
keys keep their scalar as it is written (`instance-id: 2024-01-01` is a string), duplicate keys are
faults, every key has a line, and nesting and alias expansion are bounded. Timestamps are strings.

A schema says which keys are strings; the file of the server's settings has its own.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from copy import copy
from dataclasses import dataclass, field, replace
from enum import StrEnum
from itertools import islice
from typing import Any

import yaml
from yaml.cyaml import CParser  # type: ignore[attr-defined]
from yaml.events import (
    AliasEvent,
    MappingEndEvent,
    MappingStartEvent,
    ScalarEvent,
    SequenceEndEvent,
    SequenceStartEvent,
    StreamEndEvent,
)

from vmw_cloudinit_metadata.instance import secrecy
from vmw_cloudinit_metadata.instance.fault import Fault, Faults, Key, kind_of
from vmw_cloudinit_metadata.instance.parsing import syntax
from vmw_cloudinit_metadata.instance.parsing.textkeys import SCHEMA, TEXT, below, is_text
from vmw_cloudinit_metadata.instance.values import placeholder
from vmw_cloudinit_metadata.instance.values.plain import MAX_DEPTH, MAX_NUMBER_BITS

MAX_NODES = 100_000  # after aliases are expanded
MAX_CHARACTERS = 8 * 1024 * 1024  # likewise
MAX_EVENTS = 2 * MAX_NODES + 8  # of libyaml: at most two per value

# What takes more than linear time, by itself or in a dict, has a limit below the point of notice.
MAX_KEY_CHARACTERS = 1024  # the limit of YAML's own simple keys
MAX_KEY_BITS = 60  # larger numbers share their hashes with smaller ones
MAX_NUMBER_CHARACTERS = 600  # MAX_NUMBER_BITS in any base, with _ between the digits
MAX_TAG_DIRECTIVES = 100  # libyaml compares each with all earlier ones
_TAG_DIRECTIVE = "%TAG"

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
_NULLS = {"", "~", "null", "Null", "NULL"}
_RESOLVERS = yaml.resolver.Resolver.yaml_implicit_resolvers


_BLOCKS = ("|", ">")
_FIRST_LINE = re.compile(r"[|>][0-9+-]*[ \t]*(?:#!|#cloud-|#include|## template)")

_QUOTES = ("'", '"')
_NO_SPACE = re.compile(r"[\w-]+:\S")  # `{a:b}` is a mapping with the key `a:b`
_COMMENT = re.compile(r"[ \t]*#\{")  # a placeholder that YAML reads as a comment
_ITEM = re.compile(r"[\r\n][ \t]*- ")  # in a scalar of several lines

# Line breaks for libyaml, but for hardly any editor.
_BREAKS_OF_YAML_ALONE = re.compile("[\x85\u2028\u2029]")


class _MergeKey(StrEnum):
    """The key `<<`; in quotes it is a string like any other."""

    MERGE = "<<"


@dataclass(frozen=True)
class Seed:
    """The content of an instance file; `marks` has the start of each key, written with `-`."""

    value: Any
    faults: tuple[Fault, ...]
    marks: Mapping[Key, yaml.Mark] = field(repr=False)
    text: str = field(default="", repr=False)  # only if libyaml counts its lines differently

    def line(self, key: Key) -> int:
        """Return the line of `key`, or of the nearest key around it that the file has."""
        return self._place(key)[0]

    def has(self, key: Key) -> bool:
        return dashed(key) in self.marks

    def located(self, fault: Fault, file: str, names: Collection[str] = secrecy.NAMES) -> Fault:
        """Return the fault with its place; the column is left out if the shown key is enough."""
        if fault.line:
            return replace(fault, file=file)
        line, column = self._place(fault.key)
        return replace(fault, file=file, line=line, column=column if fault.hides_key(names) else 0)

    def _place(self, key: Key) -> tuple[int, int]:
        key = dashed(key)
        while key not in self.marks and key:
            key = key[:-1]
        mark = self.marks.get(key)
        return place_of(mark, self.text) if mark else (1, 1)


def place_of(mark: yaml.Mark, text: str) -> tuple[int, int]:
    return syntax.place_at(text, mark.index) if text else (mark.line + 1, mark.column + 1)


def dashed(key: Key) -> Key:
    return tuple(part.replace("_", "-") if isinstance(part, str) else part for part in key)


def on_line(value: dict[str, Any], line: int, faults: tuple[Fault, ...] = ()) -> Seed:
    """Return the Seed of a mapping all of which stands on one line."""
    mark = yaml.Mark("", 0, line - 1, 0, None, 0)
    return Seed(value, faults, dict.fromkeys(_places(value, ()), mark))


def _places(value: Any, key: Key) -> Iterator[Key]:
    yield key
    for name, item in value.items() if isinstance(value, dict) else ():
        yield from _places(item, (*key, name.replace("_", "-")))


def read(text: str, schema: Mapping[str, Any] = SCHEMA, root: Key = ()) -> Seed:
    """Read one YAML document, whose keys are below `root`: `("userdata",)` keeps them secret.

    Never raises: what is wrong is in `faults`.
    """
    return Reader(text, schema, root).seed()


_Anchored = tuple[Any, Iterator[Any]]  # the first event of a node, and those after it


class _StopError(Exception):
    """Raised when a limit is exceeded and its fault has been added."""


class Reader:
    def __init__(self, text: str, schema: Mapping[str, Any], root: Key) -> None:
        self._text = text
        # Asking for ASCII first saves 4 µs for a small file.
        has_breaks = not text.isascii() and _BREAKS_OF_YAML_ALONE.search(text)
        self._lines = text if has_breaks else ""
        self._schema = schema
        self._root = root
        self._at = root  # what is being read
        self._deepest = MAX_DEPTH + len(root)
        self._faults = Faults()
        self._mistake: syntax.Mistake | None = None
        self._marks: dict[Key, yaml.Mark] = {}
        self._events = iter(self._parsed(text))
        self._anchors: dict[str, _Anchored] = {}
        self._open_anchors: set[str] = set()
        self._nodes = 0
        self._characters = 0

    def seed(self) -> Seed:
        try:
            value = self._document()
        except _StopError:
            value = None
        except StopIteration:  # of the events
            value = None
            if self._mistake:
                self._syntax(self._mistake)
            elif not self._faults.found:
                self._faults.add(Fault((), "too many values", f"at most {MAX_NODES:,}", line=1))
        return Seed(value, self._faults.all(), self._marks, self._lines)

    def _parsed(self, text: str) -> list[Any]:
        """Return all events, or those before a syntax error, which is kept in `_mistake`."""
        events: list[Any] = []
        if text.count(_TAG_DIRECTIVE) > MAX_TAG_DIRECTIVES:
            expected = f"at most {MAX_TAG_DIRECTIVES}"
            self._faults.add(Fault((), f"too many {_TAG_DIRECTIVE} directives", expected, line=1))
            return events
        try:
            # Not a loader: creating its resolver and constructor, unused here, takes 2 µs.
            events.extend(islice(iter(CParser(text).get_event, None), MAX_EVENTS))
        except (yaml.YAMLError, UnicodeError) as error:
            self._mistake = syntax.mistake(text, error, _open_bracket(events), _scalar(events))
        return events

    def _document(self) -> Any:
        next(self._events)  # the stream's start
        if isinstance(next(self._events), StreamEndEvent):
            return None
        value = self._content(next(self._events))
        next(self._events)  # the document's end
        event = next(self._events)
        if not isinstance(event, StreamEndEvent):
            expected = "one document per file (remove the second '---')"
            self._fault(event, self._root, "a second YAML document", expected)
        return value

    def _content(self, event: Any) -> Any:
        return self._node(event, self._root, self._schema)

    def _node(self, event: Any, key: Key, schema: Any) -> Any:
        if type(event) is ScalarEvent:
            if event.anchor:
                self._anchors[event.anchor] = event, copy(self._events)
            return self._scalar(event, key, schema)
        self._nodes += 1
        if self._nodes > MAX_NODES:
            self._too_many(event, key)
        if isinstance(event, AliasEvent):
            return self._alias(event, key, schema)
        if event.tag not in (None, "!", _SEQ, _MAP):
            self._fault(event, key, "a tag", "a plain mapping or list, without a tag")
        if len(key) >= self._deepest:
            self._too_much(event, key, "too many levels of nesting", f"at most {MAX_DEPTH}")
        if event.anchor:
            self._anchors[event.anchor] = event, copy(self._events)
            self._open_anchors.add(event.anchor)
        is_sequence = isinstance(event, SequenceStartEvent)
        value = self._sequence(key, schema) if is_sequence else self._mapping(event, key, schema)
        self._open_anchors.discard(event.anchor)
        return value

    def _alias(self, event: Any, key: Key, schema: Any) -> Any:
        """Read the anchor's node again: whether scalars are strings depends on the place."""
        anchored = self._anchors.get(event.anchor)
        if anchored is None:
            expected = "an anchor (&) of the same name above it, or quotes around a string"
            expected += " that begins with *"
            self._fault(event, key, "an alias (*) without an anchor", expected)
            return None
        if event.anchor in self._open_anchors:
            self._fault(event, key, "an alias (*) inside its own anchor", "an alias outside it")
            return None
        start, behind = anchored
        here, self._events = self._events, copy(behind)
        value = self._node(start, key, schema)
        self._events = here
        return value

    def _sequence(self, key: Key, schema: Any) -> list[Any]:
        items: list[Any] = []
        events = self._events
        while type(event := next(events)) is not SequenceEndEvent:
            place = (*key, len(items))
            self._marks[place] = event.start_mark
            items.append(self._node(event, place, schema))
            self._at = key
        return items

    def _mapping(self, start: Any, key: Key, schema: Any) -> dict[Any, Any] | None:
        mapping: dict[Any, Any] = {}
        merged: list[Any] = []
        is_ours = isinstance(schema, dict)
        names = TEXT if is_ours else schema  # the format's own names are strings
        events = self._events  # `_alias` replaces it while it reads
        while type(event := next(events)) is not MappingEndEvent:
            if type(event) is MappingStartEvent and self._is_placeholder(start):
                self._fault(start, key, placeholder.described("{{"), placeholder.EXPECTED)
                self._skip_mapping(event, key)
                return None
            name = self._key(event, key, names)
            place = (*key, str(name).replace("_", "-"))
            if name is _MergeKey.MERGE:
                merged += self._merge(next(events), place, schema)
                continue
            if name in mapping:
                self._duplicate(event, place)
            self._marks.setdefault(place, event.start_mark)
            inner = below(schema, place[-1]) if is_ours else schema
            self._at = place
            mapping[name] = value = self._node(next(events), place, inner)
            self._at = key
            is_quoted = getattr(event, "style", None) in _QUOTES
            if value is None and is_ours and not is_quoted and _NO_SPACE.match(str(name)):
                expected = "KEY: VALUE, with a space after the colon"
                self._fault(event, place, "a key that contains ':' and has no value", expected)
        self._marks.setdefault(key, start.start_mark)
        return _merged(mapping, merged) if merged else mapping

    def _is_placeholder(self, start: Any) -> bool:
        """Return whether a mapping with a mapping as its key is a placeholder `{{ name }}`."""
        return self._text.startswith("{{", start.start_mark.index)

    def _skip_mapping(self, event: Any, key: Key) -> None:
        """Skip the rest of a mapping from `event` on, with the same limit as reading it."""
        depth = 1
        while depth:
            self._nodes += 1
            if self._nodes > MAX_NODES:
                self._too_many(event, key)
            depth += isinstance(event, MappingStartEvent) - isinstance(event, MappingEndEvent)
            event = next(self._events) if depth else event

    def _duplicate(self, event: Any, key: Key) -> None:
        first = self._marks.get(key)
        line = place_of(first, self._lines)[0] if first else 0
        found = f"a duplicate key (the first is on line {line})" if line else "a duplicate key"
        self._fault(event, key, found, "each key once")

    def _merge(self, event: Any, key: Key, schema: Any) -> list[dict[Any, Any]]:
        value = self._node(event, key, schema)
        others = value if isinstance(value, list) else [value]
        if not all(isinstance(other, dict) for other in others):
            found = kind_of(value)
            self._fault(event, key, found, "a mapping or a list of mappings to merge")
            return []
        return others

    def _key(self, event: Any, key: Key, schema: Any) -> Any:
        """Return a mapping's key, or _MergeKey.MERGE."""
        if type(event) is ScalarEvent:
            if event.value == "<<" and event.implicit[0]:
                return _MergeKey.MERGE
            if not event.anchor:
                name = self._scalar(event, key, schema)
                is_plain = type(name) is str and len(name) <= MAX_KEY_CHARACTERS
                return name if is_plain else self._checked_key(event, key, name)
        # One level deeper: a key may itself be a mapping with a mapping as its key.
        return self._checked_key(event, key, self._node(event, (*key, "?"), schema))

    def _checked_key(self, event: Any, key: Key, name: Any) -> Any:
        """Return the key, or "" if it cannot be one."""
        if isinstance(name, dict | list):
            found, expected = f"{kind_of(name)} as a key", "a string"
        elif isinstance(name, int) and name.bit_length() > MAX_KEY_BITS:
            found = f"a number of more than {MAX_KEY_BITS} bits as a key"
            expected = "a smaller number, or a string"
        elif isinstance(name, str | bytes) and len(name) > MAX_KEY_CHARACTERS:
            found, expected = (
                f"a key of more than {MAX_KEY_CHARACTERS:,} characters",
                "a shorter key",
            )
        else:
            return name
        self._fault(event, key, found, expected)
        return ""

    def _scalar(self, event: Any, key: Key, schema: Any) -> Any:
        text = event.value
        self._nodes += 1
        self._characters += len(text)
        if self._nodes > MAX_NODES or self._characters > MAX_CHARACTERS:
            self._too_many(event, key)
        is_plain, is_quoted = event.implicit
        if is_quoted or event.tag == "!":  # quoted, or a block
            if event.style in _BLOCKS and self._begins_in_header(event):
                found = f"text after {event.style}, which YAML reads as a comment"
                self._fault(event, key, found, "the text on the lines below, indented")
            return text
        if is_plain and is_text(schema):
            if not text or event.start_mark.line != event.end_mark.line:
                self._check_plain(event, key)
            return None if text in _NULLS else text
        tag = _resolve(text) if is_plain else event.tag
        construct = _CONSTRUCT.get(tag)
        if construct is None:
            expected = "a plain value, !!binary, or quotes around a string that begins with !"
            self._fault(event, key, "a tag", expected)
            return None
        try:
            if len(text) > MAX_NUMBER_CHARACTERS and tag in (_INT, _FLOAT):
                raise OverflowError
            value = construct(yaml.ScalarNode(tag, text))
            if isinstance(value, int) and value.bit_length() > MAX_NUMBER_BITS:
                raise OverflowError
            return value
        except (ValueError, LookupError, ArithmeticError, yaml.YAMLError):
            self._fault(event, key, f"an invalid !!{tag.rpartition(':')[2]}", "a valid value")
            return None

    def _check_plain(self, event: Any, key: Key) -> None:
        """Report scalars that YAML reads differently than their writer means."""
        start, end = event.start_mark, event.end_mark
        if not event.value and _COMMENT.match(self._text, start.index):
            self._fault(event, key, placeholder.described("#{"), placeholder.EXPECTED)
        elif start.line != end.line and _ITEM.search(self._text, start.index, end.index):
            expected = "the same indentation as the item above"
            self._fault(event, key, "a list whose items have different indentation", expected)

    def _begins_in_header(self, event: Any) -> bool:
        """Return whether user-data begins on the line of the | or >."""
        return bool(_FIRST_LINE.match(self._text, event.start_mark.index))

    def _too_many(self, event: Any, key: Key) -> None:
        expected = f"at most {MAX_NODES:,} values and {MAX_CHARACTERS:,} characters in total"
        self._too_much(event, key, "too much data after expanding aliases", expected)

    def _too_much(self, event: Any, key: Key, found: str, expected: str) -> None:
        self._fault(event, key, found, expected)
        raise _StopError

    def _fault(self, event: Any, key: Key, found: str, expected: str) -> None:
        line, column = place_of(event.start_mark, self._lines)
        self._faults.add(Fault(key, found, expected, line=line, column=column))
        if self._faults.has_more:
            raise _StopError

    def _syntax(self, mistake: syntax.Mistake) -> None:
        line, column = syntax.place_at(self._text, mistake.index)
        if any(fault.line == line for fault in self._faults.found):
            return  # a consequence of that one: `{{ name }}-1` is a mapping with text after it
        fault = Fault(self._at, mistake.found, mistake.expected, line=line, column=column)
        self._faults.add(fault)


def _open_bracket(events: Iterable[Any]) -> int | None:
    """Return where the innermost unclosed [ or { begins."""
    opened: list[Any] = []
    for event in events:
        if isinstance(event, MappingStartEvent | SequenceStartEvent):
            opened.append(event)
        elif isinstance(event, MappingEndEvent | SequenceEndEvent):
            opened.pop()
    return int(opened[-1].start_mark.index) if opened and opened[-1].flow_style else None


def _scalar(events: Sequence[Any]) -> int | None:
    """Return where the last value begins, if nothing follows it."""
    if not events or not isinstance(events[-1], ScalarEvent):
        return None
    return int(events[-1].start_mark.index)  # type: ignore[union-attr]


def _merged(mapping: dict[Any, Any], others: list[dict[Any, Any]]) -> dict[Any, Any]:
    """Merge `others` under the mapping; earlier ones win over later ones."""
    result: dict[Any, Any] = {}
    for other in reversed(others):
        result.update(other)
    return result | mapping


def _resolve(value: str) -> str:
    for tag, pattern in _RESOLVERS.get(value[:1], ()):
        if tag in _CONSTRUCT and pattern.match(value):
            return str(tag)
    return _STR

"""Condition: the `match` of a layer, and whether a machine meets it. Pure.

All keys must hold. In `name`, `*` and `?` are as in globs, and `{word}` takes letters and digits.
A pattern is matched in linear time: stars take as little as they can, and never give it back.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from ipaddress import IPv4Network, IPv6Network, ip_address, ip_network
from typing import Any

from vmw_cloudinit_metadata.instance.fault import Fault, describe, unknown
from vmw_cloudinit_metadata.instance.vmname import normal
from vmw_cloudinit_metadata.protocol.identitytoken import QUERY_KEY
from vmw_cloudinit_metadata.protocol.vmware import (
    DIRECTIONS,
    MAX_NAME_BYTES,
    MAX_URI_BYTES,
    Machine,
    parse_uuid,
)

KEYS = frozenset({"name", "vc-uuid", "bios-uuid", "peer", "direction"})
QUERY = "query."

MAX_PATTERN_CHARACTERS = 256
MAX_WORD_CHARACTERS = 64

_PART = re.compile(r"(\*+)|(\?)|\{([A-Za-z_][A-Za-z0-9_]{0,31})\}|([{}])|([^*?{}]+)")
_PLAIN = re.compile(r"[^*?{}]+")
_WORD = f"[A-Za-z0-9]{{1,{MAX_WORD_CHARACTERS}}}+"

Captures = Mapping[str, str]
_Query = Mapping[str, str]
_Holds = Callable[[Machine, _Query], "Captures | None"]  # None: it does not hold
_NO_CAPTURES: Captures = {}


@dataclass(frozen=True)
class Condition:
    """What must hold for a layer to count; without any, it counts for all VMs."""

    tests: Mapping[str, _Holds]  # by the key of `match`

    def captures(self, machine: Machine, query: _Query) -> Captures | None:
        """Return what `{word}`s took of the machine's name; None if the condition does not hold.

        `query` is the machine's, which takes a while to parse.
        """
        found = _NO_CAPTURES
        for holds in self.tests.values():
            captures = holds(machine, query)
            if captures is None:
                return None
            found = captures or found  # only a name has any
        return found

    def may_hold(self, machine: Machine) -> bool:
        """Return whether it holds as far as it concerns the identities of the machine."""
        known = {"name": machine.name, "vc-uuid": machine.vc_uuid, "bios-uuid": machine.bios_uuid}
        return all(
            holds(machine, {}) is not None for key, holds in self.tests.items() if known.get(key)
        )


def condition_of(match: Any) -> tuple[Condition, list[Fault]]:
    """Return the condition that a canonical `match` states, and what is wrong with it."""
    if match is None:
        return Condition({}), []
    if not isinstance(match, Mapping):
        return Condition({}), [Fault(("match",), describe(match), "a mapping")]
    tests: dict[str, _Holds] = {}
    faults: list[Fault] = []
    for name, value in match.items():
        key = str(name)
        if key not in KEYS and not key.startswith(QUERY):
            faults.append(unknown(("match", key), key, {*KEYS, f"{QUERY}NAME"}))
            continue
        try:
            tests[key] = _test(key, value)
        except ValueError as error:
            faults.append(Fault(("match", key), describe(value, ("match", key)), str(error)))
    return Condition(tests), faults


def machine_named(match: Any) -> Machine | None:
    """Return the one machine that a `match` names; None if it may hold for others too."""
    if not isinstance(match, Mapping) or not match.keys() <= {"name", "vc-uuid"}:
        return None
    name, vc_uuid = match.get("name"), match.get("vc-uuid")
    if isinstance(vc_uuid, str):
        return Machine(vc_uuid=parse_uuid(vc_uuid))
    if isinstance(name, str) and _PLAIN.fullmatch(name):
        return Machine(name=name)
    return None


def warnings_in(match: Any) -> Iterator[Fault]:
    """Yield a warning for each key of a valid `match` that holds for no VM."""
    for name, value in match.items() if isinstance(match, Mapping) else ():
        key, expected = str(name), ""
        if key == "name" and (parse_uuid(value) or _least_bytes(value) > MAX_NAME_BYTES):
            expected = "the name of a VM, not a UUID"
        elif key.startswith(QUERY) and len(key + value) - len(QUERY) >= MAX_URI_BYTES:
            expected = f"a query that a service URI of at most {MAX_URI_BYTES:,} bytes can have"
        if expected:
            found = f"{describe(value, ('match', key))}, which no VM can have"
            yield Fault(("match", key), found, expected, is_warning=True)


def _least_bytes(pattern: str) -> int:
    return len(_PART.sub(lambda part: part[5] or ("" if part[1] else "x"), pattern).encode())


def _test(key: str, value: Any) -> _Holds:
    """Raises ValueError with what was expected."""
    if not isinstance(value, str):
        raise ValueError("a string")
    if key == "name":
        return _name(value)
    if key.startswith(QUERY):
        return _query(key.removeprefix(QUERY), value)
    if key == "peer":
        return _peer(value)
    if key == "direction":
        if value not in DIRECTIONS.values():
            raise ValueError(" or ".join(sorted(DIRECTIONS.values())))
        return _only_if(lambda machine: machine.direction == value)
    uuid = parse_uuid(value)
    if uuid is None:
        raise ValueError("a UUID such as 01234567-89ab-cdef-fedc-ba9876543210")
    if key == "vc-uuid":
        return _only_if(lambda machine: machine.vc_uuid == uuid)
    return _only_if(lambda machine: machine.bios_uuid == uuid)


def _only_if(is_so: Callable[[Machine], bool]) -> _Holds:
    return lambda machine, _: _NO_CAPTURES if is_so(machine) else None


def _query(name: str, value: str) -> _Holds:
    if not name:
        raise ValueError("the name of a key of the query after query.")
    if name == QUERY_KEY:
        raise ValueError("another key: this one is each VM's identity token, a secret")
    return lambda _, query: _NO_CAPTURES if query.get(name) == value else None


def _peer(value: str) -> _Holds:
    try:
        network = _unmapped(ip_network(value))
    except ValueError:
        raise ValueError("a network in CIDR form, such as 10.0.0.0/24") from None

    def is_in(machine: Machine) -> bool:
        try:
            address = ip_address(machine.peer_address.partition("%")[0])
        except ValueError:
            return False
        mapped = getattr(address, "ipv4_mapped", None)
        return (mapped or address) in network

    return _only_if(is_in)


def _unmapped(network: IPv4Network | IPv6Network) -> IPv4Network | IPv6Network:
    """Hosts of IPv4 have such addresses, also if the server listens on IPv6."""
    mapped = getattr(network.network_address, "ipv4_mapped", None)
    return ip_network((mapped, network.prefixlen - 96)) if mapped else network


def _name(pattern: str) -> _Holds:
    expression = _expression(pattern)

    def captures(machine: Machine, _: _Query) -> Captures | None:
        found = expression.fullmatch(normal(machine.name)) if machine.name else None
        return found.groupdict() if found else None

    return captures


def _expression(pattern: str) -> re.Pattern[str]:
    if not pattern or len(pattern) > MAX_PATTERN_CHARACTERS:
        raise ValueError(f"a pattern of 1 to {MAX_PATTERN_CHARACTERS} characters")
    words: set[str] = set()
    segments = [""]  # between stars
    is_after_word = False
    for star, any_one, word, brace, text in _PART.findall(normal(pattern)):
        if brace:
            raise ValueError("{WORD} with a word of letters, digits and _")
        if is_after_word and (any_one or word or text[:1].isalnum()):
            raise ValueError("neither a letter, a digit, ? nor a {word} directly after a {word}")
        if word in words:
            raise ValueError("each {word} once")
        is_after_word = bool(word)
        if star:
            segments.append("")
        elif word:
            words.add(word)
            segments[-1] += f"(?P<{word}>{_WORD})"
        else:
            segments[-1] += "." if any_one else re.escape(text)
    if len(segments) == 1:
        return re.compile(segments[0], re.DOTALL)
    first, *middle, last = segments
    atoms = "".join(f"(?>.*?{segment})" for segment in middle if segment)
    return re.compile(f"{first}{atoms}.*{last}", re.DOTALL)

"""Checks of values in native documents, as tables of key -> check. Pure.

A check yields a fault for each thing that is wrong with a value; values are plain (plain.py).
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import replace
from ipaddress import IPv4Interface, IPv6Interface
from typing import Any

from vmw_cloudinit_metadata.instance.fault import Fault, Key, describe, kind_of, unknown

Check = Callable[[Any, Key], Iterator[Fault]]
Table = Mapping[str, Check]

# netplan accepts no other form; the longer one is for InfiniBand.
_MAC = re.compile(r"[0-9A-Fa-f]{2}(?::[0-9A-Fa-f]{2}){5}(?:(?::[0-9A-Fa-f]{2}){14})?", re.ASCII)
_INTERFACE_NAME = re.compile(r"[^\s/:*?\[\]]{1,15}")


def of(is_right: Callable[[Any], bool], expected: str) -> Check:
    """Check that `is_right` holds for the value."""

    def check(value: Any, key: Key) -> Iterator[Fault]:
        if not is_right(value):
            yield Fault(key, describe(value, key), expected)

    return check


def one_of(*choices: str) -> Check:
    return of(lambda value: value in choices, f"one of {', '.join(choices)}")


def up_to(highest: int) -> Check:
    return of(
        lambda value: type(value) is int and 0 <= value <= highest,
        f"a whole number from 0 to {highest}",
    )


def listed(check: Check, expected: str = "a list") -> Check:
    """Check that the value is a list, and each item."""

    def check_list(value: Any, key: Key) -> Iterator[Fault]:
        if not isinstance(value, list | tuple):
            yield Fault(key, describe(value, key), expected)
            return
        for index, item in enumerate(value):
            yield from check(item, (*key, index))

    return check_list


def named(check: Check, expected: str = "a mapping of names to mappings") -> Check:
    """Check that the value is a mapping with any names, and each value in it."""

    def check_named(value: Any, key: Key) -> Iterator[Fault]:
        if not isinstance(value, Mapping):
            yield Fault(key, describe(value, key), expected)
            return
        for name, item in value.items():
            yield from check(item, below(key, name))

    return check_named


def mapping(
    table: Table,
    needed: Collection[str] = (),
    misplaced: Mapping[str, str] | None = None,
    expected: str = "a mapping",
) -> Check:
    """Check that the value is a mapping with keys of `table`, and has those in `needed`.

    `misplaced` has keys that belong elsewhere, and what to write instead.
    """

    def check(value: Any, key: Key) -> Iterator[Fault]:
        if not isinstance(value, Mapping):
            yield Fault(key, describe(value, key), expected)
            return
        for name, item in value.items():
            place = below(key, name)
            if name in table:
                for fault in table[name](item, place):
                    yield replace(fault, is_named=True) if fault.key == place else fault
            elif misplaced and name in misplaced:
                yield Fault(place, repr(name), misplaced[name], is_named=True)
            else:
                yield unknown(place, name, table)
        for name in needed:
            if name not in value:
                yield Fault((*key, name), "nothing", f"the key {name}", is_named=True)

    return check


def both(*checks: Check) -> Check:
    def check(value: Any, key: Key) -> Iterator[Fault]:
        for each in checks:
            yield from each(value, key)

    return check


def below(key: Key, name: Any) -> Key:
    return (*key, name if isinstance(name, str | int) else str(name))


def interface_of(value: Any) -> IPv4Interface | IPv6Interface | None:
    """Return the address in a string, with or without a prefix length, or None."""
    if not isinstance(value, str):
        return None
    try:
        return ipaddress.ip_interface(value)
    except ValueError:
        return None


def _is_host(value: Any, version: int = 0) -> bool:
    address = interface_of(value)
    return address is not None and "/" not in value and version in (0, address.version)


def _is_netmask(value: Any) -> bool:
    try:
        ipaddress.ip_network(f"0.0.0.0/{value}")
    except ValueError:
        return isinstance(value, str) and value.isdecimal() and int(value) <= 128
    return isinstance(value, str)


def _is_text(value: Any) -> bool:
    return isinstance(value, str)


def _is_whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


ANY: Check = lambda _value, _key: iter(())  # noqa: E731 - a row like the others
TEXT = of(_is_text, "a string (quote numbers and booleans)")
WHOLE = of(_is_whole, "a whole number without quotes")
WHOLE_OR_NOTHING = of(lambda value: value is None or _is_whole(value), "a whole number")
BOOLEAN = of(lambda value: isinstance(value, bool), "true or false, without quotes")
TEXTS = listed(TEXT, "a list of strings")
HOST = of(_is_host, "an IP address without a prefix length, such as 192.168.1.254")
HOST_4 = of(lambda value: _is_host(value, 4), "an IPv4 address such as 192.168.1.254")
HOST_6 = of(lambda value: _is_host(value, 6), "an IPv6 address such as fe80::1")
HOSTS = listed(HOST, "a list of IP addresses")
ADDRESS = of(interface_of, "an IP address such as 192.168.1.1/24")  # type: ignore[arg-type]
NETMASK = of(_is_netmask, "a netmask such as '255.255.255.0', in quotes if it is a number")
MAC = of(
    lambda value: _is_text(value) and bool(_MAC.fullmatch(value)),
    "a MAC address such as '00:50:56:01:02:03', in quotes and with colons",
)


def names_an_interface(value: Any) -> bool:
    return isinstance(value, str) and bool(_INTERFACE_NAME.fullmatch(value))


def INTERFACE_NAME(value: Any, key: Key) -> Iterator[Fault]:  # noqa: N802 - a check like the others
    if not names_an_interface(value):
        expected = "an interface name such as eth0: at most 15 characters, no wildcard"
        yield Fault(key, kind_of(value), expected)  # not quoted: it may be anything

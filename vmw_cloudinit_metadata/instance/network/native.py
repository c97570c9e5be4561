"""Native documents: cloud-init's own network-config, versions 1 and 2. Pure.

They are passed on unchanged. What cloud-init would reject or ignore in them is a warning; only
values that YAML has altered are faults.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from vmw_cloudinit_metadata.instance.fault import Fault, Key, describe
from vmw_cloudinit_metadata.instance.network import version1, version2
from vmw_cloudinit_metadata.instance.values.plain import MAPPING

_MAC_KEYS = {"mac_address", "mac-address", "macaddress"}
_VERSION_2 = version2.DEVICES | {"renderer"}


def is_native(network: Any) -> bool:
    """Return whether it is a native document, which is passed on."""
    return isinstance(network, MAPPING) and ("version" in network or is_disabled(network))


def is_disabled(network: Mapping[str, Any]) -> bool:
    """Return whether cloud-init must not configure a network; a `version` makes no difference."""
    return network.get("config") == "disabled" and network.keys() <= {"config", "version"}


def form_of(network: Mapping[str, Any]) -> object:
    """Return a value that is equal for networks that can be merged."""
    return "disabled" if is_disabled(network) else network.get("version")


def without_version(network: Any) -> Fault | None:
    """Return the fault of a native document that lacks only its version."""
    if not isinstance(network, MAPPING) or is_native(network):
        return None
    for name in network:
        if name in _VERSION_2:
            return _add_version(name, 2)
        if name == "config" and isinstance(network[name], list):
            return _add_version(name, 1)
    return None


def _add_version(name: str, version: int) -> Fault:
    found = f"{name!r} without a version"
    expected = f"`version: {version}` beside it: add that line, as this is cloud-init's own format"
    return Fault(("network", name), found, expected)


def native_faults(network: Mapping[str, Any]) -> Iterator[Fault]:
    """Yield the faults of a native document."""
    if is_disabled(network):
        return
    version = network["version"]
    if version not in (1, 2) or isinstance(version, bool):
        expected = "1 or 2, without quotes" if version in ("1", "2") else "1 or 2"
        yield Fault(("network", "version"), describe(version, ("network", "version")), expected)
    elif version == 1 and not isinstance(network.get("config"), list):
        yield Fault(("network", "config"), describe(network.get("config")), "a list")
    yield from _number_macs(network, ("network",))


def _number_macs(value: Any, key: Key) -> Iterator[Fault]:
    items: Iterable[tuple[Any, Any]] = ()
    if isinstance(value, Mapping):
        items = value.items()
    elif isinstance(value, list):
        items = enumerate(value)
    for name, item in items:
        place = (*key, name if isinstance(name, str | int) else str(name))
        if name in _MAC_KEYS and isinstance(item, int):
            expected = "a MAC address in quotes (without them, YAML reads a number)"
            yield Fault(place, describe(item, place), expected)
        yield from _number_macs(item, place)


def native_warnings(network: Mapping[str, Any]) -> Iterator[Fault]:
    """Yield what cloud-init rejects, ignores or cannot use in a document without faults."""
    if is_disabled(network):
        return
    if network.get("config") == "disabled":
        found = "'disabled', with which cloud-init ignores all other keys"
        yield Fault(("network", "config"), found, "either that key alone, or only the other keys")
    else:
        version = version1 if network["version"] == 1 else version2
        yield from version.faults_in(network)
        yield from version.conflicts_in(network)

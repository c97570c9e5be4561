"""What no two VMs should have the same: instance-id, host name, addresses, MAC addresses. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from itertools import islice
from typing import Any, NamedTuple

from vmw_cloudinit_metadata.instance import nocloud
from vmw_cloudinit_metadata.instance.fault import InvalidInstanceData, Key
from vmw_cloudinit_metadata.instance.model import InstanceData
from vmw_cloudinit_metadata.instance.network import ip_interface
from vmw_cloudinit_metadata.instance.vmname import normal
from vmw_cloudinit_metadata.protocol.vmware import Machine, parse_uuid

MAX_VALUES = 10_000  # of one instance that are compared

_UNKNOWN = "?"  # a VC UUID that only the VM knows


class Value(NamedTuple):
    """A value, in the one form in which it is compared, and the key that it stands at."""

    key: Key
    text: str


def values_of(instance: InstanceData, stem: str) -> list[Value]:
    """The values of the VM whose file has the name `stem`, each once, MAX_VALUES at most."""
    return list(dict.fromkeys(islice(_values(instance, stem), MAX_VALUES)))


def _values(instance: InstanceData, stem: str) -> Iterator[Value]:
    yield from _of_metadata(instance, stem)
    yield from _of_match(instance.match)
    match instance.network:
        case {"version": 1, "config": list(devices)}:
            yield from _of_version_1(devices)
        case {"version": 2, **sections}:
            yield from _of_version_2(sections)


def _of_metadata(instance: InstanceData, stem: str) -> Iterator[Value]:
    uuid = parse_uuid(stem)
    name = None if uuid else stem
    vc_uuid = instance.match.get("vc-uuid") or (None if "bios-uuid" in instance.match else uuid)
    try:
        metadata = nocloud.metadata(instance, Machine(name=name, vc_uuid=vc_uuid or _UNKNOWN))
    except InvalidInstanceData:
        return  # it is told when it is rendered
    if vc_uuid or "instance-id" in instance.metadata:
        yield Value(("metadata", "instance-id"), str(metadata["instance-id"]))
    if hostname := metadata.get("local-hostname"):
        yield Value(("metadata", "local-hostname"), str(hostname).lower())


def _of_match(match: Mapping[str, str]) -> Iterator[Value]:
    """The strongest identity: VMs with one name may be told apart by their UUIDs."""
    key = next((key for key in ("vc-uuid", "bios-uuid", "name") if key in match), None)
    if key:
        yield Value(("match", key), normal(match[key]))


def _of_version_1(devices: Iterable[Any]) -> Iterator[Value]:
    for device in devices:
        if not isinstance(device, Mapping):
            continue
        yield from _mac(device.get("mac_address"))
        subnets = device.get("subnets")
        for subnet in subnets if isinstance(subnets, list) else ():
            if isinstance(subnet, Mapping):
                yield from _address(subnet.get("address"))


def _of_version_2(sections: Mapping[Any, Any]) -> Iterator[Value]:
    """Of ethernets, bonds, bridges, vlans and what there is besides."""
    for section in sections.values():
        for device in section.values() if isinstance(section, Mapping) else ():
            if not isinstance(device, Mapping):
                continue
            match = device.get("match")
            yield from _mac(match.get("macaddress") if isinstance(match, Mapping) else None)
            yield from _mac(device.get("macaddress"))
            addresses = device.get("addresses")
            for address in addresses if isinstance(addresses, list) else ():
                is_key = isinstance(address, Mapping)  # whose value is its label or lifetime
                yield from _address(next(iter(address), None) if is_key else address)


def _mac(text: object) -> Iterator[Value]:
    if isinstance(text, str):
        yield Value(("network", "mac-address"), text.lower().replace("-", ":"))


def _address(text: object) -> Iterator[Value]:
    if isinstance(text, str):
        with suppress(ValueError):
            yield Value(("network", "address"), str(ip_interface(text).ip))

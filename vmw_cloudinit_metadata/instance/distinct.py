"""Values that no two VMs should share: instance-id, host name, addresses, MAC addresses. Pure."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from itertools import islice
from typing import Any

from vmw_cloudinit_metadata.instance import nocloud
from vmw_cloudinit_metadata.instance.fault import InvalidInstanceData, Key
from vmw_cloudinit_metadata.instance.model import InstanceData
from vmw_cloudinit_metadata.instance.network.address import ip_interface
from vmw_cloudinit_metadata.instance.values.plain import MAPPING
from vmw_cloudinit_metadata.instance.vmname import normal
from vmw_cloudinit_metadata.protocol.vmware import Machine, parse_uuid

# The key of a value, and the value in the form in which values are compared.
Value = tuple[Key, str]

_Host = Callable[[Any], str | None]  # the address in a text, without its prefix length

MAX_VALUES = 10_000  # of one instance; further ones are not compared
MAX_CHARACTERS = 1024  # of one value: a native network-config may have any text as a MAC address

_INSTANCE_ID = ("metadata", "instance-id")
_HOSTNAME = ("metadata", "local-hostname")
_ADDRESS = ("network", "address")
_MAC = ("network", "mac-address")

_LABEL = re.compile("[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?")  # a valid host name already


def values_of(instance: InstanceData, stem: str) -> list[Value]:
    """Return the values of the VM whose file is called `stem`: at most MAX_VALUES, with repeats."""
    values = islice(_values(instance, stem), MAX_VALUES)
    return [value for value in values if len(value[1]) <= MAX_CHARACTERS]


def _values(instance: InstanceData, stem: str) -> Iterator[Value]:
    given, match = instance.metadata, instance.match
    instance_id = given.get("instance-id") or _vc_uuid(match, stem)
    if instance_id:
        yield _INSTANCE_ID, str(instance_id)
    hostname = given.get("local-hostname") or given.get("hostname") or _default_hostname(stem)
    if hostname:
        yield _HOSTNAME, str(hostname).lower()
    if match:
        # The strongest identity alone: VMs of one name may differ in their UUIDs.
        key = next(key for key in ("vc-uuid", "bios-uuid", "name") if key in match)
        yield ("match", key), normal(match[key])
    if instance.network:
        yield from _of_network(instance.network, is_rendered=bool(instance.interfaces))


def addresses_of(network: Mapping[str, Any]) -> list[str]:
    """Return the addresses of a network-config, without their prefix lengths."""
    values = islice(_of_network(network, is_rendered=False), MAX_VALUES)
    return [value for key, value in values if key == _ADDRESS]


def _of_network(network: Mapping[str, Any], *, is_rendered: bool) -> Iterator[Value]:
    host = _host_rendered if is_rendered else _host
    if network.get("version") == 1:
        yield from _of_version_1(network.get("config"), host)
    else:
        yield from _of_version_2(network, host)


def _vc_uuid(match: Mapping[str, str], stem: str) -> str | None:
    """Return the VM's VC UUID, the default instance-id, if its file shows it."""
    return match.get("vc-uuid") or (None if "bios-uuid" in match else parse_uuid(stem))


def _default_hostname(stem: str) -> Any:
    if _LABEL.fullmatch(stem):
        return None if parse_uuid(stem) else stem
    try:
        machine = Machine(name=None if parse_uuid(stem) else stem, vc_uuid=stem)
        return nocloud.metadata(InstanceData({}), machine).get("local-hostname")
    except InvalidInstanceData:
        return None  # reported when the VM's documents are rendered


def _of_version_1(devices: Any, host: _Host) -> Iterator[Value]:
    for device in _mappings(devices):
        if mac := _mac(device.get("mac_address")):
            yield _MAC, mac
        for subnet in _mappings(device.get("subnets")):
            if address := host(subnet.get("address")):
                yield _ADDRESS, address


def _of_version_2(network: Mapping[Any, Any], host: _Host) -> Iterator[Value]:
    """Yield the values of all devices, below ethernets, bonds, bridges, vlans and others."""
    for section in _mappings(list(network.values())):
        for device in _mappings(list(section.values())):
            match, addresses = device.get("match"), device.get("addresses")
            matched = match.get("macaddress") if isinstance(match, Mapping) else None
            for text in (matched, device.get("macaddress")):
                if mac := _mac(text):
                    yield _MAC, mac
            for item in addresses if isinstance(addresses, list) else ():
                is_key = isinstance(
                    item, Mapping
                )  # an address with a label or lifetime as its value
                if address := host(next(iter(item), None) if is_key else item):
                    yield _ADDRESS, address


def _mappings(values: Any) -> Iterable[Mapping[Any, Any]]:
    """Return the mappings in a list: a native network-config may contain anything."""
    return [v for v in values if isinstance(v, MAPPING)] if isinstance(values, list) else ()


def _mac(text: object) -> str | None:
    return text.lower().replace("-", ":") if isinstance(text, str) else None


def _host_rendered(text: Any) -> str | None:
    """Return the host of an address in a rendered short form, which is canonical already."""
    return text.partition("/")[0] if text else None


def _host(text: object) -> str | None:
    if not isinstance(text, str):
        return None
    if ":" not in text:  # an IPv4 address has one spelling
        host = text.partition("/")[0]
        return host if host.count(".") == 3 else None
    try:
        return str(ip_interface(text).ip)
    except ValueError:
        return None

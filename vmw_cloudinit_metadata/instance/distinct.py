"""What no two VMs should have the same: instance-id, host name, addresses, MAC addresses. Pure."""

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

# The key that a value stands at, and the value in the one form in which it is compared.
Value = tuple[Key, str]

_Host = Callable[[Any], str | None]  # the address in a text, without its prefix length

MAX_VALUES = 10_000  # of one instance that are compared

_INSTANCE_ID = ("metadata", "instance-id")
_HOSTNAME = ("metadata", "local-hostname")
_ADDRESS = ("network", "address")
_MAC = ("network", "mac-address")

_LABEL = re.compile("[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?")  # is a host name as it is


def values_of(instance: InstanceData, stem: str) -> list[Value]:
    """The values of the VM whose file has the name `stem`: MAX_VALUES at most, some twice."""
    return list(islice(_values(instance, stem), MAX_VALUES))


def _values(instance: InstanceData, stem: str) -> Iterator[Value]:
    given, match = instance.metadata, instance.match
    instance_id = given.get("instance-id") or _vc_uuid(match, stem)
    if instance_id:
        yield _INSTANCE_ID, str(instance_id)
    hostname = given.get("local-hostname") or given.get("hostname") or _default_hostname(stem)
    if hostname:
        yield _HOSTNAME, str(hostname).lower()
    if match:
        # The strongest identity: VMs of one name may be told apart by their UUIDs.
        key = next(key for key in ("vc-uuid", "bios-uuid", "name") if key in match)
        yield ("match", key), normal(match[key])
    network = instance.network
    if not network:
        return
    host = _host_rendered if instance.interfaces else _host
    if network.get("version") == 1:
        yield from _of_version_1(network.get("config"), host)
    else:
        yield from _of_version_2(network, host)


def _vc_uuid(match: Mapping[str, str], stem: str) -> str | None:
    """The VM's VC UUID, which is the default instance-id, as far as its file tells."""
    return match.get("vc-uuid") or (None if "bios-uuid" in match else parse_uuid(stem))


def _default_hostname(stem: str) -> Any:
    if _LABEL.fullmatch(stem):
        return None if parse_uuid(stem) else stem
    try:
        machine = Machine(name=None if parse_uuid(stem) else stem, vc_uuid=stem)
        return nocloud.metadata(InstanceData({}), machine).get("local-hostname")
    except InvalidInstanceData:
        return None  # it is told when it is rendered


def _of_version_1(devices: Any, host: _Host) -> Iterator[Value]:
    for device in _mappings(devices):
        if mac := _mac(device.get("mac_address")):
            yield _MAC, mac
        for subnet in _mappings(device.get("subnets")):
            if address := host(subnet.get("address")):
                yield _ADDRESS, address


def _of_version_2(network: Mapping[Any, Any], host: _Host) -> Iterator[Value]:
    """Of ethernets, bonds, bridges, vlans and what there is besides."""
    for section in _mappings(list(network.values())):
        for device in _mappings(list(section.values())):
            match, addresses = device.get("match"), device.get("addresses")
            matched = match.get("macaddress") if isinstance(match, Mapping) else None
            for text in (matched, device.get("macaddress")):
                if mac := _mac(text):
                    yield _MAC, mac
            for item in addresses if isinstance(addresses, list) else ():
                is_key = isinstance(item, Mapping)  # whose value is its label or lifetime
                if address := host(next(iter(item), None) if is_key else item):
                    yield _ADDRESS, address


def _mappings(values: Any) -> Iterable[Mapping[Any, Any]]:
    """Those of a list that are mappings: a network-config of the operator's own may hold all."""
    return [v for v in values if isinstance(v, MAPPING)] if isinstance(values, list) else ()


def _mac(text: object) -> str | None:
    return text.lower().replace("-", ":") if isinstance(text, str) else None


def _host_rendered(text: Any) -> str | None:
    """Of what a short form was rendered to, where each address has its one form."""
    return text.partition("/")[0] if text else None


def _host(text: object) -> str | None:
    if not isinstance(text, str):
        return None
    if ":" not in text:  # of IPv4 there is one form
        host = text.partition("/")[0]
        return host if host.count(".") == 3 else None
    try:
        return str(ip_interface(text).ip)
    except ValueError:
        return None

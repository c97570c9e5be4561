"""What instance data is made of a virtual machine of NetBox: docs/stores/netbox.md has the table.

Pure. Under the key `cloud-init`, config context may have instance data, which lies over the rest.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from ipaddress import ip_interface
from typing import Any, Literal

from vmw_cloudinit_metadata.drivers.filesystem.filename import stem_of
from vmw_cloudinit_metadata.drivers.store import NAME, VC_UUID, Key
from vmw_cloudinit_metadata.drivers.stores.netbox.virtualmachine import (
    IpAddress,
    VirtualMachine,
    VmInterface,
)
from vmw_cloudinit_metadata.instance.keys import canonical
from vmw_cloudinit_metadata.instance.layering import patch
from vmw_cloudinit_metadata.instance.network import native
from vmw_cloudinit_metadata.instance.network.shortform import INTERFACE_NAME
from vmw_cloudinit_metadata.protocol.vmware import parse_uuid

SERIAL = "serial"
GATEWAYS = ("gateway", "gateway6")  # custom fields

# Of an IP address that the VM's own system does not configure, or not always.
_NOT_STATIC = frozenset({"dhcp", "slaac", "deprecated", "reserved"})
_SHARED_ROLES = frozenset({"anycast", "vip", "vrrp", "hsrp", "glbp", "carp"})

Network = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Rules:
    """The options that decide what a virtual machine becomes."""

    uuid_field: str = SERIAL
    context_key: str = "cloud-init"
    gateway: Literal["none", "first", "last"] = "none"


def key_of(vm: VirtualMachine, rules: Rules) -> Key:
    is_serial = rules.uuid_field == SERIAL
    text = vm.serial if is_serial else vm.custom_fields.get(rules.uuid_field)
    uuid = parse_uuid(text) if isinstance(text, str) else None
    return Key(VC_UUID, uuid) if uuid else Key(NAME, stem_of(vm.name) or vm.name)


def label_of(vm: VirtualMachine) -> str:
    cluster = f" in cluster {vm.cluster.name}" if vm.cluster else ""
    return f"{vm.name}{cluster} (virtual machine {vm.id})"


def data_of(vm: VirtualMachine, rules: Rules) -> Any:
    """Return instance data; what config context has alone if that cannot be merged: a fault."""
    own = vm.config_context.get(rules.context_key)
    if own is None:
        own = {}
    if not isinstance(own, dict):
        return []  # a text would be taken for all of the instance data
    upper, twice = canonical(own)
    if twice or patch.patch_of(upper)[1]:
        return own
    network = upper.pop("network", {})
    lower, _ = canonical({"metadata": _metadata(vm, rules)})
    mapping = _over(lower, upper)
    found = _network(vm, rules, network)
    if found is not None:
        mapping["network"] = found
    return mapping


def _over(lower: Mapping[str, Any], upper: Mapping[str, Any]) -> dict[str, Any]:
    """Return both, merged as layers are; where that is a conflict, what `upper` has."""
    patches = [patch.patch_of(mapping)[0] for mapping in (lower, upper)]
    mapping, conflicts = patch.settled(patch.stacked(patches))
    for key in conflicts:
        place, value = mapping, upper
        for part in map(str, key[:-1]):
            place, value = place[part], value[part]
        name = str(key[-1])
        place[name] = value.get(name, value.get(f"{name}{patch.APPENDS}"))
    return mapping


def _metadata(vm: VirtualMachine, rules: Rules) -> dict[str, Any]:
    """Return meta-data: custom fields, and below them what the virtual machine belongs to."""
    names = [one.dns_name for one in (vm.primary_ip4, vm.primary_ip6) if one and one.dns_name]
    parts = {"site": vm.site, "role": vm.role, "tenant": vm.tenant, "platform": vm.platform}
    metadata: dict[str, Any] = {name: part.slug for name, part in parts.items() if part}
    if names:
        metadata["hostname"] = names[0]
    if vm.cluster:
        metadata["cluster"] = vm.cluster.name
    if vm.tags:
        metadata["tags"] = [tag.slug for tag in vm.tags]
    used = (rules.uuid_field, *GATEWAYS)
    fields = vm.custom_fields.items()
    given = {name: value for name, value in fields if value is not None and name not in used}
    return metadata | given


def _network(vm: VirtualMachine, rules: Rules, own: Any) -> Any:
    """Return the network; `own` is what config context says, over the primary interface."""
    if own != {} and (not isinstance(own, dict) or native.is_native(own)):
        return own
    if vm.unseen_interfaces:
        counts = f"{len(vm.interfaces)} of {vm.interface_count}"
        return f"{counts} interfaces that the token may view"  # a fault, which quotes that
    interfaces = list(_interfaces(vm))
    first = interfaces[0] if interfaces else {}
    first = _over({"network": first}, {"network": own})["network"]
    if "address" not in first and not first.get("dhcp"):
        if not own and "mac-address" not in first:
            return None  # cloud-init itself asks a DHCP server, on the first interface it finds
        first["dhcp"] = True
    if "address" in first and "gateway" not in own:
        given = [vm.custom_fields[name] for name in GATEWAYS if vm.custom_fields.get(name)]
        gateways = given or list(_gateways(first["address"], rules))
        if gateways:
            first["gateway"] = gateways
    others = interfaces[1:]
    return [first, *others] if others else first


def _interfaces(vm: VirtualMachine) -> Iterator[Network]:
    """Yield the interfaces that have addresses, the primary one first; else the first one."""
    usable = [one for one in vm.interfaces if one.enabled and not (one.parent or one.bridge)]
    primary = [one.id for one in (vm.primary_ip4, vm.primary_ip6) if one]

    def rank(interface: VmInterface) -> int:
        ids = [address.id for address in interface.ip_addresses]
        return min((primary.index(one) for one in ids if one in primary), default=len(primary))

    ordered = sorted(usable, key=rank)
    addressed = [one for one in ordered if any(map(_is_used, one.ip_addresses))]
    for interface in addressed or ordered[:1]:
        yield _interface(interface, primary)


def _interface(interface: VmInterface, primary: Sequence[int]) -> Network:
    found: Network = {}
    if INTERFACE_NAME.fullmatch(interface.name):
        found["name"] = interface.name
    if interface.primary_mac_address:
        found["mac-address"] = interface.primary_mac_address.mac_address
    if interface.mtu:
        found["mtu"] = interface.mtu
    used = [one for one in interface.ip_addresses if _is_used(one)]
    static = [one for one in used if one.status not in _NOT_STATIC]
    static.sort(key=lambda one: one.id not in primary)
    if static:
        found["address"] = [one.address for one in static]
    if len(static) < len(used):
        found["dhcp"] = True
    return found


def _is_used(address: IpAddress) -> bool:
    """Return whether it is an address of the VM alone, static or by DHCP for IPv4."""
    is_by_dhcp = address.status == "dhcp" and ":" not in address.address
    is_ours = (address.role or "") not in _SHARED_ROLES
    return is_ours and (is_by_dhcp or address.status not in _NOT_STATIC)


def _gateways(addresses: Any, rules: Rules) -> Iterator[str]:
    """Yield the first or last address of the network of the first address of each family."""
    if rules.gateway == "none":
        return
    versions = set()
    for text in addresses if isinstance(addresses, list) else [addresses]:
        try:
            address = ip_interface(text)
        except ValueError:  # of config context: a fault, reported by its reader
            continue
        network = address.network
        if address.version in versions or network.num_addresses <= 2:
            continue
        versions.add(address.version)
        last = network[-2] if address.version == 4 else network[-1]
        gateway = network[1] if rules.gateway == "first" else last
        if gateway != address.ip:
            yield str(gateway)

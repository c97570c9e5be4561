"""Reads vCenter's inventory, and waits for its changes. Does I/O; blocks."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from datetime import datetime
from typing import Any

from pyVmomi import vim, vmodl

from vmw_cloudinit_metadata.guest.vsphere.spec import ports_of
from vmw_cloudinit_metadata.guest.vsphere.vcenter import FAILURES, members, reference
from vmw_cloudinit_metadata.process.vcenter.inventoryrows import (
    FOLDER,
    HOST_SYSTEM,
    VM,
    InventoryPage,
    ObjectChange,
)
from vmw_cloudinit_metadata.protocol.vcentercheck import uri_digest

PAGE = 250  # objects in one answer: with their devices, about 5 MB
WAIT_S = 5  # for a change; then vCenter answers that there is none

_MAC = re.compile("([0-9a-f]{2}:){5}[0-9a-f]{2}")
_query = vmodl.query.PropertyCollector


def pages(content: vim.ServiceInstanceContent) -> Iterator[InventoryPage]:
    """Yield all objects, page by page, then what changes; an empty page if that is nothing.

    Raises FAILURES.
    """
    collector = content.propertyCollector.CreatePropertyCollector()  # its filter is ours alone
    view = content.viewManager.CreateContainerView(
        container=content.rootFolder, type=list(_PROPERTIES), recursive=True
    )
    try:
        wanted = [_query.PropertySpec(type=t, pathSet=list(p)) for t, p in _PROPERTIES.items()]
        spec = _query.FilterSpec(objectSet=[members(view)], propSet=wanted)
        collector.CreateFilter(spec=spec, partialUpdates=False)
        version = ""
        while True:
            options = _query.WaitOptions(maxWaitSeconds=WAIT_S, maxObjectUpdates=PAGE)
            found = collector.WaitForUpdatesEx(version=version, options=options)
            if found is None:
                yield InventoryPage([])
                continue
            version = found.version
            updates = [update for one in found.filterSet for update in one.objectSet]
            yield InventoryPage(list(map(object_change, updates)), not found.truncated)
    finally:
        with suppress(*FAILURES):
            collector.DestroyPropertyCollector()


def object_change(update: vmodl.query.PropertyCollector.ObjectUpdate) -> ObjectChange:
    """Return what an update says of an object, with what we do not ask for left out."""
    kind = next(kind for known, kind in _KINDS.items() if isinstance(update.obj, known))
    if update.kind == _query.ObjectUpdate.Kind.leave:
        return ObjectChange(kind, reference(update.obj), None)
    values: dict[str, Any] = {}
    for change in update.changeSet:
        if read := _VALUES.get(change.name):
            values.update(read(change.val))
    return ObjectChange(kind, reference(update.obj), values)


def _named(name: str) -> Callable[[Any], Mapping[str, Any]]:
    return lambda value: {name: None if value is None else str(value)}


def _referred(name: str) -> Callable[[Any], Mapping[str, Any]]:
    return lambda value: {name: None if value is None else reference(value)}


def _booted(value: datetime | None) -> Mapping[str, Any]:
    return {"booted_s": value.timestamp() if value else 0.0}


def _devices(devices: Iterable[vim.vm.device.VirtualDevice] | None) -> Mapping[str, Any]:
    every = list(devices or ())
    cards = [one for one in every if isinstance(one, vim.vm.device.VirtualEthernetCard)]
    return {
        "ports": tuple(uri_digest(port.backing.service_uri or "") for port in ports_of(every)),
        "macs": tuple(_mac(card.macAddress) for card in sorted(cards, key=lambda one: one.key)),
    }


def _mac(text: str | None) -> str:
    """Return the MAC address of a card; "" while it has none."""
    mac = (text or "").lower()
    return mac if _MAC.fullmatch(mac) else ""


def _addresses(cards: Iterable[vim.host.VirtualNic] | None) -> Mapping[str, Any]:
    """Return the addresses of a host's own network cards (vmk0 ...), from which it dials."""
    found: list[str] = []
    for card in cards or ():
        ip = card.spec and card.spec.ip
        if ip and ip.ipAddress:
            found.append(ip.ipAddress)
        if ip and ip.ipV6Config:
            found += [one.ipAddress for one in ip.ipV6Config.ipV6Address]
    return {"addresses": tuple(found)}


_PROPERTIES = {
    vim.VirtualMachine: (
        *("name", "parent", "runtime.powerState", "runtime.host", "config.instanceUuid"),
        # Of `runtime` and `summary.runtime`, which are equal, the simulator has this one.
        *("config.hardware.device", "summary.runtime.bootTime"),
    ),
    vim.HostSystem: ("name", "config.network.vnic"),
    vim.Folder: ("name", "parent"),
    vim.Datacenter: ("name", "parent"),
}
_KINDS = {  # a StoragePod is a Folder too
    vim.VirtualMachine: VM,
    vim.HostSystem: HOST_SYSTEM,
    vim.Folder: FOLDER,
    vim.Datacenter: FOLDER,
}
_VALUES: Mapping[str, Callable[[Any], Mapping[str, Any]]] = {
    "name": _named("name"),
    "parent": _referred("parent"),
    "runtime.powerState": _named("power"),
    "runtime.host": _referred("host"),
    "summary.runtime.bootTime": _booted,
    "config.instanceUuid": _named("uuid"),
    "config.hardware.device": _devices,
    "config.network.vnic": _addresses,
}

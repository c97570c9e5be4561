"""Warnings: what is allowed in instance data, and probably a mistake. Pure."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from itertools import islice
from typing import Any

from vmw_cloudinit_metadata.instance.documents import STANDARD, USER_DATA
from vmw_cloudinit_metadata.instance.fault import MAX_FAULTS, Fault, bounded
from vmw_cloudinit_metadata.instance.metadata import fields
from vmw_cloudinit_metadata.instance.metadata.fields import METADATA_KEYS
from vmw_cloudinit_metadata.instance.model import InstanceData
from vmw_cloudinit_metadata.instance.network import interfaces, renderers, shortform
from vmw_cloudinit_metadata.instance.network.native import native_warnings
from vmw_cloudinit_metadata.instance.userdata import misread
from vmw_cloudinit_metadata.instance.values import placeholder

_TOP = "{} at the top of the file, not below metadata: NoCloud ignores it here"
_NETWORK = _TOP.format("network")
_USER_DATA = _TOP.format("userdata")
_ENCODING = "no such key: write the content itself, or !!binary before base64"
_WAIT = "no such key: NoCloud takes the network from network at the top of the file and never waits"

# Keys of meta-data that change where cloud-init looks, or what it does before the network is up,
# and keys that only other data sources, such as VMware's guestinfo, read there.
_KEYS = {
    "seedfrom": "no seedfrom: cloud-init would fetch its data from there instead",
    "dsmode": "no dsmode: cloud-init decides by itself when to apply the data",
    "network-interfaces": "network: network-interfaces is obsolete",
    **dict.fromkeys(("network", "network-config", "networkdata", "network-data"), _NETWORK),
    **dict.fromkeys(("ethernets", "nameservers"), _NETWORK),
    **dict.fromkeys(("runcmd", "bootcmd", "write-files", "packages", "users"), _USER_DATA),
    "ssh-authorized-keys": "public-keys, as meta-data calls it",
    **{
        name: _TOP.format(document.key)
        for document in USER_DATA
        for name in (document.key, document.nocloud_name)
    },
    **{
        f"{name}.encoding": _ENCODING
        for document in STANDARD
        for name in (document.key, document.nocloud_name)
    },
    **dict.fromkeys(("metadata", "meta-data"), "the keys below it, one level up"),
    "wait-on-network": _WAIT,
    "cleanup-guestinfo": "no such key: it is for VMware's guestinfo, which is not read",
}


def warnings_of(instance: InstanceData) -> Iterator[Fault]:
    """Return the first MAX_FAULTS warnings, and a last one if there are more."""
    found = bounded(islice(_advice(instance), MAX_FAULTS + 1))
    return (replace(fault, is_warning=True) for fault in found)


def unrecorded(instance: InstanceData) -> Iterator[Fault]:
    """Warn of documents with `once`, at a server that has nowhere to record uses."""
    for name in sorted(instance.once)[:1]:
        key = ("documents", name.lower(), "once")
        expected = "a server with --ledger FILE or --fleet: this one answers with `failed`"
        yield Fault(key, "once: true", expected, is_warning=True)


def _advice(instance: InstanceData) -> Iterator[Fault]:
    yield from instance.warnings
    yield from _metadata(instance)
    yield from fields.warnings_in(instance.metadata)
    yield from placeholder.warnings_in(instance.match, ("match",))
    yield from placeholder.warnings_in(instance.network, ("network",))
    yield from _interfaces(instance)
    if instance.network and instance.network_is_native:
        yield from native_warnings(instance.network)
    for document in USER_DATA:
        yield from misread.faults_in(instance.content_of(document), document.key)


def _metadata(instance: InstanceData) -> Iterator[Fault]:
    for name in instance.metadata:
        dashed = name.replace("_", "-").lower()
        if dashed in _KEYS:
            yield _key_warning(name, _KEYS[dashed])
        elif name not in METADATA_KEYS:
            for known in METADATA_KEYS:
                if dashed == known or _one_letter_off(dashed, known):
                    yield _key_warning(name, f"{known!r}, if that is meant")


def _interfaces(instance: InstanceData) -> Iterator[Fault]:
    if not instance.network:
        return
    if instance.interfaces:
        yield from interfaces.warnings_about(instance.interfaces)
        yield from renderers.warnings_about(instance.interfaces, instance.network["version"])
    cards = list(_cards(instance))
    nameless = [name for name, mac in cards if not mac]
    if len(cards) > 1 and nameless:
        found = f"several interfaces, without a MAC address for {', '.join(map(_name, nameless))}"
        expected = "mac-address on each: the guest may order its interfaces differently"
        yield Fault(("network",), found, expected)


def _cards(instance: InstanceData) -> Iterator[tuple[Any, Any]]:
    """Yield name and MAC address of each network card; native version 2 has other identifiers."""
    short = list(instance.interfaces.values())
    for name, interface in zip(interfaces.names_of(short), short, strict=True):
        yield name, interface.mac_address
    config = instance.network or {}
    if not short and config.get("version") == 1 and isinstance(config["config"], list):
        for device in config["config"]:
            if isinstance(device, dict) and device.get("type") == "physical":
                yield device.get("name"), device.get("mac_address")


def _name(name: Any) -> str:
    """Return a name for a message: in a native network-config it may be any value."""
    is_name = isinstance(name, str) and shortform.INTERFACE_NAME.fullmatch(name)
    return str(name) if is_name else "a device without a name"


def _key_warning(name: str, expected: str) -> Fault:
    return Fault(("metadata", name), repr(name), expected, is_named=True)


def _one_letter_off(name: str, known: str) -> bool:
    """Return whether one letter added, removed, changed or swapped with the next gives `known`."""
    shorter = min(len(name), len(known))
    same = next((i for i in range(shorter) if name[i] != known[i]), shorter)
    ours, theirs = name[same:], known[same:]
    return (
        name != known
        and (
            ours[1:] == theirs  # one too many
            or ours == theirs[1:]  # one left out
            or ours[1:] == theirs[1:]  # another one
            or (ours[1::-1], ours[2:]) == (theirs[:2], theirs[2:])  # swapped
        )
    )

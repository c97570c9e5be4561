"""What is allowed in instance data and still is probably not meant: warnings. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from vmw_cloudinit_metadata.instance import metadata, network, placeholder, seed
from vmw_cloudinit_metadata.instance.fault import Fault, kind_of
from vmw_cloudinit_metadata.instance.metadata import METADATA_KEYS
from vmw_cloudinit_metadata.instance.model import InstanceData

# How user-data begins, from cloud-init's "User-data formats".
_BEGINNINGS = (
    b"#cloud-config",  # and #cloud-config-archive
    b"#!",
    b"## template: jinja",
    b"#include",  # and #include-once
    b"#cloud-boothook",
    b"#part-handler",
    b"#upstart-job",
    b"\x1f\x8b",  # gzip
)
_CLOUD_CONFIG = re.compile(rb"#cloud-config[ \t]*\r?\n")
_MIME_HEADER = re.compile(rb"^(?:mime-version|content-type):", re.IGNORECASE | re.MULTILINE)
_MIME_WITHIN_BYTES = 4096

# Keys of meta-data that change where cloud-init looks, or what it does before the network is up.
_STEERING_KEYS = {
    "seedfrom": "no seedfrom: cloud-init would fetch its data from there instead",
    "dsmode": "no dsmode: cloud-init decides by itself when to apply the data",
    "network-interfaces": "network: cloud-init's network-interfaces is out of use",
}


def warnings_of(instance: InstanceData) -> Iterator[Fault]:
    yield from _metadata(instance)
    yield from metadata.warnings_in(instance.metadata)
    yield from placeholder.warnings_in(instance.match, ("match",))
    yield from placeholder.warnings_in(instance.network, ("network",))
    yield from _interfaces(instance)
    yield from _user_data(instance.userdata, "userdata")
    yield from _user_data(instance.vendordata, "vendordata")


def _metadata(instance: InstanceData) -> Iterator[Fault]:
    for name in instance.metadata:
        dashed = name.replace("_", "-")
        if dashed in _STEERING_KEYS:
            yield _key_warning(name, _STEERING_KEYS[dashed])
        elif name not in METADATA_KEYS:
            for known in METADATA_KEYS:
                if _one_letter_off(dashed.lower(), known):
                    yield _key_warning(name, f"{known!r}, if that is meant")


def _interfaces(instance: InstanceData) -> Iterator[Fault]:
    if not instance.network or instance.network["version"] != 1:
        return
    devices = [device for device in instance.network["config"] if isinstance(device, dict)]
    physical = [device for device in devices if device.get("type") == "physical"]
    nameless = [device.get("name") for device in physical if not device.get("mac_address")]
    if len(physical) > 1 and nameless:
        found = f"several interfaces, and no MAC address for {', '.join(map(_name, nameless))}"
        yield _warning(("network",), found, "mac-address on each: the order of names may change")


def _name(name: Any) -> str:
    """Of a network-config of the operator's own a name may be anything."""
    is_name = isinstance(name, str) and network.INTERFACE_NAME.fullmatch(name)
    return str(name) if is_name else "a device without a name"


def _user_data(document: bytes, key: str) -> Iterator[Fault]:
    if not document:
        return
    is_mime = _MIME_HEADER.search(document[:_MIME_WITHIN_BYTES])
    if not document.startswith(_BEGINNINGS) and not is_mime:
        expected = "something that cloud-init knows, such as #cloud-config or #!, in the first line"
        yield _warning((key,), kind_of(document), expected)
    elif _CLOUD_CONFIG.match(document):
        yield from _cloud_config(document, key)


def _cloud_config(document: bytes, key: str) -> Iterator[Fault]:
    try:
        read = seed.read(document.decode(), root=(key,))
    except UnicodeDecodeError:
        yield _warning((key,), "a #cloud-config that is no UTF-8", "YAML in UTF-8")
        return
    for fault in read.faults:
        found = f"in line {fault.line} of its #cloud-config {fault.found}"
        yield _warning((key,), found, fault.expected)
    if not read.faults and not isinstance(read.value, dict | None):
        yield _warning((key,), f"{kind_of(read.value)} behind #cloud-config", "a mapping")


def _warning(key: tuple[str, ...], found: str, expected: str) -> Fault:
    return Fault(key, found, expected, is_warning=True)


def _key_warning(name: str, expected: str) -> Fault:
    return Fault(("metadata", name), repr(name), expected, is_warning=True, is_named=True)


def _one_letter_off(name: str, known: str) -> bool:
    """Whether one letter added, left out, changed, or swapped with its neighbour makes `known`."""
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

"""InstanceData -> the documents of cloud-init's NoCloud for one machine. Pure."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection, Iterator, Mapping
from typing import Any

from vmw_cloudinit_metadata.instance.documents import USER_DATA
from vmw_cloudinit_metadata.instance.fault import Fault, InvalidInstanceData, describe
from vmw_cloudinit_metadata.instance.metadata.fields import METADATA_KEYS
from vmw_cloudinit_metadata.instance.metadata.hostname import hostname_of, is_whole
from vmw_cloudinit_metadata.instance.model import MAX_DOCUMENT_BYTES, InstanceData
from vmw_cloudinit_metadata.instance.network.cardorder import with_cards
from vmw_cloudinit_metadata.instance.values.dump import document_text, json_text
from vmw_cloudinit_metadata.protocol.vmware import Machine

_KNOWN = frozenset(METADATA_KEYS)


def render(instance: InstanceData, machine: Machine) -> dict[str, bytes]:
    """Return the documents by the protocol's names ("METADATA"); an absent one is empty.

    Raise InvalidInstanceData if a document is too long or there is no instance-id.
    """
    documents = {
        "METADATA": json_text(metadata(instance, machine)).encode(),
        "NETWORKDATA": _network(instance.network, machine),
        **{document.code: instance.content_of(document) for document in USER_DATA},
        **instance.documents,
    }
    faults = [
        Fault((name.lower(),), describe(document), f"at most {MAX_DOCUMENT_BYTES:,} bytes")
        for name, document in documents.items()
        if len(document) > MAX_DOCUMENT_BYTES
    ]
    if faults:
        raise InvalidInstanceData(faults)
    return documents


def _network(network: Mapping[str, Any] | None, machine: Machine) -> bytes:
    """Return the network-config; where the VM's cards are known, eth0 is the first of them."""
    if not network:
        return b""
    if machine.macs:
        network = with_cards(network, machine.macs)
    return document_text(network).encode()


def instance_id_of(instance: InstanceData, machine: Machine) -> str:
    """Return the instance-id of an instance that `render` takes."""
    return str(instance.metadata.get("instance-id") or machine.vc_uuid)


def instance_id_in(document: bytes) -> str:
    """Return the instance-id in a METADATA that `render` has made; "" if it is another text."""
    try:
        return str(json.loads(document)["instance-id"])
    except (ValueError, KeyError, TypeError, RecursionError):
        return ""


def metadata(instance: InstanceData, machine: Machine) -> dict[str, Any]:
    """Return the meta-data: the known keys in their order, then the other ones.

    The instance-id defaults to the VC UUID, the host name to one derived from the VM's name.
    """
    given = instance.metadata
    hostname = given.get("hostname") or given.get("local-hostname") or _hostname(machine)
    defaults = {
        "instance-id": machine.vc_uuid,
        "hostname": hostname,
        "local-hostname": hostname,
    }
    values = {**defaults, **given}
    if not values["instance-id"]:
        expected = "an instance-id: this VM has not sent a VC UUID, which is the default"
        raise InvalidInstanceData([Fault(("metadata", "instance-id"), "nothing", expected)])
    known = {name: values[name] for name in METADATA_KEYS if values.get(name) is not None}
    return known | {name: value for name, value in given.items() if name not in _KNOWN}


def hostname_warnings(instance: InstanceData, vm_name: str) -> Iterator[Fault]:
    """Yield a warning if the VM of that name gets no host name, or only a part of its name."""
    given = instance.metadata
    if given.get("hostname") or given.get("local-hostname") or is_whole(vm_name):
        return
    hostname = hostname_of(vm_name)
    found = f"nothing, and the VM name gives {repr(hostname) if hostname else 'no host name'}"
    yield Fault(("metadata", "local-hostname"), found, "a host name", is_warning=True)


def _hostname(machine: Machine) -> str | None:
    return hostname_of(machine.name) if machine.name else None


def digest(documents: Mapping[str, bytes], once: Collection[str] = ()) -> bytes:
    """Return the body of RESPONSE_DIGEST: length in bytes and SHA-256 of each document.

    Not of those that are served once: a digest of a short secret gives it away.
    """
    return json_text(
        {
            name: {"length": len(document), "sha256": hashlib.sha256(document).hexdigest()}
            for name, document in documents.items()
            if document and name not in once
        }
    ).encode()

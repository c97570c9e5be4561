"""The names and addresses under which others reach a VM, as its data has them. Pure.

They are of exactly the forms that a name or an address has, so a file like OpenSSH's known_hosts,
in which `*`, `?`, `!`, `,` and blanks have a meaning, can have them as they are.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import ujson

from vmw_cloudinit_metadata.instance import distinct, nocloud
from vmw_cloudinit_metadata.instance.metadata.hostname import is_hostname, set_by_cloud_init
from vmw_cloudinit_metadata.instance.model import InstanceData
from vmw_cloudinit_metadata.instance.network.address import ip_address, unfit
from vmw_cloudinit_metadata.protocol.servedboot import MAX_HOSTS, ServedIdentity, bounded
from vmw_cloudinit_metadata.protocol.vmware import Machine

# As a first or last label it names, everywhere, the machine that looks it up: RFC 6761, 6.3, and
# the `localhost.localdomain` of many systems.
_OWN = "localhost"


def identity_of(instance: InstanceData, machine: Machine) -> ServedIdentity:
    """Return how the machine is called in its documents."""
    return _identity(nocloud.metadata(instance, machine), instance.network)


def identity_in(documents: Mapping[str, bytes]) -> ServedIdentity:
    """Return the same from the documents, as `nocloud.render` has made them."""
    return _identity(
        ujson.loads(documents["METADATA"]), _network_in(documents.get("NETWORKDATA", b""))
    )


def _network_in(document: bytes) -> Any:
    """Return the network-config; None for one that JSON cannot represent, which is rare."""
    try:
        return ujson.loads(document)
    except ValueError:
        return None


def _identity(metadata: Mapping[str, Any], network: Any) -> ServedIdentity:
    hosts = [*_names(str(metadata.get("local-hostname") or ""))]
    if isinstance(network, Mapping):
        hosts += _addresses(network)
    return bounded(str(metadata.get("instance-id") or ""), list(dict.fromkeys(hosts)))


def _names(hostname: str) -> Iterator[str]:
    """Yield the FQDN, and the host name that cloud-init makes of it."""
    if is_hostname(hostname):
        for name in (hostname.lower(), set_by_cloud_init(hostname).lower()):
            last = name.rpartition(".")[2]
            is_reader = _OWN in (last, name.partition(".")[0])
            if not last.isdigit() and not is_reader:  # with digits it may be read as an address
                yield name


def _addresses(network: Mapping[str, Any]) -> Iterator[str]:
    for text in distinct.addresses_of(network)[:MAX_HOSTS]:
        try:
            address = ip_address(text)
        except ValueError:
            continue
        if not unfit(address) and not address.is_link_local:
            yield str(address)

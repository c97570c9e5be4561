"""Rules for addresses and gateways, for the short form and for native documents. Pure.

Most functions return what is expected in place of a value, or "" if the value is valid; callers
know the keys, and whether a violation is a fault or a warning.
"""

from __future__ import annotations

from vmw_cloudinit_metadata.instance.network.address import (
    AnyAddress,
    AnyInterface,
    ip_address,
    unfit_in,
)
from vmw_cloudinit_metadata.instance.network.subnets import Subnets

ONE_OWNER = "each address on only one interface"


def prefix_length(text: str, version: int) -> str:
    """Return what to write for an address without one."""
    return f"a prefix length, such as {text}/{24 if version == 4 else 64}"


def usable_host(host: AnyAddress, subnet: AnyInterface, text: str = "") -> str:
    """Check that a host can have the address; `text` is how it was written."""
    what = unfit_in(host, subnet)
    return f"a usable host address ({text or host} is {what})" if what else ""


def usable_gateway(text: str, own: AnyInterface, subnets: Subnets) -> str:
    """Check the address of a gateway; `own` is the address of the interface in its network."""
    host = ip_address(text)
    if subnets.has(host):
        return "the address of another machine: this is the interface's own address"
    return usable_host(host, own, text)


def same_family(version: int) -> str:
    """Return what to write for a gateway of another family than its route."""
    return f"an IPv{version} address, like the destination"


def has_no_room(own: AnyInterface) -> bool:
    """Return whether the network is one address (/32, /128), so that any gateway is outside."""
    return own.network.num_addresses == 1


def shared_address(host: AnyAddress) -> str:
    """Return what was found if two interfaces have the address."""
    return f"{str(host)!r}, which another interface also has"


def second_gateway(text: str, version: int) -> str:
    """Return what was found if two default gateways have the same metric."""
    return f"{text!r}, a second default gateway for IPv{version}"

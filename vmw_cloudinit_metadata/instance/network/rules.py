"""The rules for addresses and gateways that hold in the short form and in native documents. Pure.

Each function returns what is expected in place of a value, or "" if the value is right; the
callers know the keys, and whether it is a fault or a warning.
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
    """For an address that was written without one."""
    return f"a prefix length, such as {text}/{24 if version == 4 else 64}"


def usable_host(host: AnyAddress, subnet: AnyInterface, text: str = "") -> str:
    """For an address of a host in `subnet`, or outside of it; `text` is how it was written."""
    what = unfit_in(host, subnet)
    return f"a usable host address ({text or host} is {what})" if what else ""


def usable_gateway(text: str, own: AnyInterface, subnets: Subnets) -> str:
    """For the gateway of an interface whose address `own` is the nearest to it."""
    host = ip_address(text)
    if subnets.has(host):
        return "the address of another machine: this is the interface's own address"
    return usable_host(host, own, text)


def same_family(version: int) -> str:
    """For the gateway of a route to a network of IP version `version`."""
    return f"an IPv{version} address, like the destination"


def has_no_room(own: AnyInterface) -> bool:
    """Return whether a gateway has no place in the network (/32 or /128): it is always outside."""
    return own.network.num_addresses == 1


def shared_address(host: AnyAddress) -> str:
    """What was found if two interfaces have the address."""
    return f"{str(host)!r}, which another interface also has"


def second_gateway(text: str, version: int) -> str:
    """What was found if two default gateways have the same metric."""
    return f"{text!r}, a second default gateway for IPv{version}"

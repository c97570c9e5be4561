"""Virtual machines as NetBox's GraphQL API returns them: the query, and what its answer has. Pure.

Everything in an answer is checked before it is used.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError

from vmw_cloudinit_metadata.protocol.printable import one_line, shortened

# What a token must let see, by the field of GraphQL that lists it. For what may not be seen, NetBox
# answers with nothing, as if it did not exist.
SEEN = {
    "virtual_machine_list": "virtualization/virtual-machines",
    "vm_interface_list": "virtualization/interfaces",
    "ip_address_list": "ipam/ip-addresses",
    "mac_address_list": "dcim/mac-addresses",
    "cluster_list": "virtualization/clusters",
    "site_list": "dcim/sites",
    "tenant_list": "tenancy/tenants",
    "platform_list": "dcim/platforms",
    "device_role_list": "dcim/device-roles",
    "tag_list": "extras/tags",
}
_FIRSTS = "".join(f"  {name}(pagination: {{start: 0, limit: 1}}) {{ id }}\n" for name in SEEN)

# `start` is a cursor: objects that come and go between two pages shift no other ones.
QUERY = (
    """\
query ($filters: VirtualMachineFilter, $pagination: OffsetPaginationInput) {
  found: virtual_machine_list(filters: $filters, pagination: $pagination) {
    id name serial
    cluster { name } site { slug } tenant { slug } platform { slug } role { slug } tags { slug }
    custom_fields config_context interface_count
    primary_ip4 { id dns_name } primary_ip6 { id dns_name }
    interfaces {
      id name enabled mtu primary_mac_address { mac_address } parent { id } bridge { id }
      ip_addresses { id address status role }
    }
  }
"""
    + _FIRSTS
    + "}\n"
)


class _Part(BaseModel):
    """Keys that are not asked for do not matter: NetBox may send more."""

    model_config = ConfigDict(frozen=True, hide_input_in_errors=True)


class Slug(_Part):
    slug: str


class Name(_Part):
    name: str


class Id(_Part):
    id: int


class IpAddress(_Part):
    id: int
    address: str  # with its prefix length
    status: str
    role: str | None = None


class PrimaryAddress(_Part):
    id: int
    dns_name: str = ""


class MacAddress(_Part):
    mac_address: str


class VmInterface(_Part):
    id: int
    name: str
    enabled: bool
    mtu: int | None = None
    primary_mac_address: MacAddress | None = None
    parent: Id | None = None
    bridge: Id | None = None
    ip_addresses: list[IpAddress]


class VirtualMachine(_Part):
    id: int
    name: str
    serial: str = ""
    cluster: Name | None = None
    site: Slug | None = None
    tenant: Slug | None = None
    platform: Slug | None = None
    role: Slug | None = None
    tags: list[Slug] = []
    custom_fields: dict[str, Any]
    config_context: dict[str, Any]
    interface_count: int
    primary_ip4: PrimaryAddress | None = None
    primary_ip6: PrimaryAddress | None = None
    interfaces: list[VmInterface]

    @property
    def unseen_interfaces(self) -> int:
        """Return how many NetBox counts, but does not show."""
        return max(self.interface_count - len(self.interfaces), 0)


class _Answer(_Part):
    data: dict[str, Any] | None = None
    errors: list[Any] = []


class Page(_Part):
    found: list[VirtualMachine]
    unseen: frozenset[str] = frozenset()  # keys of SEEN: not one of these is seen


class UnusableAnswerError(Exception):
    """What NetBox answered cannot be used; the text says why, for operators."""


def request_of(variables: Mapping[str, Any]) -> bytes:
    return json.dumps({"query": QUERY, "variables": variables}).encode()


def parsed(body: bytes) -> Page:
    """Return the virtual machines of an answer; raise UnusableAnswerError."""
    try:
        answer = _Answer.model_validate_json(body)
        if answer.errors or answer.data is None:
            raise UnusableAnswerError(f"the query failed: {_message(answer.errors)}")
        unseen = [name for name in SEEN if not answer.data.get(name)]
        page = Page.model_validate({"found": answer.data.get("found"), "unseen": unseen})
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        place = ".".join(map(str, first["loc"])) or "all of it"
        text = f"the answer to a query is not as expected: {place}: {first['msg']}"
        raise UnusableAnswerError(text) from None
    return page


def _message(errors: list[Any]) -> str:
    match errors:
        case [{"message": str() as text}, *_]:
            return one_line(shortened(text, 300))
        case _:
            return "without a reason"

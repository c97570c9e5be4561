"""What of a promise is not there in what a renderer has made of it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from tests.renderers.meaning import Meaning, Meanings, Route


class Lost(NamedTuple):
    interface: str
    key: str  # of the short form
    what: str


def losses(promised: Meanings, found: Meanings) -> Iterator[Lost]:
    common = found.get("", Meaning())
    for name, wanted in promised.items():
        for key, what in _losses(wanted, found.get(name, Meaning()), common):
            yield Lost(name, key, what)


def _losses(wanted: Meaning, found: Meaning, common: Meaning) -> Iterator[tuple[str, str]]:
    if wanted.mac and found.mac != wanted.mac:
        yield "mac-address", "mac-address"
    if wanted.mtu != found.mtu:
        yield "mtu", f"mtu {found.mtu}"
    if wanted.dhcp != found.dhcp:
        yield "dhcp", "dhcp"
    for address in wanted.addresses ^ found.addresses:
        yield "address", f"address {address}"
    for route in wanted.routes - found.working_routes(wanted.gateways):
        yield "gateway" if route in wanted.gateways else "routes", f"route {_fate(route, found)}"
    for route in found.routes - wanted.routes:
        if not any(route[:2] == other[:2] for other in wanted.routes):
            is_gateway = any(route.via == gateway.via for gateway in wanted.gateways)
            yield (
                "gateway" if is_gateway else "routes",
                f"a route that nobody has asked for: {route}",
            )
    for family in (".", ":"):
        servers = [server for server in wanted.nameservers if family in server]
        have = [s for s in found.nameservers if family in s]
        if servers != have and not set(servers) <= set(common.nameservers):
            yield "nameservers", f"{'IPv4' if family == '.' else 'IPv6'} name servers {have}"
    if wanted.search != found.search and not set(wanted.search) <= set(common.search):
        yield "search", f"search {found.search}"


def _fate(route: Route, found: Meaning) -> str:
    if route in found.routes:
        return f"{route} not on link"
    if any(route[:2] == other[:2] for other in found.routes):
        return f"{route} metric"
    return f"{route} gone"

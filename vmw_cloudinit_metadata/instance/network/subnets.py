"""The subnets of an interface, and the one that a host belongs to. Pure."""

from __future__ import annotations

from collections.abc import Sequence

from vmw_cloudinit_metadata.instance.network.address import AnyAddress, AnyInterface, ip_address

_FEW = 4  # addresses that are searched one by one; hardly an interface has more: they are indexed


class Subnets:
    """Finds the address of an interface that a host belongs to.

    That is the address whose network the host is in, else the first one of the host's family.
    """

    def __init__(self, addresses: Sequence[AnyInterface]) -> None:
        self.addresses = addresses
        # Version and number of each.
        self._hosts = {(address.version, int(address)) for address in addresses}
        self._indexed: dict[tuple[int, int, int], int] = {}  # by version, prefix length, network
        for index in range(_FEW, len(addresses)):
            address = addresses[index]
            length = address.network.prefixlen
            network = int(address) >> (address.max_prefixlen - length)
            self._indexed.setdefault((address.version, length, network), index)
        self._lengths = {(version, length) for version, length, _ in self._indexed}
        self._first: dict[int, int] = {}
        for index, address in enumerate(addresses):
            self._first.setdefault(address.version, index)

    def has(self, host: AnyAddress) -> bool:
        """Return whether it is an address of the interface itself."""
        return (host.version, int(host)) in self._hosts

    def of(self, host: str) -> int | None:
        """Return the index of the address; None if there is none of the host's family."""
        inside = self.around(host)
        return self.first_of(ip_address(host).version) if inside is None else inside

    def around(self, text: str) -> int | None:
        """Return the index of the address whose network the host is in, or None."""
        host = ip_address(text)
        for index, address in enumerate(self.addresses[:_FEW]):
            if host in address.network:
                return index
        if not self._indexed:
            return None
        bits, number = host.max_prefixlen, int(host)
        networks = ((v, n, number >> (bits - n)) for v, n in self._lengths if v == host.version)
        inside = [self._indexed[network] for network in networks if network in self._indexed]
        return min(inside, default=None)

    def first_of(self, version: int) -> int | None:
        return self._first.get(version)

    def address_for(self, host: str) -> AnyInterface | None:
        """Return the address whose index `of` returns."""
        index = self.of(host)
        return None if index is None else self.addresses[index]

    def reach(self, text: str) -> bool:
        """Return whether the kernel accepts the host as a gateway without `on-link`."""
        host = ip_address(text)
        return self.around(text) is not None or (host.version == 6 and host.is_link_local)

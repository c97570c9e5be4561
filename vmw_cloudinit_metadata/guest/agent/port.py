"""A serial port, as the conversation with the server uses it."""

from contextlib import contextmanager
from typing import Callable, Iterator, List, Sequence

from vmw_cloudinit_metadata.guest.agent.responses import LineReader


class GuestPort:
    """`device` is its name; `lines` finds the responses in what arrives."""

    def __init__(self, device: str) -> None:
        self.device = device
        self.lines = LineReader()

    def read(self) -> bytes:
        """Return the bytes that have arrived, maybe none; raise PortLost."""
        raise NotImplementedError

    def write(self, data: bytes) -> None:
        """Write all of it, or as much as the port takes within a second; raise PortLost."""
        raise NotImplementedError

    def close(self) -> None:
        raise NotImplementedError


@contextmanager
def closing_ports(ports: Sequence[GuestPort]) -> Iterator[List[GuestPort]]:
    """Give a list of the ports; close those that are in it in the end."""
    held = list(ports)
    try:
        yield held
    finally:
        for port in held:
            port.close()


# Returns the ports that can be read, after at most so many seconds.
WaitFor = Callable[[Sequence[GuestPort], float], List[GuestPort]]

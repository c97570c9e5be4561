"""A serial port, as the conversation with the server uses it."""

from typing import Callable, List, Sequence

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


# Returns the ports that can be read, after at most so many seconds.
WaitFor = Callable[[Sequence[GuestPort], float], List[GuestPort]]

"""The conversation with the server: requests on one or more ports, and the responses to them."""

import itertools
import time
from contextlib import contextmanager
from typing import Callable, Iterator, List

from vmw_cloudinit_metadata.guest.agent.failures import NoAnswer, PortLost
from vmw_cloudinit_metadata.guest.agent.patience import Patience, retry_delay_s
from vmw_cloudinit_metadata.guest.agent.port import GuestPort, WaitFor
from vmw_cloudinit_metadata.guest.agent.responses import (
    Documents,
    GuestResponse,
    parse_error,
    request,
)

FILES = {
    "METADATA": "meta-data",
    "NETWORKDATA": "network-config",
    "USERDATA": "user-data",
    "VENDORDATA": "vendor-data",
}
KINDS = {*FILES, "DIGEST", "IDENTITY", "STATUS"}

QUIET_S = 0.2  # a silence this long means that the host has no queued bytes left
DRAIN_S = 2.0  # a line that never falls silent is used as it is


class Conversation:
    """Asks on all ports at once until one of them answers; then only on that one."""

    def __init__(
        self,
        ports: List[GuestPort],
        wait_for: WaitFor,
        patience: Patience,
        retry_s: float,
        announce: Callable[[str], None],
    ) -> None:
        """`announce` is called with a line for people before each retry."""
        self.ports = ports
        self._wait_for = wait_for
        self._patience = patience
        self._retry_s = retry_s
        self._announce = announce
        self._wanted = ""
        self.received: Documents = {}
        self._damaged = False

    @property
    def noise(self) -> int:
        return sum(port.lines.noise for port in self.ports)

    @property
    def where(self) -> str:
        return ", ".join(port.device for port in self.ports)

    def ask(self, name: str, also: str = "") -> bytes:
        """Return a document by its name; raise ErrorAnswer, PortLost or GaveUp.

        `also` is requested behind it and not waited for. Answers come in the order of requests, so
        it is in `received` when the next document is there; otherwise the server does not know it.
        """
        self.received.pop(name, None)
        self._wanted = name
        for attempt in itertools.count():
            with_also = also and attempt % 2 == 0  # an unknown request may make an old server close
            text = request(name) + (request(also) if with_also else b"")
            self._write(b"\n" + text if attempt else text)
            if self._listen(attempt):
                break
            self._announce_retry()
        return self.received[name]

    def ask_once(self, name: str, argument: bytes = b"") -> bytes:
        """Return what answers a request that is sent once; raise ErrorAnswer, PortLost, GaveUp."""
        self.received.pop(name, None)
        self._wanted = name
        self._write(b"\n" + request(name, argument))
        if not self._listen(0):
            raise NoAnswer(f"no valid answer to REQUEST_{name} on {self.where}")
        return self.received[name]

    def _announce_retry(self) -> None:
        if self._patience.is_over:
            raise NoAnswer(f"no answer on {self.where}")
        self._announce(f"no valid answer to REQUEST_{self._wanted} on {self.where}: retrying")

    def _write(self, text: bytes) -> None:
        for port in list(self.ports):
            with self._losing(port):
                port.write(text)

    @contextmanager
    def _losing(self, port: GuestPort) -> Iterator[None]:
        """Drop a port that disappears while there are others; otherwise raise PortLost."""
        try:
            yield
        except PortLost:
            if self.ports == [port]:
                raise
            port.close()
            self.ports.remove(port)

    def _listen(self, attempt: int) -> bool:
        """Return False after a silence, or shortly after a response that noise has damaged."""
        self._damaged = False
        end_s = time.monotonic() + self._retry_s
        while self._wanted not in self.received and not self._damaged:
            left_s = self._patience.answer_left_s
            if not self._patience.is_over:  # then there is time for a retry
                left_s = min(left_s, end_s - time.monotonic())
            if left_s <= 0:
                return False
            arrived = [self._receive(port) for port in self._wait_for(self.ports, left_s)]
            if any(arrived):
                self._patience.progress()
                end_s = time.monotonic() + self._retry_s
        if self._damaged:
            self.wait(retry_delay_s(attempt, self._retry_s))
        return not self._damaged

    def _receive(self, port: GuestPort) -> bool:
        """Take in what has arrived; return whether it belongs to a response."""
        if port not in self.ports:  # another one has just answered
            return False
        data = b""
        with self._losing(port):
            data = port.read()
        responses = port.lines.receive(data)
        for response in responses:
            self._take(port, response)
        return bool(responses) or port.lines.in_response

    def _take(self, port: GuestPort, response: GuestResponse) -> None:
        if response.body is None:
            self._damaged = self._damaged or response.name == self._wanted
            return
        self._keep_only(port)
        if response.name == "ERROR":
            error = parse_error(response.body, self._wanted)
            if error:
                raise error
        elif response.name in KINDS:
            self.received[response.name] = response.body

    def _keep_only(self, port: GuestPort) -> None:
        for other in self.ports:
            if other is not port:
                other.close()
        self.ports[:] = [port]

    def drain(self) -> None:
        """Drop what was queued on the host, until the lines are quiet."""
        end_s = time.monotonic() + DRAIN_S
        while time.monotonic() < end_s and self._drop(QUIET_S):
            pass
        self._forget()

    def wait(self, pause_s: float) -> None:
        """Pause, and drop what arrives meanwhile."""
        end_s = time.monotonic() + min(pause_s, self._patience.left_s)
        while time.monotonic() < end_s:
            self._drop(end_s - time.monotonic())
        self._forget()

    def _drop(self, limit_s: float) -> bool:
        """Drop what arrives next; return False if nothing arrives in time."""
        arrived = self._wait_for(self.ports, limit_s)
        for port in arrived:
            with self._losing(port):
                port.read()
        return bool(arrived)

    def _forget(self) -> None:
        for port in self.ports:
            port.lines.forget()

"""VMs that boot while something happens to the server; a line that is lost is dialled again."""

from __future__ import annotations

import random
import socket
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress

from tests.load.vm import Instance, boot
from tests.process import LIMIT_S
from tests.vm import Closed

REDIAL_S = 0.2  # ESXi's own is not known
BOOT_S = 30.0  # as long a VM may take, with all its redials
_PAUSE_S = 0.01  # of a thread between two boots, so that the server has some of the machine


def free_port() -> int:
    """A port of loopback that nobody has, and that the system gives to no other program meanwhile:
    it is below those of `net.ipv4.ip_local_port_range`."""
    while True:
        port = random.randrange(15_000, 30_000)
        with suppress(OSError), socket.create_server(("127.0.0.1", port)):
            return port


class Storm:
    """`count` VMs at a time boot, one after the other, until `stop`."""

    def __init__(self, port: int, instances: Sequence[Instance], count: int = 10) -> None:
        self._port = port
        self._instances = instances
        self._is_over = threading.Event()
        self.boots = 0
        self.redials = 0
        self.failures: list[str] = []
        self._threads = [threading.Thread(target=self._run, daemon=True) for _ in range(count)]
        for thread in self._threads:
            thread.start()

    def _run(self) -> None:
        while not self._is_over.is_set():
            try:
                self._boot(random.choice(self._instances))
                self.boots += 1
            except Exception as error:
                self.failures.append(f"{type(error).__name__}: {error}")
            self._is_over.wait(_PAUSE_S)

    def _boot(self, instance: Instance) -> None:
        end_s = time.monotonic() + BOOT_S
        while True:
            try:
                return boot(self._port, instance)
            except (Closed, ConnectionError):
                if time.monotonic() > end_s:
                    raise
                self.redials += 1
                time.sleep(REDIAL_S)

    def wait_for_boots(self, count: int, limit_s: float = LIMIT_S) -> None:
        """Waits for so many more boots."""
        wanted = self.boots + count
        self.wait_until(lambda: self.boots >= wanted, limit_s)

    def wait_until(self, condition: Callable[[], bool], limit_s: float = LIMIT_S) -> None:
        end_s = time.monotonic() + limit_s
        while not condition():
            assert not self.failures, self.failures[:3]
            assert time.monotonic() < end_s, f"{self.boots} boots, {self.redials} redials"
            time.sleep(0.01)

    def stop(self) -> None:
        """All VMs that have begun must have what is theirs."""
        self._is_over.set()
        for thread in self._threads:
            thread.join(BOOT_S + 10)
        assert self.failures == []

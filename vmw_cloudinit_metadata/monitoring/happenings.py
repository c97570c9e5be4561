"""What happens to VMs and connections, reported once: to the log and to other listeners.

A happening costs each listener little, so one for each boot is cheap: it is formatted only when it
is read.
"""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable
from typing import NamedTuple

from vmw_cloudinit_metadata.monitoring.bounded import LONG_DIGEST, bounded
from vmw_cloudinit_metadata.monitoring.facts import KINDS, DocumentsServed, Fact
from vmw_cloudinit_metadata.monitoring.onceaminute import key_of
from vmw_cloudinit_metadata.protocol.printable import shortened
from vmw_cloudinit_metadata.protocol.vmware import Machine

log = logging.getLogger(__name__)

_MAX_TEXT = 1000  # characters


class Peer(NamedTuple):
    """The origin of a happening."""

    name: str  # `10.0.0.1:4567`
    host: str  # the address of the ESXi host
    connection: str = ""  # its id; "" for none

    def __str__(self) -> str:
        return self.name


class Happening(NamedTuple):
    """A fact with its time, peer and machine; `str` gives its line in the log."""

    fact: Fact
    level: int
    at_s: float  # since the epoch
    connection: str  # its id; "" for none
    peer: str  # `10.0.0.1:4567`
    host: str  # the address of the ESXi host
    machine: Machine | None  # None as long as nothing is known of it
    remark: str  # about the machine: "" or "older connection"

    def __str__(self) -> str:
        if self.machine is None:
            return f"{self.peer}: {self.fact.text}"
        remark = f", {self.remark}" if self.remark else ""
        return f"{self.peer}: {self.machine}{remark}: {self.fact.text}"

    @property
    def kind(self) -> str:
        return KINDS[type(self.fact)].name

    @property
    def text(self) -> str:
        return self.fact.text

    @property
    def key(self) -> str:
        """The identity of its machine; "" without one."""
        return key_of(self.machine) if self.machine else ""


Listener = Callable[[Happening], None]


def to_log(happening: Happening) -> None:
    """Log a happening; the first listener, which the command line program replaces by a faster
    one."""
    log.log(happening.level, "%s", happening)


class Happenings:
    """Reports to all `listeners` what happens in this process."""

    def __init__(self) -> None:
        self.listeners: list[Listener] = [to_log]  # the log's is the first
        self._process = os.getpid()
        self.next_connection = 1  # the number in the next id

    def connection_id(self) -> str:
        """Return an id that no other connection has, in this worker or another one."""
        number = self.next_connection
        self.next_connection = number + 1
        return f"{self._process}-{number}"

    def report(
        self,
        fact: Fact,
        peer: Peer,
        machine: Machine | None = None,
        remark: str = "",
        *,
        level: int | None = None,
    ) -> None:
        """Report `fact`, at the level of its kind unless another one is given."""
        if len(fact.text) > _MAX_TEXT:
            fact = fact._replace(text=shortened(fact.text, _MAX_TEXT))
        if type(fact) is DocumentsServed and len(fact.digest) > LONG_DIGEST:
            fact = bounded(fact)
        happening = Happening(
            fact,
            KINDS[type(fact)].level if level is None else level,
            time.time(),
            peer.connection,
            peer.name,
            peer.host,
            machine,
            remark,
        )
        for listener in self.listeners:
            listener(happening)

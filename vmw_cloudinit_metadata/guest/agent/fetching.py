"""One fetch: asking until there is usable data, or until patience is over."""

import time
from contextlib import suppress
from typing import Optional, Sequence, Tuple

from vmw_cloudinit_metadata.guest.agent.conf import Settings
from vmw_cloudinit_metadata.guest.agent.conversation import Conversation
from vmw_cloudinit_metadata.guest.agent.documentset import DocumentReader
from vmw_cloudinit_metadata.guest.agent.failures import (
    AgentError,
    ErrorAnswer,
    GaveUp,
    NoAnswer,
    NoPort,
    PortLost,
    PortMissing,
    Unusable,
)
from vmw_cloudinit_metadata.guest.agent.journal import Journal
from vmw_cloudinit_metadata.guest.agent.lateport import LatePort
from vmw_cloudinit_metadata.guest.agent.patience import Patience, retry_delay_s
from vmw_cloudinit_metadata.guest.agent.port import GuestPort, closing_ports
from vmw_cloudinit_metadata.guest.agent.responses import Documents
from vmw_cloudinit_metadata.guest.agent.serialport import find_ports, open_ports, wait_for
from vmw_cloudinit_metadata.guest.agent.starttime import extend_start
from vmw_cloudinit_metadata.guest.agent.system import System
from vmw_cloudinit_metadata.guest.agent.texts import instance_id_of


class Fetch:
    """Asks until there is data; `has_seed` says that the boot can continue with an old seed."""

    def __init__(
        self, system: System, settings: Settings, journal: Journal, has_seed: bool
    ) -> None:
        self._system = system
        self._device = settings["device"]
        self._retry_s: float = settings["retry"]
        self._not_found_s = 0.0 if has_seed else settings["not-found-timeout"]
        self._not_found_until_s: Optional[float] = None
        self._journal = journal
        self._asked: Sequence[str] = ()
        self._hold = not has_seed and settings["on-failure"] == "hold"
        self._reader = DocumentReader()
        self._unusable = 0
        wait_s = settings["timeout"]
        if wait_s is None:
            wait_s = settings["later-boot-timeout" if has_seed else "first-boot-timeout"]
        longest_s = settings["longest-wait"]
        if self._hold:
            wait_s = longest_s = float("inf")
        port_s = min(settings["port-timeout"], wait_s)
        self._late = LatePort(system, port_s, journal.announce)
        self._patience = Patience(wait_s, settings["silence-timeout"], longest_s)

    def run(self) -> Tuple[Documents, str]:
        """Return the documents and the port they came from; raise NoPort or GaveUp."""
        while True:
            try:
                with closing_ports(self._open()) as ports:
                    conversation = Conversation(
                        ports, wait_for, self._patience, self._retry_s, self._before_retry
                    )
                    conversation.drain()
                    return self._ask(conversation), ports[0].device
            except NoAnswer as silence:
                raise GaveUp(f"{silence}{self._about_consoles}") from None
            except PortLost as lost:
                self._consider(lost)
                time.sleep(min(self._retry_s, self._patience.left_s))

    @property
    def _about_consoles(self) -> str:
        """Name the ports of the console: the server may be behind one of them."""
        consoles = [tty for tty in self._system.serial_ports if tty in self._system.consoles]
        named = ", ".join(f"/dev/{tty} is the console" for tty in consoles)
        return f" ({named})" if named else ""

    def _open(self) -> Sequence[GuestPort]:
        """Open the ports, once there are any; raise NoPort, or PortLost if there were some."""
        while True:
            try:
                devices = find_ports(self._system, self._device)
                ports = open_ports(self._system, devices)
            except NoPort as failure:
                if self._asked and isinstance(failure, PortMissing):
                    raise PortLost(str(failure)) from None
                self._late.wait(failure)
            else:
                self._asked = devices
                return ports

    def _ask(self, conversation: Conversation) -> Documents:
        while True:
            try:
                documents = self._reader.read(conversation)
                instance_id_of(documents["METADATA"])
                return documents
            except (Unusable, ErrorAnswer) as caught:
                failure: AgentError = caught
            self._consider(failure)
            conversation.wait(self._pause_after(failure))
            if self._patience.is_over:
                raise GaveUp(str(failure))

    def _pause_after(self, failure: AgentError) -> float:
        if isinstance(failure, ErrorAnswer):
            return self._retry_s
        self._unusable += 1
        return retry_delay_s(self._unusable, self._retry_s)

    def _consider(self, failure: AgentError) -> None:
        """Announce the failure and a retry; raise GaveUp if there is none."""
        is_over = self._patience.is_over
        if isinstance(failure, ErrorAnswer):
            is_over |= failure.is_final and not self._hold
            is_over |= failure.error == "not-found" and self._not_found_is_over()
        if is_over:
            raise GaveUp(str(failure))
        self._announce(f"{failure}: retrying")

    def _announce(self, line: str) -> None:
        """Write a line before a retry, which may take time that systemd must grant."""
        extend_start()
        self._journal.announce(line)

    def _before_retry(self, line: str) -> None:
        """Announce a retry; raise PortLost if it would not go to all ports that there are."""
        self._announce(line)
        with suppress(NoPort):
            for device in find_ports(self._system, self._device):
                if device not in self._asked:
                    raise PortLost(f"{device} has appeared")

    def _not_found_is_over(self) -> bool:
        if self._not_found_until_s is None:
            self._not_found_until_s = time.monotonic() + self._not_found_s
        return not self._hold and time.monotonic() >= self._not_found_until_s

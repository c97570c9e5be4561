"""A question with an argument: asked three times, on the port that the server is behind."""

import time
from contextlib import suppress
from typing import Callable, NamedTuple

from vmw_cloudinit_metadata.guest.agent.conf import Settings, opens_gate
from vmw_cloudinit_metadata.guest.agent.conversation import DRAIN_S, Conversation
from vmw_cloudinit_metadata.guest.agent.failures import AgentError, ErrorAnswer, NoPort
from vmw_cloudinit_metadata.guest.agent.patience import Patience
from vmw_cloudinit_metadata.guest.agent.port import closing_ports
from vmw_cloudinit_metadata.guest.agent.serialport import find_ports, open_ports, wait_for
from vmw_cloudinit_metadata.guest.agent.system import System

TRIES = 3
LOGIN = (
    "{} has a login prompt, which would take the server's answer for a name: add a second serial "
    "port to the VM, or mask the getty"
)
FINAL = ("unknown-request", "invalid")  # errors that the same question gets again


class Question(NamedTuple):
    """`check` takes an answer, and raises Unusable if it is not the right one."""

    name: str
    argument: bytes
    check: Callable[[bytes], None]
    every_s: float  # between two tries


class Asking:
    """Asks a question; `log` is called with a line for people before each retry."""

    def __init__(
        self, system: System, settings: Settings, question: Question, log: Callable[[str], None]
    ) -> None:
        self._system = system
        self._settings = settings
        self._question = question
        self._log = log
        self._is_known = True  # to the server, on this line

    def run(self) -> bytes:
        """Return the answer; raise AgentError."""
        if not opens_gate(self._settings) and not self._system.is_vmware:
            raise NoPort("not a VMware machine: the agent asks only with gate = off")
        for _ in range(TRIES - 1):
            began_s = time.monotonic()
            try:
                return self._ask()
            except AgentError as failure:
                self._consider(failure)
            time.sleep(max(began_s + self._question.every_s - time.monotonic(), 0))
        return self._ask()

    def _consider(self, failure: AgentError) -> None:
        """Announce a retry; raise the failure if it would be of no use."""
        error = failure.error if isinstance(failure, ErrorAnswer) else ""
        if isinstance(failure, NoPort) or error in FINAL:
            raise failure
        self._is_known = not error
        self._log(f"{failure}: retrying")

    def _ask(self) -> bytes:
        """Ask once. Meta-data goes first where the server may not know the VM of this line."""
        every_s = self._question.every_s
        devices = find_ports(self._system, self._settings["device"])
        for device in devices:
            if self._system.has_login(self._system.tty(device)):
                raise NoPort(LOGIN.format(device))
        with closing_ports(open_ports(self._system, devices)) as held:
            longest_s = DRAIN_S + 2 * every_s
            patience = Patience(longest_s, self._settings["silence-timeout"], longest_s)
            conversation = Conversation(held, wait_for, patience, every_s, self._log)
            conversation.drain()
            if len(held) > 1:  # the argument is for the server alone
                conversation.ask_once("DIGEST")
            if not self._is_known:
                with suppress(ErrorAnswer):
                    conversation.ask_once("METADATA")
            answer = conversation.ask_once(self._question.name, self._question.argument)
        self._question.check(answer)
        return answer

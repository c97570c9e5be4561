"""What can go wrong while the agent asks; the text of each failure is one line for people."""


class AgentError(Exception):
    """Base class of all failures."""


class NoPort(AgentError):
    """There is no serial port to ask on, and waiting will not bring one."""


class PortMissing(NoPort):
    """The device of the port does not exist; it may still appear."""


class PortLost(AgentError):
    """The port disappeared, or another program uses it, or there is one more: open them again."""


class ErrorAnswer(AgentError):
    """The server sent RESPONSE_ERROR."""

    def __init__(self, error: str, message: str) -> None:
        super().__init__(f"the server answered {error}: {message}")
        self.error = error

    @property
    def is_final(self) -> bool:
        """Whether the server would say the same in a minute: the time for user-data is over."""
        return self.error == "closed"


class Unusable(AgentError):
    """The answers make no seed: they are inconsistent, or cloud-init could not read them."""


class GaveUp(AgentError):
    """The data did not arrive in time."""


class NoAnswer(GaveUp):
    """No port answered in time."""

"""SecretSource: what Vault needs of the place that secrets come from."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from math import inf

from vmw_cloudinit_metadata.drivers.drivererror import SecretUnavailableError

MAX_BYTES = 256 * 1024  # of a secret with all its keys
READ_S = 2.5  # for all secrets of a look-up, which has 3 s itself

# A text, or what a secret has by its keys; None in place of what is no text.
Content = str | Mapping[str, "str | None"]


class SecretSource(ABC):
    """All methods run in threads, and may block. Those that read raise SecretUnavailableError."""

    needs_key = True  # a reference without #KEY is a fault

    @abstractmethod
    def read(self, path: str, end_s: float) -> Content:
        """Return it until that time of time.monotonic()."""

    def value_in(self, content: Content, key: str) -> str:
        """Return the value that a key of a secret has, or the text itself without a key."""
        if isinstance(content, str):
            return content
        if key not in content:
            raise SecretUnavailableError("absent", "the secret has no such key: add it")
        value = content[key]
        if value is None:
            raise SecretUnavailableError(
                "unusable", "its value is no text: store it as a string, in quotes"
            )
        return value

    def tend(self) -> float:
        """Do what must be done from time to time; return within how many seconds again."""
        return inf

    def close(self) -> None:  # noqa: B027 - a directory needs nothing
        pass

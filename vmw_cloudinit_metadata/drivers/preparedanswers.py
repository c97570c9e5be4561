"""PreparedAnswers: what a driver offers the server, so that a VM's first boot needs no look-up."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable

from vmw_cloudinit_metadata.drivers.preparedrecords import PreparedRecord
from vmw_cloudinit_metadata.instance.model import InstanceData
from vmw_cloudinit_metadata.protocol.vmware import Machine


class PreparedAnswers(ABC):
    """In the server, all methods are called in the event loop, and must not block."""

    limit_bytes = 0

    @property
    @abstractmethod
    def kept_bytes(self) -> int: ...

    @abstractmethod
    def shed(self) -> bool:
        """Drop an answer; return False if there is none."""

    @property
    @abstractmethod
    def count(self) -> int:
        """The number of answers that are kept."""

    @abstractmethod
    def find(self, machine: Machine, time_s: float) -> InstanceData | None:
        """Return what `get_instance` would have returned at that time (time.monotonic()).

        None if that is not known without a look at the source.
        """

    @abstractmethod
    def forget(self) -> None:
        """Forget everything: another process prepares."""

    @abstractmethod
    def wake(self) -> None:
        """Have all changes until now counted soon, for `begin`."""

    @abstractmethod
    def begin(self) -> None:
        """Note the revision: the process reads its data only afterwards."""

    @abstractmethod
    def take(self, record: PreparedRecord) -> None:
        """Take what the process sends; raise InvalidRecord if it is too much."""

    @abstractmethod
    def prepare(self, tell: Callable[[bytes], None], limit_bytes: int) -> None:
        """In the process of the catalogue: let each survey tell what it prepares, as records."""

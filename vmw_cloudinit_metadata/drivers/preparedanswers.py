"""PreparedAnswers: what a driver offers the server, so that a VM's first boot needs no look-up."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from math import inf

from vmw_cloudinit_metadata.drivers.preparedrecords import PreparedRecord
from vmw_cloudinit_metadata.instance.model import InstanceData
from vmw_cloudinit_metadata.protocol.vmware import Machine


class PreparedKeeper(ABC):
    """Keeps what the process of the catalogue prepares, for this process or its workers.

    All methods are called in the event loop, and must not block.
    """

    limit_bytes = 0
    begins_after_s = 0.0  # from `begin` until the process may read its data

    @property
    def line_bytes(self) -> int:
        """The bytes of prepared data that there is room for."""
        return self.limit_bytes

    @property
    @abstractmethod
    def kept_bytes(self) -> int: ...

    @abstractmethod
    def shed(self) -> bool:
        """Drop an answer, or all; return False if there is none."""

    @property
    @abstractmethod
    def count(self) -> int:
        """The number of answers that are kept."""

    @abstractmethod
    def forget(self) -> None:
        """Forget everything: another process prepares."""

    @abstractmethod
    def wake(self) -> None:
        """Have all changes until now counted soon, for `begin`."""

    @abstractmethod
    def begin(self, until_s: float = inf) -> None:
        """Note the revision: the process reads its data only afterwards.

        It counts if it was noted before that time (time.monotonic()), else the one before.
        """

    @abstractmethod
    def take(self, record: PreparedRecord) -> None:
        """Take what the process sends; raise InvalidRecord if it is too much."""

    def wants_everything(self) -> bool:
        """Return whether the process shall send everything anew, once."""
        return False


class PreparedAnswers(PreparedKeeper):
    @abstractmethod
    def find(self, machine: Machine, time_s: float) -> InstanceData | None:
        """Return what `get_instance` would have returned at that time (time.monotonic()).

        None if that is not known without a look at the source.
        """

    @abstractmethod
    def prepare(self, tell: Callable[[bytes], None], limit_bytes: int) -> None:
        """In the process of the catalogue: let each survey tell what it prepares, as records."""

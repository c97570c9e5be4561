"""Source: what SourceDriver needs of the place that data comes from.

The files of a directory are one, and the records of a Store are another.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Hashable, Iterable, Iterator, Mapping, Sequence
from math import inf
from typing import Any, Generic, Protocol, Self, TypeVar

from vmw_cloudinit_metadata.drivers.content.layer import FileLayer
from vmw_cloudinit_metadata.drivers.content.owndata import OwnData
from vmw_cloudinit_metadata.drivers.layers.sharedlayer import LayerSet
from vmw_cloudinit_metadata.drivers.layers.stack import LayerStack
from vmw_cloudinit_metadata.drivers.observation import Census, Observation
from vmw_cloudinit_metadata.drivers.revisions import Revisions
from vmw_cloudinit_metadata.drivers.store import Key
from vmw_cloudinit_metadata.instance import fault
from vmw_cloudinit_metadata.instance.fault import Fault
from vmw_cloudinit_metadata.process.budget import Table
from vmw_cloudinit_metadata.protocol.vmware import Machine


class View(Protocol):
    """One reading of a source: what has been seen for one answer, and since when."""

    def __enter__(self) -> Self: ...

    def __exit__(self, *_error: object) -> None: ...

    def confirm(self) -> None:
        """Raise ChangedMeanwhile if the place of the data was replaced since the view was made."""

    def apart(self) -> Self:
        """Return a view of the same time that has seen nothing yet."""

    def include(self, other: Self) -> None:
        """Add everything that `other` has seen."""

    def agrees_with(self, other: Self) -> bool:
        """Return whether all that `other` has seen is the same; raise DriverError."""

    def closed(self) -> Self:
        """Return a copy to be kept."""

    def is_settled(self) -> bool:
        """Return whether what was seen may be kept."""

    @property
    def bytes_seen(self) -> int: ...

    @property
    def kept_bytes(self) -> int:
        """Of data that the view itself keeps."""

    def token(self, until_s: float = inf) -> Any:
        """Return the token of an answer; None if it must not be cached."""


V = TypeVar("V", bound=View)


class Notified(ABC, Generic[V]):
    """Which changes a source tells of, by their keys: for answers that are prepared.

    All but `seen` and `signs` is called in the server's event loop.
    """

    changes: Revisions
    shared: Sequence[Hashable]  # the keys of what every answer depends on

    @abstractmethod
    def under(self, stem: str) -> Sequence[Hashable]:
        """Return the keys whose change may add, change or remove data under a stem."""

    @abstractmethod
    def seen(self, view: V) -> Collection[Hashable] | None:
        """Return the keys of all that a view has seen; None if some changes are not told."""

    # What is prepared may be older than what look-ups have seen, or this process has. Then it has
    # signs, and is given only if what was last given, or is there now, has the same ones.

    tells_versions = False  # whether `present_version` says what is there now

    def signs(self, own: OwnData, view: V) -> Sequence[str]:  # noqa: ARG002
        """Return the signs of a VM's own data and of all layers: others after a change."""
        return ()

    def agree(self, key: Key, signs: Sequence[str]) -> bool:  # noqa: ARG002
        """Return whether data under this key may be given, and note that it is."""
        return True

    def present_version(self, key: Key) -> str | None:  # noqa: ARG002
        """Return the version of the data under a key, "" without any; None if it is not known."""
        return None


class Source(ABC, Generic[V]):
    """Methods with a view raise DriverError if the source is out of reach, and UnderWay."""

    noun: str  # for what has a VM's data: "file"
    place: str  # for what has these: "directory"
    can_list = True  # all data
    hints: Hints[V]
    prefix = ""  # of labels, which `show --explain` leaves out
    notified: Notified[V] | None = None  # None: no answers are prepared

    @abstractmethod
    def view(self) -> V: ...

    # Answers

    @abstractmethod
    def layers(self, view: V) -> LayerSet: ...

    def lowest(self, view: V) -> Sequence[FileLayer]:  # noqa: ARG002
        """Return what lies below all layers."""
        return ()

    @abstractmethod
    def places(self, keys: Sequence[Key], view: V) -> Iterable[Sequence[OwnData]]:
        """Yield for each key all data under it."""

    def unread(self, view: V) -> Sequence[Fault]:  # noqa: ARG002
        """Return the faults because of which data of any VM could be missing."""
        return ()

    @abstractmethod
    def own(self, own: OwnData, view: V) -> FileLayer:
        """Return what a VM's own data says."""

    def vm_name(self, own: OwnData, view: V) -> str:  # noqa: ARG002
        """Return the name that the VM of some data probably has; "" if that is not known."""
        return ""

    @abstractmethod
    def size_of(self, own: OwnData, view: V) -> int:
        """Return the bytes of data to be parsed for one VM alone."""

    @abstractmethod
    def document(self, key: fault.Key, name: Any, view: V) -> tuple[str, bytes] | Fault:
        """Return label and content of what `userdata-file` names."""

    def is_no_vm(self, own: OwnData) -> bool:  # noqa: ARG002
        """Return whether data that begins like user-data is another VM's user-data."""
        return False

    @abstractmethod
    def exists(self, own: OwnData, view: V) -> bool: ...

    def short(self, label: str) -> str:
        """Return a label as it is written beside others."""
        return label

    @abstractmethod
    def looks(self, layers: LayerSet, view: V) -> Callable[[OwnData], int]:
        """Return a function that returns for a VM's data a number; another one after a change."""

    # Freshness

    @abstractmethod
    def which_hold(self, tokens: Iterable[Any]) -> Iterator[bool]: ...

    @abstractmethod
    def watch(self, report: Callable[[str], None]) -> None: ...

    @abstractmethod
    def held_at(self, token: Any, time_s: float) -> bool: ...

    @abstractmethod
    def revision(self) -> int | None:
        """Return a number that is another one after each change; None if changes are not told."""

    # Operators

    @abstractmethod
    def document_names(self) -> Collection[str]: ...

    @abstractmethod
    def checks(self) -> SourceChecks[V]:
        """Return what `validate` needs; raise DriverError if it cannot be had."""

    @abstractmethod
    def check(self) -> None: ...

    def tables(self) -> Mapping[str, Table]:
        return {}

    def close(self) -> None:
        pass


class Hints(ABC, Generic[V]):
    """Why a VM has no data, in the words of the source."""

    @abstractmethod
    def absence(self, keys: Sequence[Key], view: V) -> str:
        """Return that there is no data under these keys."""

    @abstractmethod
    def called(self, value: str) -> str:
        """Return the name that data has which is found by this value: `web1.yaml`."""

    @abstractmethod
    def named(self, key: Key, view: V) -> str | None:
        """Return the label of any data under a key, in any spelling of that."""

    def nearly(self, keys: Sequence[Key]) -> str:  # noqa: ARG002
        """Return which data was probably meant for one of the keys, and what to do; or ""."""
        return ""

    def unseen(self, machine: Machine) -> str:  # noqa: ARG002
        """Return why data might not be seen at all; or ""."""
        return ""


class SourceChecks(ABC, Generic[V]):
    """What `validate` asks of a source; made for one run. Labels are those of layers and data."""

    @abstractmethod
    def view(self) -> V: ...

    @abstractmethod
    def every(self) -> Sequence[OwnData]:
        """Return the own data of all VMs; raise DriverError."""

    def compared(self) -> Sequence[OwnData]:
        """Return the own data of all VMs that a few are compared with; raise DriverError."""
        return self.every()

    def also(self) -> Collection[str]:
        """Return further stems under which data is found that `every` has under one."""
        return ()

    @abstractmethod
    def chosen(self, name: str) -> Sequence[OwnData] | None:
        """Return what an operator names besides VMs, [] if that is checked anyway, or None."""

    @abstractmethod
    def unknown(self, name: str) -> str:
        """Return why a name is none that `chosen` knows; "" if it is one of a VM."""

    def of_lowest(self, view: V) -> Iterator[Fault]:  # noqa: ARG002
        """Yield the faults of what lies below all layers."""
        yield from ()

    def of_shared(self, view: V) -> Iterator[Observation]:  # noqa: ARG002
        """Yield the faults of what has the data of several VMs, but for layers."""
        yield from ()

    def of_label(self, label: str, view: V) -> Iterator[Fault]:  # noqa: ARG002
        """Yield what is wrong with the file of that name, whatever it says."""
        yield from ()

    def of_own(self, own: OwnData, view: V) -> Iterator[Fault]:  # noqa: ARG002
        """Yield what is wrong with where a VM's own data stands, as other data may make it."""
        yield from ()

    def is_no_vm(self, own: OwnData, stack: LayerStack) -> bool:  # noqa: ARG002
        """Return whether the data is no VM's: another one names it as its user-data."""
        return False

    def named_files(self) -> Collection[str]:
        """Return the real paths of the files that data names; raise DriverError."""
        return ()

    def kept_until(self, own: OwnData) -> float:  # noqa: ARG002
        """Return until when an answer with a VM's own data may be kept: of time.monotonic()."""
        return inf

    def holds(self, token: Any) -> bool:  # noqa: ARG002
        """Return whether all is the same that a view of an earlier run had seen at this token."""
        return False

    @abstractmethod
    def census(self, vms: int) -> Census:
        """Return how much there is, of which `vms` were checked; raise DriverError."""

    def others(self) -> Iterator[Fault]:
        """Yield faults of what is not read."""
        yield from ()

    def notes(self, *, is_match_given: bool) -> Iterator[str]:  # noqa: ARG002
        yield from ()

"""Driver: the interface between the server and where instance data comes from."""

from __future__ import annotations

import importlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from importlib.metadata import EntryPoint, entry_points
from typing import Any

from vmw_cloudinit_metadata.instance.fault import Fault
from vmw_cloudinit_metadata.instance.model import InstanceData
from vmw_cloudinit_metadata.process.budget import Table
from vmw_cloudinit_metadata.protocol.vmware import Machine
from vmw_cloudinit_metadata.settings.errors import ConfigError

ENTRY_POINTS = "vmw_cloudinit_metadata.drivers"


class DriverError(Exception):
    """The driver cannot use its options, or cannot answer now; the text is for the operator."""


class Work:
    """What one thread of a driver does, and others need."""

    __slots__ = ("is_awaited", "is_kept", "is_over")

    def __init__(self) -> None:
        self.is_awaited = False
        self.is_over = False
        self.is_kept = False  # once it is over, all get what came of it


class UnderWay(Exception):  # noqa: N818 - it is no error
    """The driver is at it already, in another thread: it is to be asked again when `work` is over.

    So those who need the same take no place in the pool while they wait for it.
    """

    def __init__(self, work: Work) -> None:
        self.work = work
        super().__init__("under way already")


class Driver(ABC):
    """Finds the instance data of machines. One object serves all machines of one server, from
    several threads at once.

    All methods run in threads and may block.
    """

    # While `still_holds` does not answer: for how long since it last said yes a VM goes on getting
    # that answer, in seconds.
    stale_if_error_s: float = 0.0

    # More warnings of what is served, which `validate` asks for: cloud-init's schemas.
    judge: Callable[[InstanceData], Iterable[Fault]] | None = None

    # How many files, or whatever else holds the data of one VM, were checked by the last `validate`
    # or `validate_named`, if the driver tells.
    files_checked: int | None = None

    def __init__(self, options: Mapping[str, Any]) -> None:
        """Keeps --driver-opts as `self.options`; raises DriverError for what it cannot use."""
        self.options = options

    @abstractmethod
    def get_instance(self, machine: Machine) -> InstanceData | None:
        """Returns what the machine is told, or None if there is no such machine.

        Raises DriverError if that cannot be told now, InvalidInstanceData (as
        `InstanceData.from_mapping` does) if the machine has data that cannot be served, and
        UnderWay if another thread is about to know.
        """

    def still_holds(self, token: Any) -> bool:  # noqa: ARG002
        """Whether the answer with this `InstanceData.token` would be given again.

        Asked before an answer is given that was not asked for within the last 0.15 s. VMs wait for
        it: it should be quick, and may block.
        """
        return False

    def which_hold(self, tokens: Iterable[Any]) -> Iterator[bool]:
        """The same of several, one after the other: what they share need be looked at only once."""
        return map(self.still_holds, tokens)

    def document_names(self) -> Collection[str]:
        """The documents beyond the standard ones that any machine has: {"SECURITYDATA"}."""
        return ()

    def explain(self, machine: Machine) -> str:  # noqa: ARG002
        """Why `get_instance` returned None, for the operator's log."""
        return "the driver knows no such VM"

    def check(self) -> None:  # noqa: B027 - not every driver has something to check
        """Raises DriverError if no VM could be told anything now; asked every second."""

    def validate(self) -> Iterable[Fault]:
        """Checks all that the driver could serve; yields every fault and warning."""
        raise DriverError(f"{type(self).__name__} cannot check its data beforehand")

    def validate_named(self, names: Collection[str]) -> Iterable[Fault]:  # noqa: ARG002
        """The same of files or VMs alone, as the operator names them."""
        raise DriverError(f"{type(self).__name__} cannot check single files or VMs")

    def tables(self) -> Mapping[str, Table]:
        """What the driver keeps, by name, and drops if the server's memory budget is exceeded."""
        return {}

    def notes(self) -> Iterable[str]:
        """What the operator should know of all that could be served; told behind the faults."""
        return ()

    def close(self) -> None:  # noqa: B027 - not every driver holds something
        """The server has stopped: lets go of what the driver holds."""


def load(spec: str, options: Mapping[str, Any]) -> Driver:
    """Makes the driver that `spec` names: `module:Class`, or an entry point's name.

    Raises ConfigError if it cannot be imported, is no Driver, or refuses its options.
    """
    driver_class = _import(spec)
    if not (isinstance(driver_class, type) and issubclass(driver_class, Driver)):
        raise ConfigError(f"--driver {spec}: this is no subclass of {Driver.__module__}:Driver")
    try:
        return driver_class(options)
    except DriverError as error:
        raise ConfigError(f"--driver-opts: {error}") from error
    except Exception as error:
        raise ConfigError(f"--driver {spec}: {type(error).__name__}: {error}") from error


def _import(spec: str) -> Any:
    module, _, name = (spec if ":" in spec else _installed(spec).value).partition(":")
    try:
        found = importlib.import_module(module)
    except Exception as error:
        reason = f"{type(error).__name__}: {error}"
        raise ConfigError(f"--driver {spec}: cannot import {module!r}: {reason}") from error
    try:
        return getattr(found, name)
    except AttributeError:
        raise ConfigError(f"--driver {spec}: the module {module} has no {name!r}") from None


def _installed(name: str) -> EntryPoint:
    known = {entry.name: entry for entry in entry_points(group=ENTRY_POINTS)}
    if name not in known:
        expected = f"module:Class, or one of: {', '.join(sorted(known))}"
        raise ConfigError(f"--driver {name}: found no such driver, expected {expected}")
    return known[name]

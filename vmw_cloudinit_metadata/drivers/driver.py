"""Driver: the interface between the server and a source of instance data."""

from __future__ import annotations

import importlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from importlib.metadata import EntryPoint, entry_points
from typing import Any

from vmw_cloudinit_metadata.drivers.observation import Census, Observation
from vmw_cloudinit_metadata.instance.fault import Fault
from vmw_cloudinit_metadata.instance.model import InstanceData
from vmw_cloudinit_metadata.process.budget import Table
from vmw_cloudinit_metadata.protocol.vmware import Machine
from vmw_cloudinit_metadata.settings.errors import ConfigError

ENTRY_POINTS = "vmw_cloudinit_metadata.drivers"


class DriverError(Exception):
    """The driver cannot use its options, or cannot answer now; the text is for the operator."""


class Work:
    """The work of one thread of a driver, which others wait for."""

    __slots__ = ("is_awaited", "is_kept", "is_over")

    def __init__(self) -> None:
        self.is_awaited = False
        self.is_over = False
        self.is_kept = False  # once it is over, everybody gets its result without work


class UnderWay(Exception):  # noqa: N818 - not an error
    """Another thread of the driver does the same: call again when `work` is done.

    Callers that wait take no place in the pool meanwhile.
    """

    def __init__(self, work: Work) -> None:
        self.work = work
        super().__init__("under way already")


class Driver(ABC):
    """Finds the instance data of machines.

    One object serves all machines of a server. All methods but `held_at` run in threads, several at
    once, and may block.
    """

    # While `still_holds` does not answer, a VM gets its cached answer for this many seconds after
    # the last yes.
    stale_if_error_s: float = 0.0

    # Set by the command `validate`: returns further warnings, those of cloud-init's schemas.
    judge: Callable[[InstanceData], Iterable[Fault]] | None = None

    # How many files, or VMs, the last `validate` or `validate_named` has checked, if known.
    files_checked: int | None = None

    def __init__(self, options: Mapping[str, Any]) -> None:
        """Keep --driver-opts as `self.options`; raise DriverError if they are wrong."""
        self.options = options

    @abstractmethod
    def get_instance(self, machine: Machine) -> InstanceData | None:
        """Return the machine's data, or None if there is no such machine.

        Raise DriverError if the source is out of reach, InvalidInstanceData (as
        `InstanceData.from_mapping` does) if the data is invalid, and UnderWay if another thread is
        looking it up already.
        """

    def still_holds(self, token: Any) -> bool:  # noqa: ARG002
        """Return whether `get_instance` would return the answer with this token again.

        `token` is its `InstanceData.token`. Called before a cached answer is given, at most every
        0.15 s. VMs wait for it.
        """
        return False

    def which_hold(self, tokens: Iterable[Any]) -> Iterator[bool]:
        """Yield `still_holds` of each token; override it to look only once at what they share."""
        return map(self.still_holds, tokens)

    def watch(self, report: Callable[[str], None]) -> None:  # noqa: B027 - optional
        """Start listening for notifications of changes, if the source can send them.

        Called once, when the server starts. `report` takes sentences for the log, in any thread.
        """

    def held_at(self, token: Any, time_s: float) -> bool:  # noqa: ARG002
        """Return whether notifications say that `still_holds` was true at that time.

        `time_s` is of time.monotonic(). Unlike all other methods this one is called in the server's
        event loop: it must not block. If it returns False, `still_holds` is asked.
        """
        return False

    def document_names(self) -> Collection[str]:
        """Return the documents beyond the standard ones of any machine, such as SECURITYDATA."""
        return ()

    def explain(self, machine: Machine) -> str:  # noqa: ARG002
        """Return why `get_instance` returned None, for the operator's log."""
        return "the driver knows no such VM"

    def trace(self, machine: Machine) -> Iterable[str]:  # noqa: ARG002
        """A line for each value of a machine's data, which says where that stands: for `show`."""
        raise DriverError(f"{type(self).__name__} cannot explain where values come from")

    def check(self) -> None:  # noqa: B027 - not every driver has something to check
        """Raise DriverError if no VM could be served now; called every second."""

    def validate(self) -> Iterable[Fault]:
        """Check all data; yield every fault and warning."""
        raise DriverError(f"{type(self).__name__} cannot validate its data")

    def validate_named(self, names: Collection[str]) -> Iterable[Fault]:  # noqa: ARG002
        """Check only these files or VMs; raise DriverError for an unknown one."""
        raise DriverError(f"{type(self).__name__} cannot validate single files or VMs")

    @property
    def can_validate(self) -> bool:
        return type(self).validate is not Driver.validate

    def survey(self) -> Iterable[Observation | None]:
        """Do what `validate` does, and say which VMs each fault affects.

        It may yield None, to show that the work goes on, and an equal fault several times. A second
        call should read only what has changed. The server calls it in a process of its own.
        """
        return map(Observation, self.validate())

    def census(self) -> Census:
        """Return how much the last `survey` has read."""
        return Census(self.files_checked)

    def revision(self) -> int | None:
        """Return a number that is another one after each change; None if `watch` has not been
        called, or the source does not notify."""
        return None

    def tables(self) -> Mapping[str, Table]:
        """Return the driver's caches by name; they count against the server's memory budget."""
        return {}

    def notes(self) -> Iterable[str]:
        """Return further sentences for the operator, which `validate` prints after the faults."""
        return ()

    def close(self) -> None:  # noqa: B027 - not every driver holds something
        """Free resources; called once, after the server has stopped."""


def load(spec: str, options: Mapping[str, Any]) -> Driver:
    """Return the driver named by `spec`: `module:Class`, or the name of an entry point.

    Raise ConfigError if it cannot be imported, is not a Driver, or refuses its options.
    """
    driver_class = _import(spec)
    if not (isinstance(driver_class, type) and issubclass(driver_class, Driver)):
        raise ConfigError(f"--driver {spec}: not a subclass of {Driver.__module__}:Driver")
    try:
        return driver_class(options)
    except DriverError as error:
        raise ConfigError(f"--driver-opts: {error}") from error
    except Exception as error:  # a driver is foreign code
        raise ConfigError(f"--driver {spec}: {type(error).__name__}: {error}") from error


def _import(spec: str) -> Any:
    module, _, name = (spec if ":" in spec else _installed(spec).value).partition(":")
    try:
        found = importlib.import_module(module)
    except Exception as error:  # importing runs foreign code
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
        raise ConfigError(f"--driver {name}: no such driver, expected {expected}")
    return known[name]

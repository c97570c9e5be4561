"""Driver: the interface between the server and where instance data comes from."""

from __future__ import annotations

import importlib
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Iterable, Mapping
from importlib.metadata import EntryPoint, entry_points
from typing import Any

from vmw_cloudinit_metadata.budget import Table
from vmw_cloudinit_metadata.errors import ConfigError, DriverError
from vmw_cloudinit_metadata.instance.fault import Fault
from vmw_cloudinit_metadata.instance.model import InstanceData
from vmw_cloudinit_metadata.protocol.vmware import Machine

ENTRY_POINTS = "vmw_cloudinit_metadata.drivers"


class Driver(ABC):
    """Finds the instance data of machines. One object serves all machines of one server, from
    several threads at once.

    All methods but `still_holds` run in threads of the look-up pool and may block.
    """

    # The same throughout one turn of the server's loop, which sets it: what `still_holds` has seen
    # in a turn, it need not look at again.
    moment: Callable[[], object] = time.monotonic

    def __init__(self, options: Mapping[str, Any]) -> None:
        """Keeps --driver-opts as `self.options`; raises DriverError for what it cannot use."""
        self.options = options

    @abstractmethod
    def get_instance(self, machine: Machine) -> InstanceData | None:
        """Returns what the machine is told, or None if there is no such machine.

        Raises DriverError if that cannot be told now, and InvalidInstanceData (as
        `InstanceData.from_mapping` does) if the machine has data that cannot be served.
        """

    def still_holds(self, token: Any) -> bool:  # noqa: ARG002
        """Whether the answer with this `InstanceData.token` would be given again.

        Runs in the server's loop, before every answer: it must be quick and not block.
        """
        return False

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

    def tables(self) -> Mapping[str, Table]:
        """What the driver keeps, by name, and drops if the server's memory budget is exceeded."""
        return {}

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

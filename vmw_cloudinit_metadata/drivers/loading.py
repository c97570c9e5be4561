"""The driver that an operator names: a Driver, or a Store, which StoreDriver makes one."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from vmw_cloudinit_metadata.drivers.driver import Driver, DriverError, found
from vmw_cloudinit_metadata.drivers.store import Store
from vmw_cloudinit_metadata.drivers.storedriver import StoreDriver
from vmw_cloudinit_metadata.settings.errors import ConfigError


def load(spec: str, options: Mapping[str, Any]) -> Driver:
    """Return the driver named by `spec`: `module:Class`, or the name of an entry point.

    Raise ConfigError if it cannot be imported, is no Driver or Store, or refuses its options.
    """
    named = found(spec)
    if not (isinstance(named, type) and issubclass(named, Driver | Store)):
        raise ConfigError(f"--driver {spec}: not a subclass of {Driver.__module__}:Driver")
    try:
        return StoreDriver.of(named, options) if issubclass(named, Store) else named(options)
    except DriverError as error:
        raise ConfigError(f"--driver-opts: {error}") from error
    except Exception as error:  # a driver is foreign code
        raise ConfigError(f"--driver {spec}: {type(error).__name__}: {error}") from error

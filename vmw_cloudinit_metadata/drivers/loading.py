"""Drivers by name: `module:Class`, or the name of an entry point. Runs foreign code."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from contextlib import suppress
from importlib.metadata import EntryPoint, entry_points
from typing import Any

from vmw_cloudinit_metadata.drivers import contract, driveroptions, optionvalues
from vmw_cloudinit_metadata.drivers.driver import Driver
from vmw_cloudinit_metadata.drivers.drivererror import DriverError
from vmw_cloudinit_metadata.drivers.driveroptions import TIMES, DriverOptions, field_of
from vmw_cloudinit_metadata.drivers.foreignerrors import text_of
from vmw_cloudinit_metadata.drivers.optionsecrets import secrets_in
from vmw_cloudinit_metadata.drivers.store import Store
from vmw_cloudinit_metadata.drivers.storedriver import StoreDriver
from vmw_cloudinit_metadata.drivers.storeoptions import StoreOptions
from vmw_cloudinit_metadata.settings.errors import ConfigError
from vmw_cloudinit_metadata.settings.knownsecrets import KnownSecrets

ENTRY_POINTS = "vmw_cloudinit_metadata.drivers"

_EXPECTED = "vmw_cloudinit_metadata.Driver or vmw_cloudinit_metadata.Store"


def load(spec: str, options: Mapping[str, Any], *, may_be_absent: bool = False) -> Driver:
    """Return the driver named by `spec`: `module:Class`, or the name of an entry point.

    Take `${NAME}` in the options from the environment. Raise ConfigError if the class cannot be
    imported, is not a Driver or Store, or refuses its options.

    With `may_be_absent`, a driver that has an option of this name starts without its source.
    """
    driver_class = driver_class_of(spec)
    values = optionvalues.resolved(options)
    if may_be_absent and "may_be_absent" in getattr(driver_class.Options, "model_fields", ()):
        values = {"may_be_absent": True, **values}
    try:
        driver = driver_of(driver_class, values)
    except DriverError as error:
        text = _secrets_of(driver_class, values).hide(str(error))
        raise ConfigError(f"--driver-opts: {text}") from error
    except Exception as error:  # a driver is foreign code
        text = _secrets_of(driver_class, values).hide(text_of(error))
        raise ConfigError(f"--driver {spec}: {text}") from error
    if not hasattr(driver, "options"):
        name = f"{driver_class.__name__}.__init__"
        raise ConfigError(f"--driver {spec}: {name} must call super().__init__(options)")
    return driver


def _secrets_of(driver_class: type[Driver | Store], options: Mapping[str, Any]) -> KnownSecrets:
    """Return the secrets of options with which no driver could be made."""
    taken = (*TIMES, *(StoreOptions.model_fields if issubclass(driver_class, Store) else ()))
    own = {name: value for name, value in options.items() if field_of(name) not in taken}
    checked = None
    with suppress(DriverError):  # it may be the error itself
        checked = driveroptions.checked(driver_class.Options, own)  # files with secrets are read
    return KnownSecrets(secrets_in([options, checked]))


def driver_of(driver_class: type[Driver | Store], options: Mapping[str, Any]) -> Driver:
    """Return a driver made of the class, which may be a store's; raise what the class raises."""
    if issubclass(driver_class, Store):
        return StoreDriver.of(driver_class, options)
    return driver_class(options)


def driver_class_of(spec: str) -> type[Driver | Store]:
    """Return the class named by `spec`; raise ConfigError if the server cannot use it."""
    driver_class = _import(spec)
    if not (isinstance(driver_class, type) and issubclass(driver_class, Driver | Store)):
        raise ConfigError(f"--driver {spec}: not a subclass of {_EXPECTED}")
    if fault := class_fault(driver_class):
        raise ConfigError(f"--driver {spec}: {fault}")
    return driver_class


def class_fault(driver_class: type[Driver | Store]) -> str:
    """Return why the server cannot use a class, or ""."""
    return contract.method_fault(driver_class) or _options_fault(driver_class)


def installed() -> list[EntryPoint]:
    """Return the entry points of all installed drivers, by name."""
    return sorted(entry_points(group=ENTRY_POINTS), key=lambda entry: (entry.name, entry.value))


def _options_fault(driver_class: type[Driver | Store]) -> str:
    """Return why the options that a class declares cannot be used, or ""."""
    name, model = driver_class.__name__, driver_class.Options
    if model is None:
        return ""
    if not (isinstance(model, type) and issubclass(model, DriverOptions)):
        return f"{name}.Options must be a subclass of vmw_cloudinit_metadata.DriverOptions"
    if model.model_config.get("extra") != "forbid":
        return f"{name}.Options accepts unknown options: remove `extra` from its model_config"
    if taken := [time for time in TIMES if time in model.model_fields]:
        return f"{name}.Options has {taken[0]}: make it an attribute of {name}"
    if issubclass(driver_class, Store):
        taken = [option for option in StoreOptions.model_fields if option in model.model_fields]
        if taken:
            return f"{name}.Options has {taken[0]}, which each store has: remove it"
    return ""


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
    entries = installed()
    found = [entry for entry in entries if entry.name == name]
    if not found:
        known = sorted({entry.name for entry in entries})
        expected = f"module:Class, or one of: {', '.join(known)}"
        raise ConfigError(f"--driver {name}: no such driver, expected {expected}")
    if len({entry.value for entry in found}) > 1:
        classes = ", ".join(entry.value for entry in found)
        raise ConfigError(f"--driver {name}: several drivers have this name: use one of {classes}")
    return found[0]

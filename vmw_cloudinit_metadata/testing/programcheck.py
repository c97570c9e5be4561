"""ProgramCheck: what a driver does to the program around it: options, threads, connections."""

from __future__ import annotations

import gc
import socket
import threading
import time
import types
from collections import deque
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from vmw_cloudinit_metadata.drivers import contract
from vmw_cloudinit_metadata.drivers.driver import Driver
from vmw_cloudinit_metadata.drivers.drivererror import DriverError
from vmw_cloudinit_metadata.drivers.loading import driver_of
from vmw_cloudinit_metadata.drivers.store import Store
from vmw_cloudinit_metadata.instance.secrecy import is_secret_name
from vmw_cloudinit_metadata.testing.driverfaults import (
    CALL_S,
    THREAD_NAME,
    DriverFaults,
    Late,
    described,
    in_thread,
)

CLOSE_S = 2.0
_VALIDATE_S = 60.0

_REPLACED_BY_PATCHES: Mapping[str, tuple[object, str]] = {
    "time.sleep": (time, "sleep"),
    "socket.socket": (socket, "socket"),
    "threading.Thread": (threading, "Thread"),
    "threading.Lock": (threading, "Lock"),
}


class ProgramCheck:
    """Checks a class of drivers or stores; adds to `findings`."""

    def __init__(
        self, findings: DriverFaults, driver_class: type[Driver | Store], options: Mapping[str, Any]
    ) -> None:
        self._findings = findings
        self._class = driver_class
        self._options = options
        self._originals = {name: getattr(*place) for name, place in _REPLACED_BY_PATCHES.items()}
        self._threads: set[threading.Thread] = set()

    def started(self) -> Driver | None:
        """Return a driver, checked as far as it can be before a look-up; None if there is none."""
        self._check_options()
        self._threads, sockets = set(threading.enumerate()), _sockets()
        driver = self._make(self._options)
        if driver is not None:
            self._check_start(sockets)
            self._check_secrets(driver)
            self._check_described(driver)
        return driver

    def close(self, driver: Driver) -> None:
        self._check_close(driver)
        self._check_patches()

    def _make(self, options: Mapping[str, Any]) -> Driver | None:
        try:
            driver = in_thread(lambda: driver_of(self._class, dict(options)), CALL_S)
        except Late:
            self._findings.add("__init__", f"did not return within {CALL_S:g} s")
        except DriverError as error:
            self._findings.add("__init__", f"refuses the options of this test: {error}")
        except Exception as error:  # a driver is foreign code
            self._findings.add(
                "__init__", f"raises {described(error)}: raise DriverError for wrong options"
            )
        else:
            if hasattr(driver, "options"):
                return driver  # type: ignore[no-any-return]
            self._findings.add("__init__", "must call super().__init__(options)")
        return None

    # Options

    def _check_options(self) -> None:
        for name in self._options:
            rest = {key: value for key, value in self._options.items() if key != name}
            self._check_refusal(rest, f"without the option {name!r}")
            odd = {**self._options, name: [{"unexpected": None}]}
            self._check_refusal(odd, f"if the option {name!r} is a list of mappings")
        if self._class.Options is not None:
            more = {**self._options, "no_such_option": 1}
            self._check_refusal(more, "with an unknown option", must_refuse=True)

    def _check_refusal(
        self, options: Mapping[str, Any], when: str, *, must_refuse: bool = False
    ) -> None:
        try:
            driver = in_thread(lambda: driver_of(self._class, dict(options)), CALL_S)
        except DriverError as error:
            self._check_quotes("__init__", str(error), f"{when} raises a DriverError that quotes")
        except Late:
            self._findings.add("__init__", f"{when} did not return within {CALL_S:g} s")
        except Exception as error:  # a driver is foreign code
            self._findings.add("__init__", f"{when} raises {described(error)}: raise DriverError")
        else:
            if must_refuse:
                self._findings.add(
                    "__init__", f"{when} raises nothing: call super().__init__(options)"
                )
            self._findings.call("close", driver.close, CLOSE_S)

    def _check_secrets(self, driver: Driver) -> None:
        for what in ("options", "driver itself"):
            shown = repr(driver.options if what == "options" else driver)
            self._check_quotes("__repr__", shown, f"of the {what} shows")

    def _check_quotes(self, method: str, text: str, what: str) -> None:
        for name, value in self._options.items():
            if is_secret_name(name) and isinstance(value, str) and value and value in text:
                self._findings.add(method, f"{what} the value of {name!r}, a secret")

    # Start and end

    def _check_start(self, sockets: frozenset[str]) -> None:
        if [thread for thread in _begun(self._threads) if not thread.name.startswith(THREAD_NAME)]:
            self._findings.add(
                "__init__",
                "starts a thread, which ends in a program that forks: start it in `watch`, or with "
                "the first look-up",
            )
        gc.collect()  # connections that were closed by being forgotten
        if _sockets() - sockets:
            self._findings.add(
                "__init__",
                "opens a connection, which all processes share in a program that forks: connect "
                "with the first look-up",
            )

    def _check_close(self, driver: Driver) -> None:
        self._findings.call("close", lambda: contract.run(driver, "close"), CLOSE_S)
        end_s = time.monotonic() + CLOSE_S
        while (left := self._holding()) and time.monotonic() < end_s:
            time.sleep(0.01)
        if left:
            self._findings.add("close", "leaves a thread that keeps the program running: end it")

    def _holding(self) -> list[threading.Thread]:
        return [thread for thread in _begun(self._threads) if not thread.daemon]

    def _check_patches(self) -> None:
        replaced = [
            name
            for name, place in _REPLACED_BY_PATCHES.items()
            if getattr(*place) is not self._originals[name] or _is_patched(self._originals[name])
        ]
        if replaced:
            names = ", ".join(replaced)
            self._findings.faults.append(
                f"{self._class.__name__} replaces {names}, for the whole program: use no "
                "monkey-patching; drivers run in real threads"
            )

    # What it says of itself

    def _check_described(self, driver: Driver) -> None:
        self._findings.call("check", lambda: contract.run(driver, "check"), CALL_S)
        self._findings.call("tables", lambda: contract.tables(driver, driver.tables()), CALL_S)
        self._findings.call(
            "notes", lambda: list(contract.sentences(driver, "notes", driver.notes())), CALL_S
        )
        self._findings.call(
            "revision", lambda: contract.revision(driver, driver.revision()), CALL_S
        )
        for method, call in (
            ("validate", lambda: contract.faults(driver, "validate", driver.validate())),
            ("survey", lambda: contract.observations(driver, driver.survey())),
        ):
            self._findings.call(
                method,
                lambda: deque(call(), maxlen=0),  # noqa: B023 - it is called at once
                _VALIDATE_S,
                allowed=(DriverError,),  # it cannot validate its data
            )
        self._findings.call("census", lambda: contract.census(driver, driver.census()), CALL_S)


def _begun(before: set[threading.Thread]) -> Iterator[threading.Thread]:
    return (thread for thread in threading.enumerate() if thread not in before)


def _sockets() -> frozenset[str]:
    """Return the sockets that this process has open."""
    found = []
    for link in Path("/proc/self/fd").glob("*"):
        try:
            found.append(str(link.readlink()))
        except OSError:
            continue  # closed meanwhile
    return frozenset(name for name in found if name.startswith("socket:"))


def _is_patched(original: object) -> bool:
    """Return whether it is not the standard library's, since before the check."""
    module = getattr(original, "__module__", "")
    return not isinstance(original, types.BuiltinFunctionType) and module not in (
        *("time", "socket", "threading"),
        None,
    )

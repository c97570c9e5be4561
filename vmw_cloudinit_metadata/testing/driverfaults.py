"""DriverFaults: calls a driver's methods in threads, with limits, and collects what is wrong."""

from __future__ import annotations

import threading
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

from vmw_cloudinit_metadata.drivers.contract import ContractError

CALL_S = 3.0  # as --lookup-timeout
THREAD_NAME = "driver check"


class Late(Exception):  # noqa: N818 - not an error of the driver's
    """A call did not return in time."""


class Exits(Exception):  # noqa: N818 - SystemExit, in a thread
    """A call tried to end the program."""


class DriverFaults:
    """What is wrong with a class of drivers: `faults`, a sentence each."""

    def __init__(self, class_name: str) -> None:
        self.faults: list[str] = []
        self._class_name = class_name

    def add(self, method: str, text: str) -> None:
        self.faults.append(f"{self._class_name}.{method} {text}")

    def call(
        self,
        method: str,
        call: Callable[[], Any],
        limit_s: float,
        took: Callable[[float], None] = lambda _: None,
        allowed: tuple[type[Exception], ...] = (),
    ) -> Any:
        """Return the result of a call; report what is wrong with it, and return None.

        The `allowed` errors are not wrong.
        """
        try:
            return in_thread(call, limit_s, took)
        except Late:
            self.add(method, f"did not return within {limit_s:g} s")
        except ContractError as error:
            self.faults.append(str(error))
        except allowed:
            pass
        except Exception as error:  # a driver is foreign code
            self.add(method, f"raises {described(error)}")
        return None


def in_thread(
    call: Callable[[], Any], limit_s: float | None, took: Callable[[float], None] = lambda _: None
) -> Any:
    """Return what a call returns in a thread of its own; raise what it raises, or Late."""
    results: list[Any] = []
    errors: list[BaseException] = []

    def run() -> None:
        began_s = time.perf_counter()
        try:
            results.append(call())
        except BaseException as error:  # a driver is foreign code
            errors.append(error)
        took(time.perf_counter() - began_s)

    thread = threading.Thread(target=run, name=THREAD_NAME, daemon=True)
    thread.start()
    thread.join(limit_s)
    if thread.is_alive():
        raise Late
    if errors:
        raise errors[0] if isinstance(errors[0], Exception) else Exits(errors[0])
    return results[0]


def described(error: BaseException) -> str:
    """Return an error with its last place in the driver's code."""
    frames = traceback.extract_tb(error.__traceback__)
    place = f" ({Path(frames[-1].filename).name}:{frames[-1].lineno})" if frames else ""
    return f"{type(error).__name__}: {cut(str(error))}{place}"


def cut(text: str) -> str:
    return text if len(text) <= 100 else f"{text[:100]}..."

"""Logs what the methods of a driver raise: each place at most once a minute, without secrets."""

from __future__ import annotations

import logging
import traceback
from threading import Lock

from vmw_cloudinit_metadata.drivers.contract import ContractError
from vmw_cloudinit_metadata.drivers.driver import Driver
from vmw_cloudinit_metadata.drivers.foreignerrors import hidden
from vmw_cloudinit_metadata.monitoring.onceaminute import OnceAMinute
from vmw_cloudinit_metadata.protocol.printable import shortened
from vmw_cloudinit_metadata.protocol.vmware import Machine

log = logging.getLogger(__name__)

_MAX_CHARACTERS = 8000  # of the beginning of a traceback, and of its end


_lock = Lock()
_throttle = OnceAMinute()


def log_error(
    driver: Driver, method: str, error: BaseException, machine: Machine | None = None
) -> None:
    """Log that a driver's method has failed: a breach of its contract in one line, else a
    traceback, of which the machine's host has a share. May be called in any thread."""
    is_breach = isinstance(error, ContractError)
    place = str(error) if is_breach else (method, type(error), _line_of(error))
    with _lock:
        held_back = _throttle.passes(id(driver), place)
    if held_back is None:
        return
    if is_breach:
        log.error("%s%s", error, held_back)
        return
    failed = f"{type(driver).__name__}: {method} failed"
    text = hidden(driver, _cut("".join(traceback.format_exception(error))))
    if machine:
        log.error("%s for %s%s", failed, machine, held_back, extra={"traceback": text})
    else:
        log.error("%s%s", failed, held_back, extra={"traceback": text})


def log_sentence(driver: Driver, text: object) -> None:
    """Log what a driver reports of itself. May be called in any thread."""
    log.info("%s", shortened(hidden(driver, str(text))))


def _line_of(error: BaseException) -> object:
    """Return where an exception was raised."""
    last = error.__traceback__
    while last and last.tb_next:
        last = last.tb_next
    return (last.tb_frame.f_code, last.tb_lineno) if last else None


def _cut(text: str) -> str:
    if len(text) <= 2 * _MAX_CHARACTERS:
        return text.rstrip()
    return f"{text[:_MAX_CHARACTERS]}\n...\n{text[-_MAX_CHARACTERS:]}".rstrip()

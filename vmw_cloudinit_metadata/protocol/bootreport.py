"""The argument of REQUEST_STATUS: how a guest says that its boot has ended. Pure.

The guest may be hostile. What it says is shown, and authorises nothing; what is not of exactly this
form is an error that quotes nothing of it.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Mapping
from typing import Any, Literal, NamedTuple, NoReturn, get_args

from vmw_cloudinit_metadata.protocol.hostkey import host_key

VERSION = 1
MAX_REPORT_BYTES = 3000
MAX_INSTANCE_ID_BYTES = 255
MAX_ERRORS, MAX_ERROR_CHARACTERS = 8, 200
MAX_KEYS = 6
MAX_STAGES = 16
MAX_STAGE_S = 1e6
_MAX_DIGITS = 12  # of a number

# What cloud-init calls its outcomes.
BootStatus = Literal["done", "degraded", "error"]

_STAGE = re.compile(r"[a-z][a-z0-9-]{0,31}", re.ASCII)
_BOOT_ID = re.compile(r"(?:[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12})?", re.ASCII)


class InvalidReportError(ValueError):
    """Not a report; says what is wrong, and quotes nothing."""


class BootReport(NamedTuple):
    """What a guest says of its boot."""

    instance_id: str
    status: BootStatus
    errors: tuple[str, ...] = ()
    stages: Mapping[str, float] = {}  # of cloud-init, in seconds
    host_keys: tuple[str, ...] = ()  # `type key`, without comments
    boot_id: str = ""  # of Linux


def parse(argument: bytes) -> BootReport:
    """Return the report; raise InvalidReportError."""
    if len(argument) > MAX_REPORT_BYTES:
        raise InvalidReportError(f"it has more than {MAX_REPORT_BYTES:,} bytes")
    given = _object_in(argument)
    if given.keys() - _PARTS.keys():
        raise InvalidReportError(f"it has other parts than v, {', '.join(_PARTS)}")
    if missing := {"instance", "status"} - given.keys():
        raise InvalidReportError(f"{sorted(missing)[0]} is missing")
    found = {}
    for name, value in given.items():
        field, read = _PARTS[name]
        try:
            found[field] = read(value)
        except ValueError as error:
            raise InvalidReportError(f"{name}: {error}") from None
    return BootReport(**found)


def _object_in(argument: bytes) -> dict[str, Any]:
    try:
        given = json.loads(
            argument.decode("utf-8"),
            object_pairs_hook=_once_each,
            parse_int=_short(int),
            parse_float=_short(float),
            parse_constant=_no_number,
        )
    except UnicodeDecodeError:
        raise InvalidReportError("it is not UTF-8") from None
    except json.JSONDecodeError:
        raise InvalidReportError("it is not JSON") from None
    except RecursionError:
        raise InvalidReportError("it is nested too deeply") from None
    if not isinstance(given, dict):
        raise InvalidReportError("it is not a JSON object")
    version = given.pop("v", None)
    if type(version) is not int or version != VERSION:
        raise InvalidReportError(f"v: expected {VERSION}")
    return given


def _once_each(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        raise InvalidReportError("it has a key twice")
    return found


def _short(number: Callable[[str], float]) -> Callable[[str], float]:
    def read(digits: str) -> float:
        if len(digits) > _MAX_DIGITS:
            raise InvalidReportError(f"it has a number of more than {_MAX_DIGITS} characters")
        return number(digits)

    return read


def _no_number(_name: str) -> NoReturn:
    raise InvalidReportError("it has NaN or Infinity, which JSON does not have")


# The parts. Each raises ValueError with what was expected.


def _instance(value: Any) -> str:
    if not isinstance(value, str) or not _is_utf_8(value):
        raise ValueError("expected a text")
    if not 0 < len(value.encode()) <= MAX_INSTANCE_ID_BYTES:
        raise ValueError(f"expected 1 to {MAX_INSTANCE_ID_BYTES} bytes")
    return value


def _is_utf_8(text: str) -> bool:
    """Return whether it has no half of a surrogate pair, as JSON can."""
    return not any("\ud800" <= character <= "\udfff" for character in text)


def _status(value: Any) -> str:
    if value not in get_args(BootStatus):
        raise ValueError(f"expected one of {', '.join(get_args(BootStatus))}")
    return str(value)


def _errors(value: Any) -> tuple[str, ...]:
    texts = _texts(value, MAX_ERRORS)
    if not all(text.isprintable() and len(text) <= MAX_ERROR_CHARACTERS for text in texts):
        raise ValueError(
            f"expected texts of at most {MAX_ERROR_CHARACTERS} characters, without control "
            "characters"
        )
    return texts


def _texts(value: Any, most: int) -> tuple[str, ...]:
    if not isinstance(value, list) or len(value) > most:
        raise ValueError(f"expected a list of at most {most}")
    if not all(isinstance(text, str) for text in value):
        raise ValueError("expected a list of texts")
    return tuple(value)


def _stages(value: Any) -> dict[str, float]:
    if not isinstance(value, dict) or len(value) > MAX_STAGES:
        raise ValueError(f"expected an object of at most {MAX_STAGES} stages")
    if not all(_STAGE.fullmatch(name) for name in value):
        raise ValueError("expected names of stages")
    if not all(type(seconds) in (int, float) for seconds in value.values()):
        raise ValueError("expected seconds")
    if not all(
        math.isfinite(seconds) and 0 <= seconds <= MAX_STAGE_S for seconds in value.values()
    ):
        raise ValueError(f"expected 0 to {MAX_STAGE_S:,.0f} seconds")
    return {name: float(seconds) for name, seconds in value.items()}


def _host_keys(value: Any) -> tuple[str, ...]:
    """Return the keys of known types, each once: OpenSSH has types to come."""
    keys = map(host_key, _texts(value, MAX_KEYS))
    return tuple(dict.fromkeys(key for key in keys if key))


def _boot_id(value: Any) -> str:
    if not isinstance(value, str) or not _BOOT_ID.fullmatch(value):
        raise ValueError("expected a boot_id of Linux")
    return value


# The name of a part -> the field of BootReport, and what reads it.
_PARTS: Mapping[str, tuple[str, Callable[[Any], Any]]] = {
    "instance": ("instance_id", _instance),
    "status": ("status", _status),
    "errors": ("errors", _errors),
    "stages": ("stages", _stages),
    "hostkeys": ("host_keys", _host_keys),
    "boot": ("boot_id", _boot_id),
}

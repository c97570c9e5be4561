"""What the methods of a driver may return; a sentence for its author about anything else. Pure."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from itertools import islice
from typing import Any

from vmw_cloudinit_metadata.drivers.drivererror import DriverError
from vmw_cloudinit_metadata.drivers.observation import Census, Observation
from vmw_cloudinit_metadata.instance.fault import Fault
from vmw_cloudinit_metadata.instance.model import RESERVED_DOCUMENTS, InstanceData
from vmw_cloudinit_metadata.protocol.printable import one_line, shortened

MAX_DOCUMENT_NAMES = 1_000_000  # far more than VMs ask for; the file driver has fewer

_DOCUMENT_NAME = re.compile("[A-Z]{1,32}")  # a guest can ask for no other

# Methods that return a value at once, and those that may yield it.
_CALLED = (
    *("get_instance", "still_holds", "held_at", "watch", "explain", "check", "tables", "close"),
    *("get_without_secrets", "hook", "source_name"),
    *("census", "revision"),  # in the process of the catalogue
    *("listen", "version", "record_version"),  # of a store
)
_ITERATED = (
    *("which_hold", "document_names", "validate", "validate_named", "survey", "notes", "trace"),
    *("fetch", "all"),  # of a store
)


class ContractError(DriverError):
    """A driver's method returned something that the interface does not allow."""


def method_fault(driver_class: type) -> str:
    """Return why the server cannot call a class's methods, or ""."""
    for name in (*_CALLED, *_ITERATED):
        method = inspect.getattr_static(driver_class, name, None)
        function = inspect.unwrap(getattr(method, "__func__", method))
        where = f"{driver_class.__name__}.{name}"
        if inspect.iscoroutinefunction(function) or inspect.isasyncgenfunction(function):
            return f"{where} is async: write `def {name}`; it runs in a thread and may block"
        if name in _CALLED and inspect.isgeneratorfunction(function):
            return f"{where} yields: write `return` instead"
    return ""


def instance(driver: object, returned: Any) -> InstanceData | None:
    """Check what `get_instance` returned."""
    if returned is None:
        return None
    if not isinstance(returned, InstanceData):
        hint = "return InstanceData.from_mapping(...), or None if there is no such VM"
        raise _error(driver, "get_instance", returned, hint)
    for name in ("matched_by", "problem"):
        if not isinstance(getattr(returned, name), str):
            raise _field_error(driver, name, getattr(returned, name), "a str")
    for name in ("sources", "duplicates"):
        value = getattr(returned, name)
        if not isinstance(value, tuple) or not all(isinstance(text, str) for text in value):
            raise _field_error(driver, name, value, "a tuple of str")
    if not isinstance(returned.once, frozenset) or not returned.once <= returned.documents.keys():
        raise _field_error(driver, "once", returned.once, "a frozenset of names in its documents")
    if inspect.isawaitable(returned.token):
        raise _field_error(driver, "token", returned.token, "a value that still_holds can judge")
    return returned


def truth(driver: object, method: str, returned: Any) -> bool:
    """Check what `still_holds` or `held_at` returned, or `which_hold` yielded."""
    if isinstance(returned, bool):
        return returned
    raise _error(driver, method, returned, "return True or False")


def truths(driver: object, tokens: list[Any], returned: Any) -> Iterator[bool]:
    """Yield what `which_hold` yields: a boolean for each token."""
    count = 0
    for holds in _iterable(driver, "which_hold", returned, "yield a bool for each token"):
        if count == len(tokens):
            raise ContractError(_text(driver, "which_hold", "yielded more than a bool for a token"))
        yield truth(driver, "which_hold", holds)
        count += 1
    if count < len(tokens):
        raise ContractError(_text(driver, "which_hold", "yielded fewer booleans than tokens"))


def text(driver: object, method: str, returned: Any) -> str:
    """Check what `explain` returned."""
    if isinstance(returned, str):
        return returned
    raise _error(driver, method, returned, "return a sentence for the log")


def names(driver: object, returned: Any, checked: frozenset[str] = frozenset()) -> frozenset[str]:
    """Check what `document_names` returned, unless it is the very set that was checked before."""
    is_checked: bool = returned is checked  # apart: mypy takes `checked` for Any behind an `is`
    if is_checked:
        return checked
    hint = 'return a set of names such as {"SECURITYDATA"}'
    found: set[str] = set()
    for name in islice(_iterable(driver, "document_names", returned, hint), MAX_DOCUMENT_NAMES + 1):
        if not isinstance(name, str):
            raise ContractError(_text(driver, "document_names", f"has {_kind(name)}: {hint}"))
        if not _DOCUMENT_NAME.fullmatch(name) or name in RESERVED_DOCUMENTS:
            shown = one_line(shortened(repr(name), 40))
            rule = "1 to 32 capital letters that are no standard document"
            raise ContractError(_text(driver, "document_names", f"has {shown}, expected {rule}"))
        found.add(name)
    if len(found) > MAX_DOCUMENT_NAMES:
        limit = f"has more than {MAX_DOCUMENT_NAMES:,} names"
        raise ContractError(_text(driver, "document_names", limit))
    result: frozenset[str] = returned if isinstance(returned, frozenset) else frozenset(found)
    return result


def run(driver: object, method: str, *arguments: Any) -> None:
    """Call `check`, `watch` or `close`, and check that it returns nothing."""
    returned = getattr(driver, method)(*arguments)
    if returned is not None:
        hint = "raise DriverError for a problem" if method == "check" else "return nothing"
        raise _error(driver, method, returned, hint)


def faults(driver: object, method: str, returned: Any) -> Iterator[Fault]:
    """Check what `validate` and `validate_named` yield."""
    hint = "yield Fault(key, found, expected) for each fault"
    for fault in _iterable(driver, method, returned, hint):
        if not isinstance(fault, Fault):
            raise ContractError(_text(driver, method, f"yielded {_kind(fault)}: {hint}"))
        yield fault


def observations(driver: object, returned: Any) -> Iterator[Observation | None]:
    """Check what `survey` yields."""
    hint = "yield Observation(fault, vms), or None to show that the work goes on"
    for one in _iterable(driver, "survey", returned, hint):
        if one is not None and not isinstance(one, Observation):
            raise ContractError(_text(driver, "survey", f"yielded {_kind(one)}: {hint}"))
        yield one


def census(driver: object, returned: Any) -> Census:
    """Check what `census` returned."""
    if isinstance(returned, Census):
        return returned
    raise _error(driver, "census", returned, "return Census(files, vms, layers)")


def revision(driver: object, returned: Any) -> int | None:
    """Check what `revision` returned."""
    if returned is None or isinstance(returned, int):
        return returned
    raise _error(driver, "revision", returned, "return a number, or None if nothing notifies")


def sentences(driver: object, method: str, returned: Any) -> Iterator[str]:
    """Check what `notes` and `trace` yield."""
    for note in _iterable(driver, method, returned, "yield sentences"):
        if not isinstance(note, str):
            raise ContractError(_text(driver, method, f"yielded {_kind(note)}: yield sentences"))
        yield note


def tables(driver: object, returned: Any) -> Mapping[str, Any]:
    """Check what `tables` returned."""
    hint = "return a mapping of names to tables with kept_bytes and shed()"
    if not isinstance(returned, Mapping):
        raise _error(driver, "tables", returned, hint)
    for name, table in returned.items():
        if not isinstance(name, str):
            raise ContractError(_text(driver, "tables", f"has {_kind(name)} as a name: {hint}"))
        shown = one_line(shortened(repr(name), 40))
        kept_bytes = getattr(table, "kept_bytes", None)
        if not isinstance(kept_bytes, int) or kept_bytes < 0:
            fault = f"{shown} has no kept_bytes that is a number of bytes: {hint}"
            raise ContractError(_text(driver, "tables", fault))
        if not callable(getattr(table, "shed", None)):
            raise ContractError(_text(driver, "tables", f"{shown} has no shed(): {hint}"))
    return returned


def _iterable(driver: object, method: str, returned: Any, hint: str) -> Iterable[Any]:
    if isinstance(returned, str | bytes | Mapping) or not isinstance(returned, Iterable):
        raise _error(driver, method, returned, hint)
    return returned


def _field_error(driver: object, field: str, value: Any, expected: str) -> ContractError:
    _close(value)
    found = f"returned InstanceData whose {field} is {_kind(value)}, expected {expected}"
    return ContractError(_text(driver, "get_instance", found))


def _error(driver: object, method: str, returned: Any, hint: str) -> ContractError:
    """Close a coroutine: Python would warn that nobody awaits it."""
    _close(returned)
    return ContractError(_text(driver, method, f"returned {_kind(returned)}: {hint}"))


def _close(returned: Any) -> None:
    if inspect.iscoroutine(returned) or inspect.isgenerator(returned):
        returned.close()


_KINDS: tuple[tuple[Callable[[Any], bool], str], ...] = (
    (lambda value: value is None, "None"),
    (inspect.iscoroutine, "a coroutine (it calls an async function)"),
    (inspect.isasyncgen, "an async generator"),
    (inspect.isawaitable, "an awaitable"),
)


def _kind(value: Any) -> str:
    """Return the type of a value; the value itself may be a secret."""
    for is_kind, name in _KINDS:
        if is_kind(value):
            return name
    name = one_line(shortened(type(value).__name__, 60))
    return f"{'an' if name[:1].lower() in 'aeiou' else 'a'} {name}"


def _text(driver: object, method: str, fault: str) -> str:
    return f"{type(driver).__name__}.{method} {fault}"

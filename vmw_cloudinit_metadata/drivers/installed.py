"""The drivers that are installed: what each is, and its options. Imports them: foreign code."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from importlib.metadata import EntryPoint
from types import SimpleNamespace
from typing import Any, get_type_hints

from pydantic.fields import FieldInfo

from vmw_cloudinit_metadata.drivers.driver import Driver
from vmw_cloudinit_metadata.drivers.drivererror import DriverError
from vmw_cloudinit_metadata.drivers.driveroptions import TIMES, seconds
from vmw_cloudinit_metadata.drivers.loading import driver_class_of, installed
from vmw_cloudinit_metadata.drivers.store import Store
from vmw_cloudinit_metadata.drivers.storeoptions import StoreOptions
from vmw_cloudinit_metadata.protocol.printable import one_line, shortened
from vmw_cloudinit_metadata.settings.errors import ConfigError
from vmw_cloudinit_metadata.settings.masking import masked

_TEXT_CHARACTERS = 500  # of a driver's own texts

_TIMES_DESCRIPTIONS = {
    "cache_ttl": "seconds for which an answer is given again without asking the driver",
    "stale_if_error": "seconds for which a VM gets its last answer while the driver fails",
}


@dataclass(frozen=True, slots=True)
class OptionRow:
    """An option of a driver, as text."""

    name: str
    type: str
    default: str | None  # None: the option is required
    description: str


@dataclass(frozen=True, slots=True)
class InstalledDriver:
    """An entry point; `problem` is why its class cannot be used, or ""."""

    name: str
    spec: str  # module:Class
    distribution: str
    version: str
    summary: str = ""
    options: tuple[OptionRow, ...] = ()
    has_model: bool = False  # without one, there may be further options
    problem: str = ""

    def as_json(self) -> dict[str, Any]:
        return asdict(self)


def installed_drivers() -> list[InstalledDriver]:
    """Import and return all of them, by name."""
    return [_described(entry) for entry in installed()]


def _described(entry: EntryPoint) -> InstalledDriver:
    place = (
        *(_text(entry.name), _text(entry.value)),
        *((_text(entry.dist.name), _text(entry.dist.version)) if entry.dist else ("", "")),
    )
    try:
        driver_class = driver_class_of(entry.value)
        options = tuple(_options(driver_class))
    except ConfigError as error:
        return InstalledDriver(*place, problem=_text(str(error).partition(": ")[2]))
    except SystemExit as error:  # importing runs foreign code
        return InstalledDriver(*place, problem=_text(f"importing it exits with {error.code}"))
    summary = next(iter((inspect.getdoc(driver_class) or "").splitlines()), "")
    has_model = driver_class.Options is not None
    return InstalledDriver(*place, _text(summary), options, has_model)


def _options(driver_class: type[Driver | Store]) -> Iterator[OptionRow]:
    fields = dict(driver_class.Options.model_fields) if driver_class.Options else {}
    if issubclass(driver_class, Store):
        fields |= StoreOptions.model_fields
    for name, field in sorted(fields.items(), key=lambda item: not item[1].is_required()):
        default = None if field.is_required() else _default(name, field)
        kind = inspect.formatannotation(_unannotated(field.annotation)).replace("typing.", "")
        yield OptionRow(_text(name), _text(kind), default, _text(field.description or ""))
    for name in TIMES:
        if issubclass(driver_class, Driver) and driver_class.takes_time(name):
            yield OptionRow(name, "float", _seconds(driver_class, name), _TIMES_DESCRIPTIONS[name])


def _unannotated(kind: Any) -> Any:
    """Return a type without what Annotated says of it and of its parts."""
    holder = SimpleNamespace(__annotations__={"kind": kind})
    return get_type_hints(holder)["kind"]


def _default(name: str, field: FieldInfo) -> str:
    try:
        value = field.get_default(call_default_factory=True, validated_data={})
    except Exception:  # foreign code, which may need the values of other options
        return "computed"
    return "None" if value is None else _text(repr(masked({name: value})[name]))


def _seconds(driver_class: type[Driver], name: str) -> str:
    try:
        return f"{seconds(name, getattr(driver_class, name)):g}"
    except DriverError:  # the class cannot be used either: `load` reports it
        return "invalid"


def _text(text: str) -> str:
    return one_line(shortened(" ".join(text.split()), _TEXT_CHARACTERS))

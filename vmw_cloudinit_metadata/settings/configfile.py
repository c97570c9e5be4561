"""The settings file (--config): YAML -> the text of each setting, as on the command line."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from enum import Enum
from pathlib import Path
from typing import Any

from vmw_cloudinit_metadata.instance.fault import Fault, Faults, bounded, joined
from vmw_cloudinit_metadata.instance.keyspelling import unknown_faults, with_dashes
from vmw_cloudinit_metadata.instance.parsing import encoding, seed
from vmw_cloudinit_metadata.instance.parsing.textkeys import TEXT
from vmw_cloudinit_metadata.settings import permissions
from vmw_cloudinit_metadata.settings.errors import ConfigError

MAX_FILE_BYTES = 1024 * 1024


class Shape(Enum):
    """The shape of a setting's value in the file."""

    VALUE = "one value"
    LIST = "a value, or a list of values"
    MAPPING = "a mapping"


@dataclass(frozen=True)
class ConfigFile:
    """Settings by name (`lookup-timeout`): a string, a list of strings, or a mapping."""

    path: Path
    values: Mapping[str, Any]
    seed: seed.Seed

    def place(self, name: str) -> str:
        """Return the file and line of a setting: `server.yaml:7`."""
        return f"{self.path}:{self.seed.line((name,))}"


def read(path: Path, shapes: Mapping[str, Shape]) -> ConfigFile:
    """Read the settings named in `shapes`; raise ConfigError with every fault of the file."""
    content = seed.read(_text(path), _schema(shapes))
    faults = Faults()
    faults.extend(content.faults)
    values: dict[str, Any] = {}
    if isinstance(content.value, dict):
        values = with_dashes(content.value, shapes, (), faults)
        faults.extend(unknown_faults(values, shapes))
        faults.extend(_shape_faults(values, shapes))
    elif content.value is not None:
        faults.add(Fault((), _kind(content.value), "a mapping of settings"))
    if faults.found:
        located = (content.located(fault, str(path), shapes) for fault in faults.all())
        in_order = bounded(sorted(located, key=lambda fault: fault.line))
        raise ConfigError(joined(fault.text(shapes) for fault in in_order))
    return ConfigFile(path, {k: v for k, v in values.items() if v is not None}, content)


def _text(path: Path) -> str:
    content = permissions.read("--config", path, MAX_FILE_BYTES)
    text = encoding.text_of(content)
    if isinstance(text, Fault):
        raise ConfigError(replace(text, file=str(path)).text(()))
    return text


def _schema(shapes: Mapping[str, Shape]) -> dict[str, Any]:
    """Read values as strings, so that `off` is not false; only driver options keep YAML's types."""
    return {name: None if shape is Shape.MAPPING else TEXT for name, shape in shapes.items()}


def _shape_faults(values: Mapping[str, Any], shapes: Mapping[str, Shape]) -> Iterator[Fault]:
    for name, value in values.items():
        shape = shapes.get(name)
        if shape and value is not None and not _FITS[shape](value):
            yield Fault((name,), _kind(value), shape.value)


def _is_list_of_texts(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(item, str) for item in value)


_FITS: Mapping[Shape, Callable[[Any], bool]] = {
    Shape.VALUE: lambda value: isinstance(value, str),
    Shape.LIST: lambda value: isinstance(value, str) or _is_list_of_texts(value),
    Shape.MAPPING: lambda value: isinstance(value, dict),
}


def _kind(value: Any) -> str:
    """Describe a value by its kind; its text may be a secret."""
    match value:
        case dict():
            return "a mapping"
        case list() if all(isinstance(item, str) for item in value):
            return "a list"
        case list():
            return "a list that holds mappings or lists"
        case _:
            return "a single value"

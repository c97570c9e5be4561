"""DriverOptions: --driver-opts as a pydantic model, and the two options that each driver has.

Reads the files with secrets that the options name.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any, get_args

from pydantic import (
    BaseModel,
    ConfigDict,
    ModelWrapValidatorHandler,
    PrivateAttr,
    SecretBytes,
    SecretStr,
    ValidationError,
    model_validator,
)
from pydantic_core import PydanticCustomError

from vmw_cloudinit_metadata.drivers.drivererror import DriverError
from vmw_cloudinit_metadata.drivers.optionvalues import FILE_SUFFIX, FromEnvironment, secret_in
from vmw_cloudinit_metadata.instance.fault import describe, joined, kind_of, unknown
from vmw_cloudinit_metadata.instance.secrecy import Key, is_secret, is_secret_name, shown
from vmw_cloudinit_metadata.settings.errors import ConfigError
from vmw_cloudinit_metadata.settings.masking import HIDDEN, masked

# Seconds. Class attributes of a driver, and options that override them.
TIMES = ("cache_ttl", "stale_if_error")
MAX_TIME_S = 1e9  # 30 years

_UNREADABLE = "unreadable_file"  # our type of pydantic error


class DriverOptions(BaseModel):
    """The options of a driver: unknown ones are refused, and `repr` hides secrets.

    For an option `password`, `password_file` may name a file that has the value. A name may be
    written with `-` in place of `_`, as those of the server's options are.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True)

    _hidden: frozenset[str] = PrivateAttr(default=frozenset())

    @model_validator(mode="wrap")
    @classmethod
    def _with_files(cls, data: Any, handler: ModelWrapValidatorHandler[Any]) -> Any:
        if not isinstance(data, Mapping):
            return handler(data)
        data = cls._with_underscores(data)
        values = dict(data)
        hidden = {name for name, value in values.items() if isinstance(value, FromEnvironment)}
        for name in filter(cls._is_file_of, data):
            option = name.removesuffix(FILE_SUFFIX)
            if option in data:
                raise PydanticCustomError(
                    _UNREADABLE, "{text}", {"text": f"{name}: {option} is set too: remove one"}
                )
            try:
                values[option] = FromEnvironment(secret_in(name, values.pop(name)))
            except ConfigError as error:
                raise PydanticCustomError(_UNREADABLE, "{text}", {"text": str(error)}) from None
            hidden.add(option)
        checked = handler(values)
        checked._hidden = frozenset(hidden)
        return checked

    @classmethod
    def _with_underscores(cls, data: Mapping[Any, Any]) -> dict[Any, Any]:
        """Return the options by the names of the fields."""
        found: dict[Any, Any] = {}
        for given, value in data.items():
            name = field_of(given)
            if name not in cls.model_fields and not cls._is_file_of(name):
                name = given
            if name in found:
                text = f"{given}: the option is set twice, with - and with _: remove one"
                raise PydanticCustomError(_UNREADABLE, "{text}", {"text": text})
            found[name] = value
        return found

    @classmethod
    def _is_file_of(cls, name: Any) -> bool:
        """Return whether `name` is that of another option, with `_file`."""
        fields = cls.model_fields
        return (
            isinstance(name, str)
            and name.endswith(FILE_SUFFIX)
            and name not in fields
            and name.removesuffix(FILE_SUFFIX) in fields
        )

    def __repr_args__(self) -> Iterator[tuple[str | None, Any]]:
        for name, value in super().__repr_args__():
            is_hidden = name is None or name in self._hidden or is_secret_name(name)
            yield name, HIDDEN if value is not None and is_hidden else masked(value)


def field_of(option: Any) -> str:
    """Return the name of a field by that of an option, which may have `-` in place of `_`."""
    return str(option).replace("-", "_")


class PlainOptions(dict[str, Any]):
    """The options of a driver without a model; `repr` hides secrets."""

    def __init__(self, options: Mapping[str, Any]) -> None:
        super().__init__({name: _plain(value) for name, value in options.items()})
        self._hidden = {name for name, value in options.items() if _has_variable(value)}

    def __repr__(self) -> str:
        shown = {name: HIDDEN if name in self._hidden else item for name, item in self.items()}
        return repr(masked(shown))


def _has_variable(value: Any) -> bool:
    """Return whether the environment has a part in the value."""
    match value:
        case Mapping():
            return any(map(_has_variable, value.values()))
        case list():
            return any(map(_has_variable, value))
        case _:
            return isinstance(value, FromEnvironment)


def _plain(value: Any) -> Any:
    """Return the value with strings of the type that libraries expect."""
    match value:
        case FromEnvironment():
            return str.__str__(value)
        case Mapping():
            return {name: _plain(item) for name, item in value.items()}
        case list():
            return list(map(_plain, value))
        case _:
            return value


def checked(model: type[DriverOptions] | None, options: Mapping[str, Any]) -> Any:
    """Return the options as the model, or as a mapping without one; raise DriverError."""
    if model is None:
        return PlainOptions(options)
    try:
        return model.model_validate(dict(options))
    except ValidationError as error:
        faults = error.errors(include_url=False)
    raise DriverError(joined(_fault(model, fault) for fault in faults))  # without its cause


def seconds(name: str, value: Any) -> float:
    """Return a time as a number; raise DriverError for anything else."""
    if isinstance(value, FromEnvironment):
        try:
            value = float(value)
        except ValueError:
            value = None
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    if is_number and 0 <= value <= MAX_TIME_S:
        return float(value)
    found = describe(value, (name,))
    raise DriverError(f"{name}: found {found}, expected seconds, from 0 to {MAX_TIME_S:,.0f}")


def _fault(model: type[DriverOptions], error: Any) -> str:
    key: Key = tuple(error["loc"])
    fields = _names(model)
    if error["type"] == "extra_forbidden":
        there = model if len(key) == 1 else _model_at(model, key[:-1])
        known = [*(there.model_fields if there else ()), *(TIMES if len(key) == 1 else ())]
        if str(key[-1]).endswith(FILE_SUFFIX):
            known += [f"{option}{FILE_SUFFIX}" for option in known]
        fault = unknown(key, key[-1], known)
        parent = f"{shown(key[:-1], fields)}: " if key[:-1] else ""
        return f"{parent}found {fault.found}, expected {fault.expected}"
    name = shown(key, fields)
    prefix = f"{name}: " if name else ""
    if error["type"] == _UNREADABLE:
        return f"{name}.{error['msg']}" if name else str(error["msg"])
    if error["type"] == "missing":
        there = model if len(key) == 1 else _model_at(model, key[:-1])
        field = there.model_fields.get(str(key[-1])) if there else None
        return f"{prefix}missing, expected {(field and field.description) or 'a value'}"
    value = error["input"]
    is_hidden = isinstance(value, FromEnvironment) or is_secret(key) or _is_secret_at(model, key)
    found = kind_of(value) if is_hidden else describe(masked(value), key)
    expected = str(error["msg"]).removeprefix("Value error, ")
    if is_hidden and isinstance(value, str | int | float):
        expected = expected.replace(str(value), HIDDEN) if str(value) else expected
    return f"{prefix}found {found}, expected: {expected}"


def _names(model: type[BaseModel]) -> set[str]:
    """Return the names of all options, at any depth."""
    found: set[str] = set()
    pending: list[type[BaseModel]] = [model]
    seen: set[type[BaseModel]] = set()
    while pending:
        one = pending.pop()
        if one not in seen:
            seen.add(one)
            found.update(one.model_fields)
            fields = one.model_fields.values()
            pending += (inner for field in fields for inner in _models_in(field.annotation))
    return found


def _models_in(annotation: Any) -> Iterable[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [model for part in get_args(annotation) for model in _models_in(part)]


def _annotation_at(model: type[BaseModel], key: Key) -> Any:
    """Return the annotation of the option at `key`; None if it cannot be determined."""
    annotation: Any = model
    for part in key:
        inner = next(iter(_models_in(annotation)), None)
        if isinstance(part, str) and inner is not None:
            field = inner.model_fields.get(part)
            annotation = field.annotation if field else None
    return annotation


def _model_at(model: type[BaseModel], key: Key) -> type[BaseModel] | None:
    return next(iter(_models_in(_annotation_at(model, key))), None)


def _is_secret_at(model: type[BaseModel], key: Key) -> bool:
    return _has_secret_type(_annotation_at(model, key))


def _has_secret_type(annotation: Any) -> bool:
    if annotation in (SecretStr, SecretBytes):
        return True
    return any(map(_has_secret_type, get_args(annotation)))

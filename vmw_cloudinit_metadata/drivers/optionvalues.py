"""Values of driver options: `${NAME}` takes a variable of the environment, a file has a secret.

Reads files. No message quotes a value: any of them may be a secret.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from vmw_cloudinit_metadata.instance.secrecy import is_secret_name
from vmw_cloudinit_metadata.protocol.printable import one_line, shortened
from vmw_cloudinit_metadata.settings import permissions
from vmw_cloudinit_metadata.settings.errors import ConfigError
from vmw_cloudinit_metadata.settings.masking import HIDDEN

MAX_VALUE_BYTES = 64 * 1024
FILE_SUFFIX = "_file"

_OPTION = "--driver-opts"
_KEY_CHARACTERS = 100
_REFERENCE = re.compile(r"\$(\$?)\{(?:([A-Za-z_][A-Za-z0-9_]{0,127})\})?")
_SHOWN_VARIABLE = re.compile("[A-Z_][A-Z0-9_]*")  # anything else could be part of a password

Place = tuple[str | int, ...]


class FromEnvironment(str):
    """A text with a variable's value, which may be a secret."""

    __slots__ = ()

    def __repr__(self) -> str:
        return HIDDEN


def resolved(options: Mapping[str, Any], environ: Mapping[str, str] = os.environ) -> dict[str, Any]:
    """Return the options with the environment's values in place of `${NAME}`; raise ConfigError.

    `$${` writes `${`.
    """
    return {name: _resolved(value, (name,), environ) for name, value in options.items()}


def _resolved(value: Any, place: Place, environ: Mapping[str, str]) -> Any:
    match value:
        case str() if "${" in value:
            return _substituted(value, place, environ)
        case Mapping():
            return {name: _resolved(item, (*place, name), environ) for name, item in value.items()}
        case list():
            return [_resolved(item, (*place, n), environ) for n, item in enumerate(value)]
        case _:
            return value


def _substituted(text: str, place: Place, environ: Mapping[str, str]) -> str:
    def value_of(found: re.Match[str]) -> str:
        is_escaped, variable = found[1], found[2]
        if is_escaped:
            return found[0][1:]
        if variable is None:
            raise ConfigError(
                f"{_shown(place)}: found ${{ without the name of a variable and }}, "
                "expected ${NAME}; write $${ for ${"
            )
        if variable not in environ:
            name = f" {variable}" if _SHOWN_VARIABLE.fullmatch(variable) else ""
            raise ConfigError(
                f"{_shown(place)}: the environment variable{name} is not set: set it for the "
                "server, or write $${ for ${"
            )
        has_variable.append(True)
        return environ[variable]

    has_variable: list[bool] = []
    result = _REFERENCE.sub(value_of, text)
    if len(result) > MAX_VALUE_BYTES:
        raise ConfigError(
            f"{_shown(place)}: has more than {MAX_VALUE_BYTES:,} characters with the values of "
            "the environment"
        )
    return FromEnvironment(result) if has_variable else result


def _shown(place: Place) -> str:
    key = ".".join(map(str, place))
    return f"{_OPTION}: {one_line(shortened(key, _KEY_CHARACTERS))}"


def secret_in(key: str, path: Any) -> str:
    """Return the content of a file, without line feeds at its end; raise ConfigError."""
    if not isinstance(path, str) or not path.startswith("/") or "\0" in path:
        # It is not quoted: a secret in place of the path is a likely mistake.
        raise ConfigError(f"{key}: expected the absolute path of a file, such as /run/secrets/name")
    try:
        text = permissions.read(key, Path(path), MAX_VALUE_BYTES).decode().rstrip("\r\n")
    except UnicodeDecodeError:
        raise ConfigError(f"{key}: {one_line(path)} is not UTF-8 text") from None
    if not text:
        raise ConfigError(f"{key}: {one_line(path)} is empty, expected the value in it")
    return text


def file_warnings(options: Any) -> Iterator[str]:
    """Warn about who else can read or change the files with secrets that resolved options name."""
    match options:
        case Mapping():
            for name, value in options.items():
                stem = str(name).replace("-", "_").removesuffix(FILE_SUFFIX)
                is_file = len(stem) < len(str(name))
                if isinstance(value, str) and is_file and is_secret_name(stem):
                    if value.startswith("/") and "\0" not in value:
                        yield from permissions.secret_warnings(one_line(str(name)), Path(value))
                else:
                    yield from file_warnings(value)
        case list():
            for value in options:
                yield from file_warnings(value)

"""Options that several commands share."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import click

from vmw_cloudinit_metadata.config import DEFAULT_DRIVER, Address, parse_driver_options
from vmw_cloudinit_metadata.errors import ConfigError

_Command = TypeVar("_Command", bound=Callable[..., Any])


class AddressType(click.ParamType[Address]):
    name = "ADDRESS:PORT"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> Address:
        try:
            return value if isinstance(value, Address) else Address.parse(value)
        except ConfigError as error:
            self.fail(str(error), param, ctx)


class DriverOptionsType(click.ParamType[Mapping[str, Any]]):
    name = "JSON"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> Mapping[str, Any]:
        try:
            return value if isinstance(value, dict) else parse_driver_options(value)
        except ConfigError as error:
            self.fail(str(error), param, ctx)


def driver_options(command: _Command) -> _Command:
    """Adds --driver and --driver-opts."""
    opts = click.option(
        "--driver-opts",
        type=DriverOptionsType(),
        default={},
        help='The driver\'s options, a JSON object. File driver: \'{"directory": "/some/where"}\'.',
    )
    spec = click.option(
        "--driver",
        "driver_spec",
        metavar="MODULE:CLASS",
        default=DEFAULT_DRIVER,
        show_default=True,
        help="Where instance data comes from; also the name of an installed driver.",
    )
    return spec(opts(command))

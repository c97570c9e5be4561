"""The options of load tests, and the plan made from them."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import click

from vmw_cloudinit_metadata.cli.client.playoptions import (
    COUNT,
    POSITIVE,
    SERVER,
    manner_of,
)
from vmw_cloudinit_metadata.client.fleet import name_of, stems
from vmw_cloudinit_metadata.client.loadplan import LoadPlan
from vmw_cloudinit_metadata.instance.counts import counted
from vmw_cloudinit_metadata.serving.admission import (
    connections_by_descriptors,
    raise_descriptor_limit,
)
from vmw_cloudinit_metadata.settings import identitykeys
from vmw_cloudinit_metadata.settings.command import given, refuse_useless
from vmw_cloudinit_metadata.settings.errors import ConfigError
from vmw_cloudinit_metadata.settings.identitykeys import NumberedFile
from vmw_cloudinit_metadata.settings.parameters import (
    FILE,
    FiniteRange,
    Parsed,
    WholeRange,
    together,
)

_PORTS = 28_000  # per source address, to one port of a server


def _parse_sources(text: str) -> tuple[str, ...]:
    """Parse ranges such as `127.0.0.2-127.0.0.9`, separated by commas."""
    try:
        return tuple(address for part in text.split(",") for address in _addresses(part))
    except ValueError as error:
        raise ConfigError(f"found {text!r}, expected 127.0.0.2-127.0.0.9 ({error})") from None


def _addresses(text: str) -> Iterable[str]:
    first, _, last = text.partition("-")
    begin = ipaddress.ip_address(first)
    end = ipaddress.ip_address(last or first)
    if end.version != begin.version or not 0 <= int(end) - int(begin) < 1024:
        raise ValueError("a range has at most 1,024 addresses")
    return [str(begin + place) for place in range(int(end) - int(begin) + 1)]


def _parse_pids(text: str) -> tuple[int, ...]:
    if not re.fullmatch(r"\d+(,\d+)*", text, re.ASCII):
        raise ConfigError(f"found {text!r}, expected PID or PID,PID")
    return tuple(map(int, text.split(",")))


_SOURCES = Parsed("ADDRESSES", _parse_sources)
_PIDS = Parsed("PID", _parse_pids)

TEST = together(
    SERVER,
    click.option(
        "--directory",
        type=click.Path(exists=True, file_okay=False, path_type=Path),
        help="Play the VMs of these instance files; compare documents byte for byte.",
    ),
    click.option(
        "--defaults",
        metavar="FILE",
        help="Use the `defaults` file of the server's file driver.",
    ),
    click.option(
        "--pattern", metavar="PATTERN", help="Play VMs with names of this pattern: vm-{:05}."
    ),
    click.option(
        "--source-addresses",
        "sources",
        type=_SOURCES,
        help="Connect from these addresses in turn: 127.0.0.2-127.0.0.9.",
    ),
    click.option(
        "--pace",
        "pace_ms",
        type=FiniteRange(min=0),
        metavar="MS",
        help="Write single bytes with this pause, like a UART.",
    ),
    click.option(
        "--redial",
        "redial_s",
        type=FiniteRange(min=0.1),
        metavar="SECONDS",
        help="Dial again this long after a connection was cut or refused, until --limit.",
    ),
    click.option(
        "--processes",
        type=WholeRange(1, 64),
        default=1,
        show_default=True,
        metavar="K",
        help="Divide the VMs among this many client processes.",
    ),
    click.option(
        "--server-pid",
        "server_pids",
        type=_PIDS,
        default=(),
        help="Report CPU and memory of these local server processes and their descendants.",
    ),
    click.option("--json", "json_file", type=FILE, metavar="FILE", help="Write the result: JSON."),
    click.option(
        "--report",
        "report_file",
        type=FILE,
        metavar="FILE",
        help="Write the result as an HTML page.",
    ),
)
AT_ONCE = click.option(
    "-c",
    "at_once",
    type=COUNT,
    metavar="N",
    default=200,
    show_default=True,
    help="Limit concurrent VMs.",
)
SECONDS = click.option(
    "-t",
    "seconds",
    type=POSITIVE,
    default=10.0,
    show_default=True,
    metavar="SECONDS",
    help="Run for this long.",
)
VMS = click.option(
    "-n", "vms", type=COUNT, metavar="N", help="Play this many VMs. Default: all instance files."
)


def plan_of(scenario: str, options: dict[str, Any]) -> LoadPlan:
    manner_of(options)  # reports errors here, once, and not in each process
    _check_redial(options["redial_s"], options["limit_s"])
    directory, pattern, vms = options.pop("directory"), options.pop("pattern"), options.pop("vms")
    if (directory is None) == (pattern is None):
        raise click.UsageError("give one of --directory and --pattern")
    if pattern is not None:
        refuse_useless("with --pattern", "defaults")
    names = _names(directory, pattern, options["defaults"], vms)
    return LoadPlan(
        scenario,
        str(options.pop("server")),
        directory=str(directory) if directory else None,
        pattern=pattern,
        vms=names,
        ca=str(ca) if (ca := options.pop("ca")) else None,
        identity_key_file=_key_file(options.pop("identity_key_file")),
        sources=options.pop("sources") or (),
        **options,
    )


def _check_redial(redial_s: float | None, limit_s: float) -> None:
    if redial_s is not None and redial_s >= limit_s:
        raise click.UsageError(
            f"--redial {redial_s:g} has no effect: a VM fails after --limit {limit_s:g}; "
            "use a longer --limit"
        )


def _key_file(file: NumberedFile | None) -> tuple[int, str] | None:
    if file is None:
        return None
    identitykeys.read_one(file)  # reports errors here, once
    number, path = file
    return number, str(path)


def _names(
    directory: Path | None, pattern: str | None, defaults: str | None, vms: int | None
) -> int:
    """Return the number of VMs to play."""
    if directory:
        files = len(stems(directory, defaults))
        if vms is not None and vms > files and (asked := given("vms")):
            raise click.UsageError(
                f"{asked[0]} {vms:,}: found {counted(files, 'VM')} in --directory: ask for fewer"
            )
        return min(files, vms or files)
    assert pattern
    if vms is None:
        raise click.UsageError("--pattern needs -n")
    if vms > 1 and name_of(pattern, 0) == name_of(pattern, 1):
        raise click.UsageError(f"--pattern: found {pattern!r}, expected one such as vm-{{:05}}")
    return vms


def check_room(plan: LoadPlan, connections: int) -> None:
    """Raise UsageError if the processes or the addresses cannot have so many connections."""
    raise_descriptor_limit()
    per_process = -(-connections // plan.processes)
    if per_process > (limit := connections_by_descriptors()):
        raise click.UsageError(
            f"{connections:,} connections are too many: a process has {limit:,} descriptors; "
            "use more --processes"
        )
    if connections > (limit := _PORTS * max(len(plan.sources), 1)):
        raise click.UsageError(
            f"{connections:,} connections are too many: there are {limit:,} ports; "
            "use more --source-addresses"
        )

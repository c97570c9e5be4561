"""`client`: plays ESXi hosts and their VMs, one to look at or thousands to test a server with."""

from __future__ import annotations

import ipaddress
import json
import os
import re
import signal
import sys
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import click
import gevent
from gevent.socket import wait_read

from vmw_cloudinit_metadata.admission import connections_by_descriptors, raise_descriptor_limit
from vmw_cloudinit_metadata.cli.options import ADDRESS, FILE, THUMBPRINT, Parsed
from vmw_cloudinit_metadata.cli.show import UuidType
from vmw_cloudinit_metadata.client import stream, summary
from vmw_cloudinit_metadata.client.bridge import Bridge
from vmw_cloudinit_metadata.client.check import Failure
from vmw_cloudinit_metadata.client.crew import Crew
from vmw_cloudinit_metadata.client.fleet import name_of, stems
from vmw_cloudinit_metadata.client.plan import Plan
from vmw_cloudinit_metadata.client.played import Manner, PlayedVm, within
from vmw_cloudinit_metadata.client.progress import Progress
from vmw_cloudinit_metadata.client.report.page import render
from vmw_cloudinit_metadata.client.stream import Place, Stream
from vmw_cloudinit_metadata.client.wire import Route, Tls
from vmw_cloudinit_metadata.config import DEFAULT_LISTEN, Address
from vmw_cloudinit_metadata.errors import ConfigError
from vmw_cloudinit_metadata.instance import nocloud
from vmw_cloudinit_metadata.protocol.vmware import DIRECTIONS, Machine

_Command = TypeVar("_Command", bound=Callable[..., Any])

# Of one address, to one port of a server.
PORTS = 28_000

DIRECTORY = click.Path(exists=True, file_okay=False, path_type=Path)


def _parse_sources(text: str) -> tuple[str, ...]:
    """`127.0.0.2-127.0.0.9`, or some of these with commas between."""
    try:
        return tuple(address for part in text.split(",") for address in _addresses(part))
    except ValueError as error:
        raise ConfigError(f"found {text!r}, expected 127.0.0.2-127.0.0.9 ({error})") from None


def _addresses(text: str) -> Iterable[str]:
    first, _, last = text.partition("-")
    begin = ipaddress.ip_address(first)
    end = ipaddress.ip_address(last or first)
    if end.version != begin.version or not 0 <= int(end) - int(begin) < 1024:
        raise ValueError("a range is of at most 1,024 addresses")
    return [str(begin + place) for place in range(int(end) - int(begin) + 1)]


def _parse_pids(text: str) -> tuple[int, ...]:
    if not re.fullmatch(r"\d+(,\d+)*", text, re.ASCII):
        raise ConfigError(f"found {text!r}, expected PID or PID,PID")
    return tuple(map(int, text.split(",")))


SOURCES = Parsed("ADDRESSES", _parse_sources)
PIDS = Parsed("PID", _parse_pids)
PLACE = Parsed("PLACE", Place.parse)

_SERVER_OPTIONS = (
    click.option(
        "--server",
        type=ADDRESS,
        default=Address("127.0.0.1", DEFAULT_LISTEN.port),
        show_default=f"127.0.0.1:{DEFAULT_LISTEN.port}",
    ),
    click.option("--uri", required=True, help="The service URI to ask for."),
    click.option(
        "--tls",
        type=click.Choice([tls.value for tls in Tls]),
        default=Tls.NONE.value,
        show_default=True,
        help="telnets: from the first byte; authentication: when telnet has agreed on it.",
    ),
    click.option(
        "--ca", type=FILE, metavar="FILE", help="Check the server's certificate and name by these."
    ),
    click.option(
        "--thumbprint",
        type=THUMBPRINT,
        help="Check the server's certificate by its SHA-1 or SHA-256, as ESXi does.",
    ),
    click.option(
        "--limit",
        "limit_s",
        type=click.FloatRange(min=0, min_open=True),
        default=60.0,
        show_default=True,
        metavar="SECONDS",
        help="How long a VM may take for all of it.",
    ),
)
_VM_OPTIONS = (
    click.argument("name", metavar="VM", required=False),
    click.option("--vc-uuid", type=UuidType(), help="vCenter's instanceUuid of the VM."),
    click.option("--bios-uuid", type=UuidType(), help="The VM's BIOS UUID."),
    click.option(
        "--direction",
        type=click.Choice(list(DIRECTIONS.values())),
        default="client",
        show_default=True,
    ),
)
_TEST_OPTIONS = (
    click.option(
        "--directory", type=DIRECTORY, help="Play the VMs of these instance files; compare exactly."
    ),
    click.option(
        "--defaults", metavar="FILE", help="The file driver's `defaults`, if the server has it."
    ),
    click.option("--pattern", help="Play VMs of such names: vm-{:05}."),
    click.option("--source-addresses", "sources", type=SOURCES, help="127.0.0.2-127.0.0.9"),
    click.option(
        "--pace",
        "pace_ms",
        type=click.FloatRange(min=0),
        metavar="MS",
        help="Guests write single bytes, so far apart.",
    ),
    click.option(
        "--processes",
        type=click.IntRange(1, 64),
        default=1,
        show_default=True,
        metavar="K",
        help="Client processes that share the VMs.",
    ),
    click.option(
        "--server-pid",
        "server_pids",
        type=PIDS,
        default=(),
        help="The server's processes on this machine: tell their CPU and memory.",
    ),
    click.option("--json", "json_file", type=FILE, metavar="FILE", help="Write the result."),
    click.option("--report", "report_file", type=FILE, metavar="FILE", help="Write a page, HTML."),
)
_AT_ONCE = click.option(
    "-c",
    "at_once",
    type=click.IntRange(min=1),
    default=200,
    show_default=True,
    help="At most so many at a time.",
)
_SECONDS = click.option(
    "-t",
    "seconds",
    type=click.FloatRange(min=0, min_open=True),
    default=10.0,
    show_default=True,
    metavar="SECONDS",
)
_VMS = click.option(
    "-n", "vms", type=click.IntRange(min=1), metavar="N", help="How many VMs. Default: all files."
)


def _with(*options: Callable[[Any], Any]) -> Callable[[_Command], _Command]:
    def add(command: _Command) -> _Command:
        for option in reversed(options):
            command = option(command)
        return command

    return add


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
def client() -> None:
    """Plays ESXi hosts and their VMs: to see what a VM would get, and to test load."""


# One VM


@client.command()
@_with(*_VM_OPTIONS, *_SERVER_OPTIONS)
@click.option(
    "--document",
    "documents",
    multiple=True,
    metavar="CODE",
    default=tuple(nocloud.NAMES),
    show_default=", ".join(nocloud.NAMES),
    help="Ask for this one; may be repeated.",
)
@click.option("--output", type=click.Path(file_okay=False, path_type=Path), metavar="DIR")
def fetch(documents: tuple[str, ...], output: Path | None, **options: Any) -> int:
    """Plays one VM: prints what it gets, or writes it to --output as NoCloud's files.

    Exit 1, with the reason, if it is refused or gets no answer.
    """
    manner, machine = _manner(options), _machine(options)
    played = PlayedVm(manner, machine)
    try:
        with within(manner.limit_s, played):
            played.connect()
            played.get_ready()
            found = {document: played.ask(document) for document in documents}
    except Failure as failure:
        click.echo(f"{machine}: {failure.kind}: {failure.message}", err=True)
        return 1
    finally:
        played.close()
    named = {nocloud.NAMES.get(code, code.lower()): text for code, text in found.items()}
    if output:
        _write_documents(output, named)
    else:
        _print_documents(named)
    return 0


def _manner(options: Mapping[str, Any], pace_ms: float | None = None) -> Manner:
    tls = Tls(options["tls"])
    if tls is Tls.NONE and (options["ca"] or options["thumbprint"]):
        raise click.UsageError("--ca and --thumbprint need --tls telnets or authentication")
    route = Route(options["server"], tls, options["ca"], options["thumbprint"])
    return Manner(route, None if pace_ms is None else pace_ms / 1000, options["limit_s"])


def _machine(options: Mapping[str, Any]) -> Machine:
    machine = Machine(
        name=options["name"],
        vc_uuid=options["vc_uuid"],
        bios_uuid=options["bios_uuid"],
        service_uri=options["uri"],
        direction=options["direction"],
    )
    if machine.is_anonymous:
        raise click.UsageError("give the name of a VM, --vc-uuid or --bios-uuid")
    return machine


def _write_documents(directory: Path, documents: Mapping[str, bytes]) -> None:
    try:
        directory.mkdir(parents=True, exist_ok=True)
        for name, text in documents.items():
            (directory / name).write_bytes(text)
    except OSError as error:
        raise ConfigError(f"--output: {error}") from error


def _print_documents(documents: Mapping[str, bytes]) -> None:
    for name, text in documents.items():
        if text:
            end = b"" if text.endswith(b"\n") else b"\n"
            sys.stdout.buffer.write(f"==> {name} ({len(text):,} bytes) <==\n".encode() + text + end)
    sys.stdout.flush()


@client.command()
@_with(*_VM_OPTIONS, *_SERVER_OPTIONS)
@click.option("--connect", type=PLACE, help="The guest listens at unix:PATH or tcp:HOST:PORT.")
@click.option("--listen", type=PLACE, help="The guest connects to unix:PATH or tcp:HOST:PORT.")
@click.option("--pty", is_flag=True, help="The guest opens a terminal of this machine.")
def bridge(connect: Place | None, listen: Place | None, pty: bool, **options: Any) -> int:
    """Puts a real guest's serial port behind the server, as its ESXi host would.

    A line `move` on standard input, or the signal USR1, makes a vMotion while the stream runs.
    """
    if sum((connect is not None, listen is not None, pty)) != 1:
        raise click.UsageError("give one of --connect, --listen and --pty")
    played = Bridge(_manner(options), _machine(options), _tell)
    gevent.signal_handler(signal.SIGUSR1, played.move)
    gevent.spawn(_hear_orders, played)
    running = gevent.spawn(played.run, _guests(connect, listen))
    gevent.signal_handler(signal.SIGTERM, running.kill)
    running.get()
    return 0


def _guests(connect: Place | None, listen: Place | None) -> Iterable[Stream]:
    if connect:
        return stream.connected(connect, _tell)
    return stream.accepted(listen, _tell) if listen else stream.pty(_tell)


def _tell(text: str) -> None:
    click.echo(text, err=True)


def _hear_orders(played: Bridge) -> None:
    """Reads standard input; of a terminal only while it is ours."""
    if os.isatty(0) and os.tcgetpgrp(0) != os.getpgrp():
        return
    heard = b""
    while True:
        wait_read(0)
        data = os.read(0, 4096)
        if not data:
            return
        *lines, heard = (heard + data).split(b"\n")
        for line in lines:
            if line.strip() == b"move":
                played.move()
            elif line.strip():
                _tell(f"found {line.decode('utf-8', 'replace')!r}, expected: move")


# Many VMs


@client.command()
@_with(*_SERVER_OPTIONS, *_TEST_OPTIONS)
@click.option(
    "-n", "boots", type=click.IntRange(min=1), default=1000, show_default=True, help="Boots."
)
@click.option("--vms", type=click.IntRange(min=1), help="Different VMs. Default: as many as boots.")
@_AT_ONCE
@click.option(
    "--rate",
    type=click.FloatRange(min=0, min_open=True),
    help="Begin so many a second, for as long as -c leaves room.",
)
def storm(**options: Any) -> int:
    """VMs boot: connect, tell who they are, ask for three documents, close."""
    options["vms"] = options["vms"] or options["boots"]
    return _test("storm", options, min(options["at_once"], options["boots"]))


@client.command()
@_with(*_SERVER_OPTIONS, *_TEST_OPTIONS, _VMS, _AT_ONCE)
def herd(**options: Any) -> int:
    """VMs connect, -c at a time, and wait; then all ask at once. It is the asking that counts."""
    return _test("herd", options, options["vms"])


@client.command()
@_with(*_SERVER_OPTIONS, *_TEST_OPTIONS, _VMS, _AT_ONCE, _SECONDS)
def steady(**options: Any) -> int:
    """VMs stay connected and ask without pause; a round of three documents counts as a boot."""
    return _test("steady", options, options["vms"])


@client.command()
@_with(*_SERVER_OPTIONS, *_TEST_OPTIONS, _VMS, _AT_ONCE, _SECONDS)
@click.option("--seed", type=int, default=0, show_default=True)
def soak(**options: Any) -> int:
    """VMs boot and move, hosts are lost, junk arrives, -c at a time."""
    return _test("soak", options, 2 * options["at_once"])


def _test(scenario: str, options: dict[str, Any], connections: int | None) -> int:
    json_file, report_file = options.pop("json_file"), options.pop("report_file")
    _check_place(json_file, "--json")
    _check_place(report_file, "--report")
    server_pids = options.pop("server_pids")
    plan = _plan(scenario, options)
    _check_room(plan, plan.vms if connections is None else connections)
    progress = Progress(plan)
    crew = Crew(plan, server_pids, progress.show)
    try:
        result = crew.run()
    finally:
        progress.close()
    if crew.left_out:
        _tell(f"{crew.left_out:,} files are left out, such as: {crew.left_out_because}")
    for line in summary.lines(result):
        click.echo(line)
    _write(json_file, "--json", lambda: json.dumps(result, indent=1) + "\n")
    _write(report_file, "--report", lambda: render(result))
    return 1 if result["failures"] else 0


def _plan(scenario: str, options: dict[str, Any]) -> Plan:
    _manner(options)  # what is wrong with these is said here, once
    directory, pattern, vms = options.pop("directory"), options.pop("pattern"), options.pop("vms")
    if (directory is None) == (pattern is None):
        raise click.UsageError("give one of --directory and --pattern")
    names = _names(directory, pattern, options["defaults"], vms)
    return Plan(
        scenario,
        str(options.pop("server")),
        directory=str(directory) if directory else None,
        pattern=pattern,
        vms=names,
        ca=str(ca) if (ca := options.pop("ca")) else None,
        sources=options.pop("sources") or (),
        **options,
    )


def _names(
    directory: Path | None, pattern: str | None, defaults: str | None, vms: int | None
) -> int:
    """How many VMs are to be played."""
    if directory:
        files = len(stems(directory, defaults))
        return min(files, vms or files)
    assert pattern
    if vms is None:
        raise click.UsageError("--pattern needs -n")
    if vms > 1 and name_of(pattern, 0) == name_of(pattern, 1):
        raise click.UsageError(f"--pattern: found {pattern!r}, expected one as vm-{{:05}}")
    return vms


def _check_room(plan: Plan, connections: int) -> None:
    raise_descriptor_limit()
    per_process = -(-connections // plan.processes)
    if per_process > (limit := connections_by_descriptors()):
        raise click.UsageError(
            f"{connections:,} connections do not fit: a process may have {limit:,} descriptors; "
            "take more --processes"
        )
    if connections > (limit := PORTS * max(len(plan.sources), 1)):
        raise click.UsageError(
            f"{connections:,} connections do not fit: there are {limit:,} ports; "
            "take more --source-addresses"
        )


def _check_place(file: Path | None, option: str) -> None:
    """A test of some hours is not to end with that."""
    if file and not file.parent.is_dir():
        raise ConfigError(f"{option}: {file}: there is no directory {str(file.parent)!r}")


def _write(file: Path | None, option: str, text: Callable[[], str]) -> None:
    if file:
        try:
            file.write_text(text())
        except OSError as error:
            raise ConfigError(f"{option}: {file}: {error.strerror or error}") from error

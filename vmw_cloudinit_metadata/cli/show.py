"""`show`: print the documents that a VM would get."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any
from urllib.parse import urlencode

import click

from vmw_cloudinit_metadata.cli import terminal
from vmw_cloudinit_metadata.cli.run import run
from vmw_cloudinit_metadata.drivers import contract
from vmw_cloudinit_metadata.drivers.driver import Driver, DriverError
from vmw_cloudinit_metadata.drivers.foreignerrors import reason_of
from vmw_cloudinit_metadata.drivers.loading import load
from vmw_cloudinit_metadata.instance import advice, nocloud
from vmw_cloudinit_metadata.instance.fault import InvalidInstanceData
from vmw_cloudinit_metadata.instance.model import InstanceData
from vmw_cloudinit_metadata.protocol.identitytoken import QUERY_KEY
from vmw_cloudinit_metadata.protocol.vmware import DIRECTIONS, Machine, parse_uuid
from vmw_cloudinit_metadata.settings.layers import SettingsCommand, config_option
from vmw_cloudinit_metadata.settings.parameters import IP, UUID, driver_options


@click.command(cls=SettingsCommand, whole=run)
@click.argument("name", metavar="[VM]", required=False)
@config_option
@driver_options
@click.option("--vc-uuid", type=UUID, help="Look up by vCenter's instanceUuid.")
@click.option(
    "--bios-uuid",
    type=UUID,
    help="Look up by the VM's BIOS UUID, if the file or the driver allows it.",
)
@click.option(
    "--query",
    "queries",
    metavar="KEY=VALUE",
    multiple=True,
    help="Look up with this in the query of the service URI, for layers that ask for it.",
)
@click.option("--peer", type=IP, help="Look up as from the ESXi host at this address.")
@click.option(
    "--direction",
    type=click.Choice(sorted(DIRECTIONS.values())),
    default="client",
    show_default=True,
    help="Look up as by a port of this direction.",
)
@click.option(
    "--explain",
    is_flag=True,
    help="Print one line for each value instead: where it stands, and what it overrides.",
)
@click.option("--document", metavar="NAME", help="Print only this document, such as meta-data.")
def show(
    name: str | None,
    driver_spec: str,
    driver_opts: Mapping[str, Any],
    vc_uuid: str | None,
    bios_uuid: str | None,
    queries: tuple[str, ...],
    peer: str | None,
    direction: str,
    explain: bool,
    document: str | None,
) -> int:
    """Show the documents that a VM would get, by its name or UUID."""
    machine = Machine(
        name=name,
        vc_uuid=vc_uuid,
        bios_uuid=bios_uuid,
        service_uri=_service_uri(queries),
        direction=direction,
        peer_address=peer or "",
    )
    if machine.is_anonymous:
        raise click.UsageError("give the name of a VM, --vc-uuid or --bios-uuid")
    driver = load(driver_spec, driver_opts)
    try:
        instance = contract.instance(driver, driver.get_instance(machine))
        if instance is None:
            return _fail(machine, "not-found", _reason(driver, machine))
        documents = nocloud.render(instance, _with_vc_uuid(machine, instance))
    except InvalidInstanceData as error:
        return _fail(machine, "invalid", *map(str, error.faults))
    except DriverError as error:
        return _fail(machine, "failed", reason_of(driver, error))
    _print_origin(machine, instance)
    if explain:
        return _explain(driver, machine)
    return _print(documents, document)


def _explain(driver: Driver, machine: Machine) -> int:
    try:
        for line in contract.sentences(driver, "trace", driver.trace(machine)):
            click.echo(line)
    except DriverError as error:
        return _fail(machine, "failed", reason_of(driver, error))
    return 0


def _service_uri(queries: Sequence[str]) -> str:
    """A service URI with that query: its name makes no difference to what a VM gets."""
    pairs = []
    for query in queries:
        key, sign, value = query.partition("=")
        if not key or not sign:
            raise click.UsageError(f"--query: found {query!r}, expected KEY=VALUE")
        if key == QUERY_KEY:
            raise click.UsageError(
                f"--query: found {key}, expected another key: this one is the VM's identity token"
            )
        pairs.append((key, value))
    return f"?{urlencode(pairs)}" if pairs else ""


def _with_vc_uuid(machine: Machine, instance: InstanceData) -> Machine:
    """Add a placeholder for the VC UUID, which a real VM sends, if only a name is given."""
    if machine.vc_uuid or "instance-id" in instance.metadata:
        return machine
    click.echo("instance-id will be the VM's VC UUID: give it with --vc-uuid to see it", err=True)
    return replace(machine, vc_uuid="<VC UUID>")


def _reason(driver: Driver, machine: Machine) -> str:
    reason = contract.text(driver, "explain", driver.explain(machine))
    if machine.name and parse_uuid(machine.name):
        reason += " (a UUID is not looked up as a name: use --vc-uuid or --bios-uuid)"
    return reason


def _fail(machine: Machine, error: str, *reasons: str) -> int:
    click.echo(f"{machine}: {error}", err=True)
    for reason in reasons:
        click.echo(reason, err=True)
    return 1


def _print_origin(machine: Machine, instance: InstanceData) -> None:
    by = f", found by its {instance.matched_by}" if instance.matched_by else ""
    click.echo(f"{machine}{by}", err=True)
    for source in instance.sources:
        click.echo(f"from {source}", err=True)
    for warning in advice.warnings_of(instance):
        click.echo(str(warning), err=True)
    for warning in nocloud.hostname_warnings(instance, machine.name or ""):
        click.echo(str(warning), err=True)


def _print(documents: Mapping[str, bytes], wanted: str | None) -> int:
    named = {nocloud.NAMES.get(code, code.lower()): text for code, text in documents.items()}
    if wanted is not None:
        if wanted not in named:
            raise click.UsageError(f"--document: found {wanted!r}, expected {', '.join(named)}")
        sys.stdout.buffer.write(named[wanted])
        return 0
    terminal.print_documents(named)
    return 0

"""`show`: print the documents that a VM would get."""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any
from urllib.parse import urlencode

import click

from vmw_cloudinit_metadata.admin.reader import AdminRefusedError
from vmw_cloudinit_metadata.cli import terminal
from vmw_cloudinit_metadata.cli.adminoptions import ADMIN_OPTIONS, MakeReader, admin_options
from vmw_cloudinit_metadata.cli.runoptions import server_options
from vmw_cloudinit_metadata.drivers import contract
from vmw_cloudinit_metadata.drivers.driver import Driver, DriverError
from vmw_cloudinit_metadata.drivers.foreignerrors import reason_of
from vmw_cloudinit_metadata.drivers.loading import load
from vmw_cloudinit_metadata.instance import advice, nocloud
from vmw_cloudinit_metadata.instance.documents import NOCLOUD_NAMES
from vmw_cloudinit_metadata.instance.fault import InvalidInstanceData
from vmw_cloudinit_metadata.instance.layering.secretreference import shown
from vmw_cloudinit_metadata.instance.model import InstanceData
from vmw_cloudinit_metadata.protocol.identitytoken import QUERY_KEY
from vmw_cloudinit_metadata.protocol.printable import one_line
from vmw_cloudinit_metadata.protocol.vmware import DIRECTIONS, Machine, parse_uuid
from vmw_cloudinit_metadata.settings.command import refuse_useless
from vmw_cloudinit_metadata.settings.layers import SettingsCommand, config_option
from vmw_cloudinit_metadata.settings.parameters import IP, UUID, driver_options

# Of documents that are compared.
_SAME = "the VM got this"
_UNKNOWN = "cannot be compared: its data has a secret, and the server shows no hash of it"


@click.command(cls=SettingsCommand, whole=server_options)
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
@click.option(
    "--sha256",
    "is_compared",
    is_flag=True,
    help="Print the SHA-256 of each document instead, and compare it with what the VM got last, as "
    "the running server knows. Exit 1 if it differs, or has a secret.",
)
@admin_options
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
    is_compared: bool,
    make_reader: MakeReader,
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
    if sum((is_compared, explain, document is not None)) > 1:
        raise click.UsageError("give only one of --sha256, --explain and --document")
    got: Mapping[str, Any] = {}
    if not is_compared:
        refuse_useless("without --sha256", *ADMIN_OPTIONS)
    else:
        reader = make_reader()
        try:
            found = reader.machine(str(machine.vc_uuid or machine.name or machine.bios_uuid))
        except AdminRefusedError as error:
            return _fail(machine, "nothing to compare with", str(error))
        machine, got = _as_it_came(machine, found), found["documents"]
    driver = load(driver_spec, driver_opts)
    if driver.vault:
        driver.vault.is_hidden = True
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
    if is_compared:
        return _compare(documents, got, has_secret=bool(instance.secrets))
    return _print(documents, document)


def _as_it_came(machine: Machine, found: Mapping[str, Any]) -> Machine:
    """Return the machine with the identity that its host has sent."""
    port = found["ports"][0] if found["ports"] else {}
    return replace(
        machine,
        name=found["name"] or machine.name,
        vc_uuid=found["vc_uuid"] or machine.vc_uuid,
        bios_uuid=found["bios_uuid"] or machine.bios_uuid,
        location_uuid=found["location_uuid"],
        service_uri=machine.service_uri or port.get("service_uri", ""),
        direction=port.get("direction", machine.direction),
        peer_address=machine.peer_address or found["esxi_host"] or "",
    )


def _compare(documents: Mapping[str, bytes], got: Mapping[str, Any], *, has_secret: bool) -> int:
    """Print which documents differ from what the VM got; return the exit code."""
    verdicts = {_SAME}
    for code, text in documents.items():
        if code not in got and not text:
            continue
        digest = hashlib.sha256(text).hexdigest()
        verdict = "the VM did not get"
        if code in got:
            told = got[code]["sha256"]
            is_unknown = has_secret and not told
            verdict = _SAME if told == digest else _UNKNOWN if is_unknown else "differs"
        verdicts.add(verdict)
        shown_digest = "-" if has_secret else digest
        click.echo(f"{shown_digest}  {NOCLOUD_NAMES.get(code, code.lower())}  {verdict}")
    for code in got.keys() - documents.keys():
        verdict = "the VM got it; there is none now"
        verdicts.add(verdict)
        click.echo(f"{got[code]['sha256'] or '-'}  {one_line(code.lower())}  {verdict}")
    return 0 if verdicts == {_SAME} else 1


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
    for reference in instance.secrets:
        click.echo(f"with {shown(reference)}", err=True)
    for warning in advice.warnings_of(instance):
        click.echo(str(warning), err=True)
    for warning in nocloud.hostname_warnings(instance, machine.name or ""):
        click.echo(str(warning), err=True)


def _print(documents: Mapping[str, bytes], wanted: str | None) -> int:
    named = {NOCLOUD_NAMES.get(code, code.lower()): text for code, text in documents.items()}
    if wanted is not None:
        if wanted not in named:
            raise click.UsageError(f"--document: found {wanted!r}, expected {', '.join(named)}")
        sys.stdout.buffer.write(named[wanted])
        return 0
    terminal.print_documents(named)
    return 0

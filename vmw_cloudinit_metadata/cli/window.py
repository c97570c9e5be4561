"""`window`: reopen the user-data windows of VMs, in the ledger."""

from __future__ import annotations

from pathlib import Path

import click

from vmw_cloudinit_metadata.admin.reader import AdminReader, AdminRefusedError
from vmw_cloudinit_metadata.cli.adminoptions import ADMIN_OPTIONS, MakeReader, admin_options
from vmw_cloudinit_metadata.cli.runoptions import server_options
from vmw_cloudinit_metadata.protocol.printable import one_line
from vmw_cloudinit_metadata.protocol.vmware import parse_uuid
from vmw_cloudinit_metadata.settings.command import Group, refuse_useless
from vmw_cloudinit_metadata.settings.errors import ConfigError
from vmw_cloudinit_metadata.settings.layers import SettingsCommand, config_option
from vmw_cloudinit_metadata.settings.parameters import DATABASE_URL, FILE


@click.group("window", cls=Group)
def window() -> None:
    """Change the windows of `run --userdata-window`."""


@window.command("reopen", cls=SettingsCommand, whole=server_options)
@click.argument("vms", metavar="VM...", nargs=-1, required=True)
@config_option
@click.option("--ledger", type=FILE, metavar="FILE", help="The ledger of `run --ledger`.")
@click.option(
    "--fleet",
    "fleet_url",
    type=DATABASE_URL,
    metavar="URL",
    help="The database of `run --fleet`, in place of a ledger.",
)
@admin_options
def reopen(
    vms: tuple[str, ...], ledger: Path | None, fleet_url: str | None, make_reader: MakeReader
) -> int:
    """Let VMs have their user-data again: the next request of each one opens a new window.

    A VM is given by its VC UUID, or by its name: then the running server is asked which VM that is.
    Servers need no restart, and record that in their logs. What was served once stays used. Exit 1
    if a VM has no window. Exit 2 if a name is not that of one VM; then no window is reopened.
    """
    if ledger is None and fleet_url is None:
        raise ConfigError("give --ledger or --fleet, as the server has it")
    if fleet_url:
        refuse_useless("with --fleet", "ledger")
    code = 0
    for vc_uuid, shown in _found(vms, make_reader):
        count = _reopened_by(fleet_url, vc_uuid) if fleet_url else _reopened_in(ledger, vc_uuid)
        code |= not count
        click.echo(f"{shown}: {'reopened' if count else 'no window was open or closed'}")
    return code


def _found(vms: tuple[str, ...], make_reader: MakeReader) -> list[tuple[str, str]]:
    """Return the VC UUID of each VM, and how to call it."""
    known = [(vm, parse_uuid(vm)) for vm in vms]
    reader = None
    if all(vc_uuid for _, vc_uuid in known):
        refuse_useless("without the name of a VM", *ADMIN_OPTIONS)
    else:
        reader = make_reader()
    found = []
    for vm, vc_uuid in known:
        if vc_uuid is None:
            assert reader
            vc_uuid = _vc_uuid_of(vm, reader)
            found.append((vc_uuid, one_line(f"{vm}, {vc_uuid}")))
        else:
            found.append((vc_uuid, vc_uuid))
    return found


def _vc_uuid_of(name: str, reader: AdminReader) -> str:
    """Return what the ledger calls the VM of that name."""
    try:
        vc_uuid = parse_uuid(str(reader.machine(name)["vc_uuid"]))
    except AdminRefusedError as error:
        raise ConfigError(one_line(f"{name}: {error}")) from None
    if vc_uuid is None:
        raise ConfigError(one_line(f"{name}: the VM has sent no VC UUID, so set an instance-id"))
    return vc_uuid


def _reopened_in(path: Path | None, vm: str) -> int:
    from vmw_cloudinit_metadata.serving.ondisk import ledgerfile

    assert path
    return ledgerfile.reopen(path, vm)


def _reopened_by(url: str, vm: str) -> int:
    from vmw_cloudinit_metadata.cli.fleetcommands import reached
    from vmw_cloudinit_metadata.process.fleet import ledgerrows

    with reached(str(url)) as connection:
        return connection.execute(ledgerrows.REOPEN, (vm,)).rowcount

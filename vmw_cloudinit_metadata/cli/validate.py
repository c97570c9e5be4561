"""`validate`: report every fault in the data that the driver could serve."""

from __future__ import annotations

import json
from collections.abc import Hashable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import click

from vmw_cloudinit_metadata.cli import schemas, terminal
from vmw_cloudinit_metadata.cli.runoptions import server_options
from vmw_cloudinit_metadata.cli.schemas import Judge
from vmw_cloudinit_metadata.drivers import contract
from vmw_cloudinit_metadata.drivers.catalogue.findings import Finding, kind_of
from vmw_cloudinit_metadata.drivers.driver import Driver, DriverError
from vmw_cloudinit_metadata.drivers.foreignerrors import reason_of
from vmw_cloudinit_metadata.drivers.loading import load
from vmw_cloudinit_metadata.instance.counts import counted
from vmw_cloudinit_metadata.instance.fault import Fault
from vmw_cloudinit_metadata.instance.model import InstanceData
from vmw_cloudinit_metadata.protocol.printable import one_line
from vmw_cloudinit_metadata.settings.layers import SettingsCommand, config_option
from vmw_cloudinit_metadata.settings.parameters import driver_options, format_option

MAX_WARNINGS = 100_000  # different ones that are grouped; further ones are printed one by one

_STYLES = {r"^.+?:\d+(:\d+)?: ": "bold", r"(?<=: )warning:": "yellow"}


@click.command(cls=SettingsCommand, whole=server_options)
@click.argument("names", metavar="[FILE|VM]...", nargs=-1)
@config_option
@driver_options
@format_option
@click.option(
    "--schema-dir",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    metavar="DIRECTORY",
    help="Check with cloud-init's JSON schemas too (directory cloudinit/config/schemas of any "
    "cloud-init); needs the extra `schema`. Default: the schemas of an installed cloud-init.",
)
@click.option(
    "--strict", is_flag=True, help="Fail for warnings too, and if there is nothing to check."
)
@click.option("--quiet", is_flag=True, help="Print only faults, and with --strict warnings.")
def validate(
    names: tuple[str, ...],
    driver_spec: str,
    driver_opts: Mapping[str, Any],
    form: str,
    schema_dir: Path | None,
    strict: bool,
    quiet: bool,
) -> int:
    """Check all data; print each fault with file, line and key. Exit 1 if there are any.

    Warnings are printed too, but fail only with --strict. With names of files or VMs (or their VC
    UUIDs), check only these; exit 2 if one has no data of its own.
    """
    driver = load(driver_spec, driver_opts)
    judge, note = schemas.judge(schema_dir)
    uses = _Uses(judge)
    driver.judge = uses.judge
    totals = {"faults": 0, "warnings": 0}
    if names:
        checked = contract.faults(driver, "validate_named", driver.validate_named(names))
    else:
        checked = contract.faults(driver, "validate", driver.validate())
    found = _counted(driver, checked, totals)
    if quiet and not strict:
        found = (fault for fault in found if not fault.is_warning)
    if form == "json":
        findings = [finding.as_json() for finding in _gathered(found)]
    else:
        for finding in _gathered(found):
            terminal.echo(str(finding), _STYLES)
    notes = (
        []
        if quiet or names
        else [
            *contract.sentences(driver, "notes", driver.notes()),
            *filter(None, [note, uses.note()]),
        ]
    )
    is_empty = driver.files_checked == 0 and not names
    if form == "json":
        document = {
            "totals": totals | {"files": driver.files_checked},
            "findings": findings,
            "notes": list(map(one_line, notes)),
        }
        click.echo(json.dumps(document, indent=1))
    elif not quiet:
        summary = f"{counted(totals['faults'], 'fault')}, {counted(totals['warnings'], 'warning')}"
        click.echo(summary, err=True)
        for note in notes:
            click.echo(one_line(note), err=True)
    return 1 if totals["faults"] or (strict and (totals["warnings"] or is_empty)) else 0


class _Uses:
    """Counts the VMs with documents that are served once, which the server must record."""

    def __init__(self, judge: Judge | None) -> None:
        self._judge = judge
        self._vms = 0

    def judge(self, instance: InstanceData) -> Iterable[Fault]:
        self._vms += bool(instance.once)
        return self._judge(instance) if self._judge else ()

    def note(self) -> str:
        """Say what they need, unless the settings file has it; "" if there are none."""
        context = click.get_current_context()
        if not self._vms or any(map(context.lookup_default, ("ledger", "fleet_url"))):
            return ""
        have = "has" if self._vms == 1 else "have"
        needed = "the server serves them with --ledger FILE or --fleet only"
        return f"{counted(self._vms, 'VM')} {have} documents with `once`: {needed}"


def _counted(driver: Driver, faults: Iterable[Fault], totals: dict[str, int]) -> Iterator[Fault]:
    try:
        for fault in faults:
            totals["warnings" if fault.is_warning else "faults"] += 1
            yield fault
    except DriverError as error:
        raise DriverError(reason_of(driver, error)) from error


def _gathered(faults: Iterable[Fault]) -> Iterator[Finding]:
    """Yield faults at once, and warnings at the end, equal ones together."""
    warnings: dict[Hashable, Finding] = {}
    for fault in faults:
        kind = kind_of(fault)
        is_kept = fault.is_warning and (kind in warnings or len(warnings) < MAX_WARNINGS)
        finding = warnings.setdefault(kind, Finding(fault)) if is_kept else Finding(fault)
        finding.add(fault)
        if not is_kept:
            yield finding
    yield from warnings.values()

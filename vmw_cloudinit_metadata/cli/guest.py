"""`guest`: installs the agent into the tree of an image, checks it, prints its files."""

from __future__ import annotations

import json
import re
from pathlib import Path

import click

from vmw_cloudinit_metadata.guest.check import imagecheck
from vmw_cloudinit_metadata.guest.check.finding import ImageFinding
from vmw_cloudinit_metadata.guest.check.imageprograms import of_own_programs
from vmw_cloudinit_metadata.guest.image import inspection, parts
from vmw_cloudinit_metadata.guest.image.install import install as install_agent
from vmw_cloudinit_metadata.guest.image.install import open_tree
from vmw_cloudinit_metadata.guest.image.install import remove as remove_agent
from vmw_cloudinit_metadata.guest.image.parts import Choices
from vmw_cloudinit_metadata.guest.image.presets import disabled_agent
from vmw_cloudinit_metadata.guest.image.tree import Tree
from vmw_cloudinit_metadata.protocol.printable import one_line
from vmw_cloudinit_metadata.settings.command import Group, refuse_useless
from vmw_cloudinit_metadata.settings.errors import ConfigError
from vmw_cloudinit_metadata.settings.parameters import Parsed


def _parse_port(text: str) -> str:
    """Return `ttyS0` for `ttyS0` and `/dev/ttyS0`."""
    found = re.fullmatch(r"(?:/dev/)?(tty[A-Za-z]{1,8}\d{1,3})", text, re.ASCII)
    if not found:
        raise ConfigError(f"found {text!r}, expected a serial port, as in ttyS0")
    return found[1]


def _parse_device(text: str) -> str:
    if not re.fullmatch(r"/dev/[\w./:-]+", text, re.ASCII) or ".." in text.split("/"):
        raise ConfigError(f"found {text!r}, expected a device, as in /dev/ttyS1")
    return text


PORT = Parsed("PORT", _parse_port)
DEVICE = Parsed("DEVICE", _parse_device)

ROOT = click.option(
    "--root",
    required=True,
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    metavar="DIR",
    help="Where the root of the image is mounted or unpacked; `/` is this machine.",
)
NETWORK_EVERY_BOOT = click.option(
    "--network-every-boot",
    is_flag=True,
    help="Make cloud-init apply the network at every boot, not only for a new instance-id.",
)
WITH_GUESTINFO = click.option(
    "--with-guestinfo",
    is_flag=True,
    help="Use guestinfo for VMs without a seed: one template for both sources.",
)


@click.group(cls=Group)
def guest() -> None:
    """Install the agent, which runs inside VMs, into an image."""


@guest.command()
@ROOT
@click.option(
    "--device",
    type=DEVICE,
    help="The agent's serial port; set it whenever possible. Default: the agent asks on every free "
    "port and trusts the first that answers.",
)
@click.option(
    "--free-console",
    type=PORT,
    help="Remove the kernel console and getty from this port, such as ttyS0.",
)
@NETWORK_EVERY_BOOT
@WITH_GUESTINFO
@click.option(
    "--no-report",
    is_flag=True,
    help="Leave out the unit that reports to the server how each boot ended.",
)
@click.option("--remove", is_flag=True, help="Restore everything as it was before.")
def install(
    root: Path,
    device: str | None,
    free_console: str | None,
    network_every_boot: bool,
    with_guestinfo: bool,
    no_report: bool,
    remove: bool,
) -> None:
    """Install agent, units, clean script and cloud-init configuration into the tree of an image.

    Afterwards the tree matches the options: changes that only earlier options needed are undone.
    Your own settings of the agent are kept, and --remove leaves files that were changed since.
    """
    choices = Choices(device, free_console, network_every_boot, with_guestinfo, not no_report)
    tree = open_tree(root)
    if remove:
        if choices != Choices():
            raise click.UsageError("--remove takes no option other than --root")
        _print_done([str(done) for done in remove_agent(tree)])
        return
    _print_done([str(done) for done in install_agent(tree, choices)])
    for warning in _warnings(tree, free_console):
        click.echo(one_line(f"warning: {warning}"), err=True)


@guest.command()
@ROOT
@click.option(
    "--format",
    "form",
    type=click.Choice(["text", "json"]),
    default="text",
    help="text: one line for each finding; json: one object, for image pipelines.",
)
@click.option(
    "--run-image-programs",
    is_flag=True,
    help="Also run the image's own ds-identify and cloud-init, as nobody, in namespaces of their "
    "own without a network. Needs root.",
)
def check(root: Path, form: str, run_image_programs: bool) -> int:
    """List what would keep the agent or cloud-init from working, with remedies.

    Exit 1 if there is any fault. Warnings are risks, and do not count.
    """
    tree = open_tree(root)
    found = imagecheck.findings(tree)
    if run_image_programs:
        found += of_own_programs(tree)
    faults = sum(not finding.is_warning for finding in found)
    if form == "json":
        click.echo(_as_json(found, faults))
    else:
        for finding in found:
            click.echo(str(finding))
    click.echo(f"problems: {faults}", err=True)
    return 1 if faults else 0


def _as_json(found: list[ImageFinding], faults: int) -> str:
    whole = {"problems": faults, "warnings": len(found) - faults}
    return json.dumps({**whole, "findings": [finding.plain for finding in found]}, indent=1)


@guest.command("print")
@click.argument(
    "what",
    type=click.Choice(
        [
            *("agent", "unit", "report-unit", "preset", "config", "settings", "clean"),
            "cloudbase-init",
        ]
    ),
    metavar="WHAT",
)
@NETWORK_EVERY_BOOT
@WITH_GUESTINFO
def print_(what: str, network_every_boot: bool, with_guestinfo: bool) -> None:
    """Print a file as it is installed, such as agent or unit.

    report-unit: the unit that reports how a boot ended.
    preset: keeps the units enabled on first boots that apply systemd's presets.
    config: cloud-init's, /etc/cloud/cloud.cfg.d/99-nocloud.cfg. settings: the agent's,
    /etc/vmw-metadata-agent.conf. clean: the script for `cloud-init clean`.
    cloudbase-init: the metadata service for Windows, vmwmetadata.py.
    """
    if what != "config":
        refuse_useless(f"on {what}, only on config", "network_every_boot", "with_guestinfo")
    choices = Choices(network_every_boot=network_every_boot, with_guestinfo=with_guestinfo)
    text = parts.cloud_config(choices) if what == "config" else _TEXTS[what]()
    click.echo(text, nl=False)


_TEXTS = {
    "agent": parts.agent,
    "unit": parts.unit,
    "report-unit": parts.report_unit,
    "preset": parts.preset,
    "settings": parts.settings,
    "clean": parts.clean,
    "cloudbase-init": parts.cloudbase_init,
}


def _print_done(steps: list[str]) -> None:
    for step in steps or ["nothing to do"]:
        click.echo(one_line(step))


def _warnings(tree: Tree, freed: str | None) -> list[str]:
    found = [
        *inspection.missing(tree),
        *disabled_agent(tree),
        *inspection.overriding_data_sources(tree),
        *inspection.without_selinux_label(tree),
    ]
    found += inspection.unnamed_device(tree)
    if freed:
        found += [*inspection.serial_boot_loader(tree), *inspection.unified_images(tree, freed)]
    return found

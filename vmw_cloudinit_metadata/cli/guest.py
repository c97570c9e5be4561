"""`guest`: the agent, into the tree of an image."""

from __future__ import annotations

import re
from pathlib import Path

import click

from vmw_cloudinit_metadata.guest.image import check as checks
from vmw_cloudinit_metadata.guest.image import parts
from vmw_cloudinit_metadata.guest.image.install import install as install_agent
from vmw_cloudinit_metadata.guest.image.install import open_tree
from vmw_cloudinit_metadata.guest.image.install import remove as remove_agent
from vmw_cloudinit_metadata.guest.image.parts import Choices
from vmw_cloudinit_metadata.guest.image.tree import Tree
from vmw_cloudinit_metadata.protocol.printable import one_line
from vmw_cloudinit_metadata.settings.errors import ConfigError
from vmw_cloudinit_metadata.settings.parameters import Parsed


def _parse_port(text: str) -> str:
    """`ttyS0` of that, or of `/dev/ttyS0`."""
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
    help="Where the image's root is mounted, or unpacked. `/`: this machine.",
)
NETWORK_EVERY_BOOT = click.option(
    "--network-every-boot",
    is_flag=True,
    help="cloud-init renders the network at each boot, not only for a new instance-id.",
)
WITH_GUESTINFO = click.option(
    "--with-guestinfo",
    is_flag=True,
    help="guestinfo is the second choice: one template for both worlds.",
)


@click.group()
def guest() -> None:
    """Puts the agent into an image: the part of this program that runs inside the VM."""


@guest.command()
@ROOT
@click.option(
    "--device",
    type=DEVICE,
    help="The agent's serial port: name it where you can. Default: each free one is asked, "
    "and the first that answers is believed.",
)
@click.option(
    "--free-console",
    type=PORT,
    help="Takes this port from the kernel's console and from getty: ttyS0.",
)
@NETWORK_EVERY_BOOT
@WITH_GUESTINFO
@click.option("--remove", is_flag=True, help="Puts everything back as it was before.")
def install(
    root: Path,
    device: str | None,
    free_console: str | None,
    network_every_boot: bool,
    with_guestinfo: bool,
    remove: bool,
) -> None:
    """Puts agent, unit, clean script and cloud-init's configuration into the tree of an image.

    The tree is afterwards as the options say: what an earlier installation changed by other options
    is put back. Your own settings of the agent stay, and --remove leaves what was changed since.
    """
    choices = Choices(device, free_console, network_every_boot, with_guestinfo)
    tree = open_tree(root)
    if remove:
        if choices != Choices():
            raise click.UsageError("--remove takes no other option than --root")
        _tell_done([str(done) for done in remove_agent(tree)])
        return
    _tell_done([str(done) for done in install_agent(tree, choices)])
    for warning in _warnings(tree, free_console):
        click.echo(one_line(f"warning: {warning}"), err=True)


@guest.command()
@ROOT
def check(root: Path) -> int:
    """Tells what will keep the agent from working, and the remedies. Exit 1 if it finds any."""
    tree = open_tree(root)
    problems = [*checks.not_served(tree), *checks.agents_own(tree)]
    for problem in problems:
        click.echo(one_line(problem))
    click.echo(f"problems: {len(problems)}", err=True)
    return 1 if problems else 0


@guest.command("print")
@click.argument(
    "what", type=click.Choice(["agent", "unit", "config", "settings", "clean"]), metavar="WHAT"
)
@NETWORK_EVERY_BOOT
@WITH_GUESTINFO
def print_(what: str, network_every_boot: bool, with_guestinfo: bool) -> None:
    """Prints a file as it is installed: agent, unit, config, settings or clean.

    config: cloud-init's, /etc/cloud/cloud.cfg.d/99-nocloud.cfg. settings: the agent's,
    /etc/vmw-metadata-agent.conf. clean: the script for `cloud-init clean`.
    """
    choices = Choices(network_every_boot=network_every_boot, with_guestinfo=with_guestinfo)
    text = parts.cloud_config(choices) if what == "config" else _TEXTS[what]()
    click.echo(text, nl=False)


_TEXTS = {
    "agent": parts.agent,
    "unit": parts.unit,
    "settings": parts.settings,
    "clean": parts.clean,
}


def _tell_done(steps: list[str]) -> None:
    for step in steps or ["nothing to do"]:
        click.echo(one_line(step))


def _warnings(tree: Tree, freed: str | None) -> list[str]:
    found = [*checks.missing(tree), *checks.overruled(tree), *checks.unlabelled(tree)]
    found += checks.unnamed_device(tree)
    return [*found, *(checks.serial_boot_loader(tree) if freed else [])]

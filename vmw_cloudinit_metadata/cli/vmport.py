"""`vm-port`: add, show, remove or reconnect the serial ports of VMs in vCenter."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any
from urllib.parse import urlsplit

import click

from vmw_cloudinit_metadata.guest.vsphere import portplan, work
from vmw_cloudinit_metadata.guest.vsphere.names import names
from vmw_cloudinit_metadata.guest.vsphere.portplan import Backing, Decide, Wanted
from vmw_cloudinit_metadata.guest.vsphere.work import Do, Outcome, Result
from vmw_cloudinit_metadata.instance.counts import counted
from vmw_cloudinit_metadata.protocol.identitytoken import QUERY_KEY, without_token
from vmw_cloudinit_metadata.protocol.printable import one_line
from vmw_cloudinit_metadata.protocol.vmware import DIRECTIONS
from vmw_cloudinit_metadata.settings import identitykeys, vcenterpassword
from vmw_cloudinit_metadata.settings.command import Group
from vmw_cloudinit_metadata.settings.errors import ConfigError
from vmw_cloudinit_metadata.settings.identitykeys import NumberedFile
from vmw_cloudinit_metadata.settings.parameters import (
    FILE,
    THUMBPRINT,
    VCENTER,
    Parsed,
    WholeRange,
    identity_key_option,
    together,
)

_TRUSTS = ("ca_file", "thumbprint", "insecure")


def _parse_service_uri(text: str) -> str:
    if not text or len(text) > 1024 or not text.isprintable():
        raise ConfigError(f"found {text!r}, expected the service URI, as in `run --uri`")
    if without_token(text) != text:
        raise ConfigError(
            f"found the key {QUERY_KEY}, which is the identity token, another one for each VM: "
            f"`vm-port add {identitykeys.OPTION}` sets it"
        )
    return text


def _parse_proxy_uri(text: str) -> str:
    try:
        found = urlsplit(text)
        if found.scheme in ("telnet", "telnets") and found.hostname and found.port:
            return text
    except ValueError:
        pass
    raise ConfigError(f"found {text!r}, expected telnet://SERVER:13370, or telnets://")


SERVICE_URI = Parsed("URI", _parse_service_uri)
PROXY_URI = Parsed("URI", _parse_proxy_uri)

URI = click.option(
    "--uri", type=SERVICE_URI, required=True, help="The service URI, as in `run --uri`."
)
DRY_RUN = click.option("--dry-run", is_flag=True, help="Show what would be done, and do nothing.")
# The arguments for the VMs, and the options to reach the vCenter.
shared = together(
    click.argument("vms", metavar="[VM]...", nargs=-1),
    click.option(
        "--from",
        "sources",
        metavar="FILE|FOLDER|-",
        multiple=True,
        help="More VMs: a file with one name per line, a folder of instance files, or stdin.",
    ),
    click.option(
        "--defaults",
        metavar="FILE",
        help="The instance file in the folder that holds the defaults and names no VM.",
    ),
    click.option(
        "--vcenter", type=VCENTER, required=True, help="The vCenter, or a single ESXi host."
    ),
    click.option(
        "--user",
        metavar="NAME",
        required=True,
        help="The user, such as administrator@vsphere.local.",
    ),
    click.option(
        "--password-file",
        type=FILE,
        metavar="FILE",
        help="The first line is the password. "
        f"Default: ${vcenterpassword.VARIABLE}, else a prompt.",
    ),
    click.option(
        "--ca-file",
        type=FILE,
        metavar="FILE",
        help="Authorities to verify the vCenter's certificate.",
    ),
    click.option(
        "--thumbprint", type=THUMBPRINT, help="The SHA-1 or SHA-256 of the vCenter's certificate."
    ),
    click.option("--insecure", is_flag=True, help="Do not verify the vCenter's certificate."),
    click.option(
        "--jobs",
        type=WholeRange(1, 64),
        default=8,
        show_default=True,
        metavar="N",
        help="How many VMs to work on in parallel.",
    ),
)


@click.group("vm-port", cls=Group)
def vm_port() -> None:
    """Add, show, remove or reconnect VMs' serial ports in vCenter.

    A VM is given by name, VC UUID, BIOS UUID, or inventory path (DC/vm/folder/web1). Exit 1 if
    anything failed for any VM.
    """


@vm_port.command("add")
@shared
@URI
@click.option(
    "--proxy-uri",
    type=PROXY_URI,
    required=True,
    help="The server: telnet://SERVER:13370, or the URI that `tls-info` prints.",
)
@click.option(
    "--direction", type=click.Choice(list(DIRECTIONS.values())), default="client", show_default=True
)
@click.option(
    "--yield-on-poll/--no-yield-on-poll",
    default=True,
    show_default=True,
    help="Yield the CPU while the guest only polls the port.",
)
@identity_key_option
@DRY_RUN
def add_(
    uri: str,
    proxy_uri: str,
    direction: str,
    yield_on_poll: bool,
    identity_key_file: NumberedFile | None,
    dry_run: bool,
    **reach: Any,
) -> int:
    """Add the port to each VM, or change the port that has this service URI.

    A port is added only while the VM is off; an existing one can be changed while it runs, and
    keeps its identity token unless --identity-key-file is given.
    """
    wanted = Wanted(Backing(uri, proxy_uri, direction), yield_on_poll)
    token = identitykeys.read_one(identity_key_file).token if identity_key_file else None
    return _change(reach, lambda vm: portplan.add(vm, wanted, token), dry_run)


@vm_port.command()
@shared
@URI
@DRY_RUN
def remove(uri: str, dry_run: bool, **reach: Any) -> int:
    """Remove the port with this service URI. The VM must be off."""
    return _change(reach, lambda vm: portplan.remove(vm, uri), dry_run)


@vm_port.command()
@shared
@URI
@DRY_RUN
def reconnect(uri: str, dry_run: bool, **reach: Any) -> int:
    """Disconnect and connect the port while the VM runs: the ESXi host reconnects."""
    return _change(reach, lambda vm: portplan.reconnect(vm, uri), dry_run)


@vm_port.command()
@shared
@click.option(
    "--uri",
    type=SERVICE_URI,
    help="Only ports with this service URI; a VM without one counts as failed.",
)
def show(uri: str | None, **reach: Any) -> int:
    """Show the network serial ports of each VM."""
    return _work(reach, lambda vcenter, vm: work.look(vcenter, vm, uri))


def _change(reach: Mapping[str, Any], decide: Decide, is_dry_run: bool) -> int:
    return _work(reach, lambda vcenter, vm: work.change(vcenter, vm, decide, is_dry_run=is_dry_run))


def _work(reach: Mapping[str, Any], do: Do) -> int:
    vsphere = _vsphere()
    chosen = names(reach["vms"], reach["sources"], reach["defaults"])
    _refuse_several_trusts(reach)
    trust = vsphere.Trust(reach["ca_file"], reach["thumbprint"], reach["insecure"])
    password = _password(reach["password_file"])
    jobs = reach["jobs"]
    with vsphere.connect(reach["vcenter"], reach["user"], password, trust, jobs) as vcenter:
        return _print_outcomes(work.for_each(vcenter, chosen, jobs, do))


def _vsphere() -> ModuleType:
    """Return the module that needs the extra."""
    try:
        from vmw_cloudinit_metadata.guest.vsphere import vcenter
    except ModuleNotFoundError as error:
        if (error.name or "").startswith("pyV"):
            raise ConfigError(
                "vm-port needs pyVmomi: pip install 'vmw-cloudinit-metadata[vsphere]'"
            ) from None
        raise
    return vcenter


def _print_outcomes(outcomes: Iterable[Outcome]) -> int:
    results = Counter[Result]()
    for outcome in outcomes:
        click.echo(one_line(str(outcome)), err=outcome.result.is_failure)
        results[outcome.result] += 1
    summary = ", ".join(f"{count} {result}" for result, count in sorted(results.items()))
    click.echo(f"{counted(results.total(), 'VM')}: {summary}", err=True)
    return 1 if any(result.is_failure for result in results) else 0


def _refuse_several_trusts(reach: Mapping[str, Any]) -> None:
    given = [f"--{name.replace('_', '-')}" for name in _TRUSTS if reach[name]]
    if len(given) > 1:
        raise click.UsageError(f"give only one of {', '.join(given)}")


def _password(file: Path | None) -> str:
    """Read it from the file, the environment or the terminal; never from the command line."""
    return vcenterpassword.read("--password-file", file) or _asked_password()


def _asked_password() -> str:
    if not sys.stdin.isatty():
        raise ConfigError(f"no password: give --password-file, or set {vcenterpassword.VARIABLE}")
    return str(click.prompt("Password", hide_input=True, err=True))

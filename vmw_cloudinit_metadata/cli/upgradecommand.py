"""`upgrade`: have a running server replaced by the version on disk, without losing a line."""

from __future__ import annotations

import os
import re
import signal
import sys
from pathlib import Path
from urllib.parse import urlsplit

import click

from vmw_cloudinit_metadata.admin.reader import AdminReader
from vmw_cloudinit_metadata.cli.adminoptions import ADMIN_OPTIONS, MakeReader, admin_options
from vmw_cloudinit_metadata.cli.runoptions import server_options
from vmw_cloudinit_metadata.process import upgradereport
from vmw_cloudinit_metadata.process.upgradereport import UPGRADE
from vmw_cloudinit_metadata.settings.command import refuse_useless
from vmw_cloudinit_metadata.settings.errors import ConfigError
from vmw_cloudinit_metadata.settings.layers import SettingsCommand, config_option
from vmw_cloudinit_metadata.settings.parameters import FiniteRange, WholeRange
from vmw_cloudinit_metadata.settings.values import is_loopback

_MAX_TIMEOUT_S = 86400.0
# A word of its command line. Other programs handle the signal too, and end: bash is one of them.
_SERVER = re.compile(
    rb"(?:^|/)vmw-(?:cloudinit-metadata|metadata-server)$"
    rb"|\bvmw_cloudinit_metadata(?:$|/__main__\.py$|\b(?!/))"
)
_CAUGHT = re.compile(r"^SigCgt:\s*([0-9a-f]+)$", re.MULTILINE)


@click.command(cls=SettingsCommand, whole=server_options)
@config_option
@admin_options
@click.option(
    "--pid",
    type=WholeRange(min=1),
    metavar="PID",
    help="Upgrade the server with this process id; with --workers, that of the parent. Default: "
    "the server at the admin URL.",
)
@click.option(
    "--timeout",
    "timeout_s",
    type=FiniteRange(min=0, min_open=True, max=_MAX_TIMEOUT_S),
    default=600.0,
    show_default=True,
    metavar="SECONDS",
    help="Wait this long for the server to report the result.",
)
def upgrade(
    make_reader: MakeReader,
    pid: int | None,
    timeout_s: float,
) -> None:
    """Replace a running server by the version on disk, in place.

    The process id stays, and so do lines without TLS, whatever goes on on them. Lines with TLS are
    closed when their answers are finished, and ESXi reconnects. The new version is started first,
    to check whether it can take over: if not, the old one serves on, and the exit code is 1.
    """
    if pid:
        refuse_useless("with --pid", *ADMIN_OPTIONS)
    found = pid or _pid_at(make_reader())
    _require_server(found)
    with upgradereport.listen(found) as listener:
        try:
            os.kill(found, UPGRADE)
        except OSError as error:
            raise ConfigError(f"process {found}: {error.strerror}") from error
        outcome = listener.wait(timeout_s)
    click.echo(outcome.text, err=not outcome.is_done)
    sys.exit(0 if outcome.is_done else 1)


def _pid_at(reader: AdminReader) -> int:
    """Return the process id of the server at the admin URL, which must be of this machine."""
    url = reader.url
    if not is_loopback(urlsplit(url).hostname or ""):
        raise ConfigError(f"{url} may be another machine: give --pid, on the server's own machine")
    try:
        found = reader.json("/api/status")
    except ConfigError as error:
        raise ConfigError(f"{error}; give --pid PID, or the --admin URL of the server") from error
    pid = found.get("process")
    if not isinstance(pid, int) or pid < 1:
        raise ConfigError(f"the server at {url} cannot be upgraded in place: restart it")
    return pid


def _require_server(pid: int) -> None:
    """Raise ConfigError unless the process is a server that handles the signal, which would end
    any other one."""
    process = Path(f"/proc/{pid}")
    try:
        caught = _CAUGHT.search((process / "status").read_text())
        words = (process / "cmdline").read_bytes().split(b"\0")
    except OSError as error:
        raise ConfigError(f"there is no process {pid}: {error.strerror}") from error
    is_server = any(map(_SERVER.search, words))
    if not is_server or not caught or not int(caught[1], 16) & 1 << (signal.Signals(UPGRADE) - 1):
        raise ConfigError(
            f"process {pid} is no server that can be upgraded in place, or it is still starting; "
            "with --workers, give the process id of their parent"
        )

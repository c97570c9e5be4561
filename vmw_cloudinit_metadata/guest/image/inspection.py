"""Finds what would keep the agent in an image from working, with a remedy for each finding."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator

from vmw_cloudinit_metadata.guest.image import datasource, joined, kernel, layout, parts
from vmw_cloudinit_metadata.guest.image.tree import Tree
from vmw_cloudinit_metadata.settings.errors import ConfigError

LIMIT_S = 60

_LABELLED = (
    *(parts.AGENT, parts.UNIT, parts.ENABLED, parts.PRESET, parts.CLEAN, parts.SETTINGS),
    datasource.FILE,
)


def missing(tree: Tree) -> Iterator[str]:
    """Yield what the image's own packages have to provide and do not."""
    if not layout.cloud_init_of(tree):
        yield "cloud-init is not installed: install the distribution's package"
    if not layout.python_of(tree):
        yield f"no Python found ({layout.DEFAULT_PYTHON}): install python3 3.6 or later"
    yield from without_systemd(tree)


def without_systemd(tree: Tree) -> Iterator[str]:
    """Yield an init other than systemd, which the agent's own check takes for granted."""
    init = layout.other_init(tree)
    if init:
        yield f"/sbin/init is {init}: the agent needs systemd: install systemd-sysv"


def unnamed_device(tree: Tree) -> Iterator[str]:
    """Yield a warning if the settings leave the choice of the port to the agent."""
    if not parts.has_device(tree.text(parts.SETTINGS)):
        yield (
            f"no device is set in {parts.SETTINGS}: the agent trusts the first free serial port "
            "that answers, and cloud-init runs its data as root: use --device /dev/ttyS1, or "
            "whichever port the VM has for it"
        )


def overriding_data_sources(tree: Tree) -> Iterator[str]:
    """Yield configuration files that come after ours and set other data sources."""
    for path in tree.glob(f"{datasource.DIRECTORY}/*.cfg"):
        if path > datasource.FILE and datasource.has_list(tree.text(path)):
            yield f"{path} has a datasource_list that overrides ours: remove it from that file"


def without_selinux_label(tree: Tree) -> Iterator[str]:
    """Yield how to label files that have no label, on a system with SELinux."""
    policy = layout.selinux_type(tree)
    if policy is None:
        return
    paths = [path for path in _LABELLED if tree.entry(path) and tree.selinux_label(path) is None]
    if paths:
        yield (
            f"SELinux is in use, and these files have no label: {' '.join(paths)}:"
            f" run `setfiles -r {tree.root}"
            f" {tree.root}/etc/selinux/{policy}/contexts/files/file_contexts"
            f" {' '.join(f'{tree.root}{path}' for path in paths)}`, or `touch"
            f" {tree.root}/.autorelabel` (the first boot then takes longer and restarts once)"
        )


def serial_boot_loader(tree: Tree) -> Iterator[str]:
    """Yield where GRUB uses a serial port: noise that the server ignores."""
    for path in parts.command_line_files(tree):
        line = kernel.grub_serial_line(tree.read(path) or b"")
        if line:
            yield f"{path}:{line}: GRUB itself writes to a serial port; the server ignores that"


def findings_of_agent(tree: Tree) -> list[str]:
    """Run the agent's own check and return its findings; raise ConfigError if it cannot run."""
    # The file that ships, from standard input, and a path that is no option.
    command = [sys.executable, "-I", "-", "--check", "--root", str(tree.root)]
    try:
        ended = subprocess.run(  # nosec B603
            command,
            input=joined.agent(),
            capture_output=True,
            text=True,
            encoding="utf-8",
            errors="replace",
            timeout=LIMIT_S,
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        raise ConfigError(f"the agent's check timed out after {LIMIT_S} s") from error
    if ended.returncode not in (0, 1):
        raise ConfigError(f"the agent's check failed: {(ended.stderr or ended.stdout).strip()}")
    return ended.stdout.splitlines() if ended.returncode else []

"""Finds what an installation has to warn of, with a remedy for each finding."""

from __future__ import annotations

from collections.abc import Iterator

from vmw_cloudinit_metadata.guest.image import datasource, kernel, layout, parts
from vmw_cloudinit_metadata.guest.image.tree import Tree

_LABELLED = (
    *(parts.AGENT, parts.UNIT, parts.ENABLED, parts.PRESET, parts.CLEAN, parts.SETTINGS),
    *(parts.REPORT_UNIT, parts.REPORT_ENABLED),
    datasource.FILE,
)


def missing(tree: Tree) -> Iterator[str]:
    """Yield what the image's own packages have to provide and do not."""
    if not layout.cloud_init_of(tree):
        yield "cloud-init is not installed: install the distribution's package"
    if not layout.python_of(tree):
        yield f"no Python found ({layout.DEFAULT_PYTHON}): install python3 3.6 or later"
    init = layout.without_systemd(tree)
    if init:
        yield init


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
    if policy is None or tree.entry("/.autorelabel"):
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


def unified_images(tree: Tree, port: str) -> Iterator[str]:
    """Yield kernel images with a command line inside, which cannot be edited."""
    for path in parts.unified_images(tree):
        yield (
            f"{path}: the command line inside a unified kernel image is not changed: build it anew"
            f" without console={port}"
        )


def serial_boot_loader(tree: Tree) -> Iterator[str]:
    """Yield where GRUB uses a serial port: noise that the server ignores."""
    for path in parts.command_line_files(tree):
        line = kernel.grub_serial_line(tree.read(path) or b"")
        if line:
            yield f"{path}:{line}: GRUB itself writes to a serial port; the server ignores that"

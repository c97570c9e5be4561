"""Finds units that cloud-init needs and that do not start: masked, disabled, wanted by nothing."""

from __future__ import annotations

import posixpath
import re
from collections.abc import Iterator, Sequence
from dataclasses import replace

from vmw_cloudinit_metadata.guest.check.commandlines import command_lines
from vmw_cloudinit_metadata.guest.check.finding import ImageFinding
from vmw_cloudinit_metadata.guest.image import layout, presets
from vmw_cloudinit_metadata.guest.image.tree import Link, Tree
from vmw_cloudinit_metadata.settings.errors import ConfigError

_DIRECTORIES = (
    "/etc/systemd/system",
    "/run/systemd/system",
    "/usr/local/lib/systemd/system",
    "/usr/lib/systemd/system",
    "/lib/systemd/system",
)
_OF_PACKAGES = _DIRECTORIES[2:]
_GENERATORS = (
    "/etc/systemd/system-generators",
    "/usr/local/lib/systemd/system-generators",
    "/usr/lib/systemd/system-generators",
    "/lib/systemd/system-generators",
)
_GENERATOR = "cloud-init-generator"
_TARGET = "cloud-init.target"
_KINDS = ("service", "target")
_NAMES = [f"cloud-{name}*.{kind}" for name in ("init", "config", "final") for kind in _KINDS]
MAX_UNITS = 50  # each is looked for in all presets and directories
_NOT_NEEDED = "hotplug"  # cards that are added later
_NETWORKD = "systemd-networkd.service"
_NETPLAN_1_2 = "/usr/libexec/netplan/configure"
_NETPLAN_FILES = ("/etc/netplan/*.yaml", "/usr/lib/netplan/*.yaml", "/lib/netplan/*.yaml")
# With one of these, cloud-init or netplan may leave the network to another program.
_OTHER_NETWORK = ("/usr/sbin/ifup", "/sbin/ifup", "/usr/sbin/NetworkManager")
_INSTALL = re.compile(r"^\[Install\][ \t\r]*$", re.MULTILINE)
_MASKING = re.compile(r"systemd\.mask=(?:cloud-(?:init|config|final)|vmw-metadata-agent)\b")
_NULL = "/dev/null"


def not_started(tree: Tree) -> Iterator[ImageFinding]:
    """Yield each unit of cloud-init that does not start."""
    for unit in _units(tree):
        masked = _masked(tree, _DIRECTORIES, unit)
        if masked:
            yield ImageFinding(
                masked, f"{unit} is masked", layout.systemctl(tree, f"unmask {unit}")
            )
        elif _is_to_enable(tree, unit):
            yield from _of_enablement(tree, unit, f"{unit} is wanted by nothing")
    yield from _of_generator(tree)
    yield from _of_networkd(tree)
    for line in command_lines(tree):
        for word in line.words:
            if _MASKING.match(word):
                yield ImageFinding(line.place, f"{word} masks a unit", f"remove {word}")


def agent_not_enabled(tree: Tree) -> Iterator[ImageFinding]:
    """Yield it if the agent does not start; its own check reports a unit missing or masked."""
    unit = presets.AGENT
    has_unit = any(tree.entry(f"{at}/{unit}") for at in _DIRECTORIES)
    if has_unit and not _masked(tree, _DIRECTORIES, unit):
        yield from _of_enablement(tree, unit, f"{unit} is not enabled")


def report_not_enabled(tree: Tree) -> Iterator[ImageFinding]:
    """Yield a warning if how a boot ended is not reported although the unit is there."""
    unit = presets.REPORT
    has_unit = any(tree.entry(f"{at}/{unit}") for at in _DIRECTORIES)
    if has_unit and not _masked(tree, _DIRECTORIES, unit):
        found = _of_enablement(tree, unit, f"{unit} is not enabled: no boot's outcome is reported")
        yield from (replace(finding, is_warning=True) for finding in found)


def _units(tree: Tree) -> list[str]:
    """Return the names of the units that cloud-init consists of; raise ConfigError."""
    paths = [path for at in _DIRECTORIES for name in _NAMES for path in tree.glob(f"{at}/{name}")]
    names = {path.rpartition("/")[2] for path in paths if _is_unit(tree, path)}
    if len(names) > MAX_UNITS:
        raise ConfigError(f"not checked, since there are more than {MAX_UNITS} units of cloud-init")
    return sorted(name for name in names if _NOT_NEEDED not in name)


def _is_unit(tree: Tree, path: str) -> bool:
    """Return whether it is a file or a link, but no other name of another unit."""
    entry = tree.entry(path)
    if isinstance(entry, Link) and not _is_mask(posixpath.dirname(path), entry):
        return posixpath.basename(entry.target) == posixpath.basename(path)
    return entry is not None


def _masked(tree: Tree, directories: tuple[str, ...], name: str) -> str:
    """Return the link or empty file that hides the unit, or ""."""
    for directory in directories:
        entry = tree.entry(f"{directory}/{name}")
        if isinstance(entry, Link):
            return f"{directory}/{name}" if _is_mask(directory, entry) else ""
        if entry:
            return "" if entry.content else f"{directory}/{name}"
    return ""


def _is_mask(directory: str, link: Link) -> bool:
    return posixpath.normpath(posixpath.join(directory, link.target)) == _NULL


def _place(tree: Tree, unit: str) -> str:
    places = [f"{at}/{unit}" for at in _DIRECTORIES]
    return next(filter(tree.entry, places), places[3])


def _is_to_enable(tree: Tree, unit: str) -> bool:
    return _INSTALL.search(tree.text(_place(tree, unit))) is not None


def _is_wanted(tree: Tree, unit: str, directories: Sequence[str] = _DIRECTORIES) -> bool:
    """Return whether a link enables the unit, even if it leads nowhere: its name counts."""
    return any(
        tree.entry(f"{found}/{unit}")
        for at in directories
        for kind in ("wants", "requires", "upholds")
        for found in tree.glob(f"{at}/*.{kind}")
    )


def _of_enablement(tree: Tree, unit: str, problem: str) -> Iterator[ImageFinding]:
    """Yield the problem if the unit is not enabled; on a first boot, presets decide."""
    is_first_boot, rule = presets.is_first_boot(tree), presets.rule_of(tree, unit)
    if _is_wanted(tree, unit, _OF_PACKAGES):
        return  # no preset changes that
    if is_first_boot and rule and rule.disables:
        yield ImageFinding(rule.file, presets.problem_of(rule, unit), presets.remedy_of(unit))
    elif is_first_boot and (rule is None or rule.enables):
        return
    elif not _is_wanted(tree, unit):
        yield ImageFinding(_place(tree, unit), problem, layout.systemctl(tree, f"enable {unit}"))


def _of_generator(tree: Tree) -> Iterator[ImageFinding]:
    """The generator makes cloud-init's target start, unless a link does it."""
    if not any(tree.entry(f"{at}/{_TARGET}") for at in _DIRECTORIES) or _is_wanted(tree, _TARGET):
        return
    masked = _masked(tree, _GENERATORS, _GENERATOR)
    if masked:
        yield ImageFinding(
            masked,
            "cloud-init's generator is masked: cloud-init does not start",
            "remove this link",
        )
    elif not any(tree.is_program(f"{at}/{_GENERATOR}") for at in _GENERATORS):
        yield ImageFinding(
            f"{_GENERATORS[2]}/{_GENERATOR}",
            f"is missing, and nothing else starts {_TARGET}",
            f"install cloud-init anew, or run: {layout.systemctl(tree, f'enable {_TARGET}')}",
        )


def _of_networkd(tree: Tree) -> Iterator[ImageFinding]:
    """netplan enables it only where its generator finds a file, before cloud-init writes one.

    Up to 1.1, netplan starts it even so.
    """
    if not tree.find(_NETPLAN_1_2) or any(map(tree.find, _OTHER_NETWORK)):
        return
    if not any(map(tree.glob, _NETPLAN_FILES)):
        yield from _of_enablement(
            tree,
            _NETWORKD,
            "is not enabled, and netplan does not start it on a first boot: there is no network",
        )

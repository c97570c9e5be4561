"""systemd's presets: which units a first boot enables and disables. See systemd.preset(5).

A first boot (no machine-id yet) applies them; Fedora, Azure Linux and others apply them in full, so
that they also remove links from /etc: those that enable a unit, and those that mask one.
"""

from __future__ import annotations

import fnmatch
from collections.abc import Iterator
from dataclasses import dataclass

from vmw_cloudinit_metadata.guest.image import parts
from vmw_cloudinit_metadata.guest.image.tree import Tree

# A file hides those of the same name in later directories.
_DIRECTORIES = ("/etc", "/run", "/usr/local/lib", "/usr/lib", "/lib")
_MACHINE_ID = "/etc/machine-id"
AGENT = parts.UNIT.rpartition("/")[2]
REPORT = parts.REPORT_UNIT.rpartition("/")[2]


@dataclass(frozen=True, slots=True)
class PresetRule:
    """A line of a preset file."""

    action: str  # enable, disable, ignore
    pattern: str
    file: str
    number: int

    @property
    def enables(self) -> bool:
        return self.action == "enable"

    @property
    def disables(self) -> bool:
        return self.action == "disable"

    def __str__(self) -> str:
        return f"line {self.number}, `{self.action} {self.pattern}`"


def rule_of(tree: Tree, unit: str) -> PresetRule | None:
    """Return the rule that counts for a unit: the first that matches. None: it is enabled."""
    return next((rule for rule in _rules(tree) if _matches(unit, rule.pattern)), None)


def is_first_boot(tree: Tree) -> bool:
    """Return whether systemd takes the next boot for the first one, and applies presets.

    It does so without a machine-id, and if that is `uninitialized`; not if the file is empty.
    """
    machine_id = tree.read(_MACHINE_ID)
    return machine_id is None or machine_id.strip() == b"uninitialized"


def disabled_agent(tree: Tree) -> Iterator[str]:
    """Yield a line if a preset that comes before ours disables the agent."""
    rule = rule_of(tree, AGENT)
    if rule and rule.disables:
        yield f"{rule.file}: {problem_of(rule, 'the agent')}: {remedy_of(AGENT)}"


def problem_of(rule: PresetRule, name: str) -> str:
    return f"{rule}: a first boot that applies systemd's presets in full disables {name}"


def remedy_of(unit: str) -> str:
    return f"put `enable {unit}` before this line"


def _rules(tree: Tree) -> Iterator[PresetRule]:
    for path in _files(tree):
        for number, line in enumerate(tree.text(path).split("\n"), 1):
            action, *rest = line.split(maxsplit=1) or [""]
            if rest and action in ("enable", "disable", "ignore"):
                # Behind its pattern, `enable` may have names of instances.
                pattern = rest[0].split()[0] if action == "enable" else rest[0].rstrip()
                yield PresetRule(action, pattern, path, number)


def _files(tree: Tree) -> list[str]:
    """Return the preset files in systemd's order, which is that of their names."""
    found: dict[str, str] = {}
    for directory in _DIRECTORIES:
        for path in tree.glob(f"{directory}/systemd/system-preset/*.preset"):
            found.setdefault(path.rpartition("/")[2], path)
    return [path for _, path in sorted(found.items())]


def _matches(unit: str, pattern: str) -> bool:
    return fnmatch.fnmatchcase(unit, pattern.replace("[^", "[!"))

"""The kernel command lines that an image may boot with, out of the files of its boot loaders."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from vmw_cloudinit_metadata.guest.image import layout, parts
from vmw_cloudinit_metadata.guest.image.tree import Tree
from vmw_cloudinit_metadata.settings.errors import ConfigError

_RUNNING = "/proc/cmdline"
MAX_LINES = 100  # that concern cloud-init, in one file
# Of all lines together: each is judged with all of cloud-init's configuration.
MAX_ALL_LINES = 200
MAX_ALL_CHARACTERS = 64 * 1024

# GRUB_CMDLINE_LINUX="…", kernelopts=…, photon_cmdline=…, kernel_cmdline+="…"
_VARIABLE = re.compile(r"[ \t]*(?:export[ \t]+|set[ \t]+)?(\w+)[ \t]*\+?=[ \t]*(.*)")
_VARIABLES = ("cmdline", "opts", "append", "param")
_TOML_ITEMS = re.compile(r"[ \t]*(?:kargs[ \t]*=[ \t]*\[|[\"'])")
_ITEM = re.compile(r"\"([^\"]*)\"|'([^']*)'")
# GRUB passes on `"ds=nocloud;i=a"`, `ds='nocloud;i=a'` and `ds=nocloud\;i=a` without these signs.
_QUOTED_WORD = re.compile(r"(?<!\S)([\w.-]*=|)([\"'])([^\"'\s]*)\2(?!\S)")
_BACKSLASHES = re.compile(r"\\+(?=[\\;])")
_CONCERNS_CLOUD_INIT = re.compile(
    r"(?:^|[\s\"'=])(?:ds|ip6?|network-config|ci\.ds|ci\.datasource|ci\.di\.policy|systemd\.mask)="
    r"|cloud-init=|cloud-config-url=|cc:"
)


@dataclass(frozen=True, slots=True)
class CommandLine:
    """A command line, or the part of it that a file adds."""

    place: str
    text: str

    @property
    def words(self) -> list[str]:
        return self.text.split()


def command_lines(tree: Tree) -> list[CommandLine]:
    """Return those that concern cloud-init, each once; the empty one if there are none.

    Raise ConfigError if they are too many.
    """
    found: dict[CommandLine, None] = {}
    left = MAX_ALL_CHARACTERS
    for place in places(tree):
        for line in (CommandLine(place, text) for text in _texts(tree.text(place))):
            left -= len(line.text) if line not in found else 0
            found[line] = None
            if left < 0 or len(found) > MAX_ALL_LINES:
                raise ConfigError(
                    f"{tree.root}{place}: not checked, since the kernel command lines are more than"
                    f" {MAX_ALL_LINES}, or {MAX_ALL_CHARACTERS} characters together"
                )
    return list(found) or [CommandLine("", "")]


def places(tree: Tree) -> list[str]:
    """Return the files with command lines, without that of this machine, mounted in an image."""
    found = parts.command_line_files(tree)
    if layout.is_image(tree) and tree.text(_RUNNING) == Path(_RUNNING).read_text(
        "utf-8", "surrogateescape"
    ):
        return found
    return [_RUNNING, *found]


def _texts(text: str) -> Iterator[str]:
    """Yield the command lines of a file; what its variables set is one line together."""
    if not _CONCERNS_CLOUD_INIT.search(text):
        return
    lines = [line for line in text.replace("\\\n", " ").split("\n") if not _is_comment(line)]
    values = {line: _value(line) for line in lines}
    together = " ".join(value for value in values.values() if value is not None)
    others = [_items(line) for line, value in values.items() if value is None]
    wanted = [line for line in (together, *others) if _CONCERNS_CLOUD_INIT.search(line)]
    for line in wanted[:MAX_LINES]:
        yield _BACKSLASHES.sub("", _QUOTED_WORD.sub(r"\1\3", line))


def _value(line: str) -> str | None:
    """Return what a line sets, if its variable holds a command line."""
    found = _VARIABLE.match(line)
    if found and any(part in found[1].lower() for part in _VARIABLES):
        return _unquoted(found[2])
    return None


def _is_comment(line: str) -> bool:
    return line.lstrip().startswith("#")


def _items(line: str) -> str:
    """Return the words of a list in TOML; any other line as it is."""
    if not _TOML_ITEMS.match(line):
        return line.strip()
    return " ".join(one or other for one, other in _ITEM.findall(line))


def _unquoted(value: str) -> str:
    quote = value[:1]
    if quote not in ('"', "'") or quote not in value[1:]:
        return value.strip()
    inside = value[1 : value.rindex(quote)]
    return inside.replace('\\"', '"') if quote == '"' else inside

"""What is installed: each path, and its new content given the previous one."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib import resources

from vmw_cloudinit_metadata.guest.image import datasource, joined, kernel, layout
from vmw_cloudinit_metadata.guest.image.tree import Entry, File, Link, Tree

AGENT = "/usr/libexec/vmw-metadata-agent"
UNIT = "/usr/lib/systemd/system/vmw-metadata-agent.service"
ENABLED = "/etc/systemd/system/cloud-init.target.wants/vmw-metadata-agent.service"
REPORT_UNIT = "/usr/lib/systemd/system/vmw-metadata-report.service"
REPORT_ENABLED = "/etc/systemd/system/cloud-init.target.wants/vmw-metadata-report.service"
# Before the files of distributions, which end with `disable *` (90- to 99-).
PRESET = "/usr/lib/systemd/system-preset/10-vmw-metadata-agent.preset"
SETTINGS = "/etc/vmw-metadata-agent.conf"
CLEAN = "/etc/cloud/clean.d/50-vmw-metadata-agent"

# Previous entry -> new entry; None: there is no file.
Edit = Callable[[Entry | None], Entry | None]

_SECTION = "[agent]"
_DEVICE = re.compile(r"^[ \t]*(?P<comment>(?:[#;][ \t]*)?)device[ \t]*[=:].*$", re.M | re.I)


@dataclass(frozen=True, slots=True)
class Choices:
    """The operator's options."""

    device: str | None = None
    free_console: str | None = None  # the port: ttyS0
    network_every_boot: bool = False
    with_guestinfo: bool = False
    report: bool = True  # how a boot ended


def packaged(name: str) -> str:
    """Return the text of a packaged file that goes into guests."""
    return (resources.files("vmw_cloudinit_metadata") / "guest" / name).read_text("utf-8")


def agent(python: str = layout.DEFAULT_PYTHON) -> str:
    """Return the agent's file, with this interpreter in its first line."""
    text = joined.agent()
    return text if python == layout.DEFAULT_PYTHON else re.sub(r"\A#!.*", f"#!{python}", text)


def unit(python: str = layout.DEFAULT_PYTHON) -> str:
    return _unit(UNIT, python)


def report_unit(python: str = layout.DEFAULT_PYTHON) -> str:
    return _unit(REPORT_UNIT, python)


def _unit(path: str, python: str) -> str:
    """Return the text of a unit, with this interpreter."""
    text = packaged(path.rpartition("/")[2])
    return re.sub(rf"(?m)^(ExecStart=-?){layout.DEFAULT_PYTHON} ", rf"\g<1>{python} ", text)


def cloud_config(choices: Choices) -> str:
    return datasource.text(
        packaged(datasource.FILE.rpartition("/")[2]),
        with_guestinfo=choices.with_guestinfo,
        network_every_boot=choices.network_every_boot,
    )


def preset() -> str:
    return packaged(PRESET.rpartition("/")[2])


def clean() -> str:
    return packaged("clean-seed")


def cloudbase_init() -> str:
    """Return the file for cloudbase-init, which no Linux image gets."""
    return joined.cloudbase_init()


def settings() -> str:
    return packaged("vmw-metadata-agent.conf")


def edits(tree: Tree, choices: Choices) -> Mapping[str, Edit]:
    """Return each path that the installation manages, with its edit."""
    python = layout.python_of(tree) or layout.DEFAULT_PYTHON
    wanted: dict[str, Edit] = {
        AGENT: _always(_file(agent(python), 0o755)),
        UNIT: _always(_file(unit(python))),
        ENABLED: _always(Link(UNIT)),
        PRESET: _always(_file(preset())),
        CLEAN: _always(_file(clean(), 0o755)),
        SETTINGS: lambda before: _settings(before, choices.device),
        datasource.FILE: _always(_file(cloud_config(choices))),
    }
    if choices.report:
        wanted[REPORT_UNIT] = _always(_file(report_unit(python)))
        wanted[REPORT_ENABLED] = _always(Link(REPORT_UNIT))
    if choices.with_guestinfo:
        wanted[datasource.DS_IDENTIFY] = _ds_identify
    if choices.free_console:
        wanted |= _free_console(tree, choices.free_console)
    return wanted


def command_line_files(tree: Tree) -> list[str]:
    """Return the tree's files with kernel command lines, each once."""
    found = (tree.find(path) for pattern in kernel.FILES for path in tree.glob(pattern))
    return sorted({path for path in found if path})


def unified_images(tree: Tree) -> list[str]:
    """Return the tree's kernel images that have a command line inside, each once."""
    found = (tree.find(path) for pattern in kernel.IMAGES for path in tree.glob(pattern))
    return sorted({path for path in found if path})


def with_device(text: str, device: str) -> str:
    """Return the agent's settings with this device; the rest is unchanged."""
    line = f"device = {device}"
    places = sorted(_DEVICE.finditer(text), key=lambda found: bool(found["comment"]))
    if places:  # a line that sets it comes before one that is commented out
        return text[: places[0].start()] + line + text[places[0].end() :]
    if _SECTION in text:
        return text.replace(_SECTION, f"{_SECTION}\n{line}", 1)
    return f"{text}\n{_SECTION}\n{line}\n"


def has_device(text: str) -> bool:
    """Return whether the agent's settings set its port."""
    return any(not found["comment"] for found in _DEVICE.finditer(text))


def _file(text: str, mode: int = 0o644) -> File:
    return File(text.encode(), mode)


def _always(entry: Entry) -> Edit:
    return lambda _: entry


def _settings(before: Entry | None, device: str | None) -> Entry:
    """Keep the operator's settings; only set the device, if the option is given."""
    file = before if isinstance(before, File) else _file(settings())
    if device is None:
        return file
    return File(with_device(_text(file), device).encode("utf-8", "surrogateescape"), file.mode)


def _ds_identify(before: Entry | None) -> Entry:
    file = before if isinstance(before, File) else _file("")
    text = datasource.with_policy(_text(file))
    return File(text.encode("utf-8", "surrogateescape"), file.mode)


def _free_console(tree: Tree, port: str) -> dict[str, Edit]:
    def edit(before: Entry | None) -> Entry | None:
        if not isinstance(before, File):
            return before
        return File(kernel.without_console(before.content, port), before.mode)

    # Below /etc, a first boot that applies `disable *` would remove the mask.
    getty = f"/usr/lib/systemd/system/serial-getty@{port}.service"
    return {**dict.fromkeys(command_line_files(tree), edit), getty: _always(Link("/dev/null"))}


def _text(file: File) -> str:
    return file.content.decode("utf-8", "surrogateescape")

"""The whole check of an image: cloud-init's side, and the agent's own."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator
from dataclasses import replace

from vmw_cloudinit_metadata.guest.agent.conf import CONFIG, Settings, defaults, read_config
from vmw_cloudinit_metadata.guest.agent.obstacles import OF_THE_AGENT, Image
from vmw_cloudinit_metadata.guest.agent.system import System
from vmw_cloudinit_metadata.guest.check.configlayers import CloudConfig
from vmw_cloudinit_metadata.guest.check.consoles import on_port
from vmw_cloudinit_metadata.guest.check.enablement import (
    agent_not_enabled,
    not_started,
    report_not_enabled,
)
from vmw_cloudinit_metadata.guest.check.finding import ImageFinding
from vmw_cloudinit_metadata.guest.check.firstboot import of_first_boot
from vmw_cloudinit_metadata.guest.check.leftovers import left_over
from vmw_cloudinit_metadata.guest.image import layout
from vmw_cloudinit_metadata.guest.image.tree import Tree
from vmw_cloudinit_metadata.settings.errors import ConfigError

Check = Callable[[Tree], Iterator[ImageFinding]]


def findings(tree: Tree) -> list[ImageFinding]:
    """Return all faults and warnings, each once."""
    return list(dict.fromkeys(found for check in _CHECKS for found in _completed(check, tree)))


def _completed(check: Check, tree: Tree) -> Iterator[ImageFinding]:
    """Yield what a check finds, and what it cannot read."""
    try:
        yield from check(tree)
    except ConfigError as error:
        text = str(error).removeprefix(str(tree.root))
        yield replace(ImageFinding.parse(text), remedy="correct or remove it, and check again")


def _of_cloud_init(tree: Tree) -> Iterator[ImageFinding]:
    config = CloudConfig.read(tree)
    if layout.cloud_init_of(tree):
        yield from of_first_boot(tree, config)
    else:
        yield ImageFinding("", "cloud-init is not installed", "install the distribution's package")
    yield from left_over(tree, config)


def _of_units(tree: Tree) -> Iterator[ImageFinding]:
    if layout.cloud_init_of(tree):
        yield from not_started(tree)
    yield from agent_not_enabled(tree)
    yield from report_not_enabled(tree)


def _of_init(tree: Tree) -> Iterator[ImageFinding]:
    init = layout.without_systemd(tree)
    if init:
        problem, _, remedy = init.rpartition(": ")
        yield ImageFinding("", problem, remedy)


def _of_agent(tree: Tree) -> Iterator[ImageFinding]:
    system = System(os.path.abspath(tree.root))
    found, faults = read_config(system.at(CONFIG))
    settings: Settings = {**defaults(), **found}
    yield from (_of_settings(fault, system.at(CONFIG)) for fault in faults)
    yield from on_port(tree, system.tty(settings["device"] or ""))
    image = Image(system, settings, CONFIG)
    for check in OF_THE_AGENT:
        for line in check(image):
            yield ImageFinding.parse(line.removeprefix(system.root.rstrip("/")))


def _of_settings(fault: str, place: str) -> ImageFinding:
    """Return the finding of a fault `PLACE:LINE: text`; a fault of the whole file has no line."""
    begun = re.match(rf"{re.escape(place)}(?::(\d+))?: ", fault)
    line, text = (begun[1], fault[begun.end() :]) if begun else (None, fault)
    problem = text.replace(place, CONFIG)
    return ImageFinding(CONFIG, f"line {line}: {problem}" if line else problem, "correct the file")


_CHECKS: tuple[Check, ...] = (_of_init, _of_cloud_init, _of_units, _of_agent)

"""The whole check of an image: cloud-init's side, and the agent's own."""

from __future__ import annotations

import os
from collections.abc import Iterator

from vmw_cloudinit_metadata.guest.agent.conf import CONFIG, Settings, defaults, read_config
from vmw_cloudinit_metadata.guest.agent.obstacles import OF_THE_AGENT, Image
from vmw_cloudinit_metadata.guest.agent.system import System
from vmw_cloudinit_metadata.guest.check.consoles import on_port
from vmw_cloudinit_metadata.guest.check.enablement import not_started
from vmw_cloudinit_metadata.guest.check.finding import ImageFinding
from vmw_cloudinit_metadata.guest.check.firstboot import of_first_boot
from vmw_cloudinit_metadata.guest.check.leftovers import left_over
from vmw_cloudinit_metadata.guest.image import layout
from vmw_cloudinit_metadata.guest.image.tree import Tree


def findings(tree: Tree) -> list[ImageFinding]:
    """Return all faults and warnings, each once."""
    return list(dict.fromkeys(_all(tree)))


def _all(tree: Tree) -> Iterator[ImageFinding]:
    init = layout.without_systemd(tree)
    if init:
        problem, _, remedy = init.rpartition(": ")
        yield ImageFinding("", problem, remedy)
    if layout.cloud_init_of(tree):
        yield from of_first_boot(tree)
        yield from not_started(tree)
    else:
        yield ImageFinding("", "cloud-init is not installed", "install the distribution's package")
    yield from left_over(tree)
    system = System(os.path.abspath(tree.root))
    settings: Settings = {**defaults(), **read_config(system.at(CONFIG))[0]}
    yield from on_port(tree, settings["device"])
    image = Image(system, settings, CONFIG)
    for check in OF_THE_AGENT:
        yield from map(ImageFinding.parse, check(image))

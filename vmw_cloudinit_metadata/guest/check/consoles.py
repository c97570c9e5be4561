"""Finds kernel consoles on the agent's port in the files of boot loaders."""

from __future__ import annotations

from collections.abc import Iterator

from vmw_cloudinit_metadata.guest.check.commandlines import places
from vmw_cloudinit_metadata.guest.check.finding import ImageFinding
from vmw_cloudinit_metadata.guest.image import kernel, parts
from vmw_cloudinit_metadata.guest.image.tree import Tree


def on_port(tree: Tree, port: str) -> Iterator[ImageFinding]:
    """Yield consoles on the agent's port; and images whose command line nobody can read here."""
    if not port:
        return
    for place in places(tree):
        if kernel.uses_console(tree.read(place) or b"", port):
            yield ImageFinding(
                place,
                f"console={port} uses the agent's port",
                f"run `guest install` again, with --free-console {port} too,"
                " or add a second serial port",
            )
    for place in parts.unified_images(tree):
        yield ImageFinding(
            place,
            f"a unified kernel image: its command line was not checked for console={port}",
            "look at it with `ukify inspect`, and build it anew without that console",
            is_warning=True,
        )

"""Several Debians with the agent: the trees of the end-to-end tests, unpacked without kernels."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.commandline import in_process
from tests.e2e.image import tarball
from tests.e2e.recipe import DEBIAN_11, DEBIAN_12, DEBIAN_13, SID

RECIPES = {recipe.name: recipe for recipe in (DEBIAN_11, DEBIAN_12, DEBIAN_13, SID)}
WITHOUT = ("./dev/*", "./boot/*", "*/lib/modules/*")


@pytest.fixture(scope="session")
def debian_tree(
    tmp_path_factory: pytest.TempPathFactory, program: Callable[[str, str], str]
) -> Iterator[Callable[[str], Path]]:
    """Gives the tree of a Debian, by the name of its recipe; a test leaves it as it was."""
    program("mmdebstrap", "mmdebstrap")
    made: dict[str, Path] = {}

    def get(name: str) -> Path:
        if name not in made:
            made[name] = _unpack(name, tmp_path_factory.mktemp(name) / "root")
        return made[name]

    yield get
    for root in made.values():
        shutil.rmtree(root)


def _unpack(name: str, root: Path) -> Path:
    root.mkdir()
    left_out = [f"--exclude={pattern}" for pattern in WITHOUT]
    command = ["tar", "-x", *left_out, "-f", str(tarball(RECIPES[name])), "-C", str(root)]
    subprocess.run(command, check=True, timeout=300)
    device = ("--device", "/dev/ttyS1")
    assert in_process("guest", "install", "--root", str(root), *device)[0] == 0
    return root

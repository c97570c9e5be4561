"""The packages of this checkout, built once, and fresh trees of Debian."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from packages.build import TRIXIE, Workshop, build
from tests.e2e.image import tarball
from tests.e2e.recipe import Recipe

ENV = {
    "PATH": "/usr/sbin:/usr/bin:/sbin:/bin",
    "LC_ALL": "C.UTF-8",
    "DEBIAN_FRONTEND": "noninteractive",
}

# Of a second build: what is built depends on none of it.
OTHER_ENV = {"TZ": "Asia/Kolkata", "LC_ALL": "C", "PYTHONHASHSEED": "7"}

_ENTER = 'mount --rbind /dev "$0/dev" && mount -t proc proc "$0/proc" && exec chroot "$0" "$@"'


@pytest.fixture(scope="session", autouse=True)
def umask() -> Iterator[None]:
    before = os.umask(0o022)
    yield
    os.umask(before)


@pytest.fixture(scope="session")
def dist(
    tmp_path_factory: pytest.TempPathFactory, program: Callable[[str, str], str]
) -> Iterator[Path]:
    """The directory with everything that `make packages` makes."""
    program("mmdebstrap", "mmdebstrap")
    directory = tmp_path_factory.mktemp("dist")
    build(directory)
    yield directory
    shutil.rmtree(directory)


@pytest.fixture(scope="session")
def second_workshop(
    tmp_path_factory: pytest.TempPathFactory, program: Callable[[str, str], str]
) -> Iterator[Workshop]:
    """A workshop with a second environment of Debian 13: to compare, and for the image."""
    program("mmdebstrap", "mmdebstrap")
    directory = tmp_path_factory.mktemp("workshop")
    workshop = Workshop(directory / "work", directory)
    with pytest.MonkeyPatch.context() as patch:
        for name, value in OTHER_ENV.items():
            patch.setenv(name, value)
        workshop.environment(TRIXIE)
    yield workshop
    shutil.rmtree(directory)


@pytest.fixture
def fresh_tree(tmp_path: Path) -> Iterator[Callable[..., Path]]:
    """Unpacks a Debian, which installs man pages and documents too; at `root`, or a place in it."""
    trees = tmp_path / "root"

    def unpack(recipe: Recipe, place: str = "") -> Path:
        root = trees / place
        root.mkdir()
        left_out = ("--exclude=./boot/*", "--exclude=*/lib/modules/*", "--exclude=./dev/*")
        archive = tarball(recipe)
        subprocess.run(["tar", "-x", *left_out, "-f", archive, "-C", root], check=True, timeout=300)
        (root / "etc/dpkg/dpkg.cfg.d/99mmdebstrap").unlink(missing_ok=True)
        return root

    yield unpack
    shutil.rmtree(trees, ignore_errors=True)


def entering(root: Path, *command: str | Path) -> list[str | Path]:
    """Return the command that runs a program of a tree, which has /proc and /dev for its time."""
    return ["unshare", "--mount", "sh", "-c", _ENTER, root, *command]


def inside(root: Path, *command: str, succeeds: bool = True) -> str:
    """Run a program of a tree, and return what it prints."""
    ended = subprocess.run(
        entering(root, *command),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=300,
        env=ENV,
    )
    assert (ended.returncode == 0) == succeeds, ended.stdout
    return ended.stdout

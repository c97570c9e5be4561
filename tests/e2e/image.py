"""Images: a Debian tree as a tar file, built once, and a disk with the agent made from it.

The tar file is kept in the cache, outside of the checkout. The disk is made in each run, with the
current agent. Both need root, or a user namespace with root.
"""

from __future__ import annotations

import fcntl
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from tests.e2e.recipe import MIRRORS, Recipe
from tests.process import CHECKOUT

BUILD_LIMIT_S = 900.0
DISK_LIMIT_S = 300.0


@dataclass(frozen=True)
class Image:
    disk: Path
    kernel: Path


ImageOf = Callable[[Recipe], Image]


def cache() -> Path:
    home = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    directory = Path(home) / "vmw-cloudinit-metadata" / "images"
    directory.mkdir(parents=True, exist_ok=True)
    return directory


def tarball(recipe: Recipe) -> Path:
    """Return the tree of a recipe; build it if it does not exist. Never an incomplete one."""
    path = cache() / f"{recipe.name}-{recipe.digest}.tar"
    with (cache() / f"{recipe.name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not path.exists():
            _build(recipe, path)
    return path


def _build(recipe: Recipe, path: Path) -> None:
    unfinished = path.with_suffix(".unfinished")
    _run([*recipe.command, str(unfinished), *MIRRORS], BUILD_LIMIT_S, INITRD="No")
    unfinished.replace(path)


def image(recipe: Recipe, directory: Path, *kind: str) -> Image:
    """Make a disk with the agent of this checkout; return it with the kernel to boot.

    Of the kind `bare`, it has no agent.
    """
    made = Image(directory / f"{recipe.name}.disk", directory / f"{recipe.name}.kernel")
    maker = [sys.executable, "-m", "tests.e2e.tree", str(tarball(recipe))]
    _run([*_as_root(), *maker, str(made.disk), str(made.kernel), *kind], DISK_LIMIT_S)
    return made


def _as_root() -> list[str]:
    return [] if os.geteuid() == 0 else ["unshare", "--map-root-user", "--map-auto"]


def _run(command: list[str], limit_s: float, **env: str) -> None:
    ended = subprocess.run(
        command,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=limit_s,
        cwd=CHECKOUT,
        env={**os.environ, **env},
    )
    if ended.returncode:
        output = "\n".join((ended.stdout + ended.stderr).splitlines()[-40:])
        raise AssertionError(f"{' '.join(command)}: exit code {ended.returncode}\n{output}")

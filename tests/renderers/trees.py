"""cloud-init as Debian has it, with its renderers' programs: unpacked into a directory, once.

A tree is kept in the cache, outside of the checkout, and named by the digest of its recipe. It does
not age: remove it for newer packages. Programs in it run by chroot, so this needs root; nothing of
it is installed on this machine.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.e2e.recipe import MIRRORS

PACKAGES = ("cloud-init", "netplan.io", "ifupdown", "python3", "iproute2")
BUILD_LIMIT_S = 600.0
RENDER_LIMIT_S = 300.0
INSIDE = Path(__file__).with_name("inside.py")
OPTIONS = (
    *("--quiet", "--mode=root", "--variant=extract", f"--include={','.join(PACKAGES)}"),
    "--aptopt=Acquire::Check-Valid-Until false",  # a mirror may be older than its own promise
)
MERGED = ("bin", "sbin", "lib", "lib64")
ACCOUNTS = {
    "etc/passwd": "root:x:0:0::/:/bin/sh\nsystemd-network:x:998:998::/:/bin/sh\n",
    "etc/group": "root:x:0:\nsystemd-network:x:998:\n",
}
# Modules that cloud-init imports look for these; nothing is fetched.
EMPTY_BUNDLE = "etc/ssl/certs/ca-certificates.crt"


@dataclass(frozen=True)
class Suite:
    name: str

    @property
    def command(self) -> tuple[str, ...]:
        """mmdebstrap's, up to the directory that it makes."""
        return ("mmdebstrap", *OPTIONS, self.name)

    @property
    def digest(self) -> str:
        words = (*self.command, *MERGED, *ACCOUNTS.values(), EMPTY_BUNDLE)
        return hashlib.sha256("\0".join(words).encode()).hexdigest()[:16]


SUITES = (Suite("bookworm"), Suite("sid"))  # cloud-init 22.4.2, and the newest that Debian has


def tree(suite: Suite) -> Path:
    """The tree of a suite, made if it is not there; one that is half made is never seen."""
    path = cache() / f"{suite.name}-{suite.digest}"
    with (cache() / f"{suite.name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not path.exists():
            _make(suite, path)
    return path


def cache() -> Path:
    home = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    directory = Path(home) / "vmw-cloudinit-metadata" / "trees"
    directory.mkdir(parents=True, exist_ok=True)
    return directory


def _make(suite: Suite, path: Path) -> None:
    unfinished = path.with_suffix(".unfinished")
    shutil.rmtree(unfinished, ignore_errors=True)
    unfinished.mkdir()
    unfinished.chmod(0o755)
    ended = subprocess.run(
        [*suite.command, str(unfinished), *MIRRORS],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=BUILD_LIMIT_S,
    )
    assert ended.returncode == 0, ended.stderr[-4000:]
    for name in MERGED:  # a program may be looked for at either place
        _merge(unfinished, name)
    for name, text in ACCOUNTS.items():
        (unfinished / name).write_text(text)
    (unfinished / EMPTY_BUNDLE).parent.mkdir(parents=True, exist_ok=True)
    (unfinished / EMPTY_BUNDLE).touch()
    unfinished.replace(path)


def _merge(root: Path, name: str) -> None:
    """`name` becomes a link to usr/`name`, with all that was unpacked into either."""
    place = root / name
    if place.is_dir() and not place.is_symlink():
        shutil.copytree(place, root / "usr" / name, symlinks=True, dirs_exist_ok=True)
        shutil.rmtree(place)
    if (root / "usr" / name).exists() and not place.is_symlink():
        place.symlink_to(f"usr/{name}")


def run(suite: Suite, program: str, given: object) -> Any:
    """What a Python program inside the tree makes of a value: it reads and writes JSON."""
    ended = subprocess.run(
        ["chroot", str(tree(suite)), "/usr/bin/python3", "-c", program],
        input=json.dumps(given),
        capture_output=True,
        text=True,
        timeout=RENDER_LIMIT_S,
        cwd="/",
        env={"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL": "C.UTF-8"},
    )
    assert ended.returncode == 0, ended.stderr[-4000:]
    return json.loads(ended.stdout)


def rendered(suite: Suite, documents: list[str]) -> list[dict[str, dict[str, str]]]:
    """Of each network-config: by renderer, the files that it makes."""
    found: list[dict[str, dict[str, str]]] = run(suite, INSIDE.read_text(), documents)
    return found

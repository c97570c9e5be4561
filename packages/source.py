"""The files of the checkout that are released, and the time of their commit."""

from __future__ import annotations

import os
import shutil
import subprocess
from datetime import UTC, datetime
from pathlib import Path

CHECKOUT = Path(__file__).resolve().parent.parent


def epoch() -> int:
    """Return SOURCE_DATE_EPOCH, else the time of the last commit: seconds since 1970."""
    given = os.environ.get("SOURCE_DATE_EPOCH")
    return int(given or _git("log", "-1", "--format=%ct"))


def released_on() -> datetime:
    return datetime.fromtimestamp(epoch(), UTC)


def copy(place: Path) -> Path:
    """Copy what git knows or would add, without what builds leave behind. Modes are git's two."""
    names = _git("ls-files", "-z", "--cached", "--others", "--exclude-standard").split("\0")
    for name in filter(None, names):
        source, target = CHECKOUT / name, place / name
        if not source.is_file():
            continue  # removed, and not yet committed; or a link to a directory
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source, target)
        target.chmod(0o755 if os.access(source, os.X_OK) else 0o644)
    return place


def date(tree: Path) -> None:
    """Set all times in a tree to that of the release."""
    times = (epoch(), epoch())
    for path in (tree, *tree.rglob("*")):
        os.utime(path, times, follow_symlinks=False)


def _git(*command: str) -> str:
    return subprocess.run(
        ["git", "-C", str(CHECKOUT), *command], capture_output=True, text=True, check=True
    ).stdout

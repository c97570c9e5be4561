"""`make release` signs the files of a commit, and no others."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from tests.process import CHECKOUT

NEEDS = ("setup.py", "pyproject.toml", "bin/vmw-metadata-server", "bin/vmw-metadata-client")
GIT = ("git", "-c", "user.name=x", "-c", "user.email=x@example.com")


@pytest.mark.parametrize("is_committed", [True, False])
def test_release_has_no_more_than_a_commit(tmp_path: Path, is_committed: bool) -> None:
    checkout, key = tmp_path / "checkout", tmp_path / "key"
    key.touch()
    for name in ("Makefile", ".gitignore", *NEEDS):
        (checkout / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(CHECKOUT / name, checkout / name)
    python = checkout / ".venv/bin/python"
    python.parent.mkdir(parents=True)
    python.write_text("#!/bin/sh\necho builds; exit 1\n")
    python.chmod(0o755)
    (checkout / ".venv/.installed-for-tests").touch()
    for command in (("init", "-q"), ("add", "."), ("commit", "-q", "-m", "x")):
        subprocess.run([*GIT, *command], cwd=checkout, check=True)
    if not is_committed:
        (checkout / "more.py").touch()
    ended = subprocess.run(
        ["make", "release", f"SIGNING_KEY={key}"], cwd=checkout, capture_output=True, text=True
    )
    assert ended.returncode == 2
    assert ("builds" in ended.stdout.splitlines()) is is_committed
    assert ("commit or remove first what git status shows" in ended.stdout) is not is_committed

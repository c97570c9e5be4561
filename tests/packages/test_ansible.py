"""The roles of examples/ansible: what ansible-lint says, and what they do to a fresh Debian."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from tests.e2e.recipe import Recipe
from tests.packages.conftest import ENV, entering
from tests.packages.test_deb import SETTINGS, deb
from tests.process import CHECKOUT

pytestmark = pytest.mark.slow

EXAMPLES = CHECKOUT / "examples/ansible"
WITH_ANSIBLE = Recipe(
    "debian-13-ansible", "trixie", ("systemd", "python3", "python3-apt", "ansible-core")
)


def test_ansible_lint_finds_nothing() -> None:
    programs = str(Path(sys.executable).parent)
    ended = subprocess.run(
        ["ansible-lint", "--offline", "--profile", "production", "--strict"],
        cwd=EXAMPLES,
        capture_output=True,
        text=True,
        timeout=600,
        env={**os.environ, "PATH": f"{programs}:{os.environ['PATH']}"},
    )
    assert ended.returncode == 0, ended.stdout + ended.stderr


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root: chroot, mount")
def test_role_installs_and_configures_the_server_once(
    dist: Path, fresh_tree: Callable[[Recipe], Path]
) -> None:
    root = fresh_tree(WITH_ANSIBLE)
    shutil.copytree(EXAMPLES, root / "root/ansible")
    shutil.copy(deb(dist, "debian-13"), root / "root/ansible/server.deb")
    settings = {"uri": ["of-ansible"], "driver-opts": {"directory": "/srv/vms"}}

    first = play(root, settings)
    assert re.search(r"changed=[1-9]\d* +unreachable=0 +failed=0 ", first), first
    found = root / SETTINGS
    assert yaml.safe_load(found.read_text()) == settings
    assert found.stat().st_mode & 0o777 == 0o640
    assert (root / "srv/vms").stat().st_gid == found.stat().st_gid != 0
    enabled = "etc/systemd/system/multi-user.target.wants/vmw-metadata-server.service"
    assert (root / enabled).is_symlink()
    assert re.search(r"changed=0 +unreachable=0 +failed=0 ", play(root, settings))

    wrong = play(root, {**settings, "nonsense": 1}, succeeds=False)
    assert "unknown key" in wrong
    assert yaml.safe_load(found.read_text()) == settings


def play(root: Path, settings: object, succeeds: bool = True) -> str:
    """Run the playbook for the server inside the tree."""
    variables = {
        "metadata_server_package": "server.deb",
        "metadata_server_settings": settings,
        "ansible_python_interpreter": "/usr/bin/python3",
    }
    (root / "root/ansible/variables.yaml").write_text(yaml.safe_dump(variables))
    command = ("ansible-playbook", "-i", "hosts.yaml", "-e", "@variables.yaml", "server.yaml")
    ended = subprocess.run(
        entering(root, "env", "-C", "/root/ansible", "HOME=/root", *command),
        capture_output=True,
        text=True,
        timeout=600,
        env=ENV,
    )
    assert (ended.returncode == 0) == succeeds, ended.stdout + ended.stderr
    return ended.stdout

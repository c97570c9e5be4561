"""The rpm: what it says of itself, and an installation below a root."""

from __future__ import annotations

import os
import shutil
import stat
import subprocess
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from packages.build import NAME, PACKAGES, pack, put
from packages.source import epoch
from tests.e2e.recipe import DEBIAN_12, Recipe
from tests.packages.conftest import inside
from tests.process import CHECKOUT
from tests.test_site import dead_links
from vmw_cloudinit_metadata import __version__

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root: rpm --root"),
]
SETTINGS = "etc/vmw-metadata-server/server.yaml"
SYSUSERS = f"usr/lib/sysusers.d/{NAME}.conf"


@pytest.fixture
def rpm(program: Callable[[str, str], str]) -> Callable[..., str]:
    found = program("rpm", "rpm")

    def run_rpm(*command: str | Path) -> str:
        ended = subprocess.run([found, *command], capture_output=True, text=True, timeout=300)
        assert ended.returncode == 0, ended.stderr
        return ended.stdout + ended.stderr

    return run_rpm


def package(dist: Path) -> Path:
    (file,) = dist.glob("*.rpm")
    return file


def released(release: str, settings: str, directory: Path) -> Path:
    """Return a package that has no more than settings."""
    (now,) = [one for one in PACKAGES if one.kind == "rpm"]
    tree = directory / f"tree-{release}"
    put(tree / SETTINGS, settings)
    put(tree / SYSUSERS, (CHECKOUT / "packages/sysusers.conf").read_text())
    return pack(replace(now, release=f"{release}.el9"), tree, directory)


def test_rpm_names_its_python_its_settings_and_the_time_of_the_commit(
    dist: Path, rpm: Callable[..., str]
) -> None:
    file = package(dist)
    told = rpm("-qp", "--queryformat", "%{NAME} %{VERSION} %{LICENSE} %{BUILDTIME}", file)
    assert told == f"vmw-cloudinit-metadata {__version__} MIT {epoch()}"
    assert "/usr/bin/python3.11" in rpm("-qp", "--requires", file).splitlines()
    assert rpm("-qp", "--configfiles", file) == f"/{SETTINGS}\n"


def test_rpm_is_installed_runs_and_is_erased(
    dist: Path, rpm: Callable[..., str], fresh_tree: Callable[[Recipe], Path], tmp_path: Path
) -> None:
    """In a Debian, whose files no database of rpm knows: so it is not asked for dependencies."""
    root = fresh_tree(DEBIAN_12)
    root_option = f"--root={root}"
    shutil.copy(package(dist), root / "new.rpm")
    told = rpm(root_option, "-i", "--nodeps", root / "new.rpm")
    assert "warning" not in told
    assert "error" not in told
    assert __version__ in inside(root, "vmw-cloudinit-metadata", "--version")
    assert (root / f"usr/share/doc/{NAME}/docs/operations.md").exists()
    assert dead_links(root / f"usr/share/doc/{NAME}") == []
    assert inside(root, "getent", "group", "vmw-metadata").split(":")[2] == str(
        (root / SETTINGS).stat().st_gid
    )
    (root / SETTINGS).write_text("uri: [of-the-operator]\n")
    rpm(root_option, "-U", "--nodeps", "--replacepkgs", root / "new.rpm")
    assert (root / SETTINGS).read_text() == "uri: [of-the-operator]\n"
    rpm(root_option, "-e", "vmw-cloudinit-metadata")
    assert not (root / "usr/lib/vmw-cloudinit-metadata").exists()
    assert (root / f"{SETTINGS}.rpmsave").read_text() == "uri: [of-the-operator]\n"

    rpm(root_option, "-i", "--nodeps", root / "new.rpm")
    rpm(root_option, "-U", "--nodeps", released("2", "uri: [of-a-later-release]\n", tmp_path))
    assert (root / SETTINGS).read_text() == "uri: [of-a-later-release]\n"
    found = (root / SETTINGS).stat()
    group = int(inside(root, "getent", "group", "vmw-metadata").split(":")[2])
    assert (stat.S_IMODE(found.st_mode), found.st_gid) == (0o640, group)


def test_no_file_of_settings_that_rpm_leaves_is_for_everybody(
    rpm: Callable[..., str], fresh_tree: Callable[[Recipe], Path], tmp_path: Path
) -> None:
    """Passwords are in the one that was saved, and are soon in one that an operator merges."""
    root = fresh_tree(DEBIAN_12)
    root_option, settings = f"--root={root}", root / SETTINGS
    for release in ("1", "2", "3"):
        rpm(root_option, "-U", "--nodeps", released(release, f"uri: [{release}]\n", tmp_path))
        if release == "1":
            settings.write_text("uri: [of-the-operator]\n")
    beside = settings.with_name(f"{settings.name}.rpmnew")
    assert (beside.read_text(), mode_of(beside)) == ("uri: [3]\n", 0o640)
    assert (settings.read_text(), mode_of(settings)) == ("uri: [of-the-operator]\n", 0o640)
    rpm(root_option, "-e", "vmw-cloudinit-metadata")
    saved = settings.with_name(f"{settings.name}.rpmsave")
    assert (saved.read_text(), mode_of(saved)) == ("uri: [of-the-operator]\n", 0o640)


def mode_of(file: Path) -> int:
    return stat.S_IMODE(file.stat().st_mode)

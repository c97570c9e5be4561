"""The debs in fresh Debians: installed, run, upgraded, purged; and what lintian says."""

from __future__ import annotations

import os
import shutil
import stat
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.e2e.recipe import DEBIAN_12, DEBIAN_13, Recipe
from tests.packages.conftest import ENV, entering, inside
from tests.process import LIMIT_S, run
from tests.test_site import dead_links
from tests.tree import picture
from vmw_cloudinit_metadata import __version__

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root: chroot"),
]
RELEASES = pytest.mark.parametrize("recipe", [DEBIAN_12, DEBIAN_13], ids=lambda one: one.name)
SETTINGS = "etc/vmw-metadata-server/server.yaml"
UNIT = "usr/lib/systemd/system/vmw-metadata-server.service"
# What a package manager writes of its own, and the files with the user, who stays.
OF_OTHERS = (
    "var/lib/dpkg",
    "var/log",
    "var/cache",
    "etc/passwd",
    "etc/group",
    "etc/shadow",
    "etc/gshadow",
)


def deb(dist: Path, name: str) -> Path:
    (file,) = dist.glob(f"*~{name.replace('debian-', 'deb')}_*.deb")
    return file


def install(root: Path, file: Path, *options: str) -> str:
    shutil.copy(file, root / "new.deb")
    told = inside(root, "dpkg", *options, "-i", "/new.deb")
    (root / "new.deb").unlink()
    return told


def system(root: Path) -> dict[str, str]:
    seen = picture(root)
    return {path: seen[path] for path in seen if not path.startswith((*OF_OTHERS, "dev/", ".pwd"))}


def newer(file: Path, directory: Path, changed: bool) -> Path:
    """Return the same package with a higher version, and perhaps other settings."""
    tree, made = directory / "newer", directory / "newer.deb"
    subprocess.run(["dpkg-deb", "-R", file, tree], check=True)
    control = tree / "DEBIAN/control"
    control.write_text(control.read_text().replace(f"{__version__}-1~", f"{__version__}-2~"))
    if changed:
        (tree / SETTINGS).write_text((tree / SETTINGS).read_text() + "# a new default\n")
    subprocess.run(["dpkg-deb", "-Znone", "-b", tree, made], check=True, stdout=subprocess.PIPE)
    shutil.rmtree(tree)
    return made


@RELEASES
def test_lintian_finds_no_error_and_uses_each_override(
    dist: Path, recipe: Recipe, program: Callable[[str, str], str]
) -> None:
    lintian = program("lintian", "lintian")
    ended = subprocess.run(
        [lintian, "--allow-root", "--fail-on", "error", "--info", deb(dist, recipe.name)],
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert ended.returncode == 0, ended.stdout
    assert "mismatched-override" not in ended.stdout
    assert "unused-override" not in ended.stdout


@RELEASES
def test_deb_serves_is_upgraded_and_purged(
    dist: Path, recipe: Recipe, fresh_tree: Callable[[Recipe], Path], tmp_path: Path
) -> None:
    root = fresh_tree(recipe)
    before = system(root)
    install(root, deb(dist, recipe.name))

    user = inside(root, "getent", "passwd", "vmw-metadata").split(":")
    assert user[6] == "/usr/sbin/nologin\n"
    found = (root / SETTINGS).stat()
    assert (stat.S_IMODE(found.st_mode), found.st_gid) == (0o640, int(user[3]))
    assert inside(root, "systemctl", "is-enabled", UNIT.split("/")[-1], succeeds=False)
    version = inside(root, "vmw-cloudinit-metadata", "--version")
    assert version == f"vmw-cloudinit-metadata, version {__version__}\n"
    assert (root / "usr/share/man/man1/vmw-cloudinit-metadata-client-fetch.1.gz").exists()
    documents = root / "usr/share/doc/vmw-cloudinit-metadata"
    assert (documents / "conf/haproxy.cfg").exists()
    assert (documents / "docs/operations.md").exists()
    assert dead_links(documents) == []
    completion = "/usr/share/bash-completion/completions/vmw-cloudinit-metadata"
    inside(root, "bash", "-n", completion)
    check_serves(root)
    inside(root, "dpkg", "--verify", "vmw-cloudinit-metadata")  # nothing was written there

    own = (root / SETTINGS).read_text() + "# of the operator\n"
    (root / SETTINGS).write_text(own)
    install(root, newer(deb(dist, recipe.name), tmp_path, changed=False))
    assert (root / SETTINGS).read_text() == own
    install(root, newer(deb(dist, recipe.name), tmp_path, changed=True), "--force-confold")
    assert (root / SETTINGS).read_text() == own
    assert stat.S_IMODE((root / SETTINGS).stat().st_mode) == 0o640
    assert "Status: install ok installed" in inside(root, "dpkg", "-s", "vmw-cloudinit-metadata")

    (root / "var/lib/vmw-metadata-server").mkdir()
    (root / "var/lib/vmw-metadata-server/machines").touch()
    inside(root, "dpkg", "--purge", "vmw-cloudinit-metadata")
    assert system(root) == before
    assert inside(root, "getent", "passwd", "vmw-metadata")


def check_serves(root: Path) -> None:
    """Run the server as its user, and fetch what a VM gets."""
    instances = root / "srv/instances"
    instances.mkdir()
    (instances / "web1.yaml").write_text("metadata: {instance-id: from-a-package}\n")
    options = ("--listen", "127.0.0.1:0", "--admin-listen", "off", "--no-catalogue")
    server = subprocess.Popen(
        entering(
            root,
            *("setpriv", "--reuid=vmw-metadata", "--regid=vmw-metadata", "--clear-groups"),
            *("vmw-metadata-server", "--config", f"/{SETTINGS}", *options),
        ),
        stderr=subprocess.PIPE,
        text=True,
        env=ENV,
    )
    try:
        assert server.stderr
        lines = iter(server.stderr.readline, "")
        address = next(line for line in lines if "listening on" in line).split()[-1]
        fetched = run("client", "fetch", "web1", "--uri", "my-metadata", "--server", address)
        assert '"from-a-package"' in fetched.stdout, fetched.stderr
        server.terminate()
        assert server.wait(LIMIT_S) == 0
    finally:
        server.kill()
        server.communicate()
        shutil.rmtree(instances)

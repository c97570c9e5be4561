"""The recipes of docs/guest.md that need no disk, run in the tree of a real Debian."""

from __future__ import annotations

import http.server
import re
import shutil
import subprocess
import threading
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import pytest

from tests import recipes
from tests.commandline import in_process
from tests.e2e.image import tarball
from tests.e2e.recipe import DEBIAN_13
from tests.process import CHECKOUT
from vmw_cloudinit_metadata.guest.image import parts, record

pytestmark = pytest.mark.slow

UNITS = "vmw-metadata-agent.service vmw-metadata-report.service"
LEFT_OUT = ("./dev/*", "./boot/*", "*/lib/modules/*", "./usr/share/*", "*/perl*")
PRESETS = "usr/lib/systemd/system-preset"
CASES = CHECKOUT / "tests/images/preset"
WRITTEN = (parts.AGENT, parts.UNIT, parts.REPORT_UNIT, parts.PRESET, record.FILE)
# What only `guest install` writes: the settings, and the record for --remove.
OPTIONAL = ["wrote    /etc/vmw-metadata-agent.conf"]


@pytest.fixture(scope="module")
def debian(
    tmp_path_factory: pytest.TempPathFactory, program: Callable[[str, str], str]
) -> Iterator[Path]:
    """Debian 13, unpacked, with the files of the recipes in /tmp."""
    program("mmdebstrap", "mmdebstrap")
    root = tmp_path_factory.mktemp("debian") / "root"
    root.mkdir()
    excluded = [f"--exclude={pattern}" for pattern in LEFT_OUT]
    command = ["tar", "-x", *excluded, "-f", str(tarball(DEBIAN_13)), "-C", str(root)]
    subprocess.run(command, check=True, timeout=300)
    recipes.print_files(root / "tmp")
    for name in ("90-default.preset", "99-default-disable.preset"):
        shutil.copy(CASES / name, root / PRESETS)
    yield root
    shutil.rmtree(root)


@pytest.fixture
def tree(debian: Path) -> Iterator[Path]:
    """The same for one test; afterwards it is as it was before."""
    before = debian / "etc.before"
    subprocess.run(["cp", "-a", debian / "etc", before], check=True, timeout=60)
    yield debian
    shutil.rmtree(debian / "etc")
    before.rename(debian / "etc")
    for path in WRITTEN:
        (debian / path.lstrip("/")).unlink(missing_ok=True)


def inside(root: Path, script: str) -> str:
    """Run a script with the tree as its root, in its /tmp."""
    return recipes.shell(f"exec chroot {root} sh -euc 'cd /tmp\n{script}'", root)


def check_image(root: Path) -> None:
    """The tree is as `guest install` makes it, also after a first boot with full presets."""
    assert in_process("guest", "check", "--root", str(root)) == (0, [], ["problems: 0"])
    inside(root, "systemctl preset-all --preset-mode=full")
    assert inside(root, f"systemctl is-enabled {UNITS}") == "enabled\n" * 2
    _, out, _ = in_process("guest", "install", "--root", str(root))
    assert out == OPTIONAL


def test_commands_by_hand_make_a_good_image(tree: Path) -> None:
    inside(tree, recipes.by_hand())
    check_image(tree)


def test_packers_commands_make_a_good_image_without_a_machine_id(tree: Path) -> None:
    (tree / "etc/machine-id").write_text("0123456789abcdef0123456789abcdef\n")
    inside(tree, recipes.packer())
    assert (tree / "etc/machine-id").read_text() == ""
    check_image(tree)


def test_kickstarts_script_makes_a_good_image(
    tree: Path, program: Callable[[str, str], str]
) -> None:
    """The tree has no curl: the script runs outside of it, with each path led into the tree."""
    program("curl", "curl")
    handler = partial(QuietHandler, directory=str(tree / "tmp"))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        script, found = re.subn(
            r"^base=.*$", f"base={base(server)}", recipes.kickstart(), flags=re.M
        )
        assert found == 1
        script = re.sub(r"(?<=\s)/(?=usr/|etc/)", f"{tree}/", script)
        recipes.shell(
            f'systemctl() {{ chroot {tree} systemctl "$@"; }}\n'
            f'restorecon() {{ shift; for file; do test -e "$file" || exit 1; done; }}\n{script}',
            tree,
        )
        server.shutdown()
    check_image(tree)


def base(server: http.server.ThreadingHTTPServer) -> str:
    return f"http://127.0.0.1:{server.server_port}"


class QuietHandler(http.server.SimpleHTTPRequestHandler):
    """Serves files and logs nothing."""

    def log_message(self, *_: object) -> None:
        pass

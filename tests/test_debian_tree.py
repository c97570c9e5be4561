"""`guest install` into a real Debian: what its own systemd and cloud-init make of it."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.commandline import in_process
from tests.process import LIMIT_S
from tests.tree import picture
from tests.uart import DOCUMENTS, METADATA, ScriptedUart, server_of

pytestmark = pytest.mark.slow

PACKAGES = "systemd,cloud-init,python3"
UNIT = "vmw-metadata-agent.service"
SEED = "var/lib/cloud/seed/nocloud"


@pytest.fixture(scope="module")
def debian(
    tmp_path_factory: pytest.TempPathFactory, program: Callable[[str, str], str]
) -> Iterator[Path]:
    """Debian 12, unpacked: systemd, cloud-init, Python."""
    root = tmp_path_factory.mktemp("debian") / "root"
    mmdebstrap = program("mmdebstrap", "mmdebstrap")
    options = ("--quiet", "--variant=minbase", f"--include={PACKAGES}")
    subprocess.run([mmdebstrap, *options, "bookworm", str(root)], check=True, timeout=600)
    yield root
    shutil.rmtree(root)


@pytest.fixture
def installed(debian: Path) -> Iterator[Path]:
    """The tree with the agent in it; afterwards it is as it was before."""
    before = system(debian)
    device = ("--device", "/dev/ttyS1")
    code, out, err = in_process("guest", "install", "--root", str(debian), *device)
    assert (code, len(out), err) == (0, 9, [])
    yield debian
    in_process("guest", "install", "--root", str(debian), "--remove")
    assert system(debian) == before


def system(root: Path) -> dict[str, str]:
    """The tree without cloud-init's own state."""
    seen = picture(root)
    return {path: seen[path] for path in seen if not path.startswith("var/lib/cloud")}


def inside(root: Path, *command: str) -> str:
    """What a program of the tree prints, with the tree as its root."""
    return subprocess.run(
        ["chroot", str(root), *command],
        check=True,
        capture_output=True,
        text=True,
        timeout=60,
        env={"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL": "C.UTF-8"},
    ).stdout


def test_check_finds_nothing(installed: Path) -> None:
    assert in_process("guest", "check", "--root", str(installed)) == (0, [], ["problems: 0"])


@pytest.mark.parametrize("unit", [UNIT, "vmw-metadata-report.service"])
def test_unit_is_valid_and_enabled(
    installed: Path, program: Callable[[str, str], str], unit: str
) -> None:
    assert inside(installed, "systemctl", "is-enabled", unit) == "enabled\n"
    verified = subprocess.run(
        [program("systemd-analyze", "systemd"), f"--root={installed}", "verify", unit],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert unit not in verified.stderr


def test_unit_that_systemctl_enables_anew_is_removed_with_the_rest(installed: Path) -> None:
    inside(installed, "systemctl", "reenable", UNIT)
    link = installed / "etc/systemd/system/cloud-init.target.wants" / UNIT
    assert link.readlink() == Path(f"/lib/systemd/system/{UNIT}")  # another path than ours


def test_agent_runs_with_the_python_of_the_tree(installed: Path) -> None:
    unit = (installed / "usr/lib/systemd/system" / UNIT).read_text()
    found = re.search(r"^ExecStart=(.+)$", unit, re.MULTILINE)
    assert found
    assert "--seed-dir" in inside(installed, *found[1].split(), "--help")


def test_port_that_appears_late_is_asked(installed: Path) -> None:
    uart = ScriptedUart(server_of(DOCUMENTS))
    port = installed / "dev/ttyS1"
    agent = [sys.executable, str(installed / "usr/libexec/vmw-metadata-agent")]
    command = [*agent, "--root", str(installed), "--port-timeout", str(LIMIT_S)]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    try:
        assert process.stderr
        assert "/dev/ttyS1: No such file or directory: waiting" in process.stderr.readline()
        port.symlink_to(uart.path)
        assert process.wait(LIMIT_S) == 0
        assert (installed / SEED / "meta-data").read_bytes() == METADATA
    finally:
        process.kill()
        process.communicate()
        port.unlink(missing_ok=True)
        uart.close()
        shutil.rmtree(installed / "var/lib/cloud/seed", ignore_errors=True)


def test_generator_of_cloud_init_takes_the_seed(installed: Path, tmp_path: Path) -> None:
    seed = installed / SEED
    seed.mkdir(parents=True)
    try:
        (seed / "meta-data").write_text("instance-id: x\n")
        (seed / "user-data").write_text("")
        told = subprocess.run(
            [installed / "usr/lib/cloud-init/ds-identify", "--force"],
            capture_output=True,
            text=True,
            check=True,
            timeout=60,
            env={"PATH": "/usr/bin:/bin", "PATH_ROOT": str(installed), "PATH_RUN": str(tmp_path)},
        )
        config = (tmp_path / "cloud-init/cloud.cfg").read_text()
    finally:
        shutil.rmtree(installed / "var/lib/cloud/seed")
    assert "datasource_list: [ NoCloud, None ]" in config, told.stderr


def test_clean_of_cloud_init_removes_the_seed(installed: Path) -> None:
    seed = installed / SEED
    seed.mkdir(parents=True)
    (seed / "vmw-metadata-agent.json").write_text("{}")
    inside(installed, "cloud-init", "clean")
    assert not seed.exists()
    shutil.rmtree(installed / "var/lib/cloud/seed", ignore_errors=True)

"""The agent in images of Ubuntu, the Red Hat family, SLES and Photon: trees that are made."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.commandline import in_process
from tests.distributions import DISTRIBUTIONS
from tests.distributions.traps import TRAPS
from tests.guest import mostly_slow
from tests.tree import picture, put

AGENT = "usr/libexec/vmw-metadata-agent"
UNIT = "usr/lib/systemd/system/vmw-metadata-agent.service"
DEVICE = ("--device", "/dev/ttyS1")
CONSOLE = "console=ttyS0"
ON_CONSOLE = ("--device", "/dev/ttyS0")
SPRUNG = [(trap, name) for trap, found in TRAPS.items() for name in found.images]


@pytest.fixture(params=DISTRIBUTIONS)
def name(request: pytest.FixtureRequest) -> str:
    found: str = request.param
    return found


@pytest.fixture
def image(name: str, tmp_path: Path) -> Path:
    """The image as the distribution makes it, without the agent."""
    return DISTRIBUTIONS[name].make(tmp_path / "root")


def install(root: Path, *options: str) -> list[str]:
    """Install the agent; return the warnings."""
    code, out, warnings = in_process("guest", "install", "--root", str(root), *options)
    assert code == 0
    assert out
    return warnings


def check(root: Path) -> tuple[int, list[str]]:
    """Return the number of problems, and all lines."""
    code, out, (last,) = in_process("guest", "check", "--root", str(root))
    problems = int(last.removeprefix("problems: "))
    assert code == min(problems, 1)
    return problems, out


def install_as_documented(root: Path, name: str) -> None:
    """Install the agent, and let the first boot set SELinux's labels."""
    warnings = install(root, *DEVICE)
    if DISTRIBUTIONS[name].has_selinux:
        assert [".autorelabel" in warning for warning in warnings] == [True]
        (root / ".autorelabel").touch()
    else:
        assert warnings == []


def test_installed_image_has_no_problem(image: Path, name: str) -> None:
    install_as_documented(image, name)
    assert check(image)[0] == 0
    python = DISTRIBUTIONS[name].python
    assert f"\nExecStart={python} /{AGENT}\n" in (image / UNIT).read_text()


def test_removed_agent_leaves_the_image_as_it_was(image: Path) -> None:
    before = picture(image)
    install(image, *DEVICE)
    install(image, "--free-console", "ttyS0", "--device", "/dev/ttyS0", "--with-guestinfo")
    assert picture(image) != before
    install(image, "--remove")
    assert picture(image) == before


@pytest.mark.parametrize(("trap", "name"), mostly_slow(*SPRUNG))
def test_trap_is_reported_and_nothing_else(trap: str, name: str, tmp_path: Path) -> None:
    image = DISTRIBUTIONS[name].make(tmp_path / "root")
    install_as_documented(image, name)
    found = TRAPS[trap]
    install(image, "--device", found.device)
    before = check(image)[1]
    for path, text in found.files.items():
        put(image, path, text)
    problems, lines = check(image)
    assert problems == (bool(found.says) and not found.is_risk)
    new = lines if found.is_risk else [line for line in lines if line not in before]
    assert [found.says in line for line in new] == [True] * bool(found.says)
    if found.says and found.files:
        assert new[0].startswith(f"/{next(iter(found.files))}: ")
    if CONSOLE in found.says:
        install(image, "--device", found.device, "--free-console", "ttyS0")
        assert check(image) == (0, before)


@pytest.mark.slow
def test_console_on_the_port_is_found_in_each_file_and_freed(image: Path, name: str) -> None:
    install_as_documented(image, name)
    install(image, *ON_CONSOLE)
    places = [path for path, text in DISTRIBUTIONS[name].files.items() if CONSOLE in text]
    found = [line.partition(": ")[0] for line in check(image)[1] if CONSOLE in line]
    assert found == sorted(f"/{path}" for path in places)
    install(image, *ON_CONSOLE, "--free-console", "ttyS0")
    assert check(image)[0] == 0


@pytest.mark.slow
def test_image_without_agent_has_problems(image: Path) -> None:
    problems, lines = check(image)
    assert problems
    assert any(f"/{AGENT}: is missing" in line for line in lines)


@pytest.mark.slow
def test_only_labels_of_selinux_are_missing(image: Path, name: str) -> None:
    install(image, *DEVICE)
    problems, lines = check(image)
    assert (problems > 0) is DISTRIBUTIONS[name].has_selinux
    assert all("SELinux label" in line or line.startswith("warning: ") for line in lines)


@pytest.mark.slow
def test_systemd_finds_the_unit_enabled(image: Path, program: Callable[[str, str], str]) -> None:
    install(image, *DEVICE)
    command = [program("systemctl", "systemd"), f"--root={image}", "is-enabled", Path(UNIT).name]
    ended = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert ended.stdout == "enabled\n", ended.stderr

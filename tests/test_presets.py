"""systemd's presets on a first boot: `systemctl preset-all` leaves the agent enabled."""

from __future__ import annotations

import shutil
import subprocess
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from tests.commandline import in_process
from tests.process import CHECKOUT
from tests.tree import FILES, make_tree, picture, put
from vmw_cloudinit_metadata.guest.agent.system import System
from vmw_cloudinit_metadata.guest.image import presets
from vmw_cloudinit_metadata.guest.image.tree import Tree

CASES = CHECKOUT / "tests/images/preset"
UNIT = "vmw-metadata-agent.service"
ENABLED = f"etc/systemd/system/cloud-init.target.wants/{UNIT}"
GETTY = "serial-getty@ttyS0.service"
PRESETS = "usr/lib/systemd/system-preset"
DISABLE_ALL = "disable *\n"

Systemctl = Callable[..., str]


@pytest.fixture(scope="module")
def systemctl(program: Callable[[str, str], str]) -> Systemctl:
    """Runs systemctl on a tree; gives what it prints, whatever its exit code."""
    path = program("systemctl", "systemd")

    def run(root: Path, *words: str) -> str:
        command = [path, f"--root={root}", *words]
        ended = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
        return ended.stdout

    return run


def first_boot(systemctl: Systemctl, root: Path) -> None:
    """What systemd does to a tree whose machine-id is uninitialized, as Fedora builds it."""
    systemctl(root, "preset-all", "--preset-mode=full")


def stock_fedora(root: Path) -> None:
    (root / PRESETS).mkdir()
    for name in ("90-default.preset", "99-default-disable.preset"):
        shutil.copy(CASES / name, root / PRESETS)
    shutil.copy(CASES / "machine-id", root / "etc/machine-id")
    put(root, f"usr/lib/systemd/system/{GETTY.replace('ttyS0', '')}", "[Service]\n")
    put(root, "usr/lib/systemd/system/other.service", "[Install]\nWantedBy=cloud-init.target\n")


@pytest.mark.parametrize("kind", FILES)
def test_first_boot_with_full_presets_keeps_what_was_installed(
    tmp_path: Path, kind: str, systemctl: Systemctl
) -> None:
    root = make_tree(tmp_path / "root", kind)
    stock_fedora(root)
    before = picture(root)
    assert in_process("guest", "install", "--root", str(root), "--free-console", "ttyS0")[0] == 0
    assert presets.is_first_boot(Tree(root))
    systemctl(root, "enable", "other.service")
    first_boot(systemctl, root)
    assert systemctl(root, "is-enabled", UNIT) == "enabled\n"
    assert systemctl(root, "is-enabled", GETTY) == "masked\n"
    assert System(str(root)).is_masked(GETTY)
    assert systemctl(root, "is-enabled", "other.service") == "disabled\n"
    in_process("guest", "install", "--root", str(root), "--remove")
    assert picture(root) == before


def test_without_the_preset_the_first_boot_disables_the_agent(
    tmp_path: Path, systemctl: Systemctl
) -> None:
    root = make_tree(tmp_path / "root", "rhel9")
    stock_fedora(root)
    in_process("guest", "install", "--root", str(root))
    (root / PRESETS / "10-vmw-metadata-agent.preset").unlink()
    first_boot(systemctl, root)
    assert not (root / ENABLED).is_symlink()


def test_link_that_systemctl_has_written_anew_is_removed(tmp_path: Path) -> None:
    root = make_tree(tmp_path / "root", "debian")
    before = picture(root)
    in_process("guest", "install", "--root", str(root))
    (root / ENABLED).unlink()
    (root / ENABLED).symlink_to(f"/lib/systemd/system/{UNIT}")
    in_process("guest", "install", "--root", str(root), "--remove")
    assert picture(root) == before


def test_preset_that_comes_first_is_warned_of(tmp_path: Path, systemctl: Systemctl) -> None:
    root = make_tree(tmp_path / "root", "rhel9")
    put(root, "etc/systemd/system-preset/00-hardening.preset", f"# ours\n{DISABLE_ALL}")
    _, _, err = in_process("guest", "install", "--root", str(root), "--device", "/dev/ttyS1")
    warned = [
        line for line in err if "00-hardening.preset: line 2, `disable *`: a first boot" in line
    ]
    assert len(warned) == 1
    first_boot(systemctl, root)
    assert systemctl(root, "is-enabled", UNIT) == "disabled\n"


@pytest.mark.parametrize(
    ("machine_id", "expected"),
    [
        (None, True),
        ("uninitialized\n", True),
        ("", False),
        ("\n", False),
        ("0123456789abcdef0123456789abcdef\n", False),
    ],
)
def test_first_boot_is_told_by_the_machine_id(
    tmp_path: Path, machine_id: str | None, expected: bool
) -> None:
    (tmp_path / "etc").mkdir()
    if machine_id is not None:
        put(tmp_path, "etc/machine-id", machine_id)
    assert presets.is_first_boot(Tree(tmp_path)) is expected


LINES = (
    *("disable *", "enable *", f"enable {UNIT}", f"disable {UNIT}", "disable vmw-*.service"),
    *("\t disable\t vmw-metadata-agent.*  rest", "# disable *", ";disable *", "disabled *", ""),
    *("Disable *", "disable", "disable vmw", "disable [!v]*", "disable [^v]*", "enable [a-z]mw*"),
)
NAMES = ("00-a.preset", "10-b.preset", "10-b.preset", "99-c.preset", "50-d.conf")
PLACES = ("etc", "run", "usr/local/lib", "usr/lib")
File = tuple[str, str, Sequence[str]]  # directory, name, lines
FILE = st.tuples(
    st.sampled_from(PLACES), st.sampled_from(NAMES), st.lists(st.sampled_from(LINES), max_size=3)
)


@pytest.mark.slow
@given(files=st.lists(FILE, max_size=4))
@example(files=[("etc", "10-b.preset", []), ("usr/lib", "10-b.preset", ["disable *"])])
@settings(max_examples=40)
def test_presets_are_read_as_systemd_reads_them(systemctl: Systemctl, files: list[File]) -> None:
    with tempfile.TemporaryDirectory() as directory:
        root = Path(directory)
        (root / "etc").mkdir()
        put(root, f"usr/lib/systemd/system/{UNIT}", "[Install]\nWantedBy=cloud-init.target\n")
        for place, name, lines in files:
            put(root, f"{place}/systemd/system-preset/{name}", "\n".join(lines))
        systemctl(root, "preset", UNIT)
        rule = presets.rule_of(Tree(root), UNIT)
        expected = "disabled" if rule and rule.action == "disable" else "enabled"
        assert systemctl(root, "is-enabled", UNIT).strip() == expected

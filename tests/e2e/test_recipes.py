"""The recipes of docs/guest.md for disks, run with libguestfs on a Debian without the agent."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from tests import recipes
from tests.e2e.disk import Disk
from tests.e2e.expected import FIRST, MACHINE, check_identity, identity
from tests.e2e.image import Image, image
from tests.e2e.lab import Lab
from tests.e2e.recipe import DEBIAN_13
from vmw_cloudinit_metadata.guest.image import parts

pytestmark = pytest.mark.slow

LIMIT_S = 300.0
# A machine without KVM, or with one that does not work.
LIBGUESTFS = {"LIBGUESTFS_BACKEND": "direct", "LIBGUESTFS_BACKEND_SETTINGS": "force_tcg"}


@pytest.fixture(scope="module")
def bare(tmp_path_factory: pytest.TempPathFactory, program: Callable[[str, str], str]) -> Image:
    """A disk as its distribution makes it, and the files of the recipes beside it."""
    for name in ("virt-customize", "guestmount"):
        program(name, "libguestfs-tools guestmount linux-image-cloud-amd64")
    program("qemu-img", "qemu-utils")
    directory = tmp_path_factory.mktemp("bare")
    recipes.print_files(directory)
    return image(DEBIAN_13, directory, "bare")


@pytest.fixture
def directory(bare: Image) -> Path:
    """Where the recipe is run, with a fresh image.qcow2."""
    directory = bare.disk.parent
    _convert("qcow2", bare.disk, directory / "image.qcow2")
    return directory


def _convert(form: str, source: Path, target: Path) -> None:
    command = ["qemu-img", "convert", "-O", form, str(source), str(target)]
    subprocess.run(command, check=True, timeout=LIMIT_S)


def disk_of(directory: Path) -> Disk:
    """The disk that the recipe has made. Fails while another program writes to it."""
    _convert("raw", directory / "image.qcow2", directory / "made.disk")
    return Disk(directory / "made.disk")


def check_installed(disk: Disk) -> None:
    """Whatever the recipe: the same files, and no machine-id for all clones."""
    assert disk.text(parts.AGENT) == parts.agent()
    assert disk.mode(parts.AGENT) == 0o755
    assert disk.text(parts.UNIT) == parts.unit()
    assert disk.text(parts.REPORT_UNIT) == parts.report_unit()
    assert disk.text(parts.PRESET) == parts.preset()
    assert disk.text(parts.CLEAN) == parts.clean()
    assert disk.mode(parts.CLEAN) == 0o755
    assert disk.exists(parts.ENABLED)
    assert disk.text("/etc/machine-id") == ""


def test_virt_customize_makes_a_template_that_takes_the_data(
    lab: Lab, bare: Image, directory: Path
) -> None:
    recipes.shell(recipes.virt_customize(), directory, LIMIT_S, **LIBGUESTFS)
    disk = disk_of(directory)
    check_installed(disk)
    FIRST.serve(lab)
    lab.start_server()
    boot = lab.boot(disk, bare.kernel, MACHINE)
    check_identity(boot, FIRST)
    assert len(disk.text("/etc/machine-id").strip()) == 32
    lab.saw(f"{identity(FIRST)}; the template had no machine-id")


def test_guestmount_lets_the_agent_be_installed(directory: Path) -> None:
    (directory / "mnt").mkdir()
    recipe = recipes.guestmount().replace("/mnt", str(directory / "mnt"))
    recipes.shell(recipe, directory, LIMIT_S, **LIBGUESTFS, **recipes.with_program(directory))
    check_installed(disk_of(directory))

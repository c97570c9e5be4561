"""If the check of an image finds nothing, the image's own programs take the agent's seed.

On real trees of Debian 12 and 13, with what people leave in images, alone and in pairs.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from pathlib import Path

import pytest

from tests import realdsidentify
from tests.commandline import in_process
from tests.imagecases import CAUSES, Cause, changed, variants
from tests.tree import picture
from vmw_cloudinit_metadata.guest.check.commandlines import CommandLine
from vmw_cloudinit_metadata.guest.check.imagecheck import findings
from vmw_cloudinit_metadata.guest.check.imageprograms import ask
from vmw_cloudinit_metadata.guest.image.tree import Tree

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root: namespaces, chroot"),
]
VARIANTS = dict(variants())
NOCLOUD = ("nocloud", "nocloud-net")


@pytest.fixture(scope="module", params=["debian-12", "debian-13"])
def debian(request: pytest.FixtureRequest, debian_tree: Callable[[str], Path]) -> Path:
    return debian_tree(request.param)


def faults(root: Path) -> list[str]:
    return [str(finding) for finding in findings(Tree(root)) if not finding.is_warning]


def starts(root: Path, cause: Cause) -> bool:
    """Whether the tree's own ds-identify starts cloud-init with NoCloud, on a first boot."""
    if "cloud-init=disabled" in cause.words:  # the generator itself reads it in Debian 12
        return False
    program = realdsidentify.program_of(root)
    code, written = realdsidentify.decide(program, root / "etc/cloud", cause.words)
    names = re.findall(r"[\w-]+", (written or "NoCloud").replace("DataSource", "").lower())
    return code == 0 and any(name in NOCLOUD for name in names)


def takes(root: Path, cause: Cause) -> list[str]:
    """What the tree's own cloud-init does otherwise than with the seed alone."""
    return list(ask(Tree(root), CommandLine("", cause.words)).problems)


def test_variants_are_many() -> None:
    assert len(VARIANTS) >= 80


def test_tree_without_causes_is_good(debian: Path) -> None:
    assert faults(debian) == []
    assert starts(debian, Cause())
    assert takes(debian, Cause()) == []


@pytest.mark.parametrize("name", VARIANTS)
def test_no_fault_means_that_the_seed_is_taken(debian: Path, name: str) -> None:
    cause = VARIANTS[name]
    with changed(debian, cause.all_files):
        found = faults(debian)
        problems = takes(debian, cause)
        is_good = starts(debian, cause) and problems == []
        assert is_good == (found == []), (problems, found)  # nor does the check cry wolf


def test_check_finds_each_kind_with_and_without_a_fault(debian: Path) -> None:
    """Else the law would say nothing."""
    counts = {True: 0, False: 0}
    for cause in CAUSES.values():
        with changed(debian, cause.all_files):
            counts[bool(faults(debian))] += 1
    assert min(counts.values()) >= 15


def test_command_asks_the_own_programs(debian: Path) -> None:
    options = ("guest", "check", "--root", str(debian), "--run-image-programs")
    assert in_process(*options) == (0, [], ["problems: 0"])
    with changed(debian, CAUSES["seedfrom"].all_files):
        code, found, _ = in_process(*options)
    assert code == 1
    assert any(line.startswith("by the image's own programs: ") for line in found)


def test_own_programs_change_nothing_in_the_image(debian: Path) -> None:
    before = picture(debian)
    takes(debian, Cause())
    assert picture(debian) == before

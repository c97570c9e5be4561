"""Real programs of cloud-init with the configuration of other distributions, in made trees.

The programs are Debian's, of a similar version: ds-identify is the same in all distributions.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from tests import realdsidentify
from tests.commandline import in_process
from tests.distributions import DISTRIBUTIONS, Distribution
from tests.distributions.traps import TRAPS
from tests.imagecases import CAUSES, Cause, changed
from tests.tree import put
from vmw_cloudinit_metadata.guest.check.commandlines import CommandLine
from vmw_cloudinit_metadata.guest.check.imagecheck import findings
from vmw_cloudinit_metadata.guest.check.imageprograms import ask
from vmw_cloudinit_metadata.guest.image.tree import Tree

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root: namespaces, chroot"),
]
# All that matters for these is whether ds-identify starts cloud-init with NoCloud.
DECIDED = ("always", "anyway", "disabled-in-quotes", "list-as-block", "list-of-two", "one-source")
LEFT = {f"{trap}-{name}": (trap, name) for trap, found in TRAPS.items() for name in found.images}


@pytest.fixture(params=DISTRIBUTIONS)
def distribution(request: pytest.FixtureRequest) -> Distribution:
    return DISTRIBUTIONS[request.param]


@pytest.fixture
def image_of(tmp_path: Path, debian_tree: Callable[[str], Path]) -> Callable[[Distribution], Path]:
    """Makes an image with the agent and a real ds-identify."""

    def make(distribution: Distribution) -> Path:
        root = distribution.make(tmp_path / "root")
        program = realdsidentify.program_of(debian_tree(distribution.debian)).read_text()
        put(root, distribution.ds_identify, distribution.patched(program))
        device = ("--device", "/dev/ttyS1")
        assert in_process("guest", "install", "--root", str(root), *device)[0] == 0
        (root / ".autorelabel").touch()
        return root

    return make


def faults(root: Path) -> list[str]:
    return [str(finding) for finding in findings(Tree(root)) if not finding.is_warning]


def starts(root: Path, distribution: Distribution) -> bool:
    """Return whether ds-identify starts cloud-init with NoCloud, on a first boot."""
    program = root / distribution.ds_identify
    code, written = realdsidentify.decide(program, root / "etc/cloud", "ro quiet")
    return code == 0 and "nocloud" in (written or "nocloud").lower()


@pytest.mark.parametrize("cause", ["nothing", *DECIDED])
def test_check_decides_as_the_real_ds_identify(
    image_of: Callable[[Distribution], Path], distribution: Distribution, cause: str
) -> None:
    root = image_of(distribution)
    for path, text in CAUSES.get(cause, Cause()).all_files.items():
        put(root, path, text)
    found = faults(root)
    assert starts(root, distribution) == (found == []), found


@pytest.mark.parametrize("left", LEFT)
def test_image_without_fault_starts_cloud_init(
    image_of: Callable[[Distribution], Path], left: str
) -> None:
    trap, name = LEFT[left]
    root = image_of(DISTRIBUTIONS[name])
    for path, text in TRAPS[trap].files.items():
        put(root, path, text)
    assert faults(root) or starts(root, DISTRIBUTIONS[name])


def test_real_cloud_init_takes_the_seed_with_these_defaults(
    debian_tree: Callable[[str], Path], distribution: Distribution
) -> None:
    config = {
        path: text for path, text in distribution.files.items() if path.startswith("etc/cloud/")
    }
    with changed(debian_tree("debian-13"), config) as root:
        assert faults(root) == []
        assert list(ask(Tree(root), CommandLine("", "")).problems) == []

"""`guest check` and the oldest and the newest programs of cloud-init, in trees of their systems."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.e2e.recipe import DEBIAN_11, SID
from tests.imagecases import CAUSES, changed
from tests.test_boot_laws import faults, starts, takes

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root: namespaces, chroot"),
]


@pytest.mark.parametrize("name", [DEBIAN_11.name, SID.name])
def test_no_fault_means_that_the_seed_is_taken(
    debian_tree: Callable[[str], Path], name: str
) -> None:
    root = debian_tree(name)
    assert faults(root) == []
    for cause in CAUSES.values():
        with changed(root, cause.all_files):
            found = faults(root)
            assert found or (starts(root, cause) and takes(root, cause) == []), cause

"""A first boot of other systems."""

from __future__ import annotations

import pytest

from tests.e2e.image import ImageOf
from tests.e2e.lab import Lab
from tests.e2e.recipe import DEBIAN_12, NETPLAN_13, Recipe
from tests.e2e.told import FIRST, MACHINE, check_identity, identity

pytestmark = pytest.mark.slow


@pytest.mark.parametrize("recipe", [DEBIAN_12, NETPLAN_13], ids=lambda recipe: recipe.name)
def test_other_system_takes_the_data(lab: Lab, image_of: ImageOf, recipe: Recipe) -> None:
    FIRST.serve(lab)
    lab.start_server()
    image = image_of(recipe)
    boot = lab.boot(lab.disk(image), image.kernel, MACHINE)
    check_identity(boot, FIRST)
    assert boot.disk.text("/root/file") == "first"
    assert boot.disk.text("/root/command") == "first on web1\n"
    lab.saw(f"{identity(FIRST)}, gateway, DNS, SSH key; a file and a command of user-data")

"""The first boot of a machine, later boots, and clones."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from tests.e2e.boot import SEED, Boot
from tests.e2e.expected import (
    CLONE,
    CLONED,
    CONFIG,
    FIRST,
    MACHINE,
    SECOND,
    check_identity,
    check_seed_is_private,
    check_told_soon,
    identity,
)
from tests.e2e.image import ImageOf
from tests.e2e.lab import Lab
from tests.e2e.recipe import DEBIAN_13

pytestmark = pytest.mark.slow


@pytest.fixture(scope="session")
def first_boot(image_of: ImageOf, shelf: Path) -> Callable[[Lab], Boot]:
    """Boot Debian 13 with the data FIRST, once; later tests continue with its disk."""
    boots: list[Boot] = []

    def get(lab: Lab) -> Boot:
        if not boots:
            image = image_of(DEBIAN_13)
            FIRST.serve(lab)
            lab.start_server()
            boot = lab.boot(lab.disk(image), image.kernel, MACHINE, is_watched=True)
            assert lab.outcome["status"] == "done", lab.outcome
            check_told_soon(lab, boot)
            lab.kill_server()
            boots.append(replace(boot, disk=boot.disk.copy(shelf / "first")))
        return boots[0]

    return get


@pytest.mark.e2e_quick
def test_debian_13_takes_the_data(lab: Lab, first_boot: Callable[[Lab], Boot]) -> None:
    boot = first_boot(lab)
    check_identity(boot, FIRST)
    check_seed_is_private(boot)
    assert boot.virtualization == "vmware"
    assert boot.disk.text("/root/file") == "first"
    assert boot.disk.text("/root/command") == "first on web1\n"
    assert len(boot.host_keys) == 2
    assert "reported how this boot ended: done" in boot.report_log
    lab.saw(f"{identity(FIRST)}, gateway, DNS, SSH key; a file and a command of user-data")


def test_new_instance_id_on_the_second_boot_applies_the_new_data(
    lab: Lab, image_of: ImageOf, first_boot: Callable[[Lab], Boot]
) -> None:
    disk = lab.disk(first_boot(lab).disk)
    SECOND.serve(lab)
    lab.start_server()
    boot = lab.boot(disk, image_of(DEBIAN_13).kernel, MACHINE)
    check_identity(boot, SECOND)
    assert disk.text("/root/file") == "second"
    assert disk.text("/root/command") == "first on web1\nsecond on web2\n"
    lab.saw(f"i-1 changed to {identity(SECOND)}; the new command ran once")


def test_dead_server_on_a_later_boot_keeps_the_instance(
    lab: Lab, image_of: ImageOf, first_boot: Callable[[Lab], Boot]
) -> None:
    disk = lab.disk(first_boot(lab).disk)
    boot = lab.boot(disk, image_of(DEBIAN_13).kernel, MACHINE)
    check_identity(boot, FIRST)
    assert disk.text("/root/command") == "first on web1\n"
    lab.saw(f"still {identity(FIRST)}; no command ran again")


def test_clone_does_not_come_up_as_its_parent(
    lab: Lab, image_of: ImageOf, first_boot: Callable[[Lab], Boot]
) -> None:
    disk = lab.disk(first_boot(lab).disk)
    kernel = image_of(DEBIAN_13).kernel
    disk.write(CONFIG, b"[agent]\nfirst-boot-timeout = 20\n")
    boot = lab.boot(disk, kernel, CLONE)  # without a server
    assert "None" in boot.result["datasource"]
    assert boot.instance_id != FIRST.instance_id
    assert not disk.exists(f"{SEED}/meta-data")
    addresses = [address for mac in CLONE.macs for address in boot.interface(mac).addresses]
    assert FIRST.address not in addresses
    assert boot.gateways == []
    assert disk.text("/root/command") == "first on web1\n"
    lab.saw(f"instance-id {boot.instance_id}; no seed, address or route of its parent")
    CLONED.serve(lab)
    lab.start_server()
    boot = lab.boot(disk, kernel, CLONE)
    check_identity(boot, CLONED)
    assert disk.text("/root/command") == "first on web1\nthird on web3\n"
    lab.saw(identity(CLONED))

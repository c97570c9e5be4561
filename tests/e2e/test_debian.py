"""Debian 13, Debian 12, and Debian 13 with netplan: what unmodified cloud-init makes of the data.

Every machine has two network cards; the data names the second one by its MAC address.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from tests.e2e.boot import SEED, Boot, Interface
from tests.e2e.image import Image
from tests.e2e.lab import Lab
from tests.e2e.machine import Hardware
from tests.e2e.recipe import DEBIAN_12, DEBIAN_13, NETPLAN_13, Recipe
from tests.e2e.wire import When

pytestmark = pytest.mark.slow
quick = pytest.mark.e2e_quick  # what CI runs
after_first_boot = pytest.mark.xdist_group("first boot")

ImageOf = Callable[[Recipe], Image]

UNUSED, USED = "00:50:56:00:00:01", "00:50:56:00:00:02"
MACHINE = Hardware("4210aa00-0000-4000-8000-000000000001", (UNUSED, USED))
CONSOLE_ONLY = replace(MACHINE, only_one_port=True)
CLONE = Hardware("4210bb00-0000-4000-8000-000000000002", ("00:50:56:00:00:03", "00:50:56:00:00:04"))
KEY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIC20Q6Q9Gpyvl7QM4ZdK6Y2sVszlLzRR9yUEKujZP2Jn admin"
CONFIG = "/etc/vmw-metadata-agent.conf"


@dataclass(frozen=True)
class Told:
    """What the server has for the machine, and so what it is to become."""

    instance_id: str
    hostname: str
    address: str
    userdata: object

    def serve(self, lab: Lab) -> None:
        lab.serve(
            metadata={
                "instance-id": self.instance_id,
                "hostname": f"{self.hostname}.example.com",
                "public-keys": [KEY],
            },
            network={
                "mac-address": USED,
                "address": self.address,
                "gateway": "192.0.2.1",
                "search": "example.com example.net",
                "nameservers": ["192.0.2.53", "192.0.2.54"],
            },
            userdata=self.userdata,
        )


def cloud_config(word: str) -> dict[str, object]:
    return {
        "locale": "C.UTF-8",  # the image has no other
        "write_files": [{"path": "/root/file", "content": word}],
        "runcmd": [["sh", "-c", f"echo {word} on $(hostname) >> /root/command"]],
    }


def script() -> str:
    """400 kB that tell their own digest."""
    lines = (f"# line {number:05} of 400 kB of user-data" for number in range(12_000))
    return "\n".join(["#!/bin/sh", *lines, 'sha256sum < "$0" > /root/digest', ""])


FIRST = Told("i-1", "web1", "192.0.2.10/24", cloud_config("first"))
SECOND = Told("i-2", "web2", "192.0.2.20/24", cloud_config("second"))
LARGE = Told("i-large", "web3", "192.0.2.30/24", script())


def check_identity(boot: Boot, told: Told) -> None:
    """All but the user-data."""
    assert boot.result["errors"] == []
    assert SEED in boot.result["datasource"]
    assert boot.instance_id == told.instance_id
    assert boot.hostname == told.hostname
    assert boot.interface(USED) == Interface("eth0", (told.address,))
    assert boot.interface(UNUSED).addresses == ()
    assert boot.gateways == [("192.0.2.1", "eth0")]
    assert boot.resolver == {
        "nameserver": ["192.0.2.53", "192.0.2.54"],
        "search": ["example.com", "example.net"],
    }
    assert KEY in boot.disk.text("/home/debian/.ssh/authorized_keys")


def check_script(boot: Boot) -> None:
    assert len(script()) > 400_000
    expected = hashlib.sha256(script().encode()).hexdigest()
    assert boot.disk.text("/root/digest").split() == [expected, "-"]


def identity(told: Told) -> str:
    return f"instance-id {told.instance_id}, host {told.hostname}, eth0 {USED} {told.address}"


@pytest.fixture(scope="session")
def first_boot(image_of: ImageOf, shelf: Path) -> Callable[[Lab], Boot]:
    """Boots a Debian 13 with the data FIRST, once; the others go on from its disk."""
    boots: list[Boot] = []

    def get(lab: Lab) -> Boot:
        if not boots:
            image = image_of(DEBIAN_13)
            FIRST.serve(lab)
            lab.start_server()
            boot = lab.boot(lab.disk(image), image.kernel, MACHINE)
            lab.kill_server()
            boots.append(replace(boot, disk=boot.disk.copy(shelf / "first")))
        return boots[0]

    return get


def check_seed_is_private(boot: Boot) -> None:
    assert boot.disk.mode(f"{SEED}/.") == 0o700
    assert boot.disk.mode(f"{SEED}/user-data") == 0o600


@quick
@after_first_boot
def test_debian_13_takes_the_data(lab: Lab, first_boot: Callable[[Lab], Boot]) -> None:
    boot = first_boot(lab)
    check_identity(boot, FIRST)
    check_seed_is_private(boot)
    assert boot.virtualization == "vmware"
    assert boot.disk.text("/root/file") == "first"
    assert boot.disk.text("/root/command") == "first on web1\n"
    lab.saw(f"{identity(FIRST)}, gateway, DNS, SSH key; a file and a command of user-data")


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


@after_first_boot
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
    lab.saw(f"i-1 became {identity(SECOND)}; the new command ran once")


@after_first_boot
def test_dead_server_on_a_later_boot_keeps_the_instance(
    lab: Lab, image_of: ImageOf, first_boot: Callable[[Lab], Boot]
) -> None:
    disk = lab.disk(first_boot(lab).disk)
    boot = lab.boot(disk, image_of(DEBIAN_13).kernel, MACHINE)
    check_identity(boot, FIRST)
    assert disk.text("/root/command") == "first on web1\n"
    lab.saw(f"still {identity(FIRST)}; no command ran again")


@after_first_boot
def test_clone_with_a_dead_server_does_not_come_up_as_its_parent(
    lab: Lab, image_of: ImageOf, first_boot: Callable[[Lab], Boot]
) -> None:
    disk = lab.disk(first_boot(lab).disk)
    disk.write(CONFIG, b"[agent]\nfirst-boot-timeout = 20\n")
    boot = lab.boot(disk, image_of(DEBIAN_13).kernel, CLONE)
    assert "None" in boot.result["datasource"]
    assert boot.instance_id != FIRST.instance_id
    assert not disk.exists(f"{SEED}/meta-data")
    addresses = [address for mac in CLONE.macs for address in boot.interface(mac).addresses]
    assert FIRST.address not in addresses
    assert boot.gateways == []
    assert disk.text("/root/command") == "first on web1\n"
    lab.saw(f"instance-id {boot.instance_id}; no seed, address or route of its parent")


def test_server_that_comes_late_and_dies_in_an_answer_is_asked_again(
    lab: Lab, image_of: ImageOf
) -> None:
    LARGE.serve(lab)

    def die_and_come_back() -> None:
        lab.kill_server()
        lab.start_server()

    image = image_of(DEBIAN_13)
    boot = lab.boot(
        lab.disk(image),
        image.kernel,
        MACHINE,
        asked=(When(rb"(?s)!!REQUEST_.*!!REQUEST_", lab.start_server),),
        answered=(When(rb"!!RESPONSE_USERDATA#[^\n]", die_and_come_back),),
    )
    check_identity(boot, LARGE)
    check_script(boot)
    cut, whole = bytes(lab.wire.answered.said).split(b"!!RESPONSE_USERDATA#")[1:]
    assert 0 < len(cut) < len(whole)
    lab.saw(f"{identity(LARGE)}; 400 kB of user-data, whole at the second time")


@quick
def test_vmotion_between_metadata_and_user_data_loses_nothing(lab: Lab, image_of: ImageOf) -> None:
    LARGE.serve(lab)
    lab.start_server()
    image = image_of(DEBIAN_13)
    move = When(rb"!!REQUEST_USERDATA#", lab.move)
    boot = lab.boot(lab.disk(image), image.kernel, MACHINE, asked=(move,))
    check_identity(boot, LARGE)
    check_script(boot)
    assert "has moved here by vMotion" in lab.server_log
    assert lab.wire.asked.said.count(b"!!REQUEST_USERDATA#") == 1
    lab.saw(f"{identity(LARGE)}; 400 kB of user-data, asked for once")


def test_only_port_is_the_console(lab: Lab, image_of: ImageOf) -> None:
    FIRST.serve(lab)
    lab.start_server()
    image = image_of(DEBIAN_13)
    disk = lab.disk(image)
    disk.write(CONFIG, b"[agent]\ndevice = /dev/ttyS0\n")
    noise = When(rb"Linux version", lambda: None)
    boot = lab.boot(disk, image.kernel, CONSOLE_ONLY, asked=(noise,))
    check_identity(boot, FIRST)
    assert disk.text("/root/file") == "first"
    kilobytes = len(lab.wire.asked.said) // 1000
    lab.saw(f"{identity(FIRST)}; {kilobytes} kB of kernel messages and logins on the same line")

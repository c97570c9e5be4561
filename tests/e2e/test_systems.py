"""The first boot of other systems."""

from __future__ import annotations

import pytest

from tests.e2e.boot import SEED, Interface
from tests.e2e.expected import FIRST, MACHINE, ONE_CARD, check_identity, check_told_soon, identity
from tests.e2e.image import ImageOf
from tests.e2e.lab import Lab
from tests.e2e.recipe import DEBIAN_11, DEBIAN_12, NETPLAN_13, SID, Recipe

pytestmark = pytest.mark.slow


@pytest.mark.parametrize(
    "recipe", [DEBIAN_11, DEBIAN_12, NETPLAN_13, SID], ids=lambda recipe: recipe.name
)
def test_other_system_takes_the_data(lab: Lab, image_of: ImageOf, recipe: Recipe) -> None:
    FIRST.serve(lab)
    lab.start_server()
    image = image_of(recipe)
    boot = lab.boot(lab.disk(image), image.kernel, MACHINE, is_watched=True)
    check_identity(boot, FIRST)
    assert boot.disk.text("/root/file") == "first"
    assert boot.disk.text("/root/command") == "first on web1\n"
    if recipe == DEBIAN_12:
        assert lab.outcome["status"] == "done", lab.outcome
        check_told_soon(lab, boot)
    lab.saw(f"{identity(FIRST)}, gateway, DNS, SSH key; a file and a command of user-data")


def test_only_card_gets_what_stands_beside_dhcp(lab: Lab, image_of: ImageOf) -> None:
    """The instance file has neither name nor MAC address; udev has named the card."""
    lab.serve(
        metadata={"instance-id": "i-5", "hostname": "web5"},
        network={
            "dhcp": True,
            "mtu": 1400,
            "nameservers": ["192.0.2.53"],
            "search": "example.com",
            "routes": [{"to": "198.51.100.0/24", "via": "10.0.2.2"}],
        },
    )
    lab.start_server()
    image = image_of(NETPLAN_13)
    boot = lab.boot(lab.disk(image), image.kernel, ONE_CARD)
    (mac,) = ONE_CARD.macs
    assert boot.result["errors"] == []
    assert SEED in boot.result["datasource"]
    assert "eth0 has no match: using the only card, en" in boot.agent_log
    assert '"version": 2' in boot.disk.text(f"{SEED}/network-config")
    assert boot.interface(mac) == Interface("eth0", ("10.0.2.15/24",))
    assert ("198.51.100.0/24", "10.0.2.2", "eth0") in boot.routes
    assert boot.mtu(mac) == 1400
    assert "192.0.2.53" in boot.resolver["nameserver"]
    assert "example.com" in boot.resolver["search"]
    lab.saw(f"eth0 {mac} 10.0.2.15/24 by DHCP; route, DNS and MTU from the short form")

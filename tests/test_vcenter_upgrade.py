"""An upgrade in place of a server with `--vcenter`, against VMware's own simulator."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tests.process import ServerProcess
from tests.simulator import URI, Simulator
from tests.test_upgrade import RUN, upgrade
from tests.test_vcenter import REQUIRE, Guest, error_of, is_served, reading, settled_error, told
from tests.waiting import wait_until

pytestmark = pytest.mark.slow

Simulate = Callable[..., Simulator]
Start = Callable[..., ServerProcess]

WORKERS = pytest.mark.parametrize("workers", ["1", "2"])
CONNECTED_AGAIN = "vCenter: connected to.*(?s:.*)vCenter: connected to"


@WORKERS
def test_next_program_reads_vcenter_anew(simulate: Simulate, start: Start, workers: str) -> None:
    simulator = simulate("-uri", URI)
    guest, off = Guest(simulator), Guest(simulator, "DC0_C0_RP0_VM1")
    server = start(*simulator.options, *REQUIRE, "--workers", workers, command=RUN)
    reading(server)
    vm = guest.dial(server, URI)
    is_served(vm)
    upgrade(server)
    server.wait_for(CONNECTED_AGAIN)
    for _ in range(4):  # by each worker, probably
        is_served(guest.dial(server, URI))
    assert error_of(vm) == ""
    off.power(is_on=False)
    wait_until(lambda: settled_error(off.dial(server, URI)) == "refused")


@WORKERS
def test_vm_that_vcenter_has_confirmed_is_served_after_an_upgrade_without_it(
    simulate: Simulate, start: Start, workers: str
) -> None:
    simulator = simulate("-uri", URI)
    guest = Guest(simulator)
    server = start(*simulator.options, *REQUIRE, "--workers", workers, command=RUN)
    reading(server)
    vm = guest.dial(server, URI)
    is_served(vm)
    network = vm.document("NETWORKDATA")
    assert guest.mac.encode() in network
    simulator.stop()
    server.wait_for("vCenter: out of reach since")
    upgrade(server)
    assert vm.document("NETWORKDATA") == network
    assert told(server, guest)["ports"][0]["proof"] == "vcenter"
    assert settled_error(guest.dial(server, f"{URI}?profile=admin")) == "refused"
    assert error_of(vm) == ""

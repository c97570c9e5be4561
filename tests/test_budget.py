"""The memory budget: its rules, and a real server that is filled with the worst there is."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.process import ServerProcess, with_constants
from tests.test_admin import Admin
from tests.vm import Vm
from tests.waiting import wait_until
from vmw_cloudinit_metadata.process.budget import (
    Budget,
    Fixed,
    cgroup_limits,
    default_bytes,
    size_of,
)
from vmw_cloudinit_metadata.serving.unsent import Unsent
from vmw_cloudinit_metadata.settings.errors import ConfigError
from vmw_cloudinit_metadata.settings.values import parse_size

Start = Callable[..., ServerProcess]

MIB = 1024 * 1024


class Shelf:
    """Entries of some bytes, the oldest first."""

    def __init__(self, sizes: list[int]) -> None:
        self.sizes = sizes

    @property
    def kept_bytes(self) -> int:
        return sum(self.sizes)

    def shed(self) -> bool:
        return bool(self.sizes and self.sizes.pop(0))


def room(budget: Budget) -> int:
    """The bytes of the program itself."""
    return int(budget.gauges["memory: program"])


# The rules


@given(st.lists(st.lists(st.integers(1, 1000)), min_size=1, max_size=5), st.integers(0, 3000))
def test_budget_is_kept_by_dropping_the_oldest_of_the_fullest(
    shelves: list[list[int]], left: int
) -> None:
    counted: Counter[str] = Counter()
    budget = Budget(0, lambda name: counted.update([name]))
    budget.limit_bytes = room(budget) + left
    tables = {f"shelf {number}": Shelf(list(sizes)) for number, sizes in enumerate(shelves)}
    budget.add_all(tables)
    budget.keep()
    assert budget.kept_bytes <= budget.limit_bytes
    for sizes, table in zip(shelves, tables.values(), strict=True):
        assert sizes[len(sizes) - len(table.sizes) :] == table.sizes  # the newest are there
    dropped = sum(map(len, shelves)) - sum(len(table.sizes) for table in tables.values())
    assert sum(counted.values()) == dropped
    if sum(map(sum, shelves)) <= left:
        assert dropped == 0


def test_what_cannot_be_dropped_exceeds_the_budget_and_ends() -> None:
    budget = Budget(0)
    shelf = Shelf([5])
    budget.add("fixed", Fixed(lambda: 10**15))
    budget.add("shelf", shelf)
    budget.keep()
    assert not budget.has_room()
    assert shelf.sizes == []


@given(st.lists(st.tuples(st.integers(0, 5), st.integers(0, 100))))
def test_unsent_counts_what_waits_and_gives_up_the_one_that_waits_longest(
    steps: list[tuple[int, int]],
) -> None:
    given_up: list[int] = []

    class Holder:
        def __init__(self, number: int) -> None:
            self.number = number

        def give_up(self) -> None:
            given_up.append(self.number)

    unsent = Unsent(Budget(1 << 60))
    holders = [Holder(number) for number in range(6)]
    waiting: dict[int, int] = {}
    for number, size in steps:
        unsent.hold(holders[number], size)
        if size:
            waiting[number] = size
        else:
            waiting.pop(number, None)
        assert unsent.kept_bytes == sum(waiting.values())
    while unsent.shed():
        pass
    assert given_up == list(waiting)
    assert unsent.kept_bytes == 0


@pytest.mark.parametrize(
    ("text", "size"),
    [("0", 0), ("1048576", MIB), ("512M", 512 * MIB), ("2g", 2048 * MIB), ("1 GiB", None),
     ("64KiB", 65536), ("3TB", 3 * 1024**4), ("", None), ("-1", None), ("1.5G", None),
     ("50%", None)],
)  # fmt: skip
def test_size_is_read(text: str, size: int | None) -> None:
    if size is not None:
        assert parse_size(text) == size
    else:
        with pytest.raises(ConfigError, match="512M or 2G"):
            parse_size(text)


def test_size_of_a_value_counts_all_its_parts() -> None:
    text = "x" * 10_000
    assert size_of({"a": [text[:5000] + "1", {"b": text}]}) > 15_000
    endless: list[object] = []
    endless.append(endless)
    assert size_of(endless) < 10_000


# Where the default comes from


def tree(root: Path, **limits: str) -> Path:
    for place, limit in limits.items():
        path = root.joinpath(*place.split("__"))
        path.mkdir(parents=True, exist_ok=True)
        (path / ("memory.limit_in_bytes" if "memory" in place else "memory.max")).write_text(limit)
    return root


@pytest.mark.parametrize(
    ("membership", "limits", "found"),
    [
        ("0::/a/b\n", {"a": "1000\n", "a__b": "max\n"}, [1000]),
        ("0::/a/b\n", {"a": "1000\n", "a__b": "500\n"}, [500, 1000]),
        ("0::/not/seen/here\n", {".": "700\n"}, [700]),
        ("4:memory:/x\n0::/\n", {"memory": "9223372036854771712", "memory__x": "600"},
         [600, 9223372036854771712]),
        ("2:cpu,cpuacct:/\n", {"memory": "600"}, []),
        ("0::/../..\n", {}, []),
        ("nonsense", {}, []),
    ],
)  # fmt: skip
def test_cgroup_limits_are_those_of_the_group_and_above(
    tmp_path: Path, membership: str, limits: dict[str, str], found: list[int]
) -> None:
    (tmp_path / "self").write_text(membership)
    groups = tree(tmp_path / "cgroup", **limits)
    assert sorted(cgroup_limits(groups, tmp_path / "self")) == found


def test_default_is_a_part_of_this_machine() -> None:
    total = int(re.findall(r"MemTotal:\s+(\d+)", Path("/proc/meminfo").read_text())[0]) * 1024
    assert 0 < default_bytes() <= 0.75 * total


def test_budget_that_is_too_small_is_refused(start: Start) -> None:
    with pytest.raises(AssertionError, match="--memory-budget: the server needs at least 128M"):
        start("--memory-budget", "127M")


# A real server


def rss_bytes(server: ServerProcess) -> int:
    status = Path(f"/proc/{server.pid}/status").read_text()
    return int(re.findall(r"VmRSS:\s+(\d+)", status)[0]) * 1024


def peak_bytes(server: ServerProcess) -> int:
    status = Path(f"/proc/{server.pid}/status").read_text()
    return int(re.findall(r"VmHWM:\s+(\d+)", status)[0]) * 1024


def metric(server: ServerProcess, name: str) -> float:
    text = Admin(server).request("/metrics")[1].decode()
    found = re.search(rf"^{re.escape(name)} (\S+)$", text, re.MULTILINE)
    assert found, name
    return float(found[1])


BUDGET = 192 * MIB


@pytest.fixture
def large(own_instances: Path) -> None:
    """Every VM is given a megabyte."""
    (own_instances / "web1.yaml").write_text(
        "metadata: {instance-id: i}\nuserdata-file: large.txt\n"
    )
    (own_instances / "large.txt").write_bytes(b"#!/bin/sh\n" + b"# x\n" * 240_000 + b"#")


def vc_uuid(number: int) -> str:
    return f"01 23 45 67 89 ab cd ef-fe dc ba 98 {number >> 16:02x} {number >> 8 & 255:02x} " + (
        f"{number & 255:02x} 00"
    )


@pytest.mark.usefixtures("large")
def test_peers_that_ask_and_do_not_read_stay_within_the_budget(start: Start) -> None:
    server = start("--memory-budget", str(BUDGET))
    peers = []
    for number in range(250):  # 325 MB of answers, each its own
        peer = Vm(server.port, vc_uuid=vc_uuid(number), receive_buffer=4096)
        peer.send(b"!!REQUEST_USERDATA#\n")
        peers.append(peer)
        if number % 20 == 0:
            assert rss_bytes(server) <= BUDGET
    shed = 'vmw_metadata_memory_shed_total{table="unsent answers"}'
    wait_until(lambda: metric(server, shed) >= 100)
    assert peak_bytes(server) <= BUDGET
    server.wait_for("closed: it does not read, and the memory budget is used up")
    assert Vm(server.port).metadata()["instance-id"] == "i"
    for peer in peers:
        peer.close()


@pytest.mark.usefixtures("large")
def test_answers_of_invented_identities_stay_within_the_budget(start: Start) -> None:
    server = start("--memory-budget", str(BUDGET))
    for number in range(200):
        peer = Vm(
            server.port,
            vc_uuid=vc_uuid(number),
            uri="my-metadata?" + "\N{PILE OF POO}" * 200,
        )
        peer.send(b"!!REQUEST_USERDATA#\n")
        while not peer.socket.recv(1 << 20).endswith(b"=\n"):
            pass
        peer.close()
    shed = [
        metric(server, f'vmw_metadata_memory_shed_total{{table="{table}"}}')
        for table in ("kept answers", "last good answers")
    ]
    assert sum(shed) > 0
    assert peak_bytes(server) <= BUDGET


def test_faults_of_a_large_file_cost_little_for_each_vm(start: Start, own_instances: Path) -> None:
    wrong = "".join(f"{'wrong' * 10}{number}: 1\n" for number in range(20_000))
    (own_instances / "all.yaml").write_text(wrong)
    opts = {"directory": str(own_instances), "defaults": "all.yaml"}
    server = start(driver_opts=opts)
    before = 0
    for number in range(200):
        peer = Vm(server.port, vc_uuid=vc_uuid(number))
        assert peer.error("METADATA") == "invalid"
        peer.close()
        if number == 20:  # from here on the file is parsed no more
            before = rss_bytes(server)
    assert Admin(server).json("/api/machines")["total"] == 200
    assert rss_bytes(server) - before < 180 * 32 * 1024


def test_memory_limit_that_is_too_small_is_warned_of_and_vms_are_served(start: Start) -> None:
    command = with_constants(
        process__budget__CGROUP_SHARE=1e-6, process__budget__MACHINE_SHARE=1e-6
    )
    server = start(command=command)
    server.wait_for(r"WARNING the memory limit leaves \d+ MiB to the server, which needs 128 MiB")
    assert Vm(server.port).metadata()["instance-id"] == "my-instance"

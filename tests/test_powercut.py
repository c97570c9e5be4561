"""The simulation of a power cut: small worlds whose outcome is known, and laws of any world."""

from __future__ import annotations

import subprocess
import sys
from itertools import pairwise
from xml.etree import ElementTree

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmarks.powercut import (
    ANSWERS_MS,
    BACKLOG,
    LINE_MS,
    NOTICED_S,
    TITLES,
    TRIED_S,
    Outcome,
    World,
    parse,
    percentile,
    picture,
    row,
    run_cell,
    table,
)
from tests.process import CHECKOUT

LINE_S, ANSWERS_S = LINE_MS[False] / 1000, ANSWERS_MS[False] / 1000
AT_ONCE = World(  # all VMs start at second 100, when the servers have been back for long
    redial_s=10,
    vms=10,
    dead=0,
    servers_back_s=(0, 0),
    hosts_back_s=(100, 100),
    vm_every_s=0,
    guest_s=(20, 20),
)


def run(**changes: object) -> Outcome:
    return run_cell(World(**(vars_of(AT_ONCE) | changes)), 1, 0)


def vars_of(world: World) -> dict[str, object]:
    return {name: getattr(world, name) for name in world.__dataclass_fields__}


def test_vms_of_one_server_are_served_one_after_the_other() -> None:
    outcome = run(servers=1)
    expected = [120 + n * ANSWERS_S for n in range(1, 11)]
    assert sorted(outcome.served_s) == pytest.approx(expected)
    assert sorted(outcome.waited_s) == pytest.approx([at_s - 120 for at_s in expected])
    assert (outcome.refused, outcome.cut) == (0, 0)
    assert (outcome.longest_queue, outcome.most_lines) == (10, 10)


def test_guest_whose_line_is_not_open_waits_for_it() -> None:
    outcome = run(servers=1, vms=1, guest_s=(0, 0))
    assert outcome.waited_s == pytest.approx([LINE_S + ANSWERS_S])


def test_lines_go_to_the_server_with_the_fewest() -> None:
    assert run(vms=30).most_lines == 10
    assert run(vms=30, dead=1).most_lines == 15


def test_vms_dial_again_until_a_server_is_back() -> None:
    outcome = run(vms=1000, servers_back_s=(200, 200))
    noticed_s = 200 + NOTICED_S
    assert len(outcome.served_s) == 1000
    assert noticed_s <= min(outcome.served_s)
    assert max(outcome.served_s) <= noticed_s + 10 + 1
    assert 1000 * 104 / 10 <= outcome.refused <= 1000 * (104 / 9 + 1)


def test_dials_beyond_the_backlog_are_refused_and_served_later() -> None:
    outcome = run(vms=BACKLOG + 500, servers=1)
    assert (outcome.refused, len(outcome.served_s)) == (500, BACKLOG + 500)


def test_vms_beyond_the_ports_of_the_only_server_are_never_served() -> None:
    outcome = run(vms=105, servers=1, ports=100)
    assert (outcome.most_lines, len(outcome.served_s), outcome.never) == (100, 100, 5)


def test_vms_that_find_the_ports_used_wait_for_the_next_server() -> None:
    outcome = run(vms=105, servers=2, ports=100, servers_back_s=(0, 2000))
    assert (outcome.most_lines, len(outcome.served_s), outcome.never) == (100, 105, 0)


def test_lines_of_a_server_that_dies_are_dialled_again() -> None:
    outcome = run(vms=30, dead=1, dies_at_s=110)
    assert (outcome.cut, outcome.refused, outcome.most_lines) == (10, 0, 15)
    assert max(outcome.waited_s) < 1  # all lines are open again before the guests ask


def test_guest_whose_server_dies_asks_again() -> None:
    outcome = run(vms=3, dead=1, dies_at_s=120.0001)
    served = sorted(outcome.waited_s)
    assert len(served) == 3
    assert served[1] < 0.1
    assert 9 <= served[2] <= 10.1  # the other servers are known to be alive by then


def test_dial_before_the_balancer_notices_tries_the_dead_server() -> None:
    outcome = run(vms=3, dead=1, dies_at_s=120.0001, redial_s=1)
    assert 0.9 + TRIED_S <= max(outcome.waited_s) <= 1.1 + TRIED_S


@settings(max_examples=30)
@given(
    vms=st.integers(1, 300),
    servers=st.integers(1, 4),
    dead=st.integers(0, 3),
    dies_at_s=st.none() | st.floats(0, 400),
    redial_s=st.floats(0.5, 400),
    seed=st.integers(),
)
def test_each_vm_is_served_once_and_a_seed_gives_one_result(
    vms: int, servers: int, dead: int, dies_at_s: float | None, redial_s: float, seed: int
) -> None:
    world = World(redial_s, vms, servers, min(dead, servers - 1), dies_at_s)
    outcome = run_cell(world, seed, 0)
    assert len(outcome.served_s) == len(outcome.waited_s) == vms
    assert min(outcome.waited_s) >= 0
    assert outcome.opened.total() <= vms + outcome.cut
    assert outcome.cut <= vms * (dies_at_s is not None)
    assert outcome == run_cell(world, seed, 0)


def test_percentiles() -> None:
    assert [percentile(range(1, 201), percent) for percent in (50, 99, 100)] == [100, 198, 200]
    assert percentile([7.0], 50) == 7.0


def test_table_and_picture_show_each_run() -> None:
    runs = [(World(redial_s), run(redial_s=redial_s)) for redial_s in (1, 10, 60, 300, 900)]
    for _, outcome in runs:
        outcome.sort()
    lines = table(row(*one) for one in runs).splitlines()
    assert {line.count("|") for line in lines} == {len(TITLES) + 1}
    assert lines[-1].startswith("| 900 s | 120 s | 120 s | 120 s | 0.0 s |")
    drawn = ElementTree.fromstring(picture("<10> VMs & a cut", runs))
    curves = [node for node in drawn if node.tag.endswith("polyline")]
    assert len(curves) == 2 * len(runs) + 1  # the guests that have asked
    for curve in curves:
        points = [tuple(map(float, point.split(","))) for point in curve.attrib["points"].split()]
        assert all(left[0] <= right[0] for left, right in pairwise(points))
        assert all(70 <= x <= 740 and 50 <= y <= 420 for x, y in points)


@pytest.mark.parametrize(
    ("arguments", "fault"),
    [
        ("--dead 3", "--dead 3: expected 0 or more, and fewer than --servers"),
        ("--dead 0 --dies-at 5", "--dies-at has no effect with --dead 0"),
        ("--vms 10", "--vms: expected a multiple of --cells"),
        ("--redial 0", "found '0', expected seconds such as 1,10,60"),
        ("--redial x", "--redial"),
        ("--guest 9-3", "found '9-3', expected seconds such as 180-420"),
        ("--cells 0", "found '0', expected 1 or more"),
    ],
)
def test_wrong_option_is_an_error(
    arguments: str, fault: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        parse(arguments.split())
    assert ended.value.code == 2
    assert fault in capsys.readouterr().err


def test_program_prints_its_help_and_a_table() -> None:
    program = [sys.executable, str(CHECKOUT / "benchmarks/powercut.py")]
    shown = subprocess.run([*program, "--help"], capture_output=True, text=True, check=True).stdout
    assert "MEASURED" in shown
    assert "ASSUMED: when hosts are back" in shown
    options = ("--vms", "80", "--cells", "2", "--redial", "5", "--processes", "1")
    shown = subprocess.run([*program, *options], capture_output=True, text=True, check=True).stdout
    assert shown.startswith("80 VMs after a power cut: 2 cells of 3 servers, 1 of each dead")
    assert shown.count("\n| 5 s |") == 1

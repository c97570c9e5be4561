"""Answers prepared of what an HTTP server says: right, and never older than what was given."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from math import inf
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from tests.httppeer import HttpPeer
from tests.laws import cases
from tests.preparedworld import PreparedWorld, parts
from tests.process import ServerProcess
from tests.test_http_store import KEY, Cmdb, signed
from vmw_cloudinit_metadata import Machine, StoreDriver
from vmw_cloudinit_metadata.drivers.preparedrecords import (
    Lasting,
    Prepared,
    Warmed,
    decoded,
    of_lasting,
)
from vmw_cloudinit_metadata.drivers.store import Changes
from vmw_cloudinit_metadata.drivers.stores.httpstore import HttpStore

MAX_AGE_S = 600.0
UUIDS = ("11111111-2222-3333-4444-5555555555aa", "99999999-2222-3333-4444-5555555555bb")
STORE = "vmw_cloudinit_metadata.drivers.stores.httpstore:HttpStore"


class HeardStore(HttpStore):
    changes: Any = None

    def listen(self, changes: Changes) -> None:
        self.changes = changes
        super().listen(changes)


class World(PreparedWorld):
    """Behind an HTTP server, which sends webhooks to the server's driver alone."""

    def __init__(self, url: str, key_file: Path, place: str) -> None:
        self.place = place  # the identity in the address of a VM
        options = {
            "url": f"{url}/vms/{{{place}}}",
            "list-url": f"{url}/list",
            "layers-url": f"{url}/layers",
            "webhook-key-file": str(key_file),
        }
        super().__init__(HeardStore(options), HeardStore(options))

    def tell(self, body: dict[str, Any]) -> None:
        self.server.hook(signed(json.dumps(body).encode()))


@pytest.fixture(scope="module")
def cmdb() -> Cmdb:
    return Cmdb()


@pytest.fixture(autouse=True)
def empty(cmdb: Cmdb) -> None:
    cmdb.documents = {"/layers": "[]", "/list": "[]"}
    cmdb.headers = {"cache-control": f"max-age={MAX_AGE_S:.0f}"}
    cmdb.headers_of = {}


@pytest.fixture(scope="module")
def peer(cmdb: Cmdb) -> Iterator[HttpPeer]:
    with HttpPeer(cmdb) as peer:
        yield peer


@pytest.fixture(scope="module")
def worlds(peer: HttpPeer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, World]]:
    key_file = tmp_path_factory.mktemp("key") / "key"
    key_file.write_bytes(KEY)
    found = {place: World(peer.url, key_file, place) for place in ("name", "vc-uuid")}
    yield found
    for one in found.values():
        one.close()


@pytest.fixture
def world(worlds: dict[str, World], peer: HttpPeer) -> World:
    """Nothing is known of what another test has written."""
    found = worlds["name"]
    found.tell({"all": True})
    peer.asked.clear()
    return found


def put(cmdb: Cmdb, name: str, version: int | str) -> None:
    cmdb.documents[f"/vms/{name}"] = json.dumps({"metadata": {"version": version}})
    listed = {*json.loads(cmdb.documents["/list"]), name}
    cmdb.documents["/list"] = json.dumps(sorted(listed))


# What is prepared

DATA = st.sampled_from(
    [
        "metadata: {role: a}",
        "metadata: {of: '${vm.name}'}\nuserdata: 'x'",
        f"metadata: {{role: b}}\nmatch: {{bios-uuid: {UUIDS[1]}}}",
        "network: {addres: x}",
        '{"network": {"address": "10.0.0.5/24"}, "metadata": {"region": "eu1"}}',
        "",
    ]
)
NAMES = {"web1": "web1", "ci/build": "ci%252fbuild", "db": "db"}  # as in addresses
OWN = {
    "name": st.dictionaries(st.sampled_from([*NAMES, "ci%2fbuild", *UUIDS]), DATA),
    "vc-uuid": st.dictionaries(st.sampled_from([*UUIDS, UUIDS[0].upper(), "vm-123"]), DATA),
}
LAYERS = st.lists(
    st.sampled_from(
        [{"metadata": {"layer": "1"}}, {"match": {"name": "web*"}, "metadata": {"web": "y"}}]
    ),
    max_size=3,
)
MACHINES = [
    Machine(name=name, vc_uuid=vc, bios_uuid=bios)
    for name in ("web1", "ci/build", "none")
    for vc in (None, *UUIDS)
    for bios in (None, UUIDS[1])
]


@settings(max_examples=25)
@pytest.mark.parametrize("place", OWN)
@given(st.data(), LAYERS)
def test_prepared_answers_are_those_of_look_ups(
    place: str, worlds: dict[str, World], cmdb: Cmdb, data: st.DataObject, layers: list[Any]
) -> None:
    own = data.draw(OWN[place])
    cmdb.documents = {"/layers": json.dumps(layers), "/list": json.dumps(list(own))}
    for value, text in own.items():
        address = NAMES.get(value.replace("%2f", "/"), value.lower())
        cmdb.documents[f"/vms/{address}"] = text
    world = worlds[place]
    world.tell({"all": True})
    world.survey()
    for machine in MACHINES:
        found = world.found(machine)
        assert found in (None, world.looked_up(machine)), machine


@pytest.mark.parametrize(("place", "value"), [("name", "web1"), ("vc-uuid", UUIDS[0])])
def test_first_boot_asks_nobody(
    place: str, value: str, worlds: dict[str, World], cmdb: Cmdb, peer: HttpPeer
) -> None:
    world = worlds[place]
    put(cmdb, value, "1")
    cmdb.documents["/list"] = json.dumps([value.upper() if place == "vc-uuid" else value])
    cmdb.documents["/layers"] = '[{"metadata": {"layer": "x"}}]'
    world.tell({"all": True})
    world.survey()
    peer.asked.clear()
    machine = Machine(name="web1", vc_uuid=UUIDS[0])
    metadata, *_ = world.found(machine)
    assert metadata == {"version": "1", "layer": "x"}
    assert peer.asked == []
    assert world.found(machine) == world.looked_up(machine)


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"list-url": "http://h/list"}, ""),
        ({}, "without list-url"),
        ({"list-url": "http://h/list", "more-urls": ["http://h/ids/{vc-uuid}"]}, "with more-urls"),
        ({"list-url": "http://h/list", "url": "http://h/{bios-uuid}"}, "found by its BIOS UUID"),
    ],
    ids=["list", "no list", "further addresses", "BIOS UUID"],
)
def test_nothing_is_prepared_where_data_might_be_missed(
    options: dict[str, Any], reason: str
) -> None:
    driver = StoreDriver(HttpStore({"url": "http://h/vms/{name}", **options}))
    assert bool(driver.prepared) is not bool(reason)
    assert reason in driver.why_not_prepared
    driver.close()


# For how long


def found_in(world: World, machine: Machine, in_s: float) -> Any:
    return parts(world.answers.find(machine, time.monotonic() + in_s))


def test_prepared_answer_holds_as_long_as_the_server_says(world: World, cmdb: Cmdb) -> None:
    put(cmdb, "web1", 1)
    began_s = time.monotonic()
    world.survey()
    web1 = Machine(name="web1")
    gone_s = time.monotonic() - began_s
    assert found_in(world, web1, MAX_AGE_S - gone_s - 1)
    assert found_in(world, web1, MAX_AGE_S) is None
    given = world.answers.find(web1, time.monotonic())
    assert given
    assert world.server.held_at(given.token, time.monotonic() + 50)
    assert not world.server.held_at(given.token, time.monotonic() + MAX_AGE_S)


@pytest.mark.parametrize("target", ["/vms/web1", "/layers"])
def test_shortest_time_counts_for_all(target: str, world: World, cmdb: Cmdb) -> None:
    put(cmdb, "web1", 1)
    put(cmdb, "web2", 1)
    cmdb.headers_of = {target: {"cache-control": "max-age=100"}}
    world.survey()
    assert found_in(world, Machine(name="web2"), 98)
    assert found_in(world, Machine(name="web2"), 100) is None


@pytest.mark.parametrize("control", ["", "max-age=59", "no-store"])
def test_answers_that_hold_for_a_short_time_are_not_prepared(
    control: str, world: World, cmdb: Cmdb
) -> None:
    put(cmdb, "web1", f"with {control}")  # no 304 to a time that was said before
    cmdb.headers = {"cache-control": control} if control else {}
    world.survey()
    assert world.found(Machine(name="web1")) is None
    assert too_short(world) == 1
    cmdb.headers = {"cache-control": "max-age=61"}
    world.survey()
    assert world.found(Machine(name="web1"))
    assert too_short(world) == 0


def too_short(world: World) -> int:
    (lasting,) = (one for one in world.heard if isinstance(one, Lasting))
    return lasting.too_short


def test_next_survey_prolongs_what_has_not_changed(
    world: World, cmdb: Cmdb, peer: HttpPeer
) -> None:
    put(cmdb, "web1", 1)
    cmdb.headers = {"cache-control": "max-age=100"}
    world.survey()
    cmdb.headers = {"cache-control": "max-age=1000"}
    peer.asked.clear()
    world.survey()
    assert "if-none-match" in peer.asked[-1].headers
    assert found_in(world, Machine(name="web1"), 900)


@given(st.floats(0, 1e9) | st.just(inf), st.integers(0, 1_000_000))
def test_time_limit_travels_as_a_line(until_s: float, too_short: int) -> None:
    lasting = Lasting(until_s, too_short)
    line = of_lasting(lasting)
    found = decoded(json.loads(line), line)
    assert isinstance(found, Lasting)
    assert found.until_s == pytest.approx(until_s)
    assert found.too_short == too_short


def test_shorter_time_counts_before_new_lines_come(world: World, cmdb: Cmdb) -> None:
    put(cmdb, "web1", 1)
    world.survey()
    put(cmdb, "web1", 2)
    cmdb.headers = {"cache-control": "max-age=100"}
    world.survey()
    assert [type(one) for one in world.heard] == [Lasting, Prepared, Warmed]
    assert world.found(Machine(name="web1"))
    assert found_in(world, Machine(name="web1"), 101) is None


# Never older than what was given before

VMS = ("web1", "web2")
HOSTS = ("10.0.0.1", "10.0.0.2")  # a VM has an answer of its own at each
BOOTS = [("boot", vm, host) for vm in VMS for host in HOSTS]
WRITES = [("write", vm, is_told) for vm in (*VMS, "layers") for is_told in (False, True)]
SURVEYS = [("survey", "a step", "")] * 4 + [("survey", "to its end", "")]
STEPS = st.lists(st.sampled_from([*BOOTS, *WRITES, *SURVEYS]), max_size=25)


class Boots:
    """VMs that boot as the server lets them, and what each of them may get."""

    def __init__(self, world: World, cmdb: Cmdb) -> None:
        self._world = world
        self._cmdb = cmdb
        self._kept: dict[Machine, Any] = {}
        self._surveying: Iterator[object] = iter(())
        self._versions = dict.fromkeys((*VMS, "layers"), 0)
        self._least = dict.fromkeys((*VMS, "layers"), 0)  # as a webhook said, or as was given
        self.prepared = 0
        for name in self._versions:
            self._publish(name)

    def _publish(self, name: str) -> None:
        version = self._versions[name]
        if name == "layers":
            self._cmdb.documents["/layers"] = json.dumps([{"metadata": {"layer": version}}])
        else:
            put(self._cmdb, name, version)

    def write(self, name: str, is_told: bool) -> None:
        self._versions[name] += 1
        self._publish(name)
        if is_told:
            self._world.tell({"layers": True} if name == "layers" else {"names": [name]})
            self._least[name] = self._versions[name]

    def survey(self, how_far: str) -> None:
        """Go on with the survey: it begins, reads, sends what it has prepared."""
        if how_far == "to its end":
            for _ in self._surveying:
                pass
            self._world.survey()
            return
        while next(self._surveying, self) is self:
            self._surveying = self._world.surveying()

    def boot(self, name: str, host: str) -> None:
        machine = Machine(name=name, peer_address=host)
        now_s = time.monotonic()
        kept = self._kept.get(machine)
        if kept is None or not self._world.server.held_at(kept.token, now_s):
            kept = self._world.answers.find(machine, now_s)
            self.prepared += kept is not None
            kept = kept or self._world.server.get_instance(machine)
            self._kept[machine] = kept
        assert kept
        for value, version in ((name, "version"), ("layers", "layer")):
            assert kept.metadata[version] >= self._least[value]
            self._least[value] = kept.metadata[version]


def untold(name: str) -> list[tuple[str, str, Any]]:
    """The same VM boots at another host, after a survey has read what nobody tells."""
    survey = ("survey", "to its end", "")
    return [survey, BOOTS[0], ("write", name, False), survey, BOOTS[1], BOOTS[0]]


@settings(max_examples=cases(60))
@given(STEPS)
@example(untold("web1"))
@example(untold("layers"))
def test_no_older_value_follows_a_newer_one(
    worlds: dict[str, World], cmdb: Cmdb, steps: list[tuple[str, str, Any]]
) -> None:
    run(worlds["name"], cmdb, steps)


@pytest.mark.slow
@settings(max_examples=cases(300))
@given(STEPS)
def test_no_older_value_follows_a_newer_one_in_many_cases(
    worlds: dict[str, World], cmdb: Cmdb, steps: list[tuple[str, str, Any]]
) -> None:
    run(worlds["name"], cmdb, steps)


def run(world: World, cmdb: Cmdb, steps: list[tuple[str, str, Any]]) -> Boots:
    cmdb.documents = {"/list": "[]"}
    boots = Boots(world, cmdb)
    world.tell({"all": True})
    for step, name, further in steps:
        match step:
            case "boot":
                boots.boot(name, further)
            case "write":
                boots.write(name, further)
            case _:
                boots.survey(name)
    for name, host in [(name, host) for name in VMS for host in HOSTS]:
        boots.boot(name, host)
    return boots


@pytest.mark.parametrize("target", [*VMS, "layers"])
def test_first_boots_are_prepared_again_after_a_change_that_was_told(
    target: str, world: World, cmdb: Cmdb
) -> None:
    boots = Boots(world, cmdb)
    for number in range(3):  # a look-up between change and survey is not needed
        world.survey()
        boots.boot("web1", f"10.0.0.{number}")
        assert boots.prepared == number + 1
        boots.write(target, is_told=True)
    boots.boot("web1", "10.0.1.1")
    world.survey()
    boots.boot("web1", "10.0.1.2")
    assert boots.prepared > number + 1


# What the log says

NO_EFFECT = "--prepared-memory has no effect: StoreDriver prepares no answers: "


@pytest.mark.slow
@pytest.mark.parametrize(
    ("options", "pattern"),
    [
        ({}, rf"{NO_EFFECT}without list-url nobody knows which VMs there are\n"),
        (
            {"list-url": "/list", "more-urls": ["/ids/{vc-uuid}"]},
            rf"{NO_EFFECT}with more-urls a VM may have data that list-url does not list\n",
        ),
        (
            {"list-url": "/list"},
            r"catalogue: 1 answer not prepared: .* lets them be kept for under 60 s\n",
        ),
    ],
    ids=["no list", "further addresses", "no max-age"],
)
def test_log_says_why_nothing_is_prepared(
    options: dict[str, Any],
    pattern: str,
    start: Callable[..., ServerProcess],
    cmdb: Cmdb,
    peer: HttpPeer,
) -> None:
    put(cmdb, "web1", f"of {pattern}")
    cmdb.headers = {}
    given = {"url": "/vms/{name}", **options}
    addresses = {
        name: [peer.url + one for one in value] if isinstance(value, list) else peer.url + value
        for name, value in given.items()
    }
    server = start(
        "--driver", STORE, "--catalogue", "--prepared-memory", "1M", driver_opts=addresses
    )
    server.wait_for(pattern)

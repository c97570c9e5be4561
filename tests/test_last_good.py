"""`cache_ttl` and `stale_if_error`: a driver without tokens, from outside and in this process."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import gevent
import pytest

from tests.process import ServerProcess
from tests.vm import Vm
from vmw_cloudinit_metadata import Driver, DriverError, InstanceData, Machine
from vmw_cloudinit_metadata.process.budget import Budget
from vmw_cloudinit_metadata.serving.answer import Answer, Failure, Origin, Outcome
from vmw_cloudinit_metadata.serving.cachedanswers import CachedAnswers
from vmw_cloudinit_metadata.serving.lookup import Lookup

TTL_S = 0.3
TIMEOUT_S = 0.5
AT_ONCE_S = 0.3
LAST_GOOD = "the last good answer is served, because: "
UUIDS = (f"00000000-0000-0000-0000-{number:012x}" for number in range(1, 1000))


class Ledger:
    def __init__(self, server: ServerProcess, directory: Path) -> None:
        self.server, self.directory = server, directory

    def set(self, name: str) -> None:
        (self.directory / name).touch()

    def reset(self) -> None:
        for name in ("down", "hangs", "none"):
            (self.directory / name).unlink(missing_ok=True)
        (self.directory / "version").write_text("1")

    def calls(self, name: str) -> int:
        return (self.directory / "calls").read_text().splitlines().count(name)

    def vm(self, name: str, **settings: Any) -> Vm:
        return Vm(self.server.port, name, **{"vc_uuid": next(UUIDS), **settings})


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ledger]:
    directory = tmp_path_factory.mktemp("ledger")
    server = ServerProcess(
        directory,
        *("--driver", "tests.ledger_driver:LedgerDriver", "--lookup-timeout", str(TIMEOUT_S)),
        driver_opts={"directory": str(directory), "cache_ttl": TTL_S, "stale_if_error": 600},
    )
    ledger = Ledger(server, directory)
    (directory / "calls").touch()
    yield ledger
    ledger.reset()
    server.end()


@pytest.fixture
def ledger(shared: Ledger) -> Iterator[Ledger]:
    shared.reset()
    yield shared
    shared.reset()


def version_of(machine: Vm) -> object:
    return machine.metadata()["instance-id"]


def after_ttl(call: Callable[[], object]) -> object:
    time.sleep(TTL_S + 0.05)
    return call()


def test_answer_is_given_again_for_its_cache_ttl(ledger: Ledger) -> None:
    machine = ledger.vm("kept")
    assert version_of(machine) == "1"
    (ledger.directory / "version").write_text("2")
    for document in ("METADATA", "USERDATA", "DIGEST"):
        machine.document(document)
    assert ledger.calls("kept") == 1
    assert after_ttl(lambda: version_of(machine)) == "2"
    assert ledger.calls("kept") == 2


def test_vm_gets_its_last_answer_while_the_driver_fails(ledger: Ledger) -> None:
    machine = ledger.vm("down")
    assert version_of(machine) == "1"
    ledger.set("down")
    assert after_ttl(lambda: version_of(machine)) == "1"
    asked = ledger.calls("down")
    assert [version_of(machine) for _ in range(5)] == ["1"] * 5
    assert ledger.calls("down") == asked  # further documents wait for nothing
    ledger.server.wait_for(f"{LAST_GOOD}the database is down")
    ledger.reset()
    (ledger.directory / "version").write_text("2")
    deadline_s = time.monotonic() + 60
    while version_of(machine) != "2":
        assert time.monotonic() < deadline_s


def test_vm_that_starts_on_another_line_gets_its_last_answer(ledger: Ledger) -> None:
    vc_uuid = next(UUIDS)
    assert version_of(ledger.vm("moved", vc_uuid=vc_uuid)) == "1"
    ledger.set("down")
    again = ledger.vm("moved", vc_uuid=vc_uuid)
    assert after_ttl(lambda: version_of(again)) == "1"


def test_vm_gets_its_last_answer_while_the_driver_hangs(ledger: Ledger) -> None:
    machine = ledger.vm("hung")
    assert version_of(machine) == "1"
    ledger.set("hangs")
    assert after_ttl(lambda: version_of(machine)) == "1"
    for _ in range(2):
        began_s = time.monotonic()
        assert version_of(machine) == "1"
        assert time.monotonic() - began_s < AT_ONCE_S
        time.sleep(1.1)  # also once the failure is forgotten: the call is still under way


@pytest.mark.parametrize("what", ["down", pytest.param("hangs", marks=pytest.mark.slow)])
@pytest.mark.parametrize("case", ["without-uuid", "renamed", "other-query", "new"])
def test_no_other_vm_gets_a_last_answer(ledger: Ledger, what: str, case: str) -> None:
    uuid = None if case == "without-uuid" else next(UUIDS)
    if case != "new":
        assert version_of(ledger.vm("one", vc_uuid=uuid)) == "1"
    ledger.set(what)
    time.sleep(TTL_S)
    name = "two" if case == "renamed" else "one"
    uri = "my-metadata?x=y" if case == "other-query" else "my-metadata"
    error = ledger.vm(name, vc_uuid=uuid, uri=uri).error("METADATA")
    assert error == ("failed" if what == "down" else "timeout")


def test_answer_that_is_no_longer_true_is_not_a_last_good_one(ledger: Ledger) -> None:
    machine = ledger.vm("gone")
    assert version_of(machine) == "1"
    ledger.set("none")
    assert after_ttl(lambda: machine.error("METADATA")) == "not-found"
    ledger.set("down")
    time.sleep(0.2)
    assert machine.error("METADATA") == "failed"


# In this process


class Plain(Driver):
    """Answers once; every other method fails if it is called."""

    def __init__(self, **options: float) -> None:
        super().__init__(options)
        self.error: Exception | None = None

    def get_instance(self, machine: Machine) -> InstanceData | None:  # noqa: ARG002
        if self.error:
            raise self.error
        return InstanceData.from_mapping({"metadata": {"instance-id": "1"}})


def outcome_of(lookup: Lookup, machine: Machine) -> Outcome:
    outcomes: list[Outcome] = []
    lookup.ask(machine, outcomes.append)
    with gevent.Timeout(60):
        while not outcomes:
            gevent.sleep(0.001)
    return outcomes[0]


def lookup_of(driver: Driver) -> Lookup:
    return Lookup(driver, 2, 3.0, Budget(1024**3))


MACHINE = Machine(name="web1", vc_uuid="00000000-0000-0000-0000-000000000001")


def test_answer_is_fresh_until_its_time_is_over_and_asks_nobody() -> None:
    lookup = lookup_of(Plain(cache_ttl=0.4))
    began_s = time.monotonic()
    answer = outcome_of(lookup, MACHINE)
    assert isinstance(answer, Answer)
    assert lookup.kept(MACHINE) is answer
    while lookup.is_fresh(answer):
        assert time.monotonic() - began_s < 60
        gevent.sleep(0.005)
    assert 0.39 < time.monotonic() - began_s < 5
    rechecked: list[Outcome | None] = []
    lookup.recheck(MACHINE, answer, rechecked.append)
    assert rechecked == []  # later
    gevent.sleep(0)
    assert rechecked == [None]
    assert lookup.kept(MACHINE) is None
    lookup.close()


@pytest.mark.parametrize("error", [DriverError("down"), KeyError("url")], ids=repr)
def test_last_answer_is_given_for_stale_if_error_seconds(error: Exception) -> None:
    driver = Plain(stale_if_error=0.4)
    lookup = lookup_of(driver)
    began_s = time.monotonic()
    assert isinstance(outcome_of(lookup, MACHINE), Answer)
    assert lookup.kept(MACHINE) is None  # it has no token: each request is a look-up
    driver.error = error
    stale = outcome_of(lookup, MACHINE)
    assert isinstance(stale, Answer)
    assert stale.origin.problem.startswith(LAST_GOOD)
    while isinstance(outcome_of(lookup, MACHINE), Answer):
        assert time.monotonic() - began_s < 60
        gevent.sleep(0.01)
    assert time.monotonic() - began_s > 0.39
    lookup.close()


def test_nothing_is_kept_without_either_time() -> None:
    driver = Plain()
    lookup = lookup_of(driver)
    assert isinstance(outcome_of(lookup, MACHINE), Answer)
    driver.error = DriverError("down")
    assert outcome_of(lookup, MACHINE) == Failure("failed", "down")
    lookup.close()


def test_answers_count_their_bytes_and_are_shed_with_their_machines() -> None:
    cached = CachedAnswers()
    machines = [Machine(name=f"vm{n}", vc_uuid=str(n), peer_address="a") for n in range(3)]
    for machine in machines:
        cached[machine] = Answer({}, Origin(), object(), size=1000)
    assert cached.kept_bytes == 3000
    elsewhere = Machine(name="vm0", vc_uuid="0", peer_address="b")
    assert cached.last_good(elsewhere) is cached[machines[0]]
    while cached.shed():
        pass
    assert cached.kept_bytes == 0
    assert [cached.last_good(machine) for machine in machines] == [None] * 3


def test_last_good_answer_of_the_driver_itself_is_none_of_ours() -> None:
    cached = CachedAnswers()
    cached[MACHINE] = Answer({}, Origin(problem="the file is invalid"), object(), size=1000)
    assert cached.last_good(MACHINE) is None


@pytest.mark.parametrize(
    "value", [-1, float("nan"), float("inf"), 1e10, 10**400, True, "5", None, [1]]
)
@pytest.mark.parametrize("name", ["cache_ttl", "stale_if_error"])
def test_time_that_is_none_is_refused(name: str, value: Any) -> None:
    with pytest.raises(DriverError, match=f"^{name}: found .*, expected seconds, from 0 to"):
        Plain(**{name: value})


def test_time_that_a_class_sets_is_checked_and_overridden_by_the_option() -> None:
    class Slow(Plain):
        cache_ttl = 60.0

    assert (Slow().cache_ttl, Slow(cache_ttl=5).cache_ttl, Slow(cache_ttl=0).cache_ttl) == (
        60,
        5,
        0,
    )
    assert Slow(cache_ttl=5, stale_if_error=7).options == {}

    class Wrong(Plain):
        cache_ttl = -1.0

    with pytest.raises(DriverError, match=r"Wrong.cache_ttl: found -1.0"):
        Wrong()


def test_option_without_effect_is_refused() -> None:
    class Own(Plain):
        def still_holds(self, token: Any) -> bool:
            return bool(token)

    with pytest.raises(DriverError, match="cache_ttl: Own decides by itself"):
        Own(cache_ttl=5)
    assert Own(stale_if_error=5).stale_if_error == 5

    class Both(Own):
        cache_ttl = 5.0

    with pytest.raises(DriverError, match="Both has a cache_ttl and a still_holds"):
        Both()

"""Machines that are forgotten: by age, by an operator; and the tests that count in no alert."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack

import pytest

from tests.process import ServerProcess, run
from tests.test_admin import TOKEN, Admin, boot, uuid
from tests.vm import Vm
from tests.waiting import wait_until
from vmw_cloudinit_metadata.admin.chronicle import RECENT_S, Chronicle
from vmw_cloudinit_metadata.admin.pulse import Pulse
from vmw_cloudinit_metadata.monitoring.facts import (
    DocumentsServed,
    Fact,
    RequestFailed,
    StaleServed,
    VmIdentified,
    VmLeft,
)
from vmw_cloudinit_metadata.monitoring.happenings import Happening
from vmw_cloudinit_metadata.protocol import testmark
from vmw_cloudinit_metadata.protocol.vmware import Machine, serves

Start = Callable[..., ServerProcess]

CAME, LEFT = VmIdentified("identified"), VmLeft("left")
FAILED = RequestFailed("failed", "METADATA", "not-found", "no file")
STALE = StaleServed("stale", ())
SERVED = DocumentsServed("served", {"METADATA": 1.0}, 1.0, "", (), "", "")
FORGET = {"X-VMW-Metadata-Action": "forget"}


def chronicle_of(*facts: tuple[float, Fact], uri: str = "uri", name: str = "web1") -> Chronicle:
    chronicle = Chronicle()
    happen(chronicle, *facts, uri=uri, name=name)
    return chronicle


def happen(
    chronicle: Chronicle, *facts: tuple[float, Fact], uri: str = "uri", name: str = "web1"
) -> None:
    machine = Machine(name=name, service_uri=uri)
    for at_s, fact in facts:
        chronicle.hear(
            Happening(fact, 20, at_s, f"{name} {uri}", "10.0.0.1:4", "10.0.0.1", machine, "")
        )


def vm_of(peers: ExitStack, server: ServerProcess, name: str) -> Vm:
    vm = boot(server, name, vc_uuid=uuid(1))
    peers.callback(vm.close)
    return vm


# By age


@pytest.mark.parametrize("trouble", [FAILED, STALE])
def test_machine_in_trouble_ages_out_after_it_has_left(trouble: Fact) -> None:
    chronicle = chronicle_of((10.0, CAME), (20.0, trouble), (30.0, LEFT))
    chronicle.age(30.0)
    assert len(chronicle) == 1
    chronicle.age(30.1)
    assert len(chronicle) == 0
    assert chronicle.states.total() == chronicle.problems.total() == chronicle.kept_bytes == 0


def test_machine_that_has_not_reconnected_is_missed_no_more() -> None:
    chronicle = chronicle_of((10.0, CAME))
    missing = "50120000-0000-0000-0000-000000000001"
    chronicle.expect([missing])
    assert chronicle.expected() == [missing]
    before = chronicle.revision
    chronicle.forget_missing()
    assert (chronicle.get(missing), chronicle.expected(), len(chronicle)) == (None, [], 1)
    assert chronicle.revision > before  # page and state file follow


def test_machine_that_is_connected_does_not_age() -> None:
    chronicle = chronicle_of((10.0, CAME), (20.0, FAILED))
    chronicle.age(1e9)
    assert chronicle.states["failed"] == 1


def test_machine_that_was_served_does_not_age() -> None:
    chronicle = chronicle_of((10.0, CAME), (20.0, SERVED), (30.0, LEFT))
    chronicle.age(1e9)
    assert chronicle.states["left"] == 1


def test_machine_that_comes_again_begins_to_age_anew() -> None:
    chronicle = chronicle_of((10.0, CAME), (20.0, FAILED), (30.0, LEFT), (40.0, CAME), (50.0, LEFT))
    chronicle.age(45.0)
    assert len(chronicle) == 1
    chronicle.age(51.0)
    assert len(chronicle) == 0


# In trouble, for alerts


def test_trouble_counts_while_connected_and_for_a_while_after() -> None:
    chronicle = chronicle_of((10.0, CAME), (20.0, FAILED))
    assert chronicle.in_trouble(1e9) == {"failed": 1, "stale": 0, "broken": 0}
    happen(chronicle, (30.0, LEFT))
    assert chronicle.in_trouble(30.0 + RECENT_S) == {"failed": 1, "stale": 0, "broken": 0}
    assert chronicle.in_trouble(30.1 + RECENT_S) == {"failed": 0, "stale": 0, "broken": 0}


def test_old_trouble_that_is_connected_counts_behind_one_that_left() -> None:
    chronicle = chronicle_of((10.0, CAME), (20.0, STALE), name="old")
    happen(chronicle, (30.0, CAME), (31.0, FAILED), (32.0, LEFT))
    assert chronicle.in_trouble(33.0) == {"failed": 1, "stale": 1, "broken": 0}
    assert chronicle.in_trouble(1e9) == {"failed": 0, "stale": 1, "broken": 0}


# By an operator


def test_forgotten_machine_is_gone_and_may_come_again() -> None:
    chronicle = chronicle_of((10.0, CAME), (20.0, FAILED), (30.0, LEFT))
    assert chronicle.forget("web1")
    assert not chronicle.forget("web1")
    happen(chronicle, (40.0, CAME))
    assert chronicle.states["waiting"] == 1


def test_trouble_of_a_connected_machine_is_dismissed() -> None:
    chronicle = chronicle_of((10.0, CAME), (15.0, SERVED), (20.0, FAILED))
    before = chronicle.revision
    assert chronicle.forget("web1")
    assert chronicle.states["served"] == 1
    assert chronicle.in_trouble(21.0) == {"failed": 0, "stale": 0, "broken": 0}
    assert chronicle.revision > before
    assert not chronicle.forget("web1")  # it is connected, and not in trouble


# Tests


@pytest.mark.parametrize("facts", [(FAILED,), (SERVED,), (STALE, SERVED)])
def test_test_is_one_whatever_becomes_of_it(facts: tuple[Fact, ...]) -> None:
    chronicle = chronicle_of((10.0, CAME), uri="uri?vmw-test=1")
    for fact in facts:
        happen(chronicle, (20.0, fact), uri="uri?vmw-test=1")
        assert chronicle.states["test"] == 1
        assert chronicle.in_trouble(21.0) == {"failed": 0, "stale": 0, "broken": 0}
    happen(chronicle, (30.0, LEFT), uri="uri?vmw-test=1")
    assert chronicle.states["test"] == 1
    chronicle.age(31.0)
    assert len(chronicle) == 0


def test_test_is_another_machine_than_the_vm_whose_name_it_has() -> None:
    chronicle = chronicle_of((10.0, CAME), (11.0, SERVED))
    happen(chronicle, (20.0, CAME), (21.0, FAILED), uri="uri?vmw-test=1")
    assert (chronicle.states["served"], chronicle.states["test"]) == (1, 1)


def test_test_is_no_boot_of_the_page() -> None:
    pulse = Pulse()
    for fact in (SERVED, FAILED):
        machine = Machine(name="web1", service_uri="uri?vmw-test=1")
        pulse.hear(Happening(fact, 20, 100.0, "1", "", "", machine, ""))
    picture = pulse.picture(100.0)
    assert sum(picture["served"]) == sum(picture["failed"]) == 0


@pytest.mark.parametrize(
    ("uri", "marked"),
    [
        ("uri", "uri?vmw-test=1"),
        ("uri?a=b", "uri?vmw-test=1&a=b"),
        ("uri?a=b&vmw-test=1", "uri?vmw-test=1&a=b"),
        ("uri?vmw-test=1", "uri?vmw-test=1"),
    ],
)
def test_mark_is_seen_by_nobody_who_asks_for_the_query(uri: str, marked: str) -> None:
    assert testmark.marked(uri) == marked
    assert testmark.is_marked(marked)
    plain = testmark.without_mark(uri)
    assert testmark.without_mark(marked) == plain
    assert Machine(service_uri=marked).query == Machine(service_uri=plain).query
    assert serves(marked, frozenset([plain]))


@pytest.mark.parametrize("uri", ["vmw-test=1", "uri?vmw-test=10", "uri?x=vmw-test=1", "uri?"])
def test_what_only_looks_like_the_mark_is_none(uri: str) -> None:
    assert not testmark.is_marked(uri)
    assert testmark.without_mark(uri) == uri


# Real servers


def test_client_fetch_of_an_unknown_vm_makes_no_trouble(start: Start) -> None:
    server = start()
    admin = Admin(server)
    server_of = ("--server", f"127.0.0.1:{server.port}", "--uri", "my-metadata")
    assert run("client", "fetch", "nobody", *server_of).returncode == 1
    wait_until(lambda: admin.state_of("nobody") == "test")
    status = admin.json("/api/status")
    assert status["machines"]["failed"] == 0
    assert status["problems"] == {}
    assert admin.metric("vmw_metadata_machines_in_trouble", state="failed") == 0
    (machine,) = admin.machines("?state=test")
    assert machine["last_error"]["error"] == "not-found"


def test_failed_machine_is_forgotten_over_http_only_with_the_header(
    start: Start, peers: ExitStack
) -> None:
    server = start()
    admin = Admin(server)
    vm = vm_of(peers, server, "nobody")
    wait_until(lambda: admin.state_of("nobody") == "failed")
    assert admin.metric("vmw_metadata_machines_in_trouble", state="failed") == 1
    vm.close()
    wait_until(lambda: not admin.machines()[0]["connected"])
    path = f"/api/forget/{uuid(1)}"
    assert admin.status(path) == 405
    assert admin.status(path, "POST") == 403
    form = {"Content-Type": "application/x-www-form-urlencoded"}
    assert admin.status(path, "POST", **form) == 403
    assert admin.status(path, "POST", Host="example.com", **FORGET) == 403
    assert admin.status("/api/status", "POST", **FORGET) == 405
    assert admin.status(path, "OPTIONS", **FORGET) == 405
    assert admin.status(path, "POST", **FORGET) == 200
    assert admin.machines() == []
    assert admin.status(path, "POST", **FORGET) == 404
    assert admin.metric("vmw_metadata_machines_in_trouble", state="failed") == 0
    server.wait_for("admin: forgotten: ")


def test_forgetting_needs_the_token(start: Start, tmp_path_factory: pytest.TempPathFactory) -> None:
    file = tmp_path_factory.mktemp("token") / "token"
    file.write_text(TOKEN)
    file.chmod(0o600)
    server = start("--admin-token-file", str(file))
    assert Admin(server).status("/api/forget/web1", "POST", **FORGET) == 401
    assert Admin(server, TOKEN).status("/api/forget/web1", "POST", **FORGET) == 404


def test_machine_that_is_served_is_not_forgotten(start: Start, peers: ExitStack) -> None:
    server = start()
    admin = Admin(server)
    vm_of(peers, server, "web1")
    wait_until(lambda: admin.state_of("web1") == "served")
    assert admin.status("/api/forget/web1", "POST", **FORGET) == 409


def test_failed_machine_ages_out_of_a_server(start: Start, peers: ExitStack) -> None:
    server = start("--forget-failed", "0.0001")
    admin = Admin(server)
    vm = vm_of(peers, server, "nobody")
    wait_until(lambda: admin.state_of("nobody") == "failed")
    vm.close()
    wait_until(lambda: admin.machines() == [])

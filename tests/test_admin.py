"""The admin port of a real server: who may read it, and what it returns."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from http.client import HTTPConnection, HTTPResponse
from pathlib import Path
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from tests.process import LIMIT_S, Constants, ServerProcess, descriptors, run, with_constants
from tests.vm import VC_UUID, Vm, suboption
from tests.waiting import wait_until
from vmw_cloudinit_metadata.admin import eventstream
from vmw_cloudinit_metadata.monitoring.facts import VmLeft
from vmw_cloudinit_metadata.monitoring.happenings import Happening

Start = Callable[..., ServerProcess]

UUID = "01234567-89ab-cdef-fedc-ba9800000001"
TOKEN = "correct-horse-battery-staple"

# A boot counts as one when nothing more was asked for so long.
QUICK = with_constants(serving__timeouts__SETTLED_S=0.5)


class Admin:
    """An HTTP client of a server's admin port."""

    def __init__(self, server: ServerProcess, token: str | None = None) -> None:
        self.server = server
        found = server.wait_for(r"admin on http://([\d.]+|\[[\da-f:]+\]):(\d+)")
        self.host, self.port = found[1].strip("[]"), int(found[2])
        self._headers = {"Authorization": f"Bearer {token}"} if token else {}

    def request(self, path: str, method: str = "GET", **headers: str) -> tuple[HTTPResponse, bytes]:
        connection = HTTPConnection(self.host, self.port, timeout=LIMIT_S)
        try:
            connection.request(method, path, headers={**self._headers, **headers})
            answer = connection.getresponse()
            return answer, answer.read()
        finally:
            connection.close()

    def status(self, path: str, method: str = "GET", **headers: str) -> int:
        return self.request(path, method, **headers)[0].status

    def json(self, path: str) -> Any:
        answer, body = self.request(path)
        assert answer.status == 200, body
        return json.loads(body)

    def machines(self, query: str = "") -> list[dict[str, Any]]:
        machines: list[dict[str, Any]] = self.json(f"/api/machines{query}")["machines"]
        return machines

    def state_of(self, name: str) -> str:
        machines = self.machines(f"?q={name}")
        return str(machines[0]["state"]) if machines else ""

    def metric(self, name: str, **labels: str) -> float:
        """The value of one series; 0 for one that is not there."""
        for family in text_string_to_metric_families(self.request("/metrics")[1].decode()):
            for sample in family.samples:
                if sample.name == name and sample.labels == labels:
                    return float(sample.value)
        return 0.0

    def follow(self, query: str = "", **headers: str) -> Follower:
        return Follower(self, query, {**self._headers, **headers})


class Follower:
    """Reads events, and closes itself with its stack."""

    def __init__(self, admin: Admin, query: str, headers: dict[str, str]) -> None:
        self._connection = HTTPConnection(admin.host, admin.port, timeout=LIMIT_S)
        self._connection.request("GET", f"/api/events{query}", headers=headers)
        self._answer = self._connection.getresponse()
        assert self._answer.status == 200
        assert self._answer.getheader("Content-Type") == "text/event-stream"
        assert self._answer.readline().startswith(b":")
        self.last_id = ""

    def __enter__(self) -> Follower:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        self._answer.close()
        self._connection.close()

    def events(self) -> Iterator[dict[str, Any]]:
        for line in iter(self._answer.readline, b""):
            name, _, value = line.decode().strip().partition(": ")
            if name == "id":
                self.last_id = value
            if name == "data":
                yield json.loads(value)

    def next(self, kind: str) -> dict[str, Any]:
        return next(event for event in self.events() if event["kind"] == kind)


def boot(server: ServerProcess, name: str = "web1", **settings: Any) -> Vm:
    machine = Vm(server.port, name, **settings)
    for document in ("METADATA", "NETWORKDATA", "USERDATA"):
        machine.ask(document)
    return machine


def test_vms_that_share_a_file_are_an_event_and_a_line_of_the_log(
    begin: Begin, own_instances: Path, peers: ExitStack
) -> None:
    (own_instances / "twin.yaml").write_text("metadata: {}\n")
    server, admin = begin()
    follower = peers.enter_context(admin.follow("?q=twin"))
    first, second = boot(server, "twin"), boot(server, "twin", vc_uuid="42" * 16)
    event = follower.next("shared source")
    shared = (
        rf"gets {own_instances}/twin\.yaml, which other connected VMs get too: VC UUID 01234567"
    )
    assert re.match(shared, event["event"])
    assert event["sources"] == [f"{own_instances}/twin.yaml"]
    assert event["level"] == "warning"
    server.wait_for(rf"WARNING 127\.0\.0\.1:\d+: 'twin', VC UUID 42[^ ]+: {shared}")
    assert admin.metric("vmw_metadata_identity_conflicts_total", kind="shared source") == 1
    first.close()
    second.close()


def uuid(number: int) -> str:
    return f"5012{number:028x}"


def canonical(number: int) -> str:
    return f"50120000-0000-0000-0000-{number:012x}"


@pytest.fixture(scope="module")
def admin(instances: Path) -> Iterator[Admin]:
    """That of a server that many tests share."""
    process = ServerProcess(instances, "--admin-listen", "127.0.0.1:0", command=QUICK)
    yield Admin(process)
    process.end()


@pytest.fixture
def vms(admin: Admin, peers: ExitStack) -> Callable[..., Vm]:
    """Boots VMs at the shared server; they are disconnected after the test."""

    def boot_vm(*arguments: Any, **settings: Any) -> Vm:
        machine = boot(admin.server, *arguments, **settings)
        peers.callback(machine.close)
        return machine

    return boot_vm


@pytest.fixture
def begin(start: Start) -> Callable[..., tuple[ServerProcess, Admin]]:
    """Starts a server with an admin port."""

    def begin_server(*options: str, token: str | None = None, **settings: Any) -> Any:
        command = settings.pop("command", QUICK)
        server = start("--admin-listen", "127.0.0.1:0", *options, command=command, **settings)
        return server, Admin(server, token)

    return begin_server


@pytest.fixture
def token_file(tmp_path: Path) -> Path:
    file = tmp_path / "token"
    file.write_text(f"{TOKEN}\n")
    return file


Begin = Callable[..., tuple[ServerProcess, Admin]]
Boot = Callable[..., Vm]


# Health


def test_healthy_server_is_alive_and_ready(admin: Admin) -> None:
    assert admin.request("/healthz")[1] == b"ok\n"
    wait_until(lambda: admin.request("/readyz")[1] == b"ready\n")


@pytest.mark.parametrize("workers", ["1", pytest.param("2", marks=pytest.mark.slow)])
def test_server_is_not_ready_until_its_source_was_checked(
    begin: Begin, tmp_path: Path, workers: str
) -> None:
    (tmp_path / "version").write_text("1")
    (tmp_path / "slow-check").touch()
    server, admin = begin(
        *("--driver", "tests.ledger_driver:LedgerDriver", "--workers", workers),
        driver_opts={"directory": str(tmp_path)},
    )
    text = b"not ready: the data source has not been checked yet\n"
    answer, found = admin.request("/readyz")
    assert (answer.status, found) == (503, text)
    assert Vm(server.port).metadata()["instance-id"] == "1"  # VMs do not wait for it
    (tmp_path / "slow-check").unlink()
    wait_until(lambda: admin.status("/readyz") == 200)


def test_driver_that_cannot_be_used_is_not_ready(begin: Begin, own_instances: Path) -> None:
    _, admin = begin()
    wait_until(lambda: admin.status("/readyz") == 200)
    moved = own_instances.rename(own_instances.with_name("moved"))
    wait_until(lambda: admin.status("/readyz") == 503)
    assert str(own_instances).encode() not in admin.request("/readyz")[1]
    status = admin.json("/api/status")
    assert status["state"] == "failing"
    assert str(own_instances) in status["problem"]
    assert admin.status("/healthz") == 200
    moved.rename(own_instances)
    wait_until(lambda: admin.status("/readyz") == 200)


@pytest.mark.parametrize("workers", ["1", pytest.param("2", marks=pytest.mark.slow)])
def test_draining_server_is_not_ready_and_refuses_new_vms(
    begin: Begin, tmp_path: Path, workers: str
) -> None:
    (tmp_path / "calls").touch()
    server, admin = begin(
        *("--driver", "tests.scripted_driver:ScriptedDriver", "--workers", workers),
        driver_opts={"calls": str(tmp_path / "calls")},
    )
    machine = Vm(server.port, "sleep-1.5")
    machine.receive_until(suboption(71))
    machine.send(b"!!REQUEST_METADATA#\n")
    wait_until(lambda: "sleep" in (tmp_path / "calls").read_text())
    server.signal(signal.SIGTERM)
    wait_until(lambda: admin.status("/readyz") == 503)
    assert admin.request("/readyz")[1] == b"draining\n"
    assert admin.status("/healthz") == 200
    with pytest.raises(OSError, match="refused"):
        Vm(server.port)
    assert machine.answer()[0] == "RESPONSE_METADATA"
    assert server.wait() == 0


# Who may read


@pytest.mark.parametrize(
    "host", ["localhost", "localhost:1", "127.0.0.1:1", "127.9.9.9", "[::1]:1"]
)
def test_host_that_is_this_machine_is_served(admin: Admin, host: str) -> None:
    assert admin.status("/api/machines", Host=host) == 200


def test_other_host_is_not_served_without_a_token(admin: Admin) -> None:
    for host in ("evil.example", "localhost.evil.example", "10.0.0.1", "", "127.0.0.1.nip.io"):
        for path in ("/", "/healthz", "/api/machines", "/metrics"):
            assert admin.status(path, Host=host) == 403, (host, path)


def test_token_is_needed_for_all_that_holds_data(begin: Begin, token_file: Path) -> None:
    _, admin = begin("--admin-token-file", str(token_file))
    wait_until(lambda: admin.status("/readyz", Host="vmw.example.com") == 200)
    for path in ("/healthz", "/readyz", "/", "/page.js", "/page.css", "/icon.svg"):
        assert admin.status(path, Host="vmw.example.com") == 200, path
    for path in ("/metrics", "/api/machines", "/api/machines/x", "/api/events", "/nowhere"):
        assert admin.status(path) == 401, path
        for wrong in (
            f"Bearer {TOKEN}x",
            f"Bearer {TOKEN[:-1]}",
            f"Basic {TOKEN}",
            "Bearer",
            TOKEN,
        ):
            assert admin.status(path, Authorization=wrong) == 401, (path, wrong)


def test_token_lets_in(begin: Begin, token_file: Path) -> None:
    server, admin = begin("--admin-token-file", str(token_file), token=TOKEN)
    assert admin.machines() == []
    assert admin.status("/metrics", Host="vmw.example.com") == 200
    assert TOKEN not in server.log


@pytest.mark.parametrize("address", ["0.0.0.0:0", "10.0.0.1:0", "[::]:0"])
def test_address_that_others_reach_needs_a_token_file(address: str) -> None:
    ended = run("run", "--uri", "x", "--listen", "127.0.0.1:0", "--admin-listen", address)
    assert ended.returncode == 2
    assert "needs --admin-token-file" in ended.stderr
    assert ended.stderr.count("\n") == 1


def test_address_that_others_reach_is_served_with_a_token(start: Start, token_file: Path) -> None:
    server = start("--admin-listen", "0.0.0.0:0", "--admin-token-file", str(token_file))
    assert Admin(server, TOKEN).machines() == []


@pytest.mark.parametrize("text", [None, "", "\n", "two words of a token", "x", "a" * 15])
def test_token_file_that_cannot_be_used_is_reported(tmp_path: Path, text: str | None) -> None:
    file = tmp_path / "token"
    if text is not None:
        file.write_text(text)
    ended = run("run", "--uri", "x", "--admin-token-file", str(file))
    assert ended.returncode == 2
    assert str(file) in ended.stderr
    assert ended.stderr.count("\n") == 1


def test_only_reading_is_possible(admin: Admin) -> None:
    for method in ("POST", "PUT", "DELETE", "OPTIONS"):
        assert admin.status("/api/machines", method) == 405
    answer, body = admin.request("/api/machines", "HEAD")
    assert (answer.status, body) == (200, b"")


def test_every_answer_has_the_policy_of_content(admin: Admin) -> None:
    for path in ("/", "/api/machines", "/metrics", "/nowhere", "/page.js"):
        answer, _ = admin.request(path)
        policy = answer.getheader("Content-Security-Policy") or ""
        assert policy.startswith("default-src 'none'; script-src 'self';")
        assert "unsafe" not in policy
        assert answer.getheader("X-Content-Type-Options") == "nosniff"


# When the port cannot be had


def test_port_in_use_costs_no_vm_and_is_had_later(start: Start) -> None:
    taken = socket.create_server(("127.0.0.1", 0))
    address = f"127.0.0.1:{taken.getsockname()[1]}"
    command = with_constants(admin__adminport__RETRY_S=0.2)
    server = start("--admin-listen", address, command=command)
    assert boot(server).metadata()["instance-id"] == "my-instance"
    server.wait_for(
        "ERROR --admin-listen: cannot listen on .*Address already in use.*VMs are served"
    )
    taken.close()
    server.wait_for("admin on http://")
    assert len(Admin(server).machines()) == 1


def test_off_is_off(start: Start) -> None:
    server = start("--admin-listen", "off")
    boot(server)
    server.signal(signal.SIGTERM)
    server.wait()
    assert "admin" not in server.log


def test_ipv6_loopback_is_served(start: Start) -> None:
    if not socket.has_ipv6:
        pytest.skip("needs IPv6 on loopback")
    assert Admin(start("--admin-listen", "[::1]:0")).status("/healthz") == 200


# Machines


def test_machine_that_was_served_has_its_story(admin: Admin, vms: Boot, instances: Path) -> None:
    vms("web1")
    wait_until(lambda: admin.json(f"/api/machines/{UUID}")["state"] == "served")
    for name in (UUID, VC_UUID.replace(" ", "%20"), UUID.upper()):
        assert admin.json(f"/api/machines/{name}")["vc_uuid"] == UUID
    story = admin.json("/api/machines/web1")
    assert story["name"] == "web1"
    assert story["esxi_host"] == "127.0.0.1"
    assert story["connected_since"].startswith("20")
    assert [port["service_uri"] for port in story["ports"]] == ["my-metadata"]
    asked = {one["document"]: one["outcome"] for one in story["asked"]}
    assert asked == dict.fromkeys(("METADATA", "NETWORKDATA", "USERDATA"), "answered")
    assert story["files"] == [str(instances / "web1.yaml")]
    assert story["matched_by"] == "name"
    assert story["documents"]["USERDATA"]["size"] == 37
    assert len(story["documents"]["USERDATA"]["sha256"]) == 64
    assert [event["kind"] for event in story["story"]] == ["identified", "served"]


def test_machine_that_got_nothing_says_why_and_what_to_do(admin: Admin, vms: Boot) -> None:
    vms("nobody", vc_uuid=uuid(1))
    story = admin.json("/api/machines/nobody")
    assert story["state"] == "failed"
    assert "nobody.yaml" in story["last_error"]["reason"]
    assert "Add the file" in story["next"]


def test_machine_in_trouble_comes_first(admin: Admin, vms: Boot) -> None:
    vms("in-trouble", vc_uuid=uuid(2))
    vms("web1", vc_uuid=uuid(3))
    wait_until(lambda: admin.state_of(str(uuid(3))[-12:]) == "served")
    is_trouble = [machine["state"] in ("failed", "stale") for machine in admin.machines()]
    assert is_trouble == sorted(is_trouble, reverse=True)
    assert set(is_trouble) == {True, False}


def test_file_with_a_fault_is_named_with_its_line(admin: Admin, vms: Boot, instances: Path) -> None:
    (instances / "bad.yaml").write_text("metadata: {}\nnetwork:\n  address: nonsense\n")
    vms("bad", vc_uuid=uuid(4))
    story = admin.json("/api/machines/bad")
    assert "bad.yaml:3: network.address" in story["last_error"]["reason"]


def test_machine_served_with_its_last_good_answer_is_stale_until_the_file_is_fixed(
    admin: Admin, vms: Boot, instances: Path
) -> None:
    (instances / "kept.yaml").write_text("metadata: {}\n")
    machine = vms("kept", vc_uuid=uuid(5))
    (instances / "kept.yaml").write_text("metadata: 5\n")
    machine.metadata()
    wait_until(lambda: admin.state_of("kept") == "stale")
    assert admin.metric("vmw_metadata_last_good_answers") == 1
    assert "last good answer" in admin.json("/api/machines/kept")["last_error"]["reason"]
    (instances / "kept.yaml").write_text("metadata: {instance-id: mended}\n")
    machine.metadata()
    wait_until(lambda: admin.state_of("kept") == "served")


def test_machine_whose_file_is_added_is_served(admin: Admin, vms: Boot, instances: Path) -> None:
    machine = vms("late", vc_uuid=uuid(6))
    assert admin.state_of("late") == "failed"
    before = admin.json("/api/status")["problems"]["not-found"]
    (instances / "late.yaml").write_text("metadata: {}\n")
    wait_until(lambda: machine.ask("METADATA")[0] == "RESPONSE_METADATA")
    wait_until(lambda: admin.state_of("late") == "served")
    assert admin.json("/api/status")["problems"].get("not-found", 0) == before - 1


def test_machine_that_is_refused_is_listed_with_the_reason(admin: Admin) -> None:
    machine = Vm(admin.server.port, "misled", vc_uuid=uuid(7), uri="other")
    machine.receive_until(suboption(73))
    wait_until(lambda: admin.state_of("misled") == "failed")
    assert "service URI 'other'" in admin.json("/api/machines/misled")["last_error"]["reason"]


def test_machine_of_which_another_port_is_refused_is_served(admin: Admin, vms: Boot) -> None:
    vms("web1", vc_uuid=uuid(17))
    wait_until(lambda: admin.state_of(canonical(17)) == "served")
    other = Vm(admin.server.port, "web1", vc_uuid=uuid(17), uri="other")
    other.receive_until(suboption(73))
    story = admin.json(f"/api/machines/{canonical(17)}")
    assert (story["state"], story["story"][-1]["kind"]) == ("served", "refused")


def test_machine_that_left_stays_listed(admin: Admin, vms: Boot, instances: Path) -> None:
    (instances / "leaver.yaml").write_text("metadata: {}\n")
    vms("leaver", vc_uuid=uuid(8)).close()
    wait_until(lambda: admin.state_of("leaver") == "left")
    story = admin.json("/api/machines/leaver")
    assert story["connected"] is False
    assert story["left"]
    assert story["documents"]


def test_machines_that_left_are_bounded(begin: Begin) -> None:
    server, admin = begin(command=with_constants(admin__chronicle__MAX_GONE=5))
    for number in range(12):
        boot(server, f"vm{number}", vc_uuid=uuid(number)).close()
    wait_until(
        lambda: {one["name"] for one in admin.machines()} == {f"vm{n}" for n in range(7, 12)}
    )


def test_move_is_in_the_story(admin: Admin, vms: Boot, instances: Path) -> None:
    (instances / "mover.yaml").write_text("metadata: {}\n")
    source = vms("mover", vc_uuid=uuid(10))
    secret = source.begin_move()
    assert admin.state_of("mover") == "moving"
    target = Vm.arriving(admin.server.port, secret, name="mover", vc_uuid=uuid(10))
    target.is_welcome()
    target.complete()
    wait_until(lambda: admin.state_of("mover") == "served")
    story = admin.json("/api/machines/mover")
    assert [move["kind"] for move in story["moves"]] == ["move begun", "moved"]
    assert len(story["ports"]) == 1


def test_search_state_and_pages_find_machines(admin: Admin, vms: Boot) -> None:
    for number in range(7):
        vms(f"Found-{number}", vc_uuid=uuid(0x50 + number))
    assert len(admin.machines("?q=found-")) == 7
    assert len(admin.machines("?q=found-&state=failed")) == 7
    assert len(admin.machines("?q=found-&state=trouble")) == 7
    assert len(admin.machines("?q=found-&state=connected")) == 7
    assert admin.machines("?q=found-&state=served") == []
    assert [machine["name"] for machine in admin.machines("?q=FOUND-3")] == ["Found-3"]
    assert [machine["name"] for machine in admin.machines("?q=000000055")] == ["Found-5"]
    pages = [admin.json(f"/api/machines?q=found-&per_page=5&page={page}") for page in (1, 2)]
    assert (pages[0]["total"], pages[0]["pages"], len(pages[0]["machines"])) == (7, 2, 5)
    assert len({machine["name"] for page in pages for machine in page["machines"]}) == 7


@pytest.mark.parametrize(
    "query",
    ["state=nonsense", "page=0", "page=x", "per_page=1001", "per_page=-1", "&".join(["a=1"] * 99)],
)
def test_invalid_query_is_an_error(admin: Admin, query: str) -> None:
    answer, body = admin.request(f"/api/machines?{query}")
    assert answer.status == 400
    assert json.loads(body)["error"]


def test_two_machines_of_one_name_are_both_named(admin: Admin, vms: Boot) -> None:
    twins = [vms("twin", vc_uuid=uuid(0x60 + number)) for number in range(2)]
    answer, body = admin.request("/api/machines/twin")
    assert answer.status == 409
    assert {one["vc_uuid"][-1] for one in json.loads(body)["machines"]} == {"0", "1"}
    twins[0].close()
    wait_until(lambda: admin.status("/api/machines/twin") == 200)
    assert admin.json("/api/machines/twin")["vc_uuid"].endswith("1")
    assert admin.status("/api/machines/unheard-of") == 404


def test_no_user_data_and_no_secret_is_served(admin: Admin, vms: Boot, instances: Path) -> None:
    (instances / "holder.yaml").write_text("metadata: {}\nuserdata: |\n  #!SECRET\n")
    secret = vms("holder", vc_uuid=uuid(11)).begin_move()
    wait_until(lambda: admin.state_of("holder") == "moving")
    for path in ("/api/machines", "/api/machines/holder", "/api/status", "/metrics"):
        body = admin.request(path)[1]
        assert b"SECRET" not in body
        assert b"IyFTRUNSRVQ" not in body
        assert secret.hex().encode() not in body


# After a restart


def test_machines_that_are_not_back_after_a_restart_are_listed(
    begin: Begin, tmp_path: Path, peers: ExitStack
) -> None:
    file = tmp_path / "state"
    server, admin = begin("--state-file", str(file))
    for number in range(3):
        peers.callback(boot(server, f"vm{number}", vc_uuid=uuid(number)).close)
    boot(server, "gone", vc_uuid=uuid(9)).close()
    wait_until(lambda: file.exists() and len(file.read_text().split()) == 3)
    server.signal(signal.SIGTERM)
    assert server.wait() == 0
    assert "vm0" not in file.read_text()
    server, admin = begin("--state-file", str(file))
    missing = {machine["vc_uuid"][-1] for machine in admin.machines("?state=missing")}
    assert missing == {"0", "1", "2"}
    back = boot(server, "vm1", vc_uuid=uuid(1))
    wait_until(lambda: len(admin.machines("?state=missing")) == 2)
    server.signal(signal.SIGKILL)
    server.wait()
    back.close()
    _, admin = begin("--state-file", str(file))
    assert len(admin.machines("?state=missing")) == 3


def test_state_file_is_in_the_directory_that_systemd_gives(begin: Begin, tmp_path: Path) -> None:
    server, _ = begin(env={"STATE_DIRECTORY": str(tmp_path)})
    machine = boot(server)
    wait_until(lambda: (tmp_path / "machines").read_text() == f"{UUID}\n")
    machine.close()


def test_state_file_that_cannot_be_written_is_reported_at_the_start(tmp_path: Path) -> None:
    ended = run(
        *("run", "--uri", "x", "--listen", "127.0.0.1:0", "--admin-listen", "127.0.0.1:0"),
        *("--driver-opts", json.dumps({"directory": str(tmp_path)})),
        *("--state-file", str(tmp_path / "no" / "state")),
    )
    assert ended.returncode == 2
    assert ended.stderr.splitlines()[-1].count(str(tmp_path / "no" / "state")) == 1
    assert "Traceback" not in ended.stderr


# Events


def test_events_are_streamed_as_they_happen(admin: Admin, vms: Boot) -> None:
    with admin.follow() as follower:
        machine = vms("streamed", vc_uuid=uuid(12))
        identified = follower.next("identified")
        assert identified["vc_uuid"] == canonical(12)
        failed = follower.next("failed")
        assert failed["connection_id"] == identified["connection_id"]
        machine.close()
        assert follower.next("left")["machine_name"] == "streamed"


def test_events_go_on_where_a_reader_stopped(admin: Admin, vms: Boot) -> None:
    with admin.follow() as follower:
        vms("first", vc_uuid=uuid(13))
        follower.next("failed")
    vms("second", vc_uuid=uuid(14))
    with admin.follow(**{"Last-Event-ID": follower.last_id}) as again:
        assert again.next("identified")["machine_name"] == "second"


def test_events_of_a_level_and_above_only(admin: Admin, vms: Boot) -> None:
    with admin.follow("?level=warning") as follower:
        vms("quiet", vc_uuid=uuid(15))
        assert next(follower.events())["kind"] == "failed"
    assert admin.status("/api/events?level=nonsense") == 400


def test_reader_that_is_too_slow_learns_how_much_it_missed(
    constants: Constants,
) -> None:
    constants(admin__eventstream__KEPT=10)
    ours = eventstream.Events()
    follower = ours.follow(None, 0)
    stream = ours.stream(follower)
    assert next(stream).startswith(b":")
    for start in range(0, 25, 5):
        ours.hear(
            [
                Happening(VmLeft("left"), 10, 0.0, str(number), "", "", None, "")
                for number in range(start, start + 5)
            ]
        )
    told = next(stream).decode().split("\n\n")
    assert json.loads(told[0].removeprefix("data: ")) == {"kind": "left out", "count": 15}
    assert [json.loads(one.rpartition("data: ")[2])["connection_id"] for one in told[1:-1]] == [
        str(number) for number in range(15, 25)
    ]


def test_too_many_followers_end_the_oldest(begin: Begin, peers: ExitStack) -> None:
    server, admin = begin(command=with_constants(admin__eventstream__MAX_FOLLOWERS=3))
    followers = [peers.enter_context(admin.follow()) for _ in range(4)]
    assert list(followers[0].events()) == []
    boot(server)
    assert followers[3].next("identified")


# What others do to it


def test_header_without_end_is_refused(admin: Admin) -> None:
    with socket.create_connection(("127.0.0.1", admin.port), timeout=10) as peer:
        peer.sendall(b"GET / HTTP/1.1\r\nHost: localhost\r\n")
        try:
            for number in range(2000):
                peer.sendall(b"X-%d: %s\r\n" % (number, b"y" * 100))
            assert b"400" in peer.recv(100)
        except ConnectionError:
            pass
    assert admin.status("/healthz") == 200
    assert "Traceback" not in admin.server.log


@pytest.mark.slow
def test_request_that_never_ends_is_closed(begin: Begin) -> None:
    _, admin = begin(command=with_constants(admin__http__HEAD_S=0.5, admin__http__IDLE_S=1.0))
    for said in (b"", b"GET / HT", b"GET / HTTP/1.1\r\nHost: loc"):
        with socket.create_connection(("127.0.0.1", admin.port), timeout=5) as peer:
            peer.sendall(said)
            peer.recv(1000)
            assert peer.recv(1000) == b""


@pytest.mark.slow
def test_more_connections_than_allowed_harm_no_vm(begin: Begin, peers: ExitStack) -> None:
    server, admin = begin(
        command=with_constants(admin__http__MAX_WAITING=4, admin__http__MAX_WAITING_EACH=4)
    )
    before = descriptors(server)
    for _ in range(50):
        peers.enter_context(socket.create_connection(("127.0.0.1", admin.port)))
    assert boot(server).metadata()["instance-id"] == "my-instance"
    wait_until(lambda: descriptors(server) <= before + 6)
    peers.close()
    wait_until(lambda: admin.status("/healthz") == 200, 30)


@pytest.mark.parametrize(
    "said",
    [
        b"\x00\xff\xfe" * 100 + b"\r\n\r\n",
        b"POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: 99999999999\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\nfff\r\n",
        b"GET /api/machines/%ff%fe%00 HTTP/1.1\r\nHost: localhost\r\n\r\n",
        b"GET /../../etc/passwd HTTP/1.1\r\nHost: localhost\r\n\r\n",
        b"GET /api/machines?q=%ff HTTP/1.1\r\nHost: localhost\r\n\r\n",
    ],
)
def test_request_that_is_none_is_no_error_of_the_server(admin: Admin, said: bytes) -> None:
    with socket.create_connection(("127.0.0.1", admin.port), timeout=5) as peer:
        peer.sendall(said)
        answer = peer.recv(65536)
    assert b"root:" not in answer
    assert b" 500 " not in answer
    assert admin.status("/healthz") == 200
    assert "Traceback" not in admin.server.log


# Metrics


def test_metrics_count_boots_requests_and_failures(begin: Begin, peers: ExitStack) -> None:
    server, admin = begin()
    peers.callback(boot(server).close)
    peers.callback(boot(server, "nobody", vc_uuid=uuid(1)).close)
    misled = Vm(server.port, uri="other", vc_uuid=uuid(2))
    misled.receive_until(suboption(73))
    wait_until(lambda: admin.metric("vmw_metadata_boots_total") == 1)
    request = "vmw_metadata_requests_total"
    assert admin.metric(request, document="USERDATA", outcome="answered") == 1
    assert admin.metric(request, document="METADATA", outcome="not-found") == 1
    refused = "vmw_metadata_connections_refused_total"
    assert admin.metric(refused, reason="another service URI") == 1
    assert admin.metric("vmw_metadata_connections_accepted_total") == 3
    assert admin.metric("vmw_metadata_connections") == 3
    misled.close()
    assert admin.metric("vmw_metadata_boot_seconds_count") == 1
    assert admin.metric("vmw_metadata_lookup_run_seconds_bucket", le="+Inf") >= 2
    kept = (admin.metric(f"vmw_metadata_cache_{result}_total") for result in ("hits", "misses"))
    assert sum(kept) == 6
    assert admin.metric("vmw_metadata_machines", state="failed") == 2
    assert admin.metric("vmw_metadata_ready") == 1
    assert 0 < admin.metric("vmw_metadata_open_fds") < admin.metric("vmw_metadata_max_fds")
    assert admin.metric("vmw_metadata_received_bytes_total") > 100


def test_metrics_have_no_label_that_a_peer_chooses(admin: Admin, vms: Boot) -> None:
    machine = vms("chosen-name", vc_uuid=uuid(16), uri="my-metadata?chosen-uri")
    machine.ask("CHOSENDOCUMENT")
    machine.send(suboption(200, b"chosen"))
    wait_until(lambda: admin.metric("vmw_metadata_protocol_faults_total", kind="unknown suboption"))
    assert b"chosen" not in admin.request("/metrics")[1].lower()


# Several workers


@pytest.mark.slow
def test_workers_have_one_admin_port_that_survives_their_end(
    begin: Begin, peers: ExitStack
) -> None:
    server, admin = begin("--workers", "2")
    vms = [boot(server, "web1", vc_uuid=uuid(number)) for number in range(20)]
    wait_until(lambda: len(admin.machines("?state=served")) == 20)
    wait_until(lambda: admin.metric("vmw_metadata_boots_total") == 20)
    follower = peers.enter_context(admin.follow())
    children = Path(f"/proc/{server.pid}/task/{server.pid}/children")
    for round_ in range(3):
        victim = int(children.read_text().split()[0])
        counted = admin.metric("vmw_metadata_connections_accepted_total")
        os.kill(victim, signal.SIGKILL)
        wait_until(lambda: server.log.count("starting another one") == round_ + 1)  # noqa: B023
        assert admin.metric("vmw_metadata_connections_accepted_total") >= counted
        wait_until(lambda: len(children.read_text().split()) == 2)
        wait_until(lambda: admin.status("/readyz") == 200)
        machine = boot(server, "web1", vc_uuid=uuid(100 + round_))
        assert follower.next("served")["vc_uuid"].endswith(f"{100 + round_:x}")
        machine.close()
        wait_until(lambda: admin.metric("vmw_metadata_boots_total") == 21 + round_)  # noqa: B023
    assert admin.metric("vmw_metadata_worker_restarts_total") == 3
    assert len(admin.machines("?state=left")) > 0
    follower.close()
    for vm in vms:
        vm.close()
    wait_until(lambda: admin.metric("vmw_metadata_connections") == 0)


@pytest.mark.slow
def test_worker_that_is_started_again_keeps_no_connection_of_the_admin_port(
    begin: Begin, peers: ExitStack
) -> None:
    server, admin = begin("--workers", "2")
    followers = [peers.enter_context(admin.follow()) for _ in range(5)]
    idle = peers.enter_context(socket.create_connection(("127.0.0.1", admin.port)))
    children = Path(f"/proc/{server.pid}/task/{server.pid}/children")
    before = set(children.read_text().split())
    os.kill(int(next(iter(before))), signal.SIGKILL)
    wait_until(lambda: len(set(children.read_text().split()) - before) == 1)
    (new,) = set(children.read_text().split()) - before
    local = {f":{admin.port:04X}"}

    def of_the_port() -> int:
        sockets = {
            line.split()[9]
            for line in Path("/proc/net/tcp").read_text().splitlines()[1:]
            if line.split()[1][-5:] in local
        }
        links = [os.readlink(f"/proc/{new}/fd/{fd}") for fd in os.listdir(f"/proc/{new}/fd")]
        return sum(link.removeprefix("socket:[").rstrip("]") in sockets for link in links)

    wait_until(lambda: of_the_port() == 0)
    boot(server)
    assert all(follower.next("identified") for follower in followers)
    assert idle.fileno() >= 0

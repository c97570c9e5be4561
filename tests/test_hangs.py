"""Workers that hang, lie or flood, and their parent, which goes on: real processes."""

from __future__ import annotations

import json
import os
import re
import signal
import time
from collections.abc import Callable
from pathlib import Path
from urllib.error import HTTPError
from urllib.request import urlopen

import pytest

from tests.process import ServerProcess, counters, stopped, with_constants
from tests.test_workers import children, is_alive, wait_for_new_worker
from tests.vm import Vm
from tests.waiting import wait_until

Start = Callable[..., ServerProcess]

pytestmark = pytest.mark.slow

QUICK = {"process__workers__UNHEARD_S": 1.0, "process__workers__SILENT_S": 3.0}
ODD = 64  # connections with odd names
DOCUMENTS = [f"DOC{chr(65 + n // 26)}{chr(65 + n % 26)}" for n in range(70)]
VMS = 80


def get(server: ServerProcess, path: str) -> tuple[int, str]:
    """Status and body of the admin port."""
    port = server.wait_for(r"admin on http://127\.0\.0\.1:(\d+)")[1]
    try:
        with urlopen(f"http://127.0.0.1:{port}{path}", timeout=10) as answer:
            return answer.status, answer.read().decode()
    except HTTPError as error:
        with error:
            return error.code, error.read().decode()


def status(server: ServerProcess) -> dict[str, object]:
    told: dict[str, object] = json.loads(get(server, "/api/status")[1])
    return told


def metric(server: ServerProcess, name: str) -> float:
    found = re.search(rf"^vmw_metadata_{re.escape(name)} (\S+)$", get(server, "/metrics")[1], re.M)
    assert found, name
    return float(found[1])


def uuid(kind: int, number: int) -> str:
    return bytes([kind] * 14 + [0, number]).hex(" ")


def boots(server: ServerProcess, count: int = 20) -> None:
    """Each gets its data, whichever worker takes it."""
    for _ in range(count):
        machine = Vm(server.port)
        assert machine.metadata()["instance-id"] == "my-instance"
        machine.close()


# What VMs are called, and have


def test_parent_hears_of_all_machines_whatever_they_are_called(start: Start) -> None:
    server = start("--workers", "2")
    machines = [
        Vm(
            *(server.port, (chr(1 + n % 8) * 1020 + f"{n:04}").encode()),
            vc_uuid=uuid(9, n),
            uri="my-metadata?" + chr(1 + n % 8) * 1000,
        )
        for n in range(ODD)
    ]
    for machine in machines:
        assert machine.error("METADATA") == "not-found"
    wait_until(lambda: status(server)["machines"]["failed"] == ODD)  # type: ignore[index]
    wait_until(
        lambda: metric(server, 'requests_total{document="METADATA",outcome="not-found"}') == ODD
    )
    assert get(server, "/readyz") == (200, "ready\n")
    for machine in machines:
        machine.close()
    wait_until(lambda: metric(server, "connections") == 0)
    counted = counters(server)
    assert (counted["answered not-found"], counted["events dropped"]) == (ODD, 0)


def test_parent_hears_of_all_boots_of_vms_with_70_documents(
    start: Start, own_instances: Path
) -> None:
    documents = "".join(f"  {name.lower()}: a text\n" for name in DOCUMENTS)
    for number in range(VMS):
        file = own_instances / f"many{number}.yaml"
        file.write_text(f"metadata: {{instance-id: i-{number}}}\ndocuments:\n{documents}")
    server = start("--workers", "2")
    machines = [Vm(server.port, f"many{n}", vc_uuid=uuid(8, n)) for n in range(VMS)]
    for machine in machines:
        machine.metadata()
        machine.send(b"".join(b"!!REQUEST_%s#\n" % name.encode() for name in DOCUMENTS))
        for name in DOCUMENTS:
            assert machine.answer()[0] == f"RESPONSE_{name}"
    wait_until(lambda: status(server)["machines"]["served"] == VMS)  # type: ignore[index]
    story = json.loads(get(server, "/api/machines/many7")[1])
    assert len(story["documents"]) + story["more_documents"] == 1 + len(DOCUMENTS)
    wait_until(lambda: metric(server, "boots_total") == VMS)
    assert get(server, "/readyz")[0] == 200
    for machine in machines:
        machine.close()
    counted = counters(server)
    assert counted["answered"] == VMS * (1 + len(DOCUMENTS))
    assert (counted["boots"], counted["events dropped"]) == (VMS, 0)


def test_what_does_not_fit_is_counted_and_figures_come_all_the_same(start: Start) -> None:
    """The parent is stopped meanwhile, and its workers may keep little."""
    constants = {
        "serving__reporter__MAX_WAITING_BYTES": 50_000,
        "process__channel__MESSAGE_BYTES": 20_000,
    }
    server = start("--workers", "2", command=with_constants(**constants))
    workers = children(server.pid)
    with stopped(server.pid):
        for number in range(1500):
            Vm(server.port, "x" * 1000 + str(number), vc_uuid=uuid(7, number % 256)).close()
    wait_until(lambda: metric(server, 'dropped_total{what="events"}') > 0)
    boots(server)
    wait_until(lambda: metric(server, "boots_total") == 20)
    assert children(server.pid) == workers
    counted = counters(server)
    assert (counted["boots"], counted["connections"]) == (20, 1520)
    assert counted["events dropped"] > 0


def test_worker_that_talks_nonsense_costs_nothing_but_what_it_said(start: Start) -> None:
    server = start(
        *("--workers", "2", "--driver", "tests.nonsense_driver:NonsenseDriver"),
        command=with_constants(**QUICK),
    )
    workers = children(server.pid)
    for number in range(6):
        machine = Vm(server.port, "nonsense", vc_uuid=uuid(6, number))
        assert machine.error("METADATA") == "not-found"
        machine.close()
    boots(server)
    wait_until(lambda: metric(server, "boots_total") == 20)
    assert get(server, "/readyz") == (200, "ready\n")
    wait_until(lambda: status(server)["machines"]["failed"] == 6)  # type: ignore[index]
    assert children(server.pid) == workers
    server.wait_for("invalid message")
    assert server.log.count("invalid message") <= 2  # once for each worker
    assert counters(server)["events dropped"] >= 6 * 15


# Workers that hang


def test_hung_worker_is_reported_killed_and_replaced(start: Start) -> None:
    server = start("--workers", "2")  # with the times that operators have
    wait_until(lambda: get(server, "/readyz")[0] == 200)
    workers = children(server.pid)
    hung = min(workers)
    begun_s = time.monotonic()
    with stopped(hung):
        wait_until(lambda: get(server, "/readyz")[0] == 503)
        told = status(server)
        assert told["state"] == "failing"
        assert re.fullmatch(rf"worker {hung} has been silent for \d+ s", str(told["problem"]))
        server.wait_for(rf"worker {hung} has been silent for \d+ s: killed")
        wait_for_new_worker(server, workers)
        wait_until(lambda: get(server, "/readyz")[0] == 200)
    assert time.monotonic() - begun_s < 30
    assert not is_alive(hung)
    boots(server, 50)
    assert metric(server, "worker_restarts_total") == 1
    counted = counters(server)
    assert counted["answered"] == 50


def test_pause_of_parent_and_workers_kills_nobody(start: Start) -> None:
    server = start("--workers", "2", command=with_constants(**QUICK))
    workers = children(server.pid)
    with stopped(server.pid, *workers):
        time.sleep(2 * QUICK["process__workers__SILENT_S"])
    boots(server)
    wait_until(lambda: metric(server, "boots_total") == 20)
    assert get(server, "/readyz")[0] == 200
    assert children(server.pid) == workers
    assert "silent" not in server.log


def test_pause_of_the_parent_alone_kills_nobody(start: Start) -> None:
    server = start("--workers", "2", command=with_constants(**QUICK))
    workers = children(server.pid)
    with stopped(server.pid):
        time.sleep(2 * QUICK["process__workers__SILENT_S"])
    wait_until(lambda: get(server, "/readyz")[0] == 200)
    boots(server)
    wait_until(lambda: metric(server, "boots_total") == 20)
    assert children(server.pid) == workers
    assert "silent" not in server.log


def test_term_spares_a_silent_worker_for_as_long_as_answers_may_take(start: Start) -> None:
    constants = {"process__workers__UNHEARD_S": 0.5, "process__workers__SILENT_S": 1.0}
    server = start("--workers", "2", "--drain", "4", command=with_constants(**constants))
    hung = min(children(server.pid))
    with stopped(hung):
        server.signal(signal.SIGTERM)
        begun_s = time.monotonic()
        assert server.wait() == 0
        assert 3.5 < time.monotonic() - begun_s < 10
    server.wait_for(f"worker {hung} has been silent")


def test_second_term_ends_a_silent_worker_at_once(start: Start) -> None:
    constants = {"process__workers__UNHEARD_S": 0.5, "process__workers__SILENT_S": 1.0}
    server = start("--workers", "2", "--drain", "60", command=with_constants(**constants))
    with stopped(min(children(server.pid))):
        for _ in range(2):
            server.signal(signal.SIGTERM)
            server.wait_for("stopping: ")
        assert server.wait() == 0


def test_worker_whose_driver_does_not_load_is_killed_and_tried_again(
    start: Start, own_instances: Path, tmp_path: Path
) -> None:
    hangs = tmp_path / "hangs"
    server = start(
        *("--workers", "2", "--driver", "tests.nonsense_driver:HangingDriver"),
        driver_opts={"directory": str(own_instances), "hangs": str(hangs)},
        command=with_constants(
            process__workers__READY_S=1.0, process__workers__RETRY_S=0.5, **QUICK
        ),
    )
    hangs.touch()
    before = children(server.pid)
    os.kill(min(before), signal.SIGKILL)
    server.wait_for("a worker cannot start: not ready within 1 s")
    hangs.unlink()
    wait_for_new_worker(server, before)
    boots(server)


def test_start_with_a_driver_that_does_not_load_ends_with_the_reason(
    own_instances: Path, tmp_path: Path
) -> None:
    hangs = tmp_path / "hangs"
    hangs.touch()
    with pytest.raises(AssertionError, match="not ready within 1 s: its driver may hang"):
        ServerProcess(
            own_instances,
            *("--workers", "2", "--driver", "tests.nonsense_driver:HangingDriver"),
            driver_opts={"directory": str(own_instances), "hangs": str(hangs)},
            command=with_constants(process__workers__READY_S=1.0),
        )

"""A file system, or a driver, that hangs: who waits, for how long, and what goes on."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable
from http.client import HTTPConnection
from pathlib import Path

import pytest

from tests.fuse import HangingFiles
from tests.process import ServerProcess, counters
from tests.vm import Vm, suboption
from tests.waiting import wait_until

Start = Callable[..., ServerProcess]

AT_ONCE_S = 0.9  # less than OVERDUE_S
OVERDUE_S = 1.0  # a look is not waited for any longer
MARGIN_S = 1.5  # of a busy machine
FRESH_S = 0.2  # within which a change is served
TIMEOUT_S = 3.0  # --lookup-timeout
LAST_GOOD = "the last good answer is served, because: the driver does not answer"


@pytest.fixture
def files(hanging: HangingFiles) -> HangingFiles:
    return hanging


@pytest.fixture
def serve(start: Start, files: HangingFiles) -> Callable[..., ServerProcess]:
    return lambda *options, **opts: start(
        *options, driver_opts={"directory": str(files.path), **opts}
    )


def uuid(number: int) -> str:
    return f"{number:032x}"


def id_of(machine: Vm, limit_s: float = 10.0) -> object:
    """The instance-id that the VM gets within the limit."""
    began_s = time.monotonic()
    told = machine.metadata()["instance-id"]
    assert time.monotonic() - began_s < limit_s
    return told


def error_of(machine: Vm, limit_s: float) -> str:
    began_s = time.monotonic()
    error = machine.error("METADATA")
    assert time.monotonic() - began_s < limit_s
    return error


def instance(instance_id: str) -> str:
    return f"metadata: {{instance-id: {instance_id}}}\n"


def readyz(server: ServerProcess, limit_s: float) -> int:
    port = int(server.wait_for(r"admin on http://[\d.]+:(\d+)")[1])
    connection = HTTPConnection("127.0.0.1", port, timeout=limit_s)
    try:
        connection.request("GET", "/readyz")
        return connection.getresponse().status
    finally:
        connection.close()


def threads_of(server: ServerProcess) -> int:
    return len(list(Path(f"/proc/{server.pid}/task").iterdir()))


def nobody_else_waits(server: ServerProcess) -> None:
    """A move, a greeting and the admin port are answered at once."""
    began_s = time.monotonic()
    with_move = Vm(server.port, "other", vc_uuid=uuid(99))
    with_move.receive_until(suboption(71), AT_ONCE_S)
    with_move.begin_move(limit_s=AT_ONCE_S)
    with_move.close()
    assert time.monotonic() - began_s < AT_ONCE_S


# A file system


@pytest.mark.slow
def test_vm_whose_file_system_hangs_gets_its_last_good_answer_and_nobody_else_waits(
    serve: Callable[..., ServerProcess], files: HangingFiles
) -> None:
    files.write("web1.yaml", instance("old"))
    server = serve()
    known, unknown = Vm(server.port), Vm(server.port, "unknown", vc_uuid=uuid(2))
    unknown.receive_until(suboption(71))
    assert id_of(known) == "old"
    time.sleep(FRESH_S)
    files.hang()
    known.send(b"!!REQUEST_METADATA#\n")
    unknown.send(b"!!REQUEST_METADATA#\n")
    nobody_else_waits(server)
    assert known.answer(OVERDUE_S + MARGIN_S)[0] == "RESPONSE_METADATA"
    server.wait_for(f"VC UUID .*: {LAST_GOOD}")
    assert id_of(known, AT_ONCE_S) == "old"  # not another second for each document
    assert unknown.answer(TIMEOUT_S + MARGIN_S)[1].startswith(b'{"request":"REQUEST_METADATA"')
    wait_until(lambda: readyz(server, AT_ONCE_S) == 503, 6.0)
    nobody_else_waits(server)
    files.write("web1.yaml", instance("new"))
    files.resume()
    wait_until(lambda: id_of(known) == "new", 1.0)
    wait_until(lambda: readyz(server, AT_ONCE_S) == 200, 3.0)
    assert counters(server)["answers unchecked"] >= 2


def test_file_system_that_hangs_takes_a_bounded_number_of_threads(
    serve: Callable[..., ServerProcess], files: HangingFiles
) -> None:
    for number in range(60):
        files.write(f"vm{number}.yaml", instance(str(number)))
    server = serve("--lookup-pool", "4")
    known = [Vm(server.port, f"vm{n}", vc_uuid=uuid(n + 1)) for n in range(60)]
    for number, machine in enumerate(known):
        assert id_of(machine) == str(number)
    before = threads_of(server)
    time.sleep(FRESH_S)
    files.hang()
    unknown = [Vm(server.port, f"u{n}", vc_uuid=uuid(n + 100)) for n in range(20)]
    for machine in known + unknown:
        machine.send(b"!!REQUEST_METADATA#\n")
    for machine in known:
        assert machine.answer(OVERDUE_S + 2 * MARGIN_S)[0] == "RESPONSE_METADATA"
    for machine in unknown:  # also those without a place in the pool
        assert b'"timeout"' in machine.answer(2 * TIMEOUT_S + MARGIN_S)[1]
    assert threads_of(server) <= before + 4 + 8
    files.resume()
    for number, machine in enumerate(known):
        assert id_of(machine) == str(number)
    wait_until(lambda: server.log.count(LAST_GOOD) == 60, 1.0)


def test_vm_without_vc_uuid_gets_no_last_good_answer_of_a_file_system_that_hangs(
    serve: Callable[..., ServerProcess], files: HangingFiles
) -> None:
    """A name may be another VM's by now."""
    files.write("web1.yaml", instance("old"))
    machine = Vm(serve().port, vc_uuid=None)
    assert id_of(machine) == "old"
    time.sleep(FRESH_S)
    files.hang()
    assert error_of(machine, OVERDUE_S + MARGIN_S) == "failed"


def test_last_good_answers_can_be_switched_off_for_a_file_system_that_hangs(
    serve: Callable[..., ServerProcess], files: HangingFiles
) -> None:
    files.write("web1.yaml", instance("old"))
    machine = Vm(serve(last_good_max_age_s=0).port)
    assert id_of(machine) == "old"
    time.sleep(FRESH_S)
    files.hang()
    assert error_of(machine, OVERDUE_S + MARGIN_S) == "failed"


@pytest.mark.parametrize("options", [(), ("--workers", "2")], ids=["one", "workers"])
def test_term_ends_a_server_whose_file_system_hangs(
    serve: Callable[..., ServerProcess], files: HangingFiles, options: tuple[str, ...]
) -> None:
    files.write("web1.yaml", instance("old"))
    server = serve("--drain", "1", *options)
    machine = Vm(server.port)
    assert id_of(machine) == "old"
    files.hang()
    for number in range(5):
        Vm(server.port, f"u{number}", vc_uuid=uuid(number)).send(b"!!REQUEST_METADATA#\n")
    time.sleep(FRESH_S)
    machine.send(b"!!REQUEST_METADATA#\n")
    server.signal(signal.SIGTERM)
    assert server.wait(1 + 1 + 2 + 2 * MARGIN_S) == 0  # drain, farewell, the driver's close


# A driver


@pytest.fixture
def hangs(tmp_path: Path) -> Path:
    """Where a file hangs the VM of its name, `all` all of them."""
    path = tmp_path / "hangs"
    path.mkdir()
    (tmp_path / "version").write_text("1")
    return path


@pytest.fixture
def server(start: Start, hangs: Path) -> ServerProcess:
    opts = {"directory": str(hangs), "stale_if_error": 60}
    return start("--driver", "tests.hanging_driver:HangingDriver", driver_opts=opts)


def test_answers_that_hang_hold_up_no_other_one(server: ServerProcess, hangs: Path) -> None:
    machines = [Vm(server.port, f"vm{number}", vc_uuid=uuid(number + 1)) for number in range(40)]
    for machine in machines:
        assert id_of(machine) == "1"
    time.sleep(FRESH_S)
    stuck, others = machines[:5], machines[5:]
    for number in range(5):
        (hangs / f"vm{number}").touch()
    for machine in machines:  # also those that are looked at behind one that hangs
        machine.send(b"!!REQUEST_METADATA#\n")
    for machine in others:
        assert machine.answer()[0] == "RESPONSE_METADATA"
    time.sleep(FRESH_S)
    (hangs.parent / "version").write_text("2")
    time.sleep(FRESH_S)
    for machine in others:
        assert id_of(machine, AT_ONCE_S) == "2"
    for machine in stuck:
        assert b'"1"' in machine.answer()[1]
    for number in range(5):
        server.wait_for(f"VC UUID 00000000-0000-0000-0000-{number + 1:012x}: {LAST_GOOD}")
    assert server.log.count(LAST_GOOD) == 5
    for number in range(5):
        (hangs / f"vm{number}").unlink()
    for machine in stuck:
        wait_until(lambda: id_of(machine) == "2", 1.0)  # noqa: B023


def test_change_is_served_after_the_time_that_is_promised(
    server: ServerProcess, hangs: Path
) -> None:
    machine = Vm(server.port)
    assert id_of(machine) == "1"
    for version in map(str, range(2, 12)):
        (hangs.parent / "version").write_text(version)
        time.sleep(FRESH_S)
        assert id_of(machine) == version


def test_answer_that_was_given_is_never_followed_by_an_older_one(
    server: ServerProcess, hangs: Path
) -> None:
    machine, seen = Vm(server.port), [0]
    for version in range(1, 40):
        (hangs.parent / "version").write_text(str(version))
        for _ in range(3):
            seen.append(int(str(id_of(machine))))
    assert seen == sorted(seen)


def test_driver_that_does_not_answer_for_longer_than_it_allows_is_a_failure(
    start: Start, hangs: Path
) -> None:
    opts = {"directory": str(hangs), "stale_if_error": 2}
    server = start("--driver", "tests.hanging_driver:HangingDriver", driver_opts=opts)
    machine = Vm(server.port)
    assert id_of(machine) == "1"
    time.sleep(FRESH_S)
    (hangs / "all").touch()
    assert id_of(machine) == "1"
    wait_until(lambda: machine.ask("METADATA")[0] == "RESPONSE_ERROR", 4.0)
    (hangs / "all").unlink()
    wait_until(lambda: machine.ask("METADATA")[0] == "RESPONSE_METADATA", 1.0)


@pytest.mark.parametrize("is_kept", [True, False], ids=["kept", "for-each-anew"])
def test_vms_that_need_the_same_work_take_no_places_in_the_pool(
    start: Start, hangs: Path, is_kept: bool
) -> None:
    opts = {"directory": str(hangs), "stale_if_error": 60}
    driver = ("--driver", "tests.hanging_driver:HangingDriver")
    server = start(*driver, "--lookup-pool", "2", driver_opts=opts)
    if is_kept:
        (hangs / "kept").touch()
    (hangs / "work").touch()
    machines = [Vm(server.port, f"same{n}", vc_uuid=uuid(n + 1)) for n in range(20)]
    for machine in machines:
        machine.receive_until(suboption(71))
        machine.send(b"!!REQUEST_METADATA#\n")
    other = Vm(server.port, "other", vc_uuid=uuid(99))
    assert id_of(other, AT_ONCE_S) == "1"
    (hangs / "work").unlink()
    for machine in machines:
        assert machine.answer()[0] == "RESPONSE_METADATA"


def test_vms_that_wait_for_the_work_of_another_one_hear_timeout(
    server: ServerProcess, hangs: Path
) -> None:
    (hangs / "work").touch()
    machines = [Vm(server.port, f"same{n}", vc_uuid=uuid(n + 1)) for n in range(3)]
    for machine in machines:
        machine.send(b"!!REQUEST_METADATA#\n")
    for machine in machines:
        assert b'"timeout"' in machine.answer(TIMEOUT_S + MARGIN_S)[1]
    (hangs / "work").unlink()
    for machine in machines:
        assert id_of(machine, 1.0) == "1"


def test_close_of_a_driver_that_hangs_does_not_hold_up_the_end(
    server: ServerProcess, hangs: Path
) -> None:
    (hangs / "close").touch()
    server.signal(signal.SIGTERM)
    assert server.wait(5) == 0
    assert "HangingDriver: close does not return" in server.log

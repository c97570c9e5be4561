"""The parts of an upgrade: state file, signals, command, list of machines, deadlines."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import tracemalloc
from collections import Counter
from pathlib import Path
from typing import Any

import gevent
import pytest
import ujson
from hypothesis import given

from tests.process import Constants, run
from tests.test_chronicle import happenings
from tests.waiting import wait_in_hub_until
from vmw_cloudinit_metadata.admin import chroniclestate, views
from vmw_cloudinit_metadata.admin.chronicle import Chronicle
from vmw_cloudinit_metadata.admin.pulse import Pulse
from vmw_cloudinit_metadata.cli.upgrading import WorkerState
from vmw_cloudinit_metadata.drivers.file import FileDriver
from vmw_cloudinit_metadata.monitoring.happenings import Happening
from vmw_cloudinit_metadata.process import upgradecheck, upgradefile, upgradereport
from vmw_cloudinit_metadata.process.deadlines import REST_S, Deadlines
from vmw_cloudinit_metadata.process.signals import Signals
from vmw_cloudinit_metadata.process.upgrade import Upgrade
from vmw_cloudinit_metadata.process.upgradecheck import NextProgram, UpgradeError
from vmw_cloudinit_metadata.process.upgradereport import UpgradeOutcome
from vmw_cloudinit_metadata.protocol.rate import Rate
from vmw_cloudinit_metadata.protocol.state import InvalidState, State
from vmw_cloudinit_metadata.protocol.vmware import Machine
from vmw_cloudinit_metadata.serving.answerregister import AnswerRegister
from vmw_cloudinit_metadata.serving.server import MetadataServer
from vmw_cloudinit_metadata.settings.errors import ConfigError
from vmw_cloudinit_metadata.settings.values import Address

# The file


def handed(monkeypatch: pytest.MonkeyPatch, file: int) -> upgradefile.Before:
    for name, value in upgradefile.for_state(file).items():
        monkeypatch.setenv(name, value)
    return upgradefile.before()


def test_state_comes_through_the_file_once(monkeypatch: pytest.MonkeyPatch) -> None:
    state = {"name": "€\x00\xff", "list": [1, None, 2.5, True]}
    file = upgradefile.write(state)
    assert os.get_inheritable(file)
    assert handed(monkeypatch, file).state == state
    assert upgradefile.VARIABLE not in os.environ
    assert upgradefile.before() == upgradefile.Before()


def test_state_takes_no_more_memory_than_it_needs(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine of 1 GB of memory could not read it, and all of its lines were lost."""
    file = upgradefile.write({"one": "x"})
    tracemalloc.start()
    try:
        assert handed(monkeypatch, file).state == {"one": "x"}
        assert tracemalloc.get_traced_memory()[1] < 1_000_000
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize(
    "content",
    [b"", b"state of vmw-cloudinit-metadata, format 99\n{}", b"{}", b"x" * 500],
    ids=["empty", "another format", "no format", "anything"],
)
def test_file_that_is_no_state_is_refused(monkeypatch: pytest.MonkeyPatch, content: bytes) -> None:
    file = os.memfd_create("test")
    os.write(file, content)
    with pytest.raises(InvalidState):
        handed(monkeypatch, file)


def test_program_of_another_format_says_that_it_cannot_take_over() -> None:
    with pytest.raises(UpgradeError, match="restart the server instead"):
        upgradecheck.say_can(99, has_fleet=True)


@pytest.mark.parametrize(
    ("count", "listen", "changed"),
    [
        (2, [Address("::", 80), Address("0.0.0.0", 0)], []),
        (3, [Address("::", 80), Address("0.0.0.0", 0)], ["--workers"]),
        (2, [Address("::", 80)], ["--listen"]),
        (2, [Address("::", 80), Address("0.0.0.0", 91)], ["--listen"]),
        (1, [], ["--workers", "--listen"]),
    ],
)
def test_options_that_workers_cannot_take_are_named(
    count: int, listen: list[Address], changed: list[str]
) -> None:
    addresses = [Address("::", 80), Address("0.0.0.0", 90)]
    about = WorkerState(2, addresses, b"key", AnswerRegister((), b""))
    assert about.changed(count, listen) == changed


# The command of the next program


def test_script_is_executed_itself(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    script, module = tmp_path / "server", tmp_path / "server.py"
    for path, text, mode in ((script, "#!/usr/bin/python3\n", 0o700), (module, "#!x", 0o600)):
        path.write_text(text)
        path.chmod(mode)
    for given_, expected in {
        (str(script), "run"): [str(script), "run"],
        (str(module), "run"): [sys.executable, str(module), "run"],
        ("-m", "module", "run"): [sys.executable, "-m", "module", "run"],
    }.items():
        monkeypatch.setattr(sys, "orig_argv", ["python", *given_])
        assert upgradecheck.program() == expected


@pytest.mark.parametrize(
    ("program", "reason"),
    [
        ("print('can take over, as version 7')", None),
        ("import sys; print('can take over, as version 7'); sys.exit(3)", "exit code 3"),
        ("print('hello')", "hello"),
        ("raise ValueError('no\\x1b')", "ValueError: no"),
        ("print('x' * 10**6)", "does not start"),
        ("import time; time.sleep(60)", "not ready within 0.5 s"),
    ],
    ids=["can", "fails", "says something else", "raises", "says much", "hangs"],
)
def test_only_a_program_that_says_so_can_take_over(
    constants: Constants, program: str, reason: str | None
) -> None:
    command = [sys.executable, "-I", "-c", program]
    if reason is None:
        assert upgradecheck.check(command) == NextProgram("7", has_fleet=True)
        return
    if "sleep" in program:
        constants(process__upgradecheck__CHECK_S=0.5)
    with pytest.raises(UpgradeError) as caught:
        upgradecheck.check(command)
    assert reason in str(caught.value)
    assert len(str(caught.value)) < 2000


# An upgrade that fails


class Whole:
    """What a process does, played."""

    is_stopping = False

    def __init__(self) -> None:
        self.done: list[str] = []
        self.file = os.open(os.devnull, os.O_RDONLY)

    def prepare(self) -> None:
        self.done.append("prepare")

    def state(self) -> tuple[State, list[int]]:
        self.done.append("state")
        return {}, [self.file]

    def go_on(self) -> None:
        self.done.append("go on")


class StoppingWhole(Whole):
    def prepare(self) -> None:
        super().prepare()
        self.is_stopping = True


@pytest.mark.parametrize(
    ("whole", "done", "reason"),
    [
        (Whole(), ["prepare", "state", "go on"], "cannot execute: No such file"),
        (StoppingWhole(), ["prepare"], "the server is stopping"),
    ],
    ids=["program that vanished", "server that stops"],
)
def test_what_fails_before_execv_leaves_everything_as_before(
    monkeypatch: pytest.MonkeyPatch, whole: Whole, done: list[str], reason: str
) -> None:
    monkeypatch.setattr(sys, "orig_argv", ["python", "-m", "nothing"])
    monkeypatch.setattr(sys, "executable", "/nonexistent/python")
    handlers = {number: signal.getsignal(number) for number in (signal.SIGHUP, signal.SIGUSR2)}
    signals, outcomes = Signals(), list[UpgradeOutcome]()
    heard = Counter[int]()
    signals.handle({signal.SIGHUP: lambda: heard.update([signal.SIGHUP])})
    upgrade = Upgrade(whole, signals, outcomes.append, check=None)
    blocked = signal.pthread_sigmask(signal.SIG_BLOCK, [])
    try:
        upgrade.ask()
        upgrade.ask()
        wait_in_hub_until(lambda: outcomes and not upgrade.is_under_way)
        assert whole.done == done
        assert [outcome.is_done for outcome in outcomes] == [False]
        assert reason in outcomes[0].text
        assert not os.get_inheritable(whole.file)
        assert signal.pthread_sigmask(signal.SIG_BLOCK, []) == blocked
        os.kill(os.getpid(), signal.SIGHUP)
        wait_in_hub_until(lambda: heard == {signal.SIGHUP: 1})
    finally:
        signals.let_go()
        for number, handler in handlers.items():
            signal.signal(number, handler)


def test_program_whose_file_system_hangs_ends_the_upgrade_and_not_the_hub(
    monkeypatch: pytest.MonkeyPatch, constants: Constants, tmp_path: Path
) -> None:
    constants(process__upgrade__DISK_S=0.1)
    hanging = tmp_path / "server"
    os.mkfifo(hanging, 0o700)  # reading it waits for a writer
    monkeypatch.setattr(sys, "orig_argv", ["python", str(hanging)])
    whole, signals, outcomes = Whole(), Signals(), list[UpgradeOutcome]()
    try:
        upgrade = Upgrade(whole, signals, outcomes.append, check=None)
        upgrade.ask()
        wait_in_hub_until(lambda: outcomes and not upgrade.is_under_way)
        assert "a file system may hang" in outcomes[0].text
        assert not whole.done
    finally:
        signals.let_go()
        os.close(os.open(hanging, os.O_WRONLY | os.O_NONBLOCK))  # the thread ends


_HOLD = """
import os, signal, sys, time
import gevent
from vmw_cloudinit_metadata.process.signals import ALL, Signals
heard = []
signals = Signals(int(sys.argv[1]) if len(sys.argv) > 1 else None)
signals.handle({number: lambda number=number: heard.append(int(number)) for number in ALL})
if len(sys.argv) == 1:
    pipe = signals.hold()
    for number in ALL:
        os.kill(os.getpid(), number)
    os.execv(sys.executable, [sys.executable, "-c", sys.orig_argv[2], str(pipe)])
gevent.sleep(0.05)
print(sorted(heard) == sorted(ALL), sorted(signal.pthread_sigmask(0, [])))
"""


def test_signals_between_two_programs_are_handled_by_the_second_one() -> None:
    found = subprocess.run(
        [sys.executable, "-c", _HOLD], capture_output=True, text=True, check=False
    )
    assert (found.returncode, found.stdout) == (0, "True []\n"), found.stderr


# Deadlines


def test_rest_of_a_deadline_runs_in_the_next_program() -> None:
    before, after, over = Deadlines(), Deadlines(), list[str]()

    def end() -> None:
        over.append("end")

    before.start(1.0, end)
    gevent.sleep(0.7)
    left_s = before.left_s(end)
    assert left_s is not None
    assert 0.1 < left_s <= 0.31
    after.go_on(left_s, end)
    assert 0 < (after.left_s(end) or 0) <= REST_S
    before.cancel(end)
    assert before.left_s(end) is None
    wait_in_hub_until(lambda: over == ["end"])
    before.close()
    after.close()


def test_bucket_of_a_host_stays_as_full_as_it_was() -> None:
    before, after = Rate(1.0), Rate(1.0)
    passed = sum(before.passes("10.0.0.1", 5.0) for _ in range(30))
    after.restore(ujson.loads(ujson.dumps(before.state())))
    assert passed == 20
    assert not after.passes("10.0.0.1", 5.5)
    assert after.passes("10.0.0.1", 6.5)
    with pytest.raises(InvalidState):
        after.restore({"10.0.0.1": "x"})


# The list of machines


def view_of(chronicle: Chronicle) -> list[Any]:
    return [(views.row(record), views.story(record)) for record in chronicle.entries()]


def with_uuid(happening: Happening) -> Happening:
    number = happening.key[-1]
    machine = Machine(vc_uuid=f"{number * 8}-0000-0000-0000-000000000000", name=f"web{number}")
    return happening._replace(machine=machine)


@pytest.mark.parametrize(
    "entry",
    [5, [], ["x", None, 1, "{}"], [True, 0, 0, "{"], [True, 0, 0, "5"]],
    ids=["number", "empty", "other types", "no JSON", "no object"],
)
def test_connection_that_cannot_be_read_ends_no_other(tmp_path: Path, entry: object) -> None:
    driver = FileDriver({"directory": str(tmp_path)})
    before, after = (MetadataServer(driver, ["my-metadata"]).connections for _ in range(2))
    here, there = socket.socketpair()
    with here, there:
        before.begin(here, ("127.0.0.1", 1))  # type: ignore[arg-type]
        states, descriptors = before.state()
        copy = os.dup(descriptors[0])
        state = ujson.loads(states[0][-1]) | {"fd": copy}
        good = [*states[0][:-1], ujson.dumps(state)]
        spawned = list[Any]()
        assert after.restore([entry, good, entry], lambda sock, _: spawned.append(sock)) == 2
        assert [sock.fileno() for sock in spawned] == [copy]
        spawned[0].close()


def test_line_whose_vmotion_cannot_be_read_is_closed(tmp_path: Path) -> None:
    driver = FileDriver({"directory": str(tmp_path)})
    before, after = (MetadataServer(driver, ["my-metadata"]).connections for _ in range(2))
    here, there = socket.socketpair()
    with here, there:
        before.begin(here, ("127.0.0.1", 1)).resume_line()  # type: ignore[arg-type]
        ((*order, text),), descriptors = before.state()
        state = ujson.loads(text) | {"fd": os.dup(descriptors[0])}
        state["line"]["journey"] = 5
        spawned = list[Any]()
        entry = [*order, ujson.dumps(state)]
        assert after.restore([entry], lambda sock, _: spawned.append(sock)) == 1
        spawned[0].close()


@given(happenings().map(lambda told: [with_uuid(one) for one in told]))
def test_list_of_machines_is_the_same_after_an_upgrade(told: list[Happening]) -> None:
    before, after, pulse, next_pulse = Chronicle(), Chronicle(), Pulse(), Pulse()
    for happening in told:
        before.hear(happening)
        pulse.hear(happening)
    lost = chroniclestate.restore(after, ujson.loads(ujson.dumps(chroniclestate.state_of(before))))
    next_pulse.restore(ujson.loads(ujson.dumps(pulse.state())))
    assert lost == 0
    assert view_of(after) == view_of(before)
    assert (after.states, +after.problems) == (+before.states, +before.problems)
    assert after.kept_bytes == before.kept_bytes
    assert after.revision > before.revision
    assert next_pulse.picture(50.0) == pulse.picture(50.0)
    for happening in told:  # and it goes on in the same way
        before.hear(happening)
        after.hear(happening)
    # Not their stories: those are cut by the bytes of objects, and the texts here are constants.
    assert [*map(views.row, after.entries())] == [*map(views.row, before.entries())]


def test_record_that_cannot_be_read_costs_no_other() -> None:
    before, after = Chronicle(), Chronicle()
    before.expect([f"{number:08x}-0000-0000-0000-000000000000" for number in range(3)])
    state = chroniclestate.state_of(before)
    state["records"][1] = state["records"][1].replace("00000001-", "x-")
    assert chroniclestate.restore(after, state) == 1
    assert len(after) == 2


# The command


def test_outcome_comes_to_the_command_that_listens() -> None:
    pid = os.getpid()
    with upgradereport.listen(pid) as listener:
        with pytest.raises(ConfigError, match="being upgraded already"), upgradereport.listen(pid):
            pass
        upgradereport.tell(UpgradeOutcome(is_done=False, text="because"))
        assert listener.wait(5.0) == UpgradeOutcome(is_done=False, text="because")
        with pytest.raises(ConfigError, match="has said nothing"):
            listener.wait(0.0)
    upgradereport.tell(UpgradeOutcome(is_done=True, text="nobody listens"))


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        (("--pid", "1"), "no server that can be upgraded in place"),
        (("--pid", "4194303"), "there is no process 4194303"),
        (("--admin", "http://192.0.2.1:13371"), "give --pid, on the server's own machine"),
        (("--admin", "http://127.0.0.1:1"), "give --pid PID"),
        (("--pid", "1", "--timeout", "nan"), "found 'nan', expected a finite number"),
        (("--pid", "1", "--timeout", "1e10"), "more than 0 and at most 86,400"),
    ],
    ids=["another program", "no process", "another machine", "no admin port", "nan", "too long"],
)
def test_command_says_what_to_give(options: tuple[str, ...], reason: str) -> None:
    found = run("upgrade", *options)
    assert found.returncode == 2
    assert reason in found.stderr


def test_command_spares_another_program_that_handles_the_signal() -> None:
    program = (
        "import signal; signal.signal(signal.SIGUSR2, exit); print(flush=True); signal.pause()"
    )
    with subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE) as other:
        assert other.stdout
        other.stdout.readline()
        found = run("upgrade", "--pid", str(other.pid), "--timeout", "1")
        assert found.returncode == 2
        assert "no server that can be upgraded in place" in found.stderr
        assert other.poll() is None
        other.kill()

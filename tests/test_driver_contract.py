"""What a driver may return: reported in one line by the server, and by the helper for tests."""

from __future__ import annotations

import gc
import inspect
import json
import re
import signal
import socket
import subprocess
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests import faulty_drivers
from tests.ledger_driver import LedgerDriver
from tests.process import ServerProcess, run
from tests.vm import Vm
from vmw_cloudinit_metadata import Machine
from vmw_cloudinit_metadata.drivers import contract
from vmw_cloudinit_metadata.drivers.contract import ContractError
from vmw_cloudinit_metadata.drivers.driver import Driver
from vmw_cloudinit_metadata.drivers.file import FileDriver
from vmw_cloudinit_metadata.drivers.loading import load
from vmw_cloudinit_metadata.drivers.store import Store
from vmw_cloudinit_metadata.serving.answer import Failure, document_names, look_up
from vmw_cloudinit_metadata.settings.errors import ConfigError
from vmw_cloudinit_metadata.testing import check_driver, driver_faults, machine

WEB = [machine("web1"), machine("web2")]
UNKNOWN = machine("unknown")


def test_data_without_an_instance_id_is_reported(own_instances: Path) -> None:
    (own_instances / "bare.yaml").write_text("metadata: {role: db}")
    with pytest.raises(AssertionError, match=r"get_instance returned data that .* cannot get: "):
        check_driver(FileDriver, {"directory": str(own_instances)}, [machine("bare")], UNKNOWN)


def faults_of(name: str, options: dict[str, Any]) -> list[str]:
    return driver_faults(getattr(faulty_drivers, name), options, WEB, UNKNOWN)


FAULTS = {
    "ReturnsDict": "get_instance returned a dict: return InstanceData.from_mapping(...)",
    "ReturnsCoroutine": "get_instance returned a coroutine (it calls an async function): return",
    "ReturnsText": "get_instance returned a str: return InstanceData.from_mapping(...)",
    "RaisesForUnknown": "get_instance raises KeyError: 'unknown' (faulty_drivers.py:",
    "KnowsEverybody": "get_instance returned data for 'unknown', an unknown VM: return None",
    "NeedsName": "get_instance raises AttributeError: 'NoneType' object has no attribute 'lower'",
    "BreaksOnNul": "get_instance raises ValueError: embedded null byte (faulty_drivers.py:",
    "TakesPatterns": "get_instance returned data for the name '*': return None",
    "SharesState": "get_instance returned other data for",
    "HoldsNothing": "still_holds returned False for the new token of 'web1'",
    "HoldsText": "still_holds returned a str: return True or False",
    "YieldsTooFew": "which_hold yielded fewer booleans than tokens",
    "YieldsTooMany": "which_hold yielded more than a bool for a token",
    "BlocksTheHub": "held_at took 20 ms, expected at most 5 ms",
    "KnowsTheFuture": "held_at returned True for 'web1' at a time that is still to come",
    "NamesAsText": "document_names returned a str: return a set of names",
    "NamesInLowerCase": "document_names has 'securitydata', expected 1 to 32 capital letters",
    "HidesDocument": "document_names lacks SECURITYDATA of 'web1'",
    "ExplainsNothing": "explain returned None: return a sentence for the log",
    "ChecksByValue": "check returned a str: raise DriverError for a problem",
    "ValidatesWithText": "validate yielded a str: yield Fault(key, found, expected)",
    "SurveysWithText": "survey yielded a str: yield Observation(fault, vms)",
    "CountsByNumber": "census returned an int: return Census(files, vms, layers)",
    "TracesByText": "trace returned a str: yield sentences",
    "RevisesByText": "revision returned a str: return a number, or None",
    "TablesAsList": "tables returned a list: return a mapping",
    "TableWithoutBytes": "tables 'cache' has no kept_bytes",
    "NotesAsText": "notes returned a str: yield sentences",
    "StartsThread": "__init__ starts a thread",
    "Connects": "__init__ opens a connection",
    "RefusesByKeyError": "__init__ without the option 'url' raises KeyError: 'url'",
    "ShowsSecret": "__repr__ of the driver itself shows the value of 'password', a secret",
    "IgnoresOptions": "__init__ with an unknown option raises nothing",
    "Unprepared": "__init__ must call super().__init__(options)",
    "Async": "get_instance is async: write `def get_instance`",
    "AsyncHolds": "still_holds is async: write `def still_holds`",
    "Generator": "get_instance yields: write `return` instead",
}
SLOW = {  # they wait for a limit to pass
    "HangsForUnknown": "get_instance did not return within 3 s for an unknown VM",
    "LeavesThread": "close leaves a thread that keeps the program running",
    "HangsAtEnd": "close did not return within 2 s",
}


@pytest.fixture(autouse=True)
def unpatched() -> Iterator[None]:
    original = socket.socket
    faulty_drivers.LeavesThread.ended.clear()
    yield
    faulty_drivers.LeavesThread.ended.set()
    setattr(socket, "socket", original)  # noqa: B010


@pytest.mark.parametrize(
    "name", [*FAULTS, *(pytest.param(name, marks=pytest.mark.slow) for name in SLOW)]
)
def test_helper_reports_a_faulty_driver(name: str) -> None:
    options = {"url": "x"} if name == "RefusesByKeyError" else {}
    options |= {"password": "hunter2-hunter2"} if name == "ShowsSecret" else {}
    faults = faults_of(name, options)
    expected = f"{name}.{(FAULTS | SLOW)[name]}"
    assert [fault for fault in faults if fault.startswith(expected)], faults
    assert all(fault.startswith(f"{name}.") for fault in faults)
    assert all(fault.isprintable() for fault in faults)


def test_helper_reports_a_driver_that_replaces_parts_of_the_program() -> None:
    (fault,) = faults_of("Patches", {})
    assert fault.startswith("Patches replaces socket.socket, for the whole program")


@pytest.mark.parametrize("name", ["Right", "Tokens"])
def test_helper_has_nothing_against_a_driver_that_keeps_the_contract(name: str) -> None:
    assert faults_of(name, {"url": "x", "cache_ttl": 5} if name == "Right" else {}) == []


def test_file_driver_keeps_the_contract(own_instances: Path) -> None:
    check_driver(FileDriver, {"directory": str(own_instances)}, [machine("web1")], UNKNOWN)


def test_driver_without_unknown_vms_keeps_the_contract(tmp_path: Path) -> None:
    (tmp_path / "version").write_text("1")
    check_driver(LedgerDriver, {"directory": str(tmp_path), "cache_ttl": 1}, WEB)


def test_helper_raises_with_every_fault() -> None:
    with pytest.raises(AssertionError) as raised:
        check_driver(faulty_drivers.NamesAsText, {}, [machine("web1"), machine("db1")], UNKNOWN)
    first, *faults = str(raised.value).splitlines()
    assert first == "NamesAsText breaks the contract of drivers:"
    assert faults == [
        "- NamesAsText.document_names returned a str: return a set of names such as "
        '{"SECURITYDATA"}',
        "- NamesAsText.get_instance returned None for a known VM, 'db1'",
    ]


def test_helper_makes_machines_as_the_server_does() -> None:
    made = machine("web1", "50 12 34 56 78 9a bc de-f0 12 34 56 78 9a bc de")
    assert made.vc_uuid == "50123456-789a-bcde-f012-3456789abcde"
    assert (made.name, made.service_uri, made.peer_address) == ("web1", "my-metadata", "192.0.2.1")
    with pytest.raises(ValueError, match="bios_uuid: found 'x', expected 32 hexadecimal digits"):
        machine("web1", bios_uuid="x")
    with pytest.raises(ValueError, match="known: found no machine"):
        check_driver(faulty_drivers.Right, {}, [])


def test_helper_needs_no_pytest_and_no_gevent() -> None:
    program = (
        "import sys, vmw_cloudinit_metadata.testing as _; "
        "print({'pytest', 'gevent'} & {*sys.modules})"
    )
    ended = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    assert ended.stdout == "set()\n"


# The server


@pytest.mark.parametrize("name", ["ReturnsDict", "ReturnsCoroutine", "ReturnsText"])
def test_wrong_instance_is_a_failure_with_one_line(name: str) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        outcome = look_up(getattr(faulty_drivers, name)({}), WEB[0])
        gc.collect()
    assert isinstance(outcome, Failure)
    assert outcome.error == "failed"
    assert outcome.reason.startswith(f"{name}.{FAULTS[name]}")


@pytest.mark.parametrize(
    ("field", "value", "kind"),
    [
        ("problem", None, "None, expected a str"),
        ("matched_by", 5, "an int, expected a str"),
        ("sources", "web1.yaml", "a str, expected a tuple of str"),
        ("duplicates", ["x"], "a list, expected a tuple of str"),
    ],
)
def test_wrong_field_of_an_instance_is_reported(field: str, value: Any, kind: str) -> None:
    changed: dict[str, Any] = {field: value}
    with pytest.raises(ContractError) as raised:
        contract.instance(object(), replace(faulty_drivers.data_of("web1"), **changed))
    assert str(raised.value) == f"object.get_instance returned InstanceData whose {field} is {kind}"


def test_wrong_explanation_leaves_the_vm_unknown() -> None:
    outcome = look_up(faulty_drivers.ExplainsNothing({}), UNKNOWN)
    reason = f"ExplainsNothing.{FAULTS['ExplainsNothing']}"
    assert outcome == Failure("not-found", reason)


@pytest.mark.parametrize("name", ["NamesAsText", "NamesInLowerCase"])
def test_wrong_document_names_are_a_failure(name: str) -> None:
    outcome = document_names(getattr(faulty_drivers, name)({}))
    assert isinstance(outcome, Failure)
    assert outcome.reason.startswith(f"{name}.{FAULTS[name]}")


def test_names_that_were_checked_are_not_checked_again() -> None:
    names = frozenset({"SECURITYDATA"})
    assert contract.names(object(), names) is names
    wrong = frozenset({"wrong"})
    assert contract.names(object(), wrong, wrong) is wrong
    with pytest.raises(ContractError, match="document_names has 'wrong'"):
        contract.names(object(), wrong, names)
    assert contract.names(object(), (name for name in ("A", "B"))) == {"A", "B"}


@pytest.mark.parametrize("name", ["Async", "AsyncHolds", "Generator"])
def test_class_with_async_methods_is_refused_when_it_is_loaded(name: str) -> None:
    with pytest.raises(ConfigError) as raised:
        load(f"tests.faulty_drivers:{name}", {})
    expected = f"--driver tests.faulty_drivers:{name}: {name}.{FAULTS[name]}"
    assert str(raised.value).startswith(expected)


@pytest.mark.parametrize("kind", [Driver, Store])
def test_no_method_may_be_async(kind: type) -> None:
    async def wrong(self: Any) -> None:
        pass

    methods = inspect.getmembers(kind, inspect.isfunction)
    names = [name for name, _ in methods if not name.startswith("_")]
    assert "check" in names
    for name in names:
        fault = contract.method_fault(type("Wrong", (kind,), {name: wrong}))
        assert fault.startswith(f"Wrong.{name} is async"), name


class Mixed(faulty_drivers.Tokens):
    """Most methods return something wrong; two VMs have tokens."""

    def get_instance(self, machine: Machine) -> Any:
        return {} if machine.name == "dict" else super().get_instance(machine)

    async def _hold(self) -> bool:
        return True

    def still_holds(self, token: Any) -> Any:
        return self._hold() if token == "web1" else 1

    def held_at(self, token: Any, time_s: float) -> Any:  # noqa: ARG002
        return "yes" if token == "web1" else self._hold()

    def check(self) -> Any:
        return False

    def watch(self, report: Any) -> Any:
        return report

    def close(self) -> Any:
        return self._hold()


def test_server_reports_each_wrong_result_in_one_line(own_instances: Path) -> None:
    server = ServerProcess(
        own_instances, *("--driver", "tests.test_driver_contract:Mixed"), driver_opts={}
    )
    try:
        for name in ("web1", "web2"):
            machine = Vm(server.port, name)
            for _ in range(2):
                assert machine.metadata()["instance-id"] == name
                time.sleep(0.2)
        assert Vm(server.port, "dict").error("METADATA") == "failed"
        for text in (
            "Mixed.get_instance returned a dict: return InstanceData.from_mapping(...)",
            "Mixed.still_holds returned a coroutine (it calls an async function): return True or",
            "Mixed.still_holds returned an int: return True or False",
            "Mixed.held_at returned a str: return True or False",
            "Mixed.held_at returned a coroutine",
            "Mixed.watch returned a partial: return nothing",
        ):
            server.wait_for(re.escape(text))
        server.signal(signal.SIGTERM)
        assert server.wait(60) == 0
    finally:
        server.end()
    assert "Mixed.close returned a coroutine (it calls an async function): return" in server.log
    assert "Traceback" not in server.log
    assert "never awaited" not in server.log


@pytest.mark.parametrize(
    ("command", "name", "code"),
    [
        (("run", "--uri", "x", "--listen", "127.0.0.1:0"), "TablesAsList", 2),
        (("run", "--uri", "x", "--listen", "127.0.0.1:0"), "TableWithoutBytes", 2),
        (("show", "web1"), "ReturnsDict", 1),
        (("show", "web9"), "ExplainsNothing", 1),
        (("validate",), "ValidatesWithText", 2),
    ],
)
def test_command_reports_a_wrong_result_in_one_line(
    command: tuple[str, ...], name: str, code: int
) -> None:
    ended = run(*command, "--driver", f"tests.faulty_drivers:{name}")
    assert f"{name}.{FAULTS[name]}" in ended.stderr
    assert "Traceback" not in ended.stderr
    assert ended.returncode == code


# The command `drivers`


def test_installed_drivers_are_listed_with_their_options(
    install_drivers: Callable[[str], None], tmp_path: Path
) -> None:
    install_drivers(
        "ledger = tests.ledger_driver:LedgerDriver\n"
        "async = tests.faulty_drivers:Async\n"
        "broken = no_such_module:Driver\n"
        "right = tests.faulty_drivers:Right\n"
        "odd = tests.faulty_drivers:ComputedDefaults\n"
    )
    ended = run("drivers", env={"PYTHONPATH": str(tmp_path)})
    assert ended.returncode == 1
    lines = ended.stdout.splitlines()
    origin = "(some-drivers 1.0)"
    assert f"ledger  tests.ledger_driver:LedgerDriver  {origin}" in lines
    assert [line for line in lines if re.fullmatch(r"    directory \(.*Path, required\)", line)]
    assert "    cache_ttl (float, default 0): seconds for which an answer" in ended.stdout
    assert f"right  tests.faulty_drivers:Right  {origin}" in lines
    assert "    Does everything as it should." in lines
    assert "    and options that the driver does not declare" in lines
    problem = f"broken  no_such_module:Driver  {origin}: cannot import 'no_such_module': "
    assert [line for line in lines if line.startswith(problem)]
    assert (
        f"async  tests.faulty_drivers:Async  {origin}: Async.get_instance is async" in ended.stdout
    )

    assert "    odd (int, default computed)" in lines
    assert "    names (list[str], default [])" in lines

    ended = run("drivers", "--format", "json", env={"PYTHONPATH": str(tmp_path)})
    drivers = {driver["name"]: driver for driver in json.loads(ended.stdout)["drivers"]}
    assert drivers["file"]["problem"] == ""
    assert drivers["file"]["options"][0] == {
        "name": "directory",
        "type": "str",
        "default": None,
        "description": "the directory of the instance files",
    }
    names = [option["name"] for option in drivers["file"]["options"]]
    assert "cache_ttl" not in names
    assert drivers["broken"]["problem"].startswith("cannot import")


def test_command_ends_with_zero_if_every_driver_can_be_used() -> None:
    ended = run("drivers")
    assert ended.returncode == 0
    first_lines = [line for line in ended.stdout.splitlines() if not line.startswith(" ")]
    names = [line.partition("  ")[0] for line in first_lines]
    assert names == sorted(names)
    place = names.index("file")
    assert first_lines[place].startswith(
        "file  vmw_cloudinit_metadata.drivers.file:FileDriver  (vmw-"
    )

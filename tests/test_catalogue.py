"""The catalogue: all data is read in the background, and its faults are known before VMs boot."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from itertools import product
from pathlib import Path
from typing import Any

import gevent
import pytest
import ujson
from hypothesis import given
from hypothesis import strategies as st

from tests.conftest import Constants
from tests.process import CHECKOUT, ServerProcess, run, with_constants
from tests.test_admin import Admin, wait_until
from vmw_cloudinit_metadata.drivers import preparedrecords
from vmw_cloudinit_metadata.drivers.catalogue import records
from vmw_cloudinit_metadata.drivers.catalogue.child import Input, RecordWriter, Surveyor
from vmw_cloudinit_metadata.drivers.catalogue.findings import MAX_FINDINGS, Finding, Findings
from vmw_cloudinit_metadata.drivers.file import FileDriver
from vmw_cloudinit_metadata.drivers.observation import Census, Observation
from vmw_cloudinit_metadata.instance.fault import Fault
from vmw_cloudinit_metadata.process.interpreter import command_of
from vmw_cloudinit_metadata.serving.catalogue import Catalogue
from vmw_cloudinit_metadata.serving.surveyprocess import SurveyProcess

LIMIT_S = 60.0
PLAIN = "metadata: {role: web}\nnetwork: {address: 10.1.%d.%d/16}\n"
FAULTY = "metadata: {role: web}\nnetwork: {address: nonsense}\n"
SECRET = "correct-horse-battery-staple"


def write(directory: Path, **files: str) -> Path:
    for name, text in files.items():
        path = directory / name.replace("__", "/")
        path.parent.mkdir(exist_ok=True, parents=True)
        if path.suffix == "":
            path = path.with_suffix(".yaml")
        path.write_text(text)
        path.chmod(0o600)
    return directory


def surveyed(driver: FileDriver) -> dict[str, tuple[list[str], int]]:
    """What each fault affects, by its text without the directory."""
    findings = Findings()
    for observation in driver.survey():
        if observation:
            findings.add(observation)
    place = f"{driver.options.directory}/"
    return {str(one).replace(place, ""): (one.vms, one.vm_count) for one in findings}


# The survey


def test_survey_says_which_vms_a_fault_affects(tmp_path: Path) -> None:
    layer = "match: {name: web-*}\nmetadata: {region: eu}\nnetwork: {nameservers: [nonsense]}\n"
    write(tmp_path, layers__web=layer, db1=PLAIN % (0, 1), bad=FAULTY)
    write(tmp_path, **{f"web-{number}": PLAIN % (1, number) for number in range(1, 13)})
    driver = FileDriver({"directory": str(tmp_path)})
    of_layer, of_file = sorted(surveyed(driver).items(), reverse=True)
    assert of_file[0].startswith("bad.yaml:2: network.address: ")
    assert of_file[1] == (["bad"], 1)
    assert of_layer[0].startswith("layers/web.yaml:3: network.nameservers")
    assert of_layer[1][1] == 12
    assert of_layer[1][0] == sorted(f"web-{number}" for number in range(1, 13))[:10]
    assert driver.census() == Census(files=15, vms=14, layers=1)


def test_survey_finds_the_faults_that_validate_prints(tmp_path: Path) -> None:
    write(tmp_path, a=PLAIN % (1, 1), b=PLAIN % (1, 1), bad=FAULTY, layers__x="match: {name: zz}\n")
    driver = FileDriver({"directory": str(tmp_path)})
    seen = {one.fault for one in driver.survey() if one}
    assert seen == set(driver.validate())
    assert len(seen) == 3


TWICE = {
    "instance-id": "metadata: {instance-id: one}\n",
    "local-hostname": "metadata: {local-hostname: one}\n",
    "address": "metadata: {}\nnetwork: {address: 10.0.0.5/24}\n",
    "mac-address": "metadata: {}\nnetwork: {mac-address: '00:50:56:00:00:01', dhcp: true}\n",
    "match.vc-uuid": "metadata: {}\nmatch: {vc-uuid: 01234567-89ab-cdef-fedc-ba9876543210}\n",
}


@pytest.mark.parametrize(
    ("what", "other"),
    # The `match` of a layer is another one.
    sorted({*product(TWICE, ["file", "inventory", "layer"])} - {("match.vc-uuid", "layer")}),
)
def test_value_of_two_vms_is_found(tmp_path: Path, what: str, other: str) -> None:
    write(tmp_path, a=TWICE[what])
    entry = TWICE[what].replace("\n", "\n  ").rstrip()
    if other == "file":
        write(tmp_path, b=TWICE[what])
    elif other == "inventory":
        write(tmp_path, vms=f"b:\n  {entry}\n")
    else:
        write(tmp_path, layers__one=f"match: {{name: b}}\nserve: true\n{TWICE[what]}")
    driver = FileDriver({"directory": str(tmp_path)})
    found = surveyed(driver)
    (twice,) = (vms for text, vms in found.items() if what in text and " too" in text)
    assert twice == (["a", "b"], 2)
    assert driver.census().vms == 2
    assert {str(one) for one in driver.validate() if " too" in str(one)}


opened: list[str] = []  # while it is not None
is_counting = False


def _hear(event: str, arguments: tuple[Any, ...]) -> None:
    if is_counting and event == "open":
        opened.append(str(arguments[0]))


sys.addaudithook(_hear)


@pytest.fixture
def files_read() -> Iterator[Callable[[Callable[[], object]], set[str]]]:
    """Calls a function; returns the names of the instance files that it opened."""
    global is_counting

    def read_by(work: Callable[[], object]) -> set[str]:
        global is_counting
        opened.clear()
        is_counting = True
        work()
        is_counting = False
        return {Path(path).name for path in opened if path.endswith((".yaml", ".json", ".csv"))}

    yield read_by
    is_counting = False


@pytest.mark.usefixtures("settled")
def test_second_survey_reads_only_what_has_changed(
    tmp_path: Path, files_read: Callable[[Callable[[], object]], set[str]]
) -> None:
    write(tmp_path, **{f"web{number}": PLAIN % (1, number) for number in range(1, 20)})
    driver = FileDriver({"directory": str(tmp_path)})
    assert len(files_read(lambda: surveyed(driver))) == 19
    assert files_read(lambda: surveyed(driver)) == set()
    write(tmp_path, web3=FAULTY, new=PLAIN % (1, 1))
    (tmp_path / "web4.yaml").unlink()
    assert files_read(lambda: surveyed(driver)) == {"web3.yaml", "new.yaml"}
    assert surveyed(driver) == surveyed(FileDriver({"directory": str(tmp_path)}))
    assert driver.census().files == 19


EDITS = {
    "layer": {"layers__all": "metadata: {region: eu1}\nnetwork: {nameservers: [nonsense]}\n"},
    "inventory": {"vms": "web1: {}\n"},
    "rival": {"web1.yml": PLAIN % (1, 1)},
    "user-data": {"web2": "metadata: {}\nuserdata-file: web1.yaml\n"},
    "emptied": {"web1": "\n"},
}


@pytest.mark.usefixtures("settled")
@pytest.mark.parametrize("edit", EDITS)
def test_survey_after_a_change_finds_what_a_first_one_does(tmp_path: Path, edit: str) -> None:
    write(tmp_path, web1="role: web\n", web2=PLAIN % (1, 2), web3=PLAIN % (1, 2))
    driver = FileDriver({"directory": str(tmp_path)})
    before = surveyed(driver)
    write(tmp_path, **EDITS[edit])
    after = surveyed(driver)
    assert after == surveyed(FileDriver({"directory": str(tmp_path)}))
    assert after != before or edit == "emptied"


# Findings and records


def test_findings_beyond_the_bound_are_counted() -> None:
    findings = Findings()
    for number in range(MAX_FINDINGS + 7):
        fault = Fault(("metadata",), "one", "another", f"/{number}.yaml", 1)
        findings.add(Observation(fault, (str(number),), 1))
        findings.add(Observation(fault, (str(number),), 1))
    assert len(list(findings)) == MAX_FINDINGS
    assert findings.left_out == 7
    assert findings.counts == {False: MAX_FINDINGS + 7, True: 0}
    assert findings.states(Census(files=2000))["ok"] == 2000 - MAX_FINDINGS - 7


def test_equal_warnings_are_one_finding() -> None:
    findings = Findings()
    for number in range(300):
        fault = Fault((), "mode 0644", "0640", f"/{number}.yaml", 1, is_warning=True)
        findings.add(Observation(fault, (str(number),), 1))
    (one,) = findings
    assert (one.count, len(one.files), len(one.vms), one.vm_count) == (300, 100, 10, 300)
    assert findings.states(Census(files=301)) == {"ok": 1, "warning": 300, "fault": 0}


texts = st.text(max_size=2000) | st.just("\n\x1b[2J\u202e<script>")


@given(texts, texts, texts, st.lists(texts, max_size=10), st.booleans())
def test_any_finding_passes_as_one_line(
    found: str, expected: str, file: str, vms: list[str], is_warning: bool
) -> None:
    fault = Fault(("userdata", found), found, expected, file, 3, is_warning=is_warning)
    line = records.of_finding(Finding(fault, [file] * 100, 100, vms, len(vms)))
    assert line.endswith(b"\n")
    assert line.count(b"\n") == 1
    assert len(line) <= preparedrecords.MAX_LINE_BYTES
    record = records.decode(line)
    assert isinstance(record, records.Found)
    assert record.finding["severity"] == ("warning" if is_warning else "fault")
    assert all(text.isprintable() for text in record.finding["vms"])


values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=9), inner),
    max_leaves=8,
)
KINDS = ["unable", "began", "alive", "found", "done", "failed", "warmed"]


finite = values.filter(lambda value: not {"inf", "nan"} & set(re.findall("[a-z]+", repr(value))))


@given(st.binary(max_size=200) | finite.map(lambda value: ujson.dumps(value).encode()))
def test_any_bytes_are_a_record_or_invalid(line: bytes) -> None:
    with suppress(preparedrecords.InvalidRecord):
        records.decode(line)


DONE = {"files": {"ok": 1, "warning": 0, "fault": 0}, "vms": 1, "layers": 0, "faults": 0}
DONE |= {"warnings": 0, "left_out": 0, "seconds": 0.5, "noun": "file"}
FOUND = records.decode(records.of_finding(Finding(Fault((), "a", "b", "/c", 1), count=1)))


@given(st.sampled_from(KINDS), st.sampled_from([*DONE]), values)
def test_record_with_another_value_is_checked(kind: str, key: str, value: object) -> None:
    assert isinstance(FOUND, records.Found)
    wrong_finding = {**FOUND.finding, "line": value, "vms": value}
    record = {"kind": kind, **DONE, key: value, "checked": value, "reason": value}
    try:
        line = ujson.dumps({**record, "finding": wrong_finding}, allow_nan=False).encode()
    except (OverflowError, ValueError, UnicodeEncodeError):
        return
    try:
        found = records.decode(line)
    except preparedrecords.InvalidRecord:
        return
    catalogue = Catalogue()
    catalogue.take(found)
    assert ujson.dumps(catalogue.summary())


def test_catalogue_keeps_bounded_bytes_and_counts_the_rest(constants: Constants) -> None:
    constants(serving__catalogue__KEPT_BYTES=2000)
    catalogue = Catalogue()
    catalogue.take(records.Began())
    for _ in range(50):
        catalogue.take(FOUND)
    done: Any = records.decode(ujson.dumps({"kind": "done", **DONE, "left_out": 3}).encode())
    catalogue.take(done)
    assert catalogue.kept_bytes <= 2000
    assert catalogue.summary()["left_out"] == 50 - len(catalogue.rows()) + 3


# The process


@pytest.fixture
def babbled(constants: Constants) -> Iterator[Callable[..., tuple[SurveyProcess, list[str]]]]:
    """Starts a process that writes any bytes instead of records."""
    processes = []

    def start(**options: object) -> tuple[SurveyProcess, list[str]]:
        constants(serving__surveyprocess__PROGRAM="tests.babbler")
        constants(serving__surveyprocess__TURN_S=0.05)
        failures: list[str] = []
        catalogue = Catalogue()
        process = SurveyProcess("x:Y", options, 2**30, catalogue.take, failures.append)
        processes.append(process)
        process.start()
        end_s = time.monotonic() + LIMIT_S
        while not any(process.counted().values()) and time.monotonic() < end_s:
            gevent.sleep(0.02)
        return process, failures

    yield start
    for process in processes:
        process.stop()


GARBAGE = {
    "no JSON": ({"piece": "\xff\xfe\n"}, "it sent invalid JSON"),
    "no record": ({"piece": "[]\n"}, "it sent an unknown record"),
    "no line": ({"piece": "x" * 50_000, "times": 2}, "it sent a line that is too long"),
    "too many": ({"piece": '{"kind":"began"}\n' * 900, "times": 100}, "it sent too many records"),
    "failure": (
        {"piece": '{"kind":"failed","reason":"no memory"}\n', "ends": True},
        "it cannot read the data: no memory",
    ),
    "nothing": ({"piece": "", "ends": True}, "it has ended with 0; starting"),
    "traceback": (
        {"piece": "", "error": 9000 * "x" + "\n  line 1\nImportError: n\x1b\n", "ends": True},
        "it has ended with 0: ImportError: n\x1b; starting",
    ),
}


@pytest.mark.parametrize("case", GARBAGE)
def test_process_that_writes_garbage_is_ended_and_started_again(
    case: str,
    babbled: Callable[..., tuple[SurveyProcess, list[str]]],
    constants: Constants,
    caplog: pytest.LogCaptureFixture,
) -> None:
    constants(serving__surveyprocess__MAX_RECORDS=5000)
    options, expected = GARBAGE[case]
    process, failures = babbled(**options)
    assert failures[-1].endswith("; starting another one in 1 s")
    assert failures[0].startswith(expected)
    if case == "failure":
        assert "no memory" in failures[-1]
        assert caplog.text.count("no memory") == 1
    assert list(process.counted().values()) == [1]
    assert process.pid is None
    process.ask()  # which nobody hears


LEAKY = """
from vmw_cloudinit_metadata import Driver

class Leaky(Driver):
    def get_instance(self, machine):
        return None

    def validate(self):
        if self.options["fails"] == "validate":
            raise BrokenPipeError(self.options["password"])
        return []

    def close(self):
        raise ValueError(self.options["password"])
"""


@pytest.mark.parametrize("fails", ["validate", "close"])
def test_error_of_a_driver_is_told_without_the_secrets_of_its_options(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fails: str
) -> None:
    (tmp_path / "leaky.py").write_text(LEAKY)
    monkeypatch.syspath_prepend(str(tmp_path))
    work = {"driver": "leaky:Leaky", "options": {"password": SECRET, "fails": fails}}
    further = {"memory_bytes": 2**30, "prepared_bytes": 0, "records_uses": True}
    line = ujson.dumps(work | further).encode() + b"\n"
    command = command_of("vmw_cloudinit_metadata.drivers.catalogue.child")
    done = subprocess.run(command, input=line, capture_output=True, timeout=LIMIT_S)
    failed = records.decode(done.stdout.splitlines()[-1])
    assert isinstance(failed, records.Failed)
    assert "Error: " in failed.reason
    assert SECRET not in failed.reason
    assert (done.returncode, done.stderr) == (1, b"")


LATE = """
import time
from vmw_cloudinit_metadata import Driver

class Late(Driver):
    number = None

    def get_instance(self, machine):
        return None

    def revision(self):
        return self.number

    def validate(self):
        time.sleep(0.01)
        self.number = 1  # it has begun to notify, and had to wait for that
        return []
"""


class Beginnings(RecordWriter):
    def __init__(self) -> None:
        self.count = 0

    def write(self, record: bytes) -> None:
        self.count += record == records.of_began()

    def stay_alive(self, checked: int = 0) -> bool:
        return bool(checked)


class Patience(Input):
    """Ends the process after so many looks."""

    def look(self, limit_s: float = 0.0) -> None:  # noqa: ARG002
        self.looks = getattr(self, "looks", 0) + 1
        if self.looks > 20:
            raise SystemExit


def test_driver_that_begins_to_notify_during_a_survey_is_surveyed_again_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, constants: Constants
) -> None:
    (tmp_path / "late.py").write_text(LATE)
    monkeypatch.syspath_prepend(str(tmp_path))
    place = "drivers__catalogue__child__"
    constants(**{f"{place}SETTLE_S": -1.0, f"{place}STORM_SHARE": 1e-9, f"{place}WATCHES_S": 0.0})
    began = Beginnings()
    with pytest.raises(SystemExit):
        Surveyor("late:Late", {}, 0, Patience(0), began).run()
    assert began.count == 2


START = """
import subprocess, sys
from vmw_cloudinit_metadata.process.interpreter import command_of
sys.path.insert(0, "")  # as an embedding program may have it
print([*sys.path, "a b"], flush=True)
subprocess.run(command_of("shows", "a b"))
"""


def test_another_process_imports_what_this_one_does(tmp_path: Path) -> None:
    for module in ("re", "types", "site"):  # this one has imported them before
        (tmp_path / f"{module}.py").write_text("raise SystemError\n")
    (tmp_path / "shows.py").write_text("import sys; print([*sys.path, *sys.argv[1:]])\n")
    command = [sys.executable, "-P", "-c", START]
    env = {**os.environ, "PYTHONPATH": str(CHECKOUT)}
    done = subprocess.run(command, cwd=tmp_path, env=env, capture_output=True, text=True)
    ours, theirs = done.stdout.replace("''", repr(str(tmp_path))).splitlines()
    assert theirs == ours


# Real servers


def child_of(pid: int) -> int:
    """The catalogue's process of a server."""
    for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split():
        if b"catalogue.child" in Path(f"/proc/{child}/cmdline").read_bytes():
            return int(child)
    return 0


def fill(directory: Path, count: int = 2000, faulty: int = 80) -> None:
    for number in range(count):
        text = FAULTY if number < faulty else PLAIN % (number // 250, number % 250 + 1)
        write(directory, **{f"vm{number}": text})


@pytest.mark.slow
@pytest.mark.parametrize("workers", [1, 2])
def test_80_faulty_files_of_2000_are_seen_at_the_start_and_changes_soon(
    own_instances: Path, start: Callable[..., ServerProcess], workers: int
) -> None:
    fill(own_instances)
    (own_instances / "web1.yaml").chmod(0o600)
    began_s = time.monotonic()
    server = start("--catalogue", "--workers", str(workers))
    admin = Admin(server)
    wait_until(lambda: admin.metric("vmw_metadata_instance_files", state="fault") == 80)
    print(f"seen after {time.monotonic() - began_s:.1f} s")
    found = admin.json("/api/faults?severity=fault&per_page=1000")
    assert found["files"] == {"ok": 1921, "warning": 0, "fault": 80}
    assert found["totals"] == {"faults": 80, "warnings": 0}
    assert {tuple(one["vms"]) for one in found["faults"]} == {(f"vm{n}",) for n in range(80)}
    one = next(one for one in found["faults"] if one["vms"] == ["vm7"])
    assert one["file"] == f"{own_instances}/vm7.yaml"
    assert (one["line"], one["key"]) == (2, "network.address")
    assert one["expected"]
    server.wait_for(r"WARNING.* instance files: 2001 files, 2001 VMs, 0 layers; 80 faults in 80 ")

    write(own_instances, vm7=PLAIN % (7, 7), new=FAULTY)
    (own_instances / "vm8.yaml").unlink()
    faulty = {f"vm{number}" for number in range(80)} - {"vm7", "vm8"} | {"new"}

    def names() -> set[str]:
        return {one["vms"][0] for one in admin.json("/api/faults?severity=fault")["faults"]}

    wait_until(lambda: names() == faulty)  # each change may be seen by itself
    assert admin.metric("vmw_metadata_instance_files", state="ok") == 1922 - 1

    before = admin.json("/api/status")["instance_files"]["revision"]
    server.signal(signal.SIGHUP)
    wait_until(lambda: admin.json("/api/status")["instance_files"]["revision"] > before)
    assert admin.json("/api/status")["instance_files"]["faults"] == 79


@pytest.mark.slow
@pytest.mark.parametrize("workers", [1, 2])
def test_process_that_dies_or_stops_is_replaced_and_ends_with_the_server(
    start: Callable[..., ServerProcess], workers: int
) -> None:
    command = with_constants(serving__surveyprocess__SILENT_S=5.0)
    server = start("--catalogue", "--workers", str(workers), command=command)
    admin = Admin(server)

    def revision() -> int:
        return int(admin.json("/api/status")["instance_files"]["revision"])

    wait_until(revision)
    for number, expected in ((signal.SIGKILL, "ended with -9"), (signal.SIGSTOP, "been silent")):
        before, pid = revision(), child_of(server.pid)
        os.kill(pid, number)
        server.wait_for(f"the catalogue's process: it has {expected}")
        wait_until(lambda pid=pid: child_of(server.pid) not in (0, pid))
        wait_until(lambda before=before: revision() > before + 1)
        assert admin.json("/api/faults")["state"] == "complete"
        assert admin.status("/readyz") == 200
    assert admin.metric("vmw_metadata_catalogue_restarts_total") == 2
    pid = child_of(server.pid)
    os.kill(server.pid, signal.SIGKILL)
    wait_until(lambda: not Path(f"/proc/{pid}").exists())


STORE = """
import json, os
from vmw_cloudinit_metadata import Key, Record, Store

class Shelf(Store):
    poll_s = 0.1

    def all(self):
        with open(self.options["path"]) as file:
            return [Record(Key("name", name), data, name) for name, data in json.load(file).items()]

    def fetch(self, keys):
        return [record for record in self.all() if record.key in keys]

    def version(self):
        found = os.stat(self.options["path"])
        return found.st_mtime_ns, found.st_ino
"""


def test_faults_of_a_store_are_seen_at_the_start_and_after_a_change(
    tmp_path: Path, start: Callable[..., ServerProcess]
) -> None:
    def put(**data: object) -> None:
        (tmp_path / "new").write_text(ujson.dumps(data))
        (tmp_path / "new").rename(tmp_path / "shelf.json")

    (tmp_path / "shelfstore.py").write_text(STORE)
    put(web1={"metadata": {}}, bad={"network": {"address": "nonsense"}})
    path = os.pathsep.join((str(tmp_path), str(CHECKOUT)))
    server = start(
        *("--catalogue", "--driver", "shelfstore:Shelf"),
        driver_opts={"path": str(tmp_path / "shelf.json")},
        env={**os.environ, "PYTHONPATH": path},
    )
    admin = Admin(server)

    def faulty() -> set[str]:
        found = admin.json("/api/faults?severity=fault")
        return {vm for one in found["faults"] for vm in one["vms"]}

    wait_until(lambda: faulty() == {"bad"})
    assert admin.json("/api/faults")["files"] == {"ok": 1, "warning": 0, "fault": 1}
    put(web1={"metadata": "nothing"}, bad={"metadata": {}})
    wait_until(lambda: faulty() == {"web1"})


def test_driver_that_cannot_validate_has_no_catalogue(start: Callable[..., ServerProcess]) -> None:
    server = start(
        "--catalogue", "--driver", "tests.scripted_driver:ScriptedDriver", driver_opts={}
    )
    server.wait_for("the driver cannot check its data")
    admin = Admin(server)
    assert admin.json("/api/faults")["state"] == "unable"
    assert b"instance_files" not in admin.request("/metrics")[1]
    wait_until(lambda: not child_of(server.pid))


def test_options_of_the_driver_are_no_arguments(
    own_instances: Path, start: Callable[..., ServerProcess]
) -> None:
    write(own_instances, bad=f"metadata: {{}}\nuserdata: {{password: [{SECRET}]}}\nx: {SECRET}\n")
    server = start("--catalogue")
    admin = Admin(server)
    wait_until(lambda: admin.json("/api/faults")["totals"]["faults"])
    arguments = Path(f"/proc/{child_of(server.pid)}/cmdline").read_bytes()
    assert str(own_instances).encode() not in arguments
    assert SECRET.encode() not in admin.request("/api/faults")[1]
    assert admin.status("/api/faults?severity=x") == 400


def test_setting_is_shown_as_the_file_may_have_it(own_instances: Path) -> None:
    opts = ujson.dumps({"directory": str(own_instances)})
    arguments = ("check-config", "--uri", "x", "--driver-opts", opts)
    shown = run(*arguments, env={"VMW_METADATA_CATALOGUE": "no"}).stdout
    assert re.search(r"^catalogue: false +# environment", shown, re.MULTILINE)


def test_without_catalogue_there_is_none(start: Callable[..., ServerProcess]) -> None:
    server = start()
    admin = Admin(server)
    assert admin.json("/api/faults") == {
        "faults": [], "total": 0, "page": 1, "per_page": 100, "pages": 1, "state": "off"
    }  # fmt: skip
    assert child_of(server.pid) == 0


SHARED = {
    "written out": ("address: 10.0.0.5/24", 1),
    "by a reference": ("address: '10.0.0.${match.number}/24'", 0),
    "no value of one VM": ("dhcp: true", 0),
}


@pytest.mark.parametrize("case", SHARED)
def test_value_that_a_layer_gives_to_several_vms_is_found(tmp_path: Path, case: str) -> None:
    network, count = SHARED[case]
    match = "match: {name: 'web-{number}'}\nserve: true\n"
    write(tmp_path, layers__web=f"{match}network: {{{network}}}\n")
    found = list(FileDriver({"directory": str(tmp_path)}).validate())
    assert len(found) == count
    if found:
        warning = (
            "layers/web.yaml:3: warning: network.address: found '10.0.0.5', which each VM gets"
        )
        assert warning in str(found[0])

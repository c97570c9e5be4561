"""`client`: real programs against a real server, and against servers that are wrong on purpose."""

from __future__ import annotations

import base64
import hashlib
import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.certificates import Pair, make_pair
from tests.process import CHECKOUT, ServerProcess
from vmw_cloudinit_metadata.cli import client_main
from vmw_cloudinit_metadata.client.crew import is_bottleneck
from vmw_cloudinit_metadata.client.expectation import DOCUMENTS, Exactly, Named, VmFailure, body_of
from vmw_cloudinit_metadata.client.tally import Histogram, Tally
from vmw_cloudinit_metadata.client.watched import Watched
from vmw_cloudinit_metadata.protocol.vmware import Suboption

BIN = str(CHECKOUT / "bin/vmw-metadata-client")
pytestmark = pytest.mark.slow

LIMIT_S = 30
GREETING = bytes.fromhex("fffb00 fffb03 fffb01 fffd00 fffd03 fffde8".replace(" ", ""))
TO_ASK = bytes.fromhex("fffae851fff0 fffae853fff0 fffae847fff0".replace(" ", ""))


def client(command: str, port: int, *options: str) -> subprocess.CompletedProcess[str]:
    server = ("--server", f"127.0.0.1:{port}", "--uri", "my-metadata")
    return run(command, *server, *options)


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, BIN, *arguments], capture_output=True, text=True, timeout=LIMIT_S
    )


@dataclass(frozen=True)
class Ended:
    returncode: int
    stdout: str
    stderr: str


Call = Callable[..., Ended]


@pytest.fixture
def call(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Call:
    """Runs the program in this process, which is quicker."""

    def call_program(command: str, port: int, *options: str) -> Ended:
        server = ("--server", f"127.0.0.1:{port}", "--uri", "my-metadata")
        monkeypatch.setattr(sys, "argv", [BIN, command, *server, *options])
        monkeypatch.setattr(sys, "path", list(sys.path))
        with pytest.raises(SystemExit) as ended:
            client_main()
        return Ended(int(ended.value.code or 0), *capfd.readouterr())

    return call_program


@pytest.fixture(scope="module")
def instances(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("client")
    for number in range(20):
        text = f"metadata: {{hostname: vm-{number:05}}}\nuserdata: 'of {number}'\n"
        (directory / f"vm-{number:05}.yaml").write_text(text)
    (directory / "01234567-89ab-cdef-0123-456789abcdef.yaml").write_text(
        "metadata: {}\nuserdata: by UUID\n"
    )
    return directory


# fetch


def test_fetch_prints_the_documents(server: ServerProcess) -> None:
    ended = client("fetch", server.port, "vm-00007", "--vc-uuid", "0" * 32)
    assert ended.returncode == 0
    assert '"local-hostname":"vm-00007"' in ended.stdout
    assert ended.stdout.endswith("==> user-data (4 bytes) <==\nof 7\n")


def test_fetch_is_a_command_of_the_main_program_too(server: ServerProcess) -> None:
    server_options = ("--server", f"127.0.0.1:{server.port}", "--uri", "my-metadata")
    program = [sys.executable, "-m", "vmw_cloudinit_metadata", "client"]
    subprocess.run(
        [*program, "fetch", "vm-00001", "--vc-uuid", "0" * 32, *server_options],
        check=True,
        stdout=subprocess.DEVNULL,
        timeout=LIMIT_S,
    )


def test_fetch_writes_the_files_of_nocloud(
    call: Call, server: ServerProcess, tmp_path: Path
) -> None:
    options = ("vm-00007", "--vc-uuid", "0" * 32, "--direction", "server")
    ended = call("fetch", server.port, *options, "--output", str(tmp_path / "seed"))
    assert (ended.returncode, ended.stdout) == (0, "")
    names = {path.name for path in (tmp_path / "seed").iterdir()}
    assert names == {"meta-data", "network-config", "user-data", "vendor-data"}
    assert (tmp_path / "seed/user-data").read_bytes() == b"of 7"


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        (("nobody",), "error: not-found"),
        (("vm-00001",), "error: invalid: .*\ndata without an instance-id .*, so give --vc-uuid"),
        (("vm-00001", "--uri", "other"), "refused: .*WONT-PROXY"),
        (("vm-00001", "--tls", "telnets", "--limit", "1"), "TLS"),
        (("vm-00001", "--tls", "authentication"), "TLS refused"),
        (("vm-00001", "--document", "NOSUCH"), "error: unknown-request"),
    ],
    ids=lambda value: value if isinstance(value, str) else " ".join(value),
)
def test_fetch_that_fails_says_why(
    call: Call, server: ServerProcess, options: tuple[str, ...], reason: str
) -> None:
    ended = call("fetch", server.port, *options)
    assert ended.returncode == 1
    assert re.search(reason, ended.stderr), ended.stderr
    assert "Traceback" not in ended.stderr


def test_fetch_without_a_server_says_so(call: Call) -> None:
    ended = call("fetch", 1, "vm-00001")
    assert ended.returncode == 1
    assert "connect: 127.0.0.1:1: Connection refused" in ended.stderr


@pytest.fixture(scope="module")
def pair(program: Callable[[str, str], str], tmp_path_factory: pytest.TempPathFactory) -> Pair:
    return make_pair(program("openssl", "openssl"), tmp_path_factory.mktemp("tls"), "localhost")


@pytest.fixture(scope="module")
def tls_server(instances: Path, pair: Pair) -> Iterator[ServerProcess]:
    process = ServerProcess(instances, *pair.options, "--tls", "require")
    yield process
    process.end()


@pytest.mark.parametrize("tls", ["telnets", "authentication"])
@pytest.mark.parametrize("algorithm", ["sha1", "sha256"])
def test_fetch_by_tls_checks_the_thumbprint(
    call: Call, tls_server: ServerProcess, pair: Pair, tls: str, algorithm: str
) -> None:
    right = hashlib.new(algorithm, pair.der).hexdigest().upper()
    pairs = ":".join(re.findall("..", right))
    options = ("vm-00001", "--vc-uuid", "0" * 32, "--tls", tls, "--thumbprint")
    assert call("fetch", tls_server.port, *options, pairs).returncode == 0
    ended = call("fetch", tls_server.port, *options, "0" * len(right))
    assert ended.returncode == 1
    assert "thumbprint" in ended.stderr


@pytest.mark.parametrize(("host", "code"), [("localhost", 0), ("127.0.0.1", 1)])
def test_fetch_by_tls_checks_the_name(
    call: Call, tls_server: ServerProcess, pair: Pair, host: str, code: int
) -> None:
    ended = call(
        *("fetch", tls_server.port, "vm-00001", "--vc-uuid", "0" * 32),
        *("--server", f"{host}:{tls_server.port}"),
        *("--tls", "telnets", "--ca", str(pair.certificate)),
    )
    assert ended.returncode == code, ended.stderr


def test_fetch_in_plain_is_refused_where_tls_is_required(
    call: Call, tls_server: ServerProcess
) -> None:
    ended = call("fetch", tls_server.port, "vm-00001")
    assert (ended.returncode, "or requires TLS (--tls)" in ended.stderr) == (1, True)


# storm, herd, steady, soak


@pytest.mark.parametrize(
    "scenario",
    [
        "storm -n 60 -c 20",
        "storm -n 60 --processes 2 --rate 200",
        "herd --source-addresses 127.0.0.2-127.0.0.4,127.0.0.9",
        "steady -t 0.5 --processes 2",
        "soak -t 0.5 -c 20",
        "soak -t 5 -c 50 --processes 2",
        "storm -n 5 --pace 1",
    ],
)
def test_load_of_a_good_server_has_no_failures(
    server: ServerProcess, instances: Path, tmp_path: Path, scenario: str
) -> None:
    name, *options = scenario.split()
    file, page = tmp_path / "result.json", tmp_path / "report.html"
    ended = client(
        *(name, server.port, "--directory", str(instances), *options),
        *("--json", str(file), "--report", str(page), "--server-pid", str(server.pid)),
    )
    assert ended.returncode == 0, ended.stdout + ended.stderr
    result = json.loads(file.read_text())
    check_result(result)
    assert result["failures"] == {}
    assert f"{name}: {result['boots']:,} boots" in ended.stdout
    assert page.read_text().startswith("<!")


@pytest.mark.parametrize("option", ["--json", "--report"])
def test_result_that_has_no_place_is_reported_before_the_test(option: str) -> None:
    ended = client("storm", 1, "--pattern", "vm-{:05}", "-n", "1", option, "/nowhere/result")
    assert (ended.returncode, ended.stdout) == (2, "")
    assert "directory '/nowhere' does not exist" in ended.stderr


def test_soak_of_workers_has_no_failures(
    start: Callable[..., ServerProcess], own_instances: Path
) -> None:
    server = start("--workers", "2")
    options = ("--directory", str(own_instances), *("-t", "1", "-c", "20", "--limit", "20"))
    ended = client("soak", server.port, *options)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    server.signal(signal.SIGTERM)
    server.wait()
    assert "vMotions from elsewhere" in server.log


def test_storm_counts_the_workers_of_the_server(
    start: Callable[..., ServerProcess], own_instances: Path, tmp_path: Path
) -> None:
    server, file = start("--workers", "2"), tmp_path / "result.json"
    children = Path(f"/proc/{server.pid}/task/{server.pid}/children").read_text().split()
    of_workers = Watched(list(map(int, children)))
    options = ("-n", "1000", "--server-pid", str(server.pid), "--json", str(file))
    ended = client("storm", server.port, "--directory", str(own_instances), *options)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    used = of_workers.end(1000)
    told = json.loads(file.read_text())["server"]
    assert used
    assert told["processes"] == used["processes"] + 1 == 3
    assert told["cpu_s"] >= used["cpu_s"] > 0.05
    assert " s of CPU in 3 processes, " in ended.stdout


def test_result_of_a_server_that_dies_is_not_lost(
    start: Callable[..., ServerProcess], own_instances: Path, tmp_path: Path
) -> None:
    server, file = start("--log-level", "debug"), tmp_path / "result.json"

    def kill() -> None:
        server.wait_for("RESPONSE_USERDATA")
        time.sleep(1)  # for some more boots
        server.signal(signal.SIGKILL)
        server.wait()  # until then it is there, dead

    killer = threading.Thread(target=kill)
    killer.start()
    options = ("-t", "60", "-c", "4", "--server-pid", str(server.pid), "--json", str(file))
    ended = client("steady", server.port, "--directory", str(own_instances), *options)
    killer.join()
    assert ended.returncode == 1, ended.stderr
    result = json.loads(file.read_text())
    assert result["boots"] > 0
    assert result["failures"]
    assert result["server"]["ended"] == [server.pid]
    assert f"process {server.pid} has ENDED during the test" in ended.stdout


def check_result(result: dict[str, Any]) -> None:
    """What the page is made from."""
    assert result["boots"] > 0
    assert result["phases"].keys() >= {"connect", "ready", *DOCUMENTS, "boot"}
    for told in result["phases"].values():
        assert sum(count for _, count in told["histogram"]) == told["count"] > 0
        assert 0 <= told["p50"] <= told["p90"] <= told["p99"] <= told["max"]
    assert sum(completed for _, completed, _ in result["timeline"]) == result["boots"]
    assert result["server"]["memory_kb_after"] > 0
    assert result["server"]["cpu_ms_per_boot"] is not None
    assert 0 < result["client"]["cpu_share"] < 2


def test_storm_boots_each_vm(server: ServerProcess, tmp_path: Path) -> None:
    file = tmp_path / "result.json"
    options = ("--pattern", "vm-{:05}", "--vms", "20", "-n", "40", "--processes", "3")
    assert client("storm", server.port, *options, "--json", str(file)).returncode == 0
    result = json.loads(file.read_text())
    assert (result["boots"], result["phases"]["boot"]["count"]) == (40, 40)
    assert result["options"]["pattern"] == "vm-{:05}"


def test_load_by_tls(tls_server: ServerProcess, instances: Path) -> None:
    for tls in ("telnets", "authentication"):
        options = ("--directory", str(instances), "-n", "20", "--tls", tls)
        ended = client("storm", tls_server.port, *options)
        assert ended.returncode == 0, ended.stdout


def test_storm_of_unknown_vms_fails_and_counts(server: ServerProcess, tmp_path: Path) -> None:
    file = tmp_path / "result.json"
    options = ("--pattern", "vm-{:05}", "-n", "25", "--json", str(file))
    ended = client("storm", server.port, *options)
    assert ended.returncode == 1
    result = json.loads(file.read_text())
    assert (result["boots"], result["failures"]) == (20, {"error: not-found": 5})
    assert "failed  5 times: error: not-found" in ended.stdout


def test_changed_file_is_another_document(server: ServerProcess, tmp_path: Path) -> None:
    """The server and the client read different directories."""
    (tmp_path / "vm-00001.yaml").write_text("metadata: {}\nuserdata: another\n")
    (tmp_path / "vm-00002.yaml").write_text("userdata: no metadata\n")
    ended = client("storm", server.port, "--directory", str(tmp_path), "-n", "3")
    assert ended.returncode == 1
    assert "failed  3 times: another document: 'vm-00001'" in ended.stdout
    assert "skipped 1 file, for example: " in ended.stderr
    assert "vm-00002.yaml:1: metadata" in ended.stderr


@pytest.mark.parametrize(
    ("options", "fault"),
    [
        ((), "give one of --directory and --pattern"),
        (("--directory", ".", "--pattern", "x{}"), "give one of"),
        (("--pattern", "{"), "--pattern: found '{'"),
        (("--pattern", "vm"), "--pattern: found 'vm'"),
        (("--directory", "/nowhere"), "--directory"),
        (("--pattern", "x{}", "-c", "100000", "-n", "100000"), "use more --processes"),
        (
            ("--pattern", "x{}", "-c", "100000", "-n", "100000", "--processes", "64"),
            "use more --source-addresses",
        ),
        (("--pattern", "x{}", "--source-addresses", "127.0.0.9-127.0.0.2"), "a range has"),
        (("--pattern", "x{}", "--server-pid", "x"), "expected PID"),
        (
            ("--pattern", "x{}", "--server-pid", "999999999"),
            "--server-pid: process 999999999 does not exist",
        ),
        (("--pattern", "x{}", "--thumbprint", "0" * 40), "need --tls"),
        (("--pattern", "x{}", "--tls", "telnets", "--thumbprint", "0"), "SHA-1"),
        (("--pattern", "x{}", "--tls", "telnets", "--ca", "/nowhere"), "--ca: /nowhere"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else "",
)
def test_wrong_option_is_one_line(call: Call, options: tuple[str, ...], fault: str) -> None:
    ended = call("storm", 1, *options)
    assert ended.returncode == 2
    assert ended.stderr.count("\n") == 1
    assert fault in ended.stderr


def test_storm_on_a_terminal_shows_a_bar(server: ServerProcess) -> None:
    ours, theirs = os.openpty()
    options = ("--pattern", "vm-{:05}", "--vms", "20", "-n", "3000")
    arguments = ["--server", f"127.0.0.1:{server.port}", "--uri", "my-metadata", *options]
    program = [sys.executable, BIN, "storm", *arguments]
    ended = subprocess.run(program, stderr=theirs, stdout=subprocess.PIPE, timeout=LIMIT_S)
    shown = os.read(ours, 65536).decode()
    os.close(ours)
    os.close(theirs)
    assert ended.returncode == 0
    assert re.search(r"storm +\[#+-*\] +\d+/3000 .*\d+/s, 0 failures, p99 \d+ ms", shown)


# Servers that are wrong


class WrongServer:
    """Greets each connection as it should, and answers every request with the same line."""

    def __init__(self, answer: bytes, greeting: bytes = GREETING + TO_ASK) -> None:
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        self._answer = answer
        self._greeting = greeting
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        while True:
            try:
                sock, _ = self._listener.accept()
            except OSError:
                return
            threading.Thread(target=self._serve, args=(sock,), daemon=True).start()

    def _serve(self, sock: socket.socket) -> None:
        with sock:
            sock.sendall(self._greeting)
            while (data := sock.recv(4096)) and (reply := self._reply(data)) is not None:
                sock.sendall(reply)

    def _reply(self, data: bytes) -> bytes | None:
        """None: the connection is closed."""
        if b"!!REQUEST" not in data:
            return b""
        return self._answer or None

    def close(self) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()


def packet(code: str, body: bytes) -> bytes:
    return b"!!%s#%s\n" % (code.encode(), base64.b64encode(body))


@pytest.mark.parametrize(
    ("answer", "kind"),
    [
        (packet("RESPONSE_USERDATA", b"x"), "wrong code"),
        (packet("RESPONSE_ERROR", b'{"error": "failed\\u001b"}'), r"error: failed\x1b"),
        (packet("RESPONSE_ERROR", b"{"), "no JSON"),
        (b"!!RESPONSE_METADATA#e30\n", "bad base64"),
        (b"!!RESPONSE_METADATA#e 30=\n", "bad base64"),
        (b"login: !!RESPONSE_METADATA#e30=\n", "no packet"),
        (b"", "closed"),
        (b"!!RESPONSE_METADATA#e30=", "timeout"),  # without an end
        (b"\xff\xfa\xe8\xc8\xff\xf0", "no protocol"),
    ],
    ids=lambda value: repr(value),
)
def test_wrong_answer_is_reported_by_kind(call: Call, answer: bytes, kind: str) -> None:
    server = WrongServer(answer)
    try:
        ended = call("fetch", server.port, "vm-1", "--vc-uuid", "0" * 32, "--limit", "0.3")
    finally:
        server.close()
    assert ended.returncode == 1
    assert f": {kind}: " in ended.stderr
    assert "\x1b" not in ended.stderr


def test_storm_counts_the_document_of_another_vm(tmp_path: Path) -> None:
    server = WrongServer(packet("RESPONSE_METADATA", b'{"local-hostname": "vm-1"}'))
    file = tmp_path / "result.json"
    options = ("--pattern", "vm-{}", "-n", "2", "--json", str(file))
    try:
        ended = client("storm", server.port, *options)
    finally:
        server.close()
    assert ended.returncode == 1
    assert json.loads(file.read_text())["failures"] == {
        "another VM's document": 1,
        "wrong code": 1,
    }


class LosingServer(WrongServer):
    """Lets VMs move, and is silent afterwards; or at once when one arrives at its target."""

    def __init__(self, *, knows_arrivals: bool) -> None:
        will_proxy = suboption(Suboption.WILL_PROXY)
        super().__init__(b"", GREETING + TO_ASK + will_proxy)
        self._knows_arrivals = knows_arrivals

    def _reply(self, data: bytes) -> bytes:
        if begun := argument_of(Suboption.VMOTION_BEGIN, data):
            return suboption(Suboption.VMOTION_GOAHEAD, begun + b"a secret")
        arrived = argument_of(Suboption.VMOTION_PEER, data)
        if arrived and self._knows_arrivals:
            return suboption(Suboption.VMOTION_PEER_OK, arrived[:4])
        return b""


def suboption(code: Suboption, argument: bytes = b"") -> bytes:
    return b"\xff\xfa\xe8%c%s\xff\xf0" % (code, argument)


def argument_of(code: Suboption, data: bytes) -> bytes:
    """Empty if there is no such suboption."""
    return data.partition(b"\xff\xfa\xe8%c" % code)[2].partition(b"\xff\xf0")[0]


@pytest.mark.parametrize(
    ("knows_arrivals", "step"), [(False, "VMOTION-PEER"), (True, "METADATA")], ids=["peer", "guest"]
)
def test_soak_that_times_out_in_a_move_names_the_step_at_the_target(
    call: Call, knows_arrivals: bool, step: str
) -> None:
    server = LosingServer(knows_arrivals=knows_arrivals)
    # The seed's first act is a move that is not aborted; the limit ends the test with it.
    once = ("--seed", "9", "-c", "1", "-t", "0.1", "--limit", "0.5")
    try:
        ended = call("soak", server.port, "--pattern", "vm-{}", "-n", "1", *once)
    finally:
        server.close()
    assert ended.returncode == 1
    assert "soak: 0 boots" in ended.stdout
    assert re.search(rf"failed  1 times: timeout: .*: {step}: no response within", ended.stdout)


@pytest.mark.parametrize("boots", [300, 5000])
def test_storm_that_fails_says_nothing_of_a_bottleneck(boots: int) -> None:
    ended = client("storm", 1, "--pattern", "vm-{:05}", "-n", str(boots))
    assert ended.returncode == 1
    assert f"failed  {boots:,} times: connect: refused" in ended.stdout
    assert "BOTTLENECK" not in ended.stdout


# The parts


@pytest.mark.parametrize(
    ("share", "seconds", "completed", "failed", "is_told"),
    [
        (0.95, 1.0, 100, 0, True),
        (0.95, 600.0, 100, 99, True),
        (0.85, 600.0, 100, 0, False),
        (0.95, 0.1, 100, 0, False),
        (0.95, 600.0, 0, 100, False),
        (0.95, 600.0, 100, 100, False),
        (0.95, 600.0, 0, 0, False),
    ],
)
def test_report_says_that_the_client_is_the_bottleneck(
    share: float, seconds: float, completed: int, failed: int, is_told: bool
) -> None:
    tally = Tally()
    for _ in range(completed):
        tally.complete(0)
    for _ in range(failed):
        tally.fail(0, VmFailure("timeout", "message"), "vm")
    assert is_bottleneck(share, seconds, tally) is is_told


@pytest.mark.parametrize("share", [50, 90, 99, 100])
def test_percentile_is_right_within_a_twentieth(share: int) -> None:
    histogram = Histogram()
    for ms in range(1, 10_001):
        histogram.add(float(ms))
    assert histogram.percentile(share) == pytest.approx(share * 100, rel=0.05)


def count_boots(tally: Tally, boots_ms: list[float]) -> None:
    for ms in boots_ms:
        tally.measure("boot", ms / 1000)
        tally.complete(int(ms))


LATENCIES = st.lists(st.floats(0, 1e4), max_size=50)


@given(LATENCIES, LATENCIES)
def test_merged_tallies_are_those_of_all(first: list[float], second: list[float]) -> None:
    whole, merged = Tally(), Tally()
    for part in (first, second):
        tally = Tally()
        count_boots(tally, part)
        count_boots(whole, part)
        merged.merge(json.loads(json.dumps(tally.take())))
        assert (tally.completed, tally.phases, tally.timeline) == (0, {}, [])
    assert (merged.completed, merged.timeline) == (whole.completed, whole.timeline)
    for phase, latencies in whole.phases.items():
        assert merged.phases[phase].result() == latencies.result()


def test_kinds_of_failures_are_bounded() -> None:
    tally = Tally()
    for number in range(1000):
        tally.fail(0, VmFailure(f"error: {number}", "message"), "vm")
    assert (len(tally.failures), tally.failed) == (51, 1000)
    assert len(tally.examples) == 51


@given(st.binary(max_size=100))
def test_any_line_is_a_body_or_a_failure(line: bytes) -> None:
    for found in (line, b"!!RESPONSE_METADATA#" + line, b"!!RESPONSE_ERROR#" + line):
        with suppress(VmFailure):
            body_of("METADATA", found)


@pytest.mark.parametrize("name", ["vm-1", "Web Server_1", "Bücher"])
def test_metadata_of_the_vm_is_taken_by_name_host_name_or_uuid(name: str) -> None:
    expectation = Named(name, "01234567-89ab-cdef-0123-456789abcdef")
    for told in (name, "01234567-89ab-cdef-0123-456789abcdef"):
        expectation.check("METADATA", json.dumps({"instance-id": told}).encode())
    with pytest.raises(VmFailure):
        expectation.check("METADATA", b'{"instance-id": "x", "hostname": null}')


def test_document_that_is_known_has_to_be_the_same_to_the_byte() -> None:
    expectation = Exactly({"USERDATA": b"x\n"})
    expectation.check("USERDATA", b"x\n")
    expectation.check("NETWORKDATA", b"")
    with pytest.raises(VmFailure):
        expectation.check("USERDATA", b"x")

"""The units of server and agent, checked by systemd's own programs."""

from __future__ import annotations

import re
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.certificates import make_pair
from tests.process import CHECKOUT, COMMAND, ServerProcess
from tests.vm import Vm
from vmw_cloudinit_metadata.guest.agent import question, reporting

UNIT = CHECKOUT / "conf/vmw-metadata-server.service"
AGENT_UNIT = CHECKOUT / "vmw_cloudinit_metadata/guest/vmw-metadata-agent.service"
REPORT_UNIT = AGENT_UNIT.with_name("vmw-metadata-report.service")
MAX_EXPOSURE = 1.5  # of 10, as `systemd-analyze security` counts: both have 1.2

Program = Callable[[str, str], str]

# What the unit asks for with MemoryDenyWriteExecute; older kernels than 6.3 do not know it.
DENY_WRITE_EXECUTE = "import ctypes; ctypes.CDLL(None).prctl(65, 1, 0, 0, 0)\n"


@pytest.fixture
def analyze(program: Program) -> str:
    return program("systemd-analyze", "systemd")


@pytest.mark.parametrize("packaged", [AGENT_UNIT, REPORT_UNIT], ids=["agent", "report"])
def test_unit_of_the_agent_is_valid(analyze: str, tmp_path: Path, packaged: Path) -> None:
    text = packaged.read_text()
    unit = tmp_path / packaged.name
    unit.write_text(re.sub(r"^ExecStart=.*$", f"ExecStart={sys.executable}", text, flags=re.M))
    ended = subprocess.run([analyze, "verify", unit], capture_output=True, text=True, check=False)
    assert (ended.returncode, ended.stderr) == (0, "")


def test_unit_of_the_agent_waits_for_nothing_that_comes_later_in_the_boot() -> None:
    # PrivateTmp= waits for systemd-tmpfiles-setup, which waits for all file systems.
    text = AGENT_UNIT.read_text()
    settings = dict(line.partition("=")[::2] for line in text.splitlines() if "=" in line)
    assert settings["DefaultDependencies"] == "no"
    assert not {"PrivateTmp", "RootDirectory", "DynamicUser", "PrivateDevices"} & settings.keys()


def test_unit_of_the_report_fails_no_boot_and_delays_nothing() -> None:
    text = REPORT_UNIT.read_text()
    assert re.search(r"^ExecStart=-/usr/bin/python3 ", text, re.M)
    assert "\nType=simple\n" in text
    assert not re.search(r"^(Before|Requires|BindsTo|OnFailure)=", text, re.M)
    limit_s = int(re.findall(r"^RuntimeMaxSec=(\d+)$", text, re.M)[0])
    assert limit_s > question.TRIES * 2 * reporting.REPORT_EVERY_S


def setting(name: str) -> str:
    """The value of the unit's last line `name=`."""
    return re.findall(rf"^{name}=(.*)$", UNIT.read_text(), re.MULTILINE)[-1]


def test_unit_is_valid(analyze: str, tmp_path: Path) -> None:
    program = setting("ExecStart").split()[0]
    unit = tmp_path / UNIT.name
    unit.write_text(UNIT.read_text().replace(program, str(CHECKOUT / "bin/vmw-metadata-server")))
    ended = subprocess.run([analyze, "verify", unit], capture_output=True, text=True, check=False)
    assert (ended.returncode, ended.stderr) == (0, "")


@pytest.mark.parametrize("unit", [UNIT, AGENT_UNIT, REPORT_UNIT], ids=lambda unit: unit.stem)
def test_unit_is_hardened(analyze: str, unit: Path) -> None:
    threshold = f"--threshold={round(MAX_EXPOSURE * 10)}"
    ended = subprocess.run(
        [analyze, "security", "--offline=true", threshold, unit],
        capture_output=True,
        text=True,
        check=False,
    )
    assert ended.returncode == 0, ended.stdout[-500:]


def test_unit_waits_longer_than_the_drain_and_spares_workers_a_second_term() -> None:
    drain_s = re.search(
        r"^drain: (\d+)", (UNIT.parent / "vmw-metadata-server.yaml").read_text(), re.M
    )
    assert drain_s
    assert int(setting("TimeoutStopSec")) == int(drain_s[1]) + 10
    assert setting("KillMode") == "mixed"
    assert setting("Type") == "notify"
    assert setting("RestartPreventExitStatus") == "2"


def test_unit_has_a_server_that_hangs_killed_without_a_core() -> None:
    assert (setting("WatchdogSec"), setting("WatchdogSignal")) == ("30", "SIGKILL")
    assert setting("Restart") == "always"
    assert setting("LimitCORE") == "0"


def test_unit_limits_the_memory_above_the_budget() -> None:
    assert setting("MemoryMax") == "50%"  # memory.max of the cgroup: the budget is a part of it


def system_calls_allowed(analyze: str) -> set[str]:
    """Those that the unit's SystemCallFilter lets through."""
    filters = re.findall(r"^SystemCallFilter=(.*)$", UNIT.read_text(), re.MULTILINE)
    allowed = members(analyze, "@default")  # always
    for line in filters:
        groups = [members(analyze, group) for group in line.removeprefix("~").split()]
        allowed = allowed.difference(*groups) if line[0] == "~" else allowed.union(*groups)
    return allowed


def members(analyze: str, group: str) -> set[str]:
    if not group.startswith("@"):
        return {group}
    listed = subprocess.run(
        [analyze, "syscall-filter", group], capture_output=True, text=True, check=True
    ).stdout
    names = re.findall(r"^ +(@?[a-z0-9_-]+)$", listed, re.MULTILINE)
    return set[str]().union(*(members(analyze, name) for name in names))


@pytest.mark.slow
@pytest.mark.parametrize("workers", ["1", "2"])
def test_server_makes_only_system_calls_that_the_unit_allows(
    analyze: str, program: Program, own_instances: Path, tmp_path: Path, workers: str
) -> None:
    pair = make_pair(program("openssl", "openssl"), tmp_path, "server")
    trace = tmp_path / "trace"
    server = ServerProcess(
        own_instances,
        *("--workers", workers, *pair.options),
        command=[program("strace", "strace"), "-f", "-qq", "-o", str(trace), *COMMAND, "run"],
        env={"NOTIFY_SOCKET": str(tmp_path / "nobody")},
    )
    try:
        assert Vm(server.port).metadata()
        pid = int(trace.read_text().split()[0])
        subprocess.run(["kill", "-HUP", str(pid)], check=True)
        server.wait_for("reload: certificate read")
        subprocess.run(["kill", "-TERM", str(pid)], check=True)
        assert server.wait() == 0
    finally:
        server.end()
    made = set(re.findall(r"^\d+ +(?:<\.\.\. )?([a-z]\w+)[( ]", trace.read_text(), re.MULTILINE))
    assert len(made) > 30
    assert made - system_calls_allowed(analyze) == set()


def test_server_needs_no_memory_that_is_writable_and_executable(own_instances: Path) -> None:
    program = f"{DENY_WRITE_EXECUTE}from vmw_cloudinit_metadata.cli import main; main()"
    server = ServerProcess(own_instances, command=[COMMAND[0], "-c", program, "run"])
    try:
        assert Vm(server.port).metadata()["instance-id"] == "my-instance"
        server.signal(signal.SIGTERM)
        assert server.wait() == 0
    finally:
        server.end()

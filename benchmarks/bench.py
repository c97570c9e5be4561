"""Compare the speed of the server with two yardsticks that do the same exchange, on one core.

    python benchmarks/bench.py [--quick] [--markdown FILE] [ROW ...]

The server and the yardsticks run on core 0, the load generator on core 1. The runs of a row are
interleaved, and the result is the median of the ratios. Exit code 1 if a limit is missed.
"""

from __future__ import annotations

import argparse
import base64
import json
import os
import platform
import re
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any
from urllib.request import urlopen

from vmw_cloudinit_metadata.protocol.identitytoken import token

HERE = Path(__file__).parent
BUILD = HERE / "build"
SERVER_CORES, LOAD_CORE = frozenset({0}), 1
DOCUMENTS = ("METADATA", "NETWORKDATA", "USERDATA")
OURS, UVLOOP, C = "server", "uvloop", "C"

START_LIMIT_S = 30.0
RUN_LIMIT_S = 600.0

# The server caches no answer from a file that changed in the last two seconds.
SETTLED_S = 2.5

# VMs for warming up, not measured: code is slow when it runs for the first time.
WARM_UP_NAMES = 20

# A client that is busier than this slows the server down.
CLIENT_IS_FULL = 0.9

INSTANCE_FILE = """\
metadata:
  ami-id: my-image
  region: us-east1
  availability-zone: us-east1-a
  tags: [a, b, c]
  public-keys:
    - ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIC20Q6Q9Gpyvl7QM4ZdK6Y2sVszlLzRR9yUEKujZP2Jn admin@example.com
  hostname: {name}.example.com
network:
  - name: lan0
    mac-address: 00:50:56:01:02:03
    address: [192.168.1.2/24, '2001:db8::2/64']
    gateway: [192.168.1.254, 'fe80::1']
    search: example.com
    nameservers: [8.8.8.8, 8.8.4.4]
  - name: store0
    mac-address: 00:50:56:01:02:04
    mtu: 9000
    address: 10.1.0.2/16
userdata: |
  #cloud-config
  growpart: {{mode: auto, devices: ['/'], ignore_growroot_disabled: false}}
  package_update: true
  packages: [postgresql, nginx, chrony]
  write_files:
    - path: /etc/motd
      content: welcome to {name}
    - path: /etc/chrony/sources.d/site.sources
      content: server ntp.example.com iburst
  runcmd:
    - [systemctl, enable, --now, chrony.service]
    - [systemctl, restart, nginx.service]
"""  # noqa: E501 - a public key is one line

# Five layers that count for each VM, with all that layers do.
LAYERS = {
    "10-all": """\
metadata: {region: eu1, tags: [all], owner: platform}
network: {nameservers: [10.0.0.53]}
vendordata: {timezone: UTC, ntp: {enabled: true, servers: [ntp.example.com]}}
""",
    "30-name": """\
match: {name: "vm-{number}"}
metadata: {number: "${match.number}", tags+: [numbered]}
""",
    "50-client": """\
match: {direction: client}
metadata: {placement: {rack: 12, room: b}}
""",
    "60-host": """\
match: {peer: 127.0.0.0/8}
metadata: {placement: {host: local}}
vendordata: {packages+: [chrony]}
""",
    "90-role": """\
documents: {role: "machine ${vm.name} in ${metadata.region}"}
metadata: {owner: }
""",
}
INVENTORY_VMS = 10_000

IDENTITY_KEY = b"the key of the bench"  # not a secret
WINDOW_S = 3600


# Processes


@dataclass(frozen=True)
class Server:
    kind: str
    pid: int
    port: int
    admin_port: int = 0

    def cpu_s(self) -> float:
        """User and system time of all threads: as in /proc/PID/stat, but in nanoseconds instead of
        ticks of 10 ms. See clock_getcpuclockid(3)."""
        return time.clock_gettime((~self.pid << 3) | 2)

    def memory_bytes(self) -> int:
        status = Path(f"/proc/{self.pid}/status").read_text()
        return 1024 * int(re.search(r"VmRSS:\s+(\d+)", status)[1])  # type: ignore[index]


@contextmanager
def started(
    kind: str, command: Sequence[str], output: Path, cores: frozenset[int] = SERVER_CORES
) -> Iterator[Server]:
    """Run a server on `cores` until the end of the block."""
    with output.open("wb") as file:
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=file,
            stderr=file,
            env={**os.environ, "PYTHONPATH": f"{HERE.parent}{os.pathsep}{HERE}"},
            preexec_fn=partial(os.sched_setaffinity, 0, cores),
        )
    try:
        yield Server(kind, process.pid, _port(process, output))
    finally:
        process.terminate()
        process.wait(START_LIMIT_S)


def _port(process: subprocess.Popen[bytes], output: Path) -> int:
    end_s = time.monotonic() + START_LIMIT_S
    while time.monotonic() < end_s and process.poll() is None:
        if found := re.search(rb"listening on \S*:(\d+)", output.read_bytes()):
            return int(found[1])
        time.sleep(0.01)
    raise SystemExit(f"{process.args!r} does not listen:\n{output.read_text()}")


def _admin_port(output: Path) -> int:
    end_s = time.monotonic() + START_LIMIT_S
    while not (found := re.search(rb"admin on \S*:(\d+)", output.read_bytes())):
        if time.monotonic() > end_s:
            raise SystemExit(f"the server has no admin port:\n{output.read_text()}")
        time.sleep(0.01)
    return int(found[1])


@contextmanager
def watched(server: Server) -> Iterator[None]:
    """Simulate an open status page and a Prometheus that scrapes."""
    process = subprocess.Popen(
        [sys.executable, str(HERE / "watcher.py"), str(server.admin_port)],
        stdout=subprocess.PIPE,
        preexec_fn=partial(os.sched_setaffinity, 0, {LOAD_CORE}),
    )
    assert process.stdout
    try:
        if process.stdout.readline() != b"watching\n":
            raise SystemExit("the watcher failed")
        yield
        if process.poll() is not None:
            raise SystemExit("the watcher ended early")
    finally:
        process.kill()
        process.wait()


def load(server: Server, *arguments: object, names: int, **options: object) -> dict[str, Any]:
    """Run the load generator; return its measurements."""
    process = _load(server, *arguments, names=names, **options)
    output, _ = process.communicate(timeout=RUN_LIMIT_S)
    return _result(output)


def _load(server: Server, *arguments: object, **options: object) -> subprocess.Popen[str]:
    named = [text for name, value in options.items() for text in (f"--{name}", str(value))]
    return subprocess.Popen(
        [str(BUILD / "load"), *named, str(server.port), *map(str, arguments)],
        stdout=subprocess.PIPE,
        text=True,
        preexec_fn=partial(os.sched_setaffinity, 0, {LOAD_CORE}),
    )


def _result(output: str) -> dict[str, Any]:
    result: dict[str, Any] = json.loads(output.splitlines()[-1])
    is_full = result["client_cpu_s"] > CLIENT_IS_FULL * result["seconds"]
    if is_full and result["mode"] in ("storm", "burst"):  # other modes mostly wait
        print(f"  ({result['mode']}: the client was as busy as the server)", flush=True)
    return result


@contextmanager
def connected(server: Server, *arguments: object, names: int) -> Iterator[Callable[[], Any]]:
    """Run the load generator; enter the block when its VMs are connected and identified.

    Yields a function that waits for the load generator and returns its measurements.
    """
    process = _load(server, *arguments, names=names)
    assert process.stdout
    try:
        line = process.stdout.readline()
        if line != "ready\n":
            raise SystemExit(f"the load generator failed: {line}{process.stdout.read()}")
        yield lambda: _result(process.communicate(timeout=RUN_LIMIT_S)[0])
    finally:
        process.kill()
        process.communicate()


def build() -> None:
    BUILD.mkdir(exist_ok=True)
    for name in ("yardstick", "load"):
        source, program = HERE / f"{name}.c", BUILD / name
        if not program.exists() or program.stat().st_mtime < source.stat().st_mtime:
            subprocess.run(["cc", "-O2", "-Wall", "-o", program, source], check=True)


Change = Callable[[str, int], str]


def unchanged(text: str, _number: int) -> str:
    return text


def write_instances(directory: Path, count: int, change: Change = unchanged) -> Path:
    """Write files; `change` makes of each text and its number another one."""
    directory.mkdir()
    return add_instances(directory, count, change)


def add_instances(directory: Path, count: int, change: Change = unchanged) -> Path:
    for index in range(count + WARM_UP_NAMES):
        name = f"vm-{index:05}"
        text = change(INSTANCE_FILE.format(name=name), index)
        (directory / f"{name}.yaml").write_text(text)
    time.sleep(SETTLED_S)
    return directory


def with_own_addresses(text: str, number: int) -> str:
    """Return the text with addresses that no other VM has: a duplicate is not prepared."""
    high, low = divmod(number, 250)
    own = {
        "192.168.1.2/24": f"192.168.{high + 100}.{low + 1}/16",
        "2001:db8::2/64": f"2001:db8::1:{number:x}/64",
        "00:50:56:01:02": f"00:50:56:{high:02x}:{low:02x}",
        "10.1.0.2/16": f"10.1.{high}.{low + 1}/16",
    }
    for before, after in own.items():
        text = text.replace(before, after)
    return text


# What is measured


@dataclass(frozen=True)
class Size:
    """How many boots, VMs and seconds each row measures."""

    repeats: int  # of rows with short runs
    few: int  # repeats of the other rows
    boots: int = 2000
    burst: int = 3000
    herd: int = 5000
    idle: int = 16_000
    idle_s: float = 10.0
    paced: int = 1000
    moves_s: float = 10.0
    slow: int = 2000
    watched: int = 20_000
    most_files: int = 50_000
    most_boots: int = 50_000  # per directory


FULL = Size(repeats=7, few=3)
QUICK = Size(repeats=3, few=1, paced=300, idle_s=5.0, moves_s=5.0, most_boots=1500, watched=8000)


@dataclass(frozen=True)
class Finding:
    """One row of the table. The limit must hold; the goal is what to reach eventually."""

    what: str
    measured: str
    limit: str  # "" for none
    goal: str  # likewise
    meets_limit: bool
    meets_goal: bool

    @property
    def limit_verdict(self) -> str:
        return _verdict(self.limit, self.meets_limit) or "none"

    @property
    def goal_verdict(self) -> str:
        return _verdict(self.goal, self.meets_goal)

    def __str__(self) -> str:
        goal = f"; goal {self.goal_verdict}" if self.goal else ""
        return f"{self.what}: {self.measured}; limit {self.limit_verdict}{goal}"


def _verdict(target: str, is_met: bool) -> str:
    return f"{target}: {'met' if is_met else 'missed'}" if target else ""


class Bench:
    """The servers and the rows of the table; each row is one method."""

    def __init__(self, stack: ExitStack, size: Size) -> None:
        self.size = size
        self._stack = stack
        self._place = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="bench-")))
        self._outputs = 0
        self._directories: dict[int, Path] = {}
        self._layered: Path | None = None
        self._inventory: Path | None = None
        self._standing: dict[str, Server] = {}
        self._cached: list[dict[str, tuple[float, float]]] = []
        build()

    # Servers

    def warm_directory(self, count: int) -> Path:
        """Return the directory of VMs whose data has no duplicates."""
        path = self._place / f"{count}-warm-files"
        return path if path.exists() else write_instances(path, count, with_own_addresses)

    def directory(self, count: int) -> Path:
        if count not in self._directories:
            path = write_instances(self._place / f"{count}-files", count)
            self._directories[count] = path
        return self._directories[count]

    def layered_directory(self) -> Path:
        """Return the directory of 5,000 files, with five layers."""
        if self._layered is None:
            self._layered = self._place / "layered"
            self._layered.mkdir()
            (self._layered / "layers").mkdir()
            for name, text in LAYERS.items():
                (self._layered / "layers" / f"{name}.yaml").write_text(text)
            add_instances(self._layered, 5000)
        return self._layered

    def inventory_directory(self) -> Path:
        """Return a directory that has one inventory with all VMs, and user-data in a layer."""
        if self._inventory is None:
            self._inventory = self._place / "inventory"
            (self._inventory / "layers").mkdir(parents=True)
            (self._inventory / "layers/10-all.yaml").write_text(
                "userdata: |\n  #cloud-config\n  package_update: true\n"
            )
            rows = (
                f"vm-{index:05},10.1.{index >> 8}.{index & 255}/8,web,{index % 40}\n"
                for index in range(INVENTORY_VMS)
            )
            head = "name,network.address,metadata.role,metadata.rack\n"
            (self._inventory / "vms.csv").write_text(head + "".join(rows))
            time.sleep(SETTLED_S)
        return self._inventory

    def _output(self) -> Path:
        self._outputs += 1
        return self._place / f"output-{self._outputs}"

    @contextmanager
    def ours(
        self,
        *options: str,
        files: int = 5000,
        cores: frozenset[int] = SERVER_CORES,
        directory: Path | None = None,
    ) -> Iterator[Server]:
        """Start the real server, as a user does."""
        driver = (
            "--driver-opts",
            json.dumps({"directory": str(directory or self.directory(files))}),
        )
        program = Path(sys.executable).parent / "vmw-cloudinit-metadata"
        command = [str(program), "run", "--uri", "my-metadata", "--listen", "127.0.0.1:0"]
        command += ["--admin-listen", "127.0.0.1:0", *driver, *options]
        if "--catalogue" not in options:  # it has a row of its own
            command.append("--no-catalogue")
        output = self._output()
        with started(OURS, command, output, cores) as server:
            yield replace(server, admin_port=_admin_port(output))

    def standing(self) -> dict[str, Server]:
        """Return the warm server and both yardsticks, shared by all rows with cached answers."""
        if not self._standing:
            ours = self._stack.enter_context(self.ours())
            complete(load(ours, "storm", 5000, 100, names=5000), OURS, boots=5000)
            packets = [str(self._packet(ours, document)) for document in DOCUMENTS]
            uvloop = [sys.executable, str(HERE / "yardstick_uvloop.py"), *packets]
            c = [str(BUILD / "yardstick"), *packets]
            self._standing = {
                OURS: ours,
                UVLOOP: self._stack.enter_context(started(UVLOOP, uvloop, self._output())),
                C: self._stack.enter_context(started(C, c, self._output())),
            }
        return self._standing

    def _packet(self, server: Server, document: str) -> Path:
        path = self._place / document
        path.write_bytes(fetch(server.port, document))
        return path

    # Rows

    def cached(self) -> Iterator[Finding]:
        runs = self._cached_runs()
        cpu = {kind: statistics.median(run[kind][0] for run in runs) for kind in (OURS, UVLOOP, C)}
        by_c = statistics.median(run[OURS][0] / run[C][0] for run in runs)
        by_uvloop = statistics.median(run[OURS][0] / run[UVLOOP][0] for run in runs)
        shown = ", ".join(f"{kind} {ms:.3f} ms" for kind, ms in cpu.items())
        what = "CPU per boot, answers cached"
        yield at_most(what, by_c, 5, 3.5, unit=f" times C ({shown})")
        yield at_most(what, by_uvloop, 2.6, 2, unit=" times uvloop")

    def storm(self) -> Iterator[Finding]:
        yield self._latency(
            f"{self.size.boots:,} boots, 200 at a time: p99",
            [{kind: p99 for kind, (_, p99) in run.items()} for run in self._cached_runs()],
            *(6, 4),
        )

    def first(self) -> Iterator[Finding]:
        runs = self._cached_runs()
        c_ms = statistics.median(run[C][0] for run in runs)
        ms = []
        for _ in range(self.size.few):
            with self.ours() as server:
                self._warm_up(server, 5000)
                ms.append(self._boots(server, self.size.boots, names=5000)[0])
        yield at_most(
            "CPU per boot, first read of each VM's file",
            statistics.median(ms) / c_ms,
            *(12, None),
            unit=f" times C, cached ({statistics.median(ms):.3f} ms)",
        )

    def warmed(self) -> Iterator[Finding]:
        directory, runs = self.warm_directory(5000), []
        for _ in range(self.size.repeats):
            with self.ours("--catalogue", directory=directory) as server:
                _wait_for_answers(server, 5000 + WARM_UP_NAMES)
                self._warm_up(server, 5000)
                first_ms, _ = self._boots(server, self.size.boots, names=5000)
                runs.append((first_ms, self._boots(server, self.size.boots, names=5000)[0]))
        yield at_most(
            "CPU per boot, warmed first read",
            statistics.median(first / cached for first, cached in runs),
            *(1.5, None),
            unit=f" times cached ({', '.join(f'{a:.3f}/{b:.3f}' for a, b in runs)} ms)",
        )

    def burst(self) -> Iterator[Finding]:
        runs: list[dict[str, float]] = []
        for _ in range(self.size.repeats):
            runs.append({})
            for kind, server in self.standing().items():
                result = load(server, "burst", self.size.burst, names=5000)
                complete(result, kind, boots=self.size.burst)
                runs[-1][kind] = result["boot_ms"]["p99"]
        what = f"{self.size.burst:,} VMs connect at the same instant: none lost, p99"
        yield self._latency(what, runs, 8, None)

    def herd(self) -> Iterator[Finding]:
        runs: list[dict[str, float]] = []
        for _ in range(self.size.repeats):
            runs.append({})
            for kind, server in self.standing().items():
                result = load(server, "herd", self.size.herd, names=5000)
                complete(result, kind, answers=self.size.herd)
                runs[-1][kind] = 1000 * result["seconds"]
        yield self._latency(f"herd of {self.size.herd:,}: last answer", runs, 5, 3)

    def idle(self) -> Iterator[Finding]:
        count = self.size.idle
        with self.ours() as server:
            self._warm_up(server, 5000)
            before_bytes = server.memory_bytes()
            with connected(server, "idle", count, self.size.idle_s + 5, names=100_000) as result:
                time.sleep(2)
                each_kb = (server.memory_bytes() - before_bytes) / count / 1000
                before_s = server.cpu_s()
                time.sleep(self.size.idle_s)
                share = (server.cpu_s() - before_s) / self.size.idle_s
                complete(result(), OURS, connected=count)
        yield at_most(f"{count:,} idle connections: memory of each", each_kb, 13, 11, unit=" kB")
        yield at_most(f"{count:,} idle connections: CPU", 100 * share, 1, None, unit=" % of a core")

    def paced(self) -> Iterator[Finding]:
        runs: list[dict[str, float]] = []
        for _ in range(self.size.few):
            runs.append({})
            for kind, server in self.standing().items():
                before_s = server.cpu_s()
                result = load(server, "paced", self.size.paced, 20, 1, names=5000)
                complete(result, kind, boots=self.size.paced)
                runs[-1][kind] = 1000 * (server.cpu_s() - before_s) / self.size.paced
        ratio = statistics.median(run[OURS] / run[UVLOOP] for run in runs)
        shown = ", ".join(
            f"{kind} {statistics.median(run[kind] for run in runs):.3f} ms" for kind in runs[0]
        )
        yield at_most(
            "guest's bytes 1 ms apart: CPU per boot",
            ratio,
            *(1.4, None),
            unit=f" times uvloop ({shown})",
        )

    def layers(self) -> Iterator[Finding]:
        """Boot VMs for the first time, with and without layers, in turns."""
        layered = ("--driver-opts", json.dumps({"directory": str(self.layered_directory())}))
        pairs = []
        for _ in range(max(self.size.few, 3)):
            pair = []
            for options in ((), layered):
                with self.ours(*options) as server:
                    self._warm_up(server, 5000)
                    pair.append(self._boots(server, self.size.boots, names=5000)[0])
            pairs.append((pair[0], pair[1]))
        ratio, shown = compared(pairs)
        yield at_most(
            "CPU per boot, first read of each VM's file, with five layers",
            ratio,
            *(1.3, None),
            unit=f" times that without (without, with: {shown} ms)",
        )

    def inventory(self) -> Iterator[Finding]:
        """Boot the first VM of an inventory, which parses it, and then many others."""
        options = ("--driver-opts", json.dumps({"directory": str(self.inventory_directory())}))
        parse_ms, first_ms, file_ms = [], [], []
        for _ in range(max(self.size.few, 3)):
            with self.ours(*options) as server:
                parse_ms.append(self._boots(server, 1, names=1)[1])
                warm = {"names": WARM_UP_NAMES, "first": self.size.boots}
                complete(load(server, "storm", 500, 10, **warm), OURS, boots=500)
                first_ms.append(self._boots(server, self.size.boots, names=INVENTORY_VMS)[0])
            with self.ours() as server:
                self._warm_up(server, 5000)
                file_ms.append(self._boots(server, self.size.boots, names=5000)[0])
        ratio = statistics.median(one / of for one, of in zip(first_ms, file_ms, strict=True))
        first, of_file = statistics.median(first_ms), statistics.median(file_ms)
        yield at_most(
            f"vms.csv with {INVENTORY_VMS:,} VMs: first boot after a change",
            statistics.median(parse_ms) / 1000,
            *(10, 5),
            unit=" s",
        )
        yield at_most(
            f"vms.csv with {INVENTORY_VMS:,} VMs: CPU per boot, first look-up of each VM",
            ratio,
            *(1.3, 1),
            unit=f" times first read of a file ({first:.3f} and {of_file:.3f} ms)",
        )

    def store(self) -> Iterator[Finding]:
        """Boot VMs with kept answers, from a store in memory and from files, in turns."""
        records = {"count": 5000 + WARM_UP_NAMES, "template": INSTANCE_FILE}
        options = ("--driver", "memory_store:BenchStore", "--driver-opts", json.dumps(records))
        pairs = []
        with self.ours(*options) as server:
            self._warm_up(server, 5000)
            complete(load(server, "storm", 5000, 100, names=5000), OURS, boots=5000)
            for _ in range(self.size.repeats):
                of_files, _ = self._boots(self.standing()[OURS], self.size.boots, names=5000)
                of_store, _ = self._boots(server, self.size.boots, names=5000)
                pairs.append((of_files, of_store))
        ratio, shown = compared(pairs)
        yield at_most(
            "CPU per boot, answers cached, from a store in memory",
            ratio,
            *(1.1, 1),
            unit=f" times that from files (files, store: {shown} ms)",
        )

    def proved(self) -> Iterator[Finding]:
        """Boot VMs with kept answers, with token and window and without, in turns.

        Each round has servers of its own: two processes of the same code differ by some percent.
        """
        tokens, key = self._place / "tokens", self._place / "identity.key"
        key.write_bytes(IDENTITY_KEY)
        key.chmod(0o600)
        vms = range(5000 + WARM_UP_NAMES)
        tokens.write_text("".join(f"{token(1, IDENTITY_KEY, vc_uuid(vm))}\n" for vm in vms))
        pairs = []
        for number in range(self.size.few):
            ledger = str(self._place / f"ledger-{number}")
            options = (
                *("--identity-key-file", str(key), "--identity-token", "require"),
                *("--userdata-window", str(WINDOW_S), "--ledger", ledger),
            )
            with self.ours() as plain, self.ours(*options) as proving:
                boots = {
                    plain: partial(self._boots, plain, names=5000),
                    proving: partial(self._boots, proving, names=5000, tokens=tokens),
                }
                for boot in boots.values():
                    boot(count=5000)
                for turn in range(self.size.repeats):
                    in_turn = (plain, proving) if turn % 2 else (proving, plain)
                    ms = {server: boots[server](count=self.size.boots)[0] for server in in_turn}
                    pairs.append((ms[plain], ms[proving]))
        ratio, _ = compared(pairs)
        without, with_both = (statistics.median(each) for each in zip(*pairs, strict=True))
        ratios = sorted(proving_ms / plain_ms for plain_ms, proving_ms in pairs)
        yield at_most(
            "CPU per boot, answers cached, with identity tokens and a user-data window",
            ratio,
            *(1.05, None),
            unit=f" times that without (without, with: {without:.3f} and {with_both:.3f} ms; "
            f"{len(pairs)} pairs: {ratios[0]:.2f} to {ratios[-1]:.2f})",
        )

    def files(self) -> Iterator[Finding]:
        """Boot every VM of the directory twice: first read, then cached."""
        counts = (500, 5000, self.size.most_files)
        first_ms: dict[int, list[float]] = {count: [] for count in counts}
        again_ms: dict[int, list[float]] = {count: [] for count in counts}
        for _ in range(self.size.few):
            for count in counts:
                boots = min(count, self.size.most_boots)
                with self.ours(files=count) as server:
                    self._warm_up(server, count)
                    spread = {"names": count, "stride": count // boots}
                    first_ms[count].append(self._boots(server, boots, **spread)[0])
                    for _ in range(max(2000 // boots, 1)):
                        again_ms[count].append(self._boots(server, boots, **spread)[0])
        for what, by_count in (("first", first_ms), ("cached", again_ms)):
            each = [statistics.median(by_count[count]) for count in counts]
            shown = ", ".join(f"{ms:.3f}" for ms in each)
            yield at_most(
                f"CPU per boot ({what}) with {counts[0]:,}, {counts[1]:,}, {counts[2]:,} files",
                max(each) / min(each),
                *(1.25, None),
                unit=f" times the least ({shown} ms)",
            )

    def catalogue(self) -> Iterator[Finding]:
        """Boots while all files are read and while none is, on one core, in turns."""
        files = self.size.most_files
        p99: dict[bool, list[float]] = {True: [], False: []}  # by whether files are read
        with self.ours("--catalogue", files=files) as server:
            _wait_for_survey(server, is_reading=False)
            self._warm_up(server, files)
            for _ in range(self.size.repeats):
                for is_reading in (False, True):
                    if is_reading:
                        os.kill(server.pid, signal.SIGHUP)
                    _wait_for_survey(server, is_reading=is_reading)
                    result = load(server, "moves", 100, 1, 100, self.size.moves_s, names=files)
                    complete(result, OURS, boots=int(100 * self.size.moves_s))
                    p99[is_reading].append(result["boot_ms"]["p99"])
                    if is_reading and not _is_reading(server):
                        raise LostError("the files were read before the boots were over")
        ratio = statistics.median(r / q for r, q in zip(p99[True], p99[False], strict=True))
        quiet, reading = (statistics.median(p99[is_reading]) for is_reading in (False, True))
        yield at_most(
            f"100 boots/s while {files:,} files are read: p99",
            ratio,
            *(1.5, None),
            unit=f" times that without ({reading:.1f} and {quiet:.1f} ms)",
        )

    def moves(self) -> Iterator[Finding]:
        count, seconds = self.size.idle, self.size.moves_s
        with self.ours(files=self.size.most_files) as server:
            self._warm_up(server, self.size.most_files)
            arguments = ("moves", count, 50, 100, seconds)
            with connected(server, *arguments, names=self.size.most_files) as result:
                measured = result()
        complete(measured, OURS, boots=int(100 * seconds), moves=int(50 * seconds))
        boot, move = measured["boot_ms"], measured["move_ms"]
        yield at_most(
            f"{count:,} connected, 50 vMotions/s, 100 boots/s: none lost, boot p99",
            boot["p99"],
            *(250, None),
            unit=f" ms (vMotion p99 {move['p99']:.1f} ms)",
        )

    def slow(self) -> Iterator[Finding]:
        """Boot new VMs in each run, alternating with the server that has cached answers."""
        options = ("--driver", "slow_driver:SlowDriver", "--driver-opts", '{"seconds": 0.2}')
        count = self.size.slow
        pairs = []
        with self.ours(*options, "--lookup-pool", "64") as server:
            self._warm_up(server, self.size.repeats * count)
            for run in range(self.size.repeats):
                cached_ms, _ = self._boots(self.standing()[OURS], count, names=5000)
                slow_ms, _ = self._boots(server, count, names=count, first=run * count)
                pairs.append((slow_ms, cached_ms))
        shown = ", ".join(f"{slow:.3f}/{cached:.3f}" for slow, cached in pairs)
        yield at_most(
            f"driver with 200 ms per look-up, {count:,} boots, pool of 64: CPU per boot",
            statistics.median(slow / cached for slow, cached in pairs),
            *(2, None),
            unit=f" times cached ({shown} ms)",
        )

    def workers(self) -> Iterator[Finding]:
        """Without a limit: the second worker shares its core with the client."""
        boots_per_s: dict[int, list[float]] = {1: [], 2: []}
        for _ in range(self.size.few):
            for count, measured in boots_per_s.items():
                cores = SERVER_CORES | {LOAD_CORE}
                with self.ours("--workers", str(count), cores=cores) as server:
                    load(server, "storm", 5000, 100, names=5000)
                    result = load(server, "storm", 5 * self.size.boots, 200, names=5000)
                complete(result, OURS, boots=5 * self.size.boots)
                measured.append(result["boots"] / result["seconds"])
        one, two = (statistics.median(measured) for measured in boots_per_s.values())
        yield Finding(
            "boots/s with 2 workers, one sharing the client's core",
            f"{two / one:.2f} times 1 worker ({two:,.0f} and {one:,.0f} boots/s)",
            *("", "", True, False),
        )

    def watched(self) -> Iterator[Finding]:
        """Measure one server with and without an open status page and a scrape every 5 s."""
        server = self.standing()[OURS]
        pairs = []
        for _ in range(self.size.few):
            alone_ms, _ = self._boots(server, self.size.watched, names=5000)
            with watched(server):
                watched_ms, _ = self._boots(server, self.size.watched, names=5000)
            pairs.append((alone_ms, watched_ms))
        ratio, shown = compared(pairs)
        yield at_most(
            "CPU per boot with the status page open and a scrape every 5 s",
            ratio,
            *(1.1, None),
            unit=f" times that without (without, with: {shown} ms)",
        )

    # Helpers

    def _cached_runs(self) -> list[dict[str, tuple[float, float]]]:
        """Return CPU per boot and p99 of a boot, in ms, for each run and server."""
        if not self._cached:
            for _ in range(self.size.repeats):
                self._cached.append(
                    {
                        kind: self._boots(server, self.size.boots, names=5000)
                        for kind, server in self.standing().items()
                    }
                )
        return self._cached

    def _boots(
        self, server: Server, count: int, *, names: int, **options: object
    ) -> tuple[float, float]:
        before_s = server.cpu_s()
        result = load(server, "storm", count, 200, names=names, **options)
        complete(result, server.kind, boots=count)
        return 1000 * (server.cpu_s() - before_s) / count, result["boot_ms"]["p99"]

    def _warm_up(self, server: Server, files: int) -> None:
        result = load(server, "storm", 500, 10, names=WARM_UP_NAMES, first=files)
        complete(result, OURS, boots=500)

    def _latency(
        self, what: str, runs: list[dict[str, float]], limit: float, goal: float | None
    ) -> Finding:
        ratio = statistics.median(run[OURS] / run[C] for run in runs)
        shown = ", ".join(
            f"{kind} {statistics.median(run[kind] for run in runs):.0f} ms" for kind in runs[0]
        )
        return at_most(what, ratio, limit, goal, unit=f" times C ({shown})")


ROWS: dict[str, Callable[[Bench], Iterator[Finding]]] = {
    "cached": Bench.cached,
    "first": Bench.first,
    "warmed": Bench.warmed,
    "storm": Bench.storm,
    "burst": Bench.burst,
    "herd": Bench.herd,
    "idle": Bench.idle,
    "paced": Bench.paced,
    "layers": Bench.layers,
    "inventory": Bench.inventory,
    "store": Bench.store,
    "proved": Bench.proved,
    "files": Bench.files,
    "catalogue": Bench.catalogue,
    "moves": Bench.moves,
    "slow": Bench.slow,
    "workers": Bench.workers,
    "watched": Bench.watched,
}


def _status(server: Server) -> dict[str, Any]:
    url = f"http://127.0.0.1:{server.admin_port}/api/status"
    with urlopen(url, timeout=START_LIMIT_S) as answer:
        found: dict[str, Any] = json.load(answer)
        return found


def _is_reading(server: Server) -> bool:
    return _status(server)["instance_files"]["checked"] is not None


def _wait_for_answers(server: Server, count: int) -> None:
    """Wait until so many answers are prepared, and may be given."""
    _wait_for_survey(server, is_reading=True)
    _wait_for_survey(server, is_reading=False)
    if (found := _status(server)["gauges"]["answers prepared"]) != count:
        raise SystemExit(f"{found} answers are prepared, not {count}")


def _wait_for_survey(server: Server, *, is_reading: bool) -> None:
    end_s = time.monotonic() + RUN_LIMIT_S
    while _is_reading(server) != is_reading:
        if time.monotonic() > end_s:
            raise SystemExit("the survey does not begin or end")
        time.sleep(0.1)


def compared(pairs: Sequence[tuple[float, float]]) -> tuple[float, str]:
    """Return the median ratio of second values to first ones, and all pairs as text."""
    shown = ", ".join(f"{one:.3f} and {other:.3f}" for one, other in pairs)
    return statistics.median(other / one for one, other in pairs), shown


def at_most(what: str, value: float, limit: float, goal: float | None, unit: str) -> Finding:
    plain_unit = unit.partition(" (")[0]
    return Finding(
        what,
        f"{value:.2f}{unit}",
        f"{limit:g}{plain_unit}",
        "" if goal is None else f"{goal:g}",
        value <= limit,
        goal is not None and value <= goal,
    )


def complete(result: dict[str, Any], kind: str, **expected: int) -> None:
    """Raise LostError if a boot, answer or connection is missing."""
    got = {name: result[name] for name in expected}
    if result["failed"] or got != expected:
        raise LostError(f"{kind}: expected {expected}, found {got}, failures: {result['failures']}")


class LostError(Exception):
    pass


def vc_uuid(number: int) -> str:
    """Return the VC UUID with which the load generator plays the VM with this number."""
    return f"01234567-89ab-cdef-fedc-ba98{number:08x}"


def fetch(port: int, document: str) -> bytes:
    """Request a document of the first VM as a hypervisor does; return the response packet."""

    def suboption(code: int, argument: bytes = b"") -> bytes:
        return b"\xff\xfa\xe8" + bytes([code]) + argument + b"\xff\xf0"

    with socket.create_connection(("127.0.0.1", port), timeout=10) as vm:
        vm.sendall(
            b"\xff\xfb\x00\xff\xfd\x00\xff\xfb\xe8"
            + suboption(0, bytes([0, 1, 2, 3, 70, 71, 73, 80, 81, 82, 83]))
            + suboption(80, b"01 23 45 67 89 ab cd ef-fe dc ba 98 00 00 00 00")
            + suboption(82, b"vm-00000")
            + suboption(70, b"Cmy-metadata")
            + f"!!REQUEST_{document}#\n".encode()
        )
        heard = b""
        while not (found := re.search(rb"!!RESPONSE_([A-Z]+)#([^\n]*)\n", heard)):
            data = vm.recv(65536)
            assert data, f"connection closed after {heard!r}"
            heard += data
    assert found[1].decode() == document, found[0]
    base64.b64decode(found[2], validate=True)
    return found[0]


# The table


def machine() -> str:
    return (
        f"{time.strftime('%Y-%m-%d')}, {platform.system()} {platform.release()}, "
        f"{os.cpu_count()} cores, Python {platform.python_version()}, gevent {version('gevent')}, "
        f"uvloop {version('uvloop')}"
    )


def markdown(findings: Sequence[Finding]) -> str:
    lines = [f"Measured {machine()}.", ""]
    lines += ["| what | measured | limit | goal |", "|---|---|---|---|"]
    for f in findings:
        lines.append(f"| {f.what} | {f.measured} | {f.limit_verdict} | {f.goal_verdict} |")
    return "\n".join(lines) + "\n"


def measure(bench: Bench, rows: Sequence[str]) -> Iterator[Finding]:
    for row in rows:
        try:
            yield from ROWS[row](bench)
        except LostError as error:
            yield Finding(row, str(error), "nothing lost", "", False, False)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("rows", nargs="*", metavar="ROW", help=f"one of: {', '.join(ROWS)}")
    parser.add_argument(
        "--quick", action="store_true", help="fewer and shorter runs, in two minutes"
    )
    parser.add_argument("--markdown", type=Path, metavar="FILE", help="write the table to FILE")
    arguments = parser.parse_args()
    unknown = [row for row in arguments.rows if row not in ROWS]
    if unknown or (os.cpu_count() or 1) < 2:
        parser.error(
            f"no such row: {', '.join(unknown)}" if unknown else "the bench needs two cores"
        )
    os.sched_setaffinity(0, {LOAD_CORE})
    findings = []
    print(machine(), flush=True)
    with ExitStack() as stack:
        bench = Bench(stack, QUICK if arguments.quick else FULL)
        for finding in measure(bench, arguments.rows or list(ROWS)):
            findings.append(finding)
            print(finding, flush=True)
    if arguments.markdown:
        arguments.markdown.write_text(markdown(findings))
    return 0 if all(finding.meets_limit for finding in findings) else 1


if __name__ == "__main__":
    sys.exit(main())

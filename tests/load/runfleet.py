"""`make run-fleet`: a fleet to look at, on one machine: three servers, HAProxy, PostgreSQL, VMs.

PostgreSQL has a directory of its own, which is removed at the end. The played VMs boot now and
then, and move from one server to another. A server that ends is started again a while later.
"""

from __future__ import annotations

import argparse
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

from tests.load.vm import Instance, write_instances
from tests.process import CHECKOUT, ServerProcess, run
from tests.servers.postgresql import PostgresqlBackend, program
from tests.vm import Vm

NAMES = ("one", "two", "three")
VMS = 24
PAUSE_S = 0.5  # between two boots, of all VMs together
MOVES = 0.2  # of the boots, that are moves in place of a boot
AGAIN_S = 20.0  # after which a server that has ended is started again: others show it as gone
GIVE_UP_S = 5.0  # of a VM that waits

_PAGES = """
frontend pages
    mode http
    bind 127.0.0.1:{port}
    timeout http-request 10s
    default_backend pages

backend pages
    mode http
    option httpchk
    http-check send meth GET uri /healthz hdr Host localhost
    default-server check inter 1s
"""


class Place:
    """Where everything listens."""

    def __init__(self, port: int) -> None:
        self.vms = port
        self.admin = {name: port + number for number, name in enumerate(NAMES, 1)}
        self.pages = port + len(NAMES) + 1


class Server:
    """A server of the fleet, started again when it has ended."""

    def __init__(self, name: str, place: Place, directory: Path, url: str) -> None:
        self.name = name
        self._directory = directory
        self._options = (
            *("--fleet", url, "--server-name", name),
            *("--vmotion-key-file", str(directory / "vmotion.key")),
            *("--proxy-protocol", "127.0.0.1"),
            *("--admin-listen", f"127.0.0.1:{place.admin[name]}"),
        )
        self._ended_s: float | None = None
        self.process = self._start("127.0.0.1:0")

    def _start(self, listen: str) -> ServerProcess:
        return ServerProcess(self._directory / "vms", *self._options, listen=listen)

    def keep(self) -> None:
        """Start it again, where it was, if it ended a while ago."""
        if not has_ended(self.process):
            return
        self._ended_s = self._ended_s or time.monotonic()
        if time.monotonic() - self._ended_s > AGAIN_S:
            self._ended_s = None
            self.process = self._start(f"127.0.0.1:{self.process.port}")
            print(f"server {self.name} runs again: process {self.process.pid}", flush=True)

    def end(self) -> None:
        """End it as an operator does, so that the fleet sees it as stopped."""
        if not has_ended(self.process):
            self.process.signal(signal.SIGTERM)
            with suppress(subprocess.TimeoutExpired):
                self.process.wait(GIVE_UP_S)
        self.process.end()


def has_ended(process: ServerProcess) -> bool:
    with suppress(subprocess.TimeoutExpired):
        process.wait(0)
        return True
    return False


class PlayedVm:
    def __init__(self, instance: Instance, port: int) -> None:
        self._instance = instance
        self._port = port
        self._line: Vm | None = None

    def act(self) -> None:
        """Boot or move; a line that was lost is dialled again next time, as a host does."""
        try:
            if self._line and random.random() < MOVES:
                self._move(self._line)
            self._boot()
        except (OSError, AssertionError):
            self.close()

    def close(self) -> None:
        if self._line:
            self._line.close()
        self._line = None

    def _boot(self) -> None:
        if self._line is None:
            self._line = Vm(self._port, self._instance.name, vc_uuid=self._instance.vc_uuid)
        for document in ("METADATA", "NETWORKDATA", "USERDATA"):
            code, body = self._line.ask(document, GIVE_UP_S)
            assert code == f"RESPONSE_{document}", code
            self._instance.check(document, body)

    def _move(self, source: Vm) -> None:
        secret = source.begin_move(limit_s=GIVE_UP_S)
        vm = self._instance
        target = Vm.arriving(self._port, secret, name=vm.name, vc_uuid=vm.vc_uuid)
        self._line = target
        target.is_welcome()
        target.complete()
        source.close()


@contextmanager
def balanced(place: Place, servers: list[Server], directory: Path, path: str) -> Iterator[None]:
    """HAProxy with conf/haproxy.cfg before the servers, and before their pages."""
    text = (CHECKOUT / "conf/haproxy.cfg").read_text().replace("log /dev/log local0", "")
    text = text.replace("bind :13370", f"bind 127.0.0.1:{place.vms}").partition("    server one ")[
        0
    ]
    for server in servers:
        text += f"    server {server.name} 127.0.0.1:{server.process.port}\n"
    text += _PAGES.format(port=place.pages)
    for server in servers:
        text += f"    server {server.name} 127.0.0.1:{place.admin[server.name]}\n"
    file = directory / "haproxy.cfg"
    file.write_text(text)
    process = subprocess.Popen([path, "-q", "-f", file, "-db"])
    try:
        yield
    finally:
        process.kill()
        process.wait()


def show(place: Place, servers: list[Server], url: str) -> None:
    command = ".venv/bin/vmw-cloudinit-metadata"
    print(f"VMs connect to 127.0.0.1:{place.vms}, by HAProxy")
    for server in servers:
        page = f"http://127.0.0.1:{place.admin[server.name]}/"
        print(f"server {server.name:5}  process {server.process.pid}, page {page}")
    print(f"the page of any server, by HAProxy: http://127.0.0.1:{place.pages}/")
    print(f"{VMS} VMs boot and move now. Try in another terminal:")
    print(f"  {command} fleet status --url {url}")
    server = f"--server 127.0.0.1:{place.vms}"
    print(f"  .venv/bin/vmw-metadata-client fetch vm-00000 --uri my-metadata {server}")
    print(
        f"  kill -9 {servers[0].process.pid}   # gone after 15 s, again there after {AGAIN_S:g} s"
    )
    print("INT (Ctrl-C) ends all of it.", flush=True)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--port", type=int, default=13370, help="of VMs; pages have the next ones")
    parser.add_argument("--seconds", type=float, default=float("inf"))
    arguments = parser.parse_args()
    program("initdb")  # says what to install, if it is missing
    haproxy = shutil.which("haproxy")
    if haproxy is None:
        sys.exit("needs haproxy (Debian: apt-get install haproxy)")
    with ExitStack() as stack, suppress(KeyboardInterrupt):
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, signal.default_int_handler)
        print("starting PostgreSQL and three servers", flush=True)
        backend = stack.enter_context(PostgresqlBackend())
        made = run("fleet", "init", "--url", backend.url)
        assert made.returncode == 0, made.stderr
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="run-fleet-")))
        (directory / "vms").mkdir()
        instances = write_instances(directory / "vms", VMS)
        (directory / "vmotion.key").write_bytes(random.randbytes(32))
        (directory / "vmotion.key").chmod(0o600)
        place = Place(arguments.port)
        servers = [Server(name, place, directory, backend.url) for name in NAMES]
        for server in servers:
            stack.callback(server.end)
        stack.enter_context(balanced(place, servers, directory, haproxy))
        vms = [PlayedVm(instance, place.vms) for instance in instances]
        show(place, servers, backend.url)
        end_s = time.monotonic() + arguments.seconds
        while time.monotonic() < end_s:
            random.choice(vms).act()
            for server in servers:
                server.keep()
            time.sleep(PAUSE_S)
        for vm in vms:
            vm.close()
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""The parts of one test: a metadata server, an ESXi host and machines."""

from __future__ import annotations

import json
import re
import urllib.request
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from tests.bridge import BridgeProcess
from tests.e2e.boot import PROOF, Boot
from tests.e2e.disk import Disk
from tests.e2e.image import Image
from tests.e2e.machine import Hardware, Machine
from tests.e2e.onlooker import Look, Onlooker
from tests.e2e.wire import When, Wire
from tests.process import ServerProcess, with_constants
from tests.storm import free_port

SHOWN_LINES = 80  # of each log of a failed test


class Lab:
    """`instances` is the directory of the file driver. All machines are the VM web1."""

    def __init__(self, directory: Path) -> None:
        self.instances = directory / "instances"
        self.instances.mkdir()
        self.boots: list[Boot] = []
        self.seen: list[str] = []
        self._directory = directory
        self._port = free_port()
        self._servers: list[ServerProcess] = []
        self._logs: list[tuple[str, Callable[[], str]]] = [("server", lambda: self.server_log)]

    def saw(self, fact: str) -> None:
        """Add a line to the report at the end."""
        self.seen.append(fact)

    # The server

    def serve(self, **instance: object) -> None:
        """Set the instance file of the machine."""
        whole = self._directory / "instance"
        whole.write_text(json.dumps(instance))  # JSON is YAML
        whole.replace(self.instances / "web1.yaml")

    def start_server(self, *options: str, **constants: float) -> None:
        settings = ("--log-level", "debug", *options)
        address = f"127.0.0.1:{self._port}"
        command = with_constants(**constants)
        self._servers.append(
            ServerProcess(self.instances, *settings, listen=address, command=command)
        )

    def kill_server(self) -> None:
        self._servers[-1].end()

    @property
    def outcome(self) -> Any:
        """How the server shows that the boot has ended, None if it has not."""
        return self.look().outcome

    def look(self) -> Look:
        shown = json.loads(self._api("/api/machines/web1"))
        return Look(shown["state"], shown["connected"], shown["outcome"], self.late_count)

    @property
    def late_count(self) -> int:
        """How many machines the alert says to be without an outcome."""
        found = re.search(r"^\w+_machines_without_outcome (\d+)", self._api("/metrics"), re.M)
        assert found
        return int(found[1])

    @property
    def known_hosts(self) -> set[str]:
        """The host keys that the server shows, of any host."""
        return {line.partition(" ")[2] for line in self._api("/api/known_hosts").splitlines()}

    def _api(self, path: str) -> str:
        """Return what the admin port of the running server answers."""
        server = self._servers[-1]
        url = server.wait_for(r"admin on (http://\S+)")[1]
        with urllib.request.urlopen(url + path, timeout=30) as response:
            text: str = response.read().decode()
            return text

    @property
    def server_log(self) -> str:
        return "".join(server.log for server in self._servers)

    # The host

    def move(self) -> None:
        """Run one vMotion, and wait for its end."""
        before = self.bridge.log.count("moved in")
        self.bridge.move()
        self.bridge.wait_for("moved in", before + 1)

    # The machine

    def disk(self, origin: Disk | Image) -> Disk:
        """Copy a disk for a machine of this test."""
        source = Disk(origin.disk) if isinstance(origin, Image) else origin
        return source.copy(self._directory / f"{len(self.boots)}.disk")

    def boot(
        self,
        disk: Disk,
        kernel: Path,
        hardware: Hardware,
        asked: tuple[When, ...] = (),
        answered: tuple[When, ...] = (),
        is_watched: bool = False,
    ) -> Boot:
        """Run a machine from power-on to power-off, with a host that connects to the server.

        If it is watched, there is an `onlooker` at the end of its boot.
        """
        directory = self._directory / f"boot{len(self.boots)}"
        directory.mkdir()
        with ExitStack() as stack:
            machine = Machine(hardware, disk, kernel, directory)
            stack.callback(machine.end)
            self._keep_log("console", lambda: machine.console)
            if is_watched:
                self.onlooker = Onlooker(lambda: machine.console, self.look)
                stack.callback(self.onlooker.end)
            self._plug_in(stack, machine.serial, asked, answered)
            seconds = machine.wait_for_power_off()
        if asked or answered:
            self.wire.check()
        command_line = disk.text(f"{PROOF}/cmdline").strip()
        assert command_line == machine.command_line, "no proof of this boot is on the disk"
        return self._keep(Boot(disk, seconds))

    def _plug_in(
        self,
        stack: ExitStack,
        serial: Path,
        asked: tuple[When, ...],
        answered: tuple[When, ...],
    ) -> None:
        """Start a bridge, and a wire between it and the machine if the test acts on its data."""
        place = serial
        if asked or answered:
            place = serial.with_name("wire")
            self.wire = Wire(serial, place, asked, answered)
            stack.callback(self.wire.close)
            self._keep_log("asked", self.wire.asked.text)
        bridge = self.bridge = BridgeProcess(self._port, "--connect", f"unix:{place}")
        stack.callback(bridge.end)
        self._keep_log("bridge", lambda: bridge.log)

    def _keep(self, boot: Boot) -> Boot:
        self._keep_log("agent", lambda: boot.agent_log)
        self.boots.append(boot)
        assert boot.agent_log, "the journal has no line of the agent"
        self.saw(f"{boot.seconds:.0f} s; the agent: {boot.agent_log.splitlines()[-1]}")
        return boot

    def _keep_log(self, name: str, read: Callable[[], str]) -> None:
        self._logs.append((f"boot {len(self.boots) + 1}: {name}", read))

    def end(self) -> None:
        for server in self._servers:
            server.end()

    @property
    def logs(self) -> list[tuple[str, str]]:
        """The last lines of each log."""
        return [(name, "\n".join(read().splitlines()[-SHOWN_LINES:])) for name, read in self._logs]

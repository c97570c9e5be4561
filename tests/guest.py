"""The tree of a VM's system, the agent run in it as a real process, and a server at its port.

The process runs the file that ships, as `guest print agent` prints it. Where it only runs to its
end, it is forked from one that has compiled the file: see `starter`.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from importlib.machinery import SourceFileLoader
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from tests.process import CHECKOUT, ended
from tests.starter import starter
from tests.uart import DOCUMENTS, Answers, ScriptedUart, Uart, server_of
from vmw_cloudinit_metadata.guest.image import joined

GUEST = CHECKOUT / "vmw_cloudinit_metadata/guest"
_SHIPPED = tempfile.TemporaryDirectory()  # removed with the process
AGENT = Path(_SHIPPED.name) / "vmw-metadata-agent"
AGENT.write_text(joined.agent())
MEMORY = "vmw-metadata-agent.json"
UUID = "564d1234-5678-9abc-def0-123456789abc"
QUICK = ("--retry", "0.2")
TWICE = ("--retry", "0.8")  # within 1.5 s, with time left for the last answer
OLDER = os.environ.get("AGENT_PYTHON")  # by hand
PYTHON = OLDER or sys.executable


def mostly_slow(quick: Any, *others: Any) -> list[Any]:
    """Rows of a table: the first one is run with the quick tests, the others with the slow ones."""
    return [
        quick,
        *(
            pytest.param(*(row if isinstance(row, tuple) else [row]), marks=pytest.mark.slow)
            for row in others
        ),
    ]


class Guest:
    """A VM of VMware without a port, below a directory."""

    def __init__(self, root: Path) -> None:
        self.root = root
        for directory in ("dev", "etc", "proc", "sys/class/net", "sys/class/tty"):
            (root / directory).mkdir(parents=True)
        self.write("sys/class/dmi/id/sys_vendor", "VMware, Inc.\n")
        self.write("sys/class/dmi/id/product_uuid", UUID + "\n")
        self.write("proc/consoles", "tty0                 -WU (EC  p  )    4:1\n")
        self.write("dev/console", "")

    @property
    def seed(self) -> Path:
        return self.root / "var/lib/cloud/seed/nocloud"

    @property
    def console(self) -> str:
        return (self.root / "dev/console").read_text()

    def write(self, path: str, text: str = "") -> Path:
        place = self.root / path
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_text(text)
        return place

    def add_port(self, name: str, uart: Uart | None = None, kind: int = 4) -> None:
        self.write(f"sys/class/tty/{name}/type", f"{kind}\n")
        (self.root / "dev" / name).unlink(missing_ok=True)
        if uart:
            (self.root / "dev" / name).symlink_to(uart.path)

    def add_card(self, name: str, mac: str) -> None:
        self.write(f"sys/class/net/{name}/address", f"{mac}\n")
        self.write(f"sys/class/net/{name}/type", "1\n")
        (self.root / f"sys/class/net/{name}/device").mkdir()

    def command(self, *options: str) -> list[str]:
        return [PYTHON, str(AGENT), "--root", str(self.root), *options]

    def start(self, *options: str, env: Mapping[str, str] | None = None) -> subprocess.Popen[str]:
        return subprocess.Popen(
            self.command(*options),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, **(env or {})},
        )

    def run(self, *options: str) -> subprocess.CompletedProcess[str]:
        command = self.command(*options)
        if OLDER:
            return ended(
                command, lambda out, err: subprocess.Popen(command, stdout=out, stderr=err)
            )
        agent = starter(AGENT)
        return ended(command, lambda out, err: agent.start(command, out, err, os.environ))

    def fetch(self, *options: str) -> str:
        """Runs it to a good end; returns its journal."""
        done = self.run(*options)
        assert done.returncode == 0, done.stderr
        assert "Traceback" not in done.stderr, done.stderr
        return done.stderr

    @property
    def files(self) -> dict[str, bytes]:
        """What cloud-init would read."""
        return {file.name: file.read_bytes() for file in self.seed.iterdir() if file.name != MEMORY}

    @property
    def metadata_text(self) -> str:
        return (self.seed / "meta-data").read_text()

    @property
    def metadata(self) -> Any:
        return json.loads(self.metadata_text)

    def clone(self, root: Path, uuid: str) -> Guest:
        """A copy of the disk in another VM."""
        shutil.copytree(self.root, root, symlinks=True)
        copy = object.__new__(Guest)
        copy.root = root
        copy.write("sys/class/dmi/id/product_uuid", uuid + "\n")
        return copy


def shipped() -> Any:
    """The file that ships, as a module."""
    loader = SourceFileLoader("vmw_metadata_agent", str(AGENT))
    module = ModuleType(loader.name)
    loader.exec_module(module)
    return module


Serial = Callable[..., ScriptedUart]


@pytest.fixture
def guest(tmp_path: Path) -> Guest:
    return Guest(tmp_path / "root")


@pytest.fixture
def serial(guest: Guest) -> Iterator[Serial]:
    """Puts a server behind the guest's port: what it answers, then how the line behaves."""
    made: list[ScriptedUart] = []

    def connect(answers: Answers, name: str = "ttyS1", **line: Any) -> ScriptedUart:
        made.append(ScriptedUart(answers, **line))
        guest.add_port(name, made[-1])
        return made[-1]

    yield connect
    for uart in made:
        uart.close()


def later_boot(guest: Guest, serial: Serial, answers: Answers) -> str:
    """A boot with a good server, and then one with `answers`; returns the second journal."""
    serial(server_of(DOCUMENTS))
    guest.fetch()
    before = (guest.seed.resolve(), guest.files)
    serial(answers)
    began_s = time.monotonic()
    output = guest.fetch(*TWICE, "--later-boot-timeout", "1.5")
    assert time.monotonic() - began_s < 12
    assert (guest.seed.resolve(), guest.files) == before
    return output

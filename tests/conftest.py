"""What tests share: programs of the system, a real server process, and VMs that speak to it."""

from __future__ import annotations

import gc
import logging
import os
import shutil
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from itertools import chain
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, settings

from tests.cloudinit import cloud_init  # noqa: F401 - a fixture
from tests.debiantrees import debian_tree  # noqa: F401 - a fixture
from tests.fleet import fleet_backend, fleet_database  # noqa: F401 - fixtures
from tests.fuse import hanging  # noqa: F401 - a fixture
from tests.guest import guest, serial  # noqa: F401 - fixtures
from tests.laws import LAW_CASES
from tests.namespaces import namespace  # noqa: F401 - a fixture
from tests.openbao import openbao  # noqa: F401 - a fixture
from tests.process import Constants, ServerProcess, modules_with, place_of
from tests.simulator import (  # noqa: F401 - fixtures
    simulate,
    simulator_certificate,
    simulator_program,
)
from tests.vm import Vm

# Each process of the tests, and each that they start, would compile all modules anew.
sys.dont_write_bytecode = False
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)

# nohup, and a shell's command in the background, have them ignored, and so do their children.
signal.signal(signal.SIGHUP, signal.SIG_DFL)
signal.signal(signal.SIGINT, signal.default_int_handler)

# A case that takes long says something of a busy machine, and nothing of a law. Each run has other
# cases; `make laws` has more of them.
settings.register_profile(
    "laws",
    deadline=None,
    max_examples=LAW_CASES,
    suppress_health_check=[HealthCheck.too_slow],
)
settings.load_profile("laws")

# Thousands of tests and their modules are there until the end: the collector need not look at them,
# neither while they are made nor at each of its rounds in the tests.
gc.disable()


# Files whose tests wait most, the longest first.
WAITING = (
    *("running_clock", "timing", "watching", "userdata_window", "notify", "moves", "wrong_port"),
    *("hanging", "server", "admin_attacks", "strangers", "lookup", "once", "agent", "log_reader"),
    *("webhooks", "outcome_hooks", "windows_line", "admin"),
)


WAIT_TOGETHER = 3  # processes


@pytest.hookimpl(trylast=True)  # when those of the other suite are gone
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Spread these among the others: of several processes some wait, and some compute."""
    files: dict[str, list[pytest.Item]] = {}
    for item in items:
        files.setdefault(item.path.stem.removeprefix("test_"), []).append(item)
    waiting = [files.pop(name) for name in WAITING if name in files]
    others = list(files.values())
    first, later = waiting[:WAIT_TOGETHER], waiting[WAIT_TOGETHER:]
    every = len(others) * 6 // 10 // (len(later) or 1)  # none begins when most has ended
    for number, file in enumerate(later):
        others.insert((number + 1) * every + number, file)
    items[:] = chain(*first, *others)


@pytest.hookimpl(trylast=True)
def pytest_collection_finish() -> None:
    gc.freeze()
    gc.set_threshold(100_000)  # a tree of a module's syntax has as many objects
    gc.enable()


EXAMPLE_NETWORK = """\
network:
  address: 192.168.1.1
  netmask: 255.255.255.0
  gateway: 192.168.1.254
  search: 'example.com'
  nameservers: [8.8.8.8, 8.8.4.4]
"""
EXAMPLE = f"""\
metadata:
  instance-id: my-instance
  hostname: myhostnamehere
{EXAMPLE_NETWORK}userdata: |
  #cloud-config
  growpart: {{mode: auto}}
"""


@pytest.fixture
def constants(monkeypatch: pytest.MonkeyPatch) -> Constants:
    """Sets constants in this process until the test ends; named as in `with_constants`."""

    def set_constants(**values: object) -> None:
        for constant, value in values.items():
            _, name = place_of(constant)
            for module in modules_with(constant):
                monkeypatch.setattr(module, name, value)

    return set_constants


@pytest.fixture
def settled(constants: Constants) -> None:
    """Files that changed just now count as settled, so that answers have a token."""
    constants(drivers__filesystem__filetoken__UNSETTLED_NS=-(10**18))


@pytest.fixture(scope="session")
def program() -> Callable[[str, str], str]:
    """Finds a program of the system; where it is missing, the test is skipped, in CI it fails."""

    def find(name: str, package: str) -> str:
        path = shutil.which(name)
        if path:
            return path
        message = f"needs {name} (Debian: apt-get install {package})"
        if os.environ.get("CI"):
            pytest.fail(message)
        pytest.skip(message)

    return find


def make_instances(directory: Path) -> Path:
    """A directory with one instance file, web1.yaml."""
    directory.mkdir()
    (directory / "web1.yaml").write_text(EXAMPLE)
    return directory


@pytest.fixture
def own_instances(tmp_path: Path) -> Path:
    """Instance files of one test alone."""
    return make_instances(tmp_path / "instances")


@pytest.fixture
def start(own_instances: Path) -> Iterator[Callable[..., ServerProcess]]:
    """Starts server processes for `own_instances`; they are ended after the test."""
    started: list[ServerProcess] = []

    def start_server(*options: str, **settings: Any) -> ServerProcess:
        server = ServerProcess(own_instances, *options, **settings)
        started.append(server)
        return server

    yield start_server
    for server in started:
        server.end()


@pytest.fixture
def install_drivers(tmp_path: Path) -> Callable[[str], None]:
    """Makes a distribution in `tmp_path` with these entry points, a line each."""

    def install(entry_points: str) -> None:
        directory = tmp_path / "some_drivers-1.0.dist-info"
        directory.mkdir()
        (directory / "METADATA").write_text(
            "Metadata-Version: 2.1\nName: some-drivers\nVersion: 1.0\n"
        )
        (directory / "entry_points.txt").write_text(
            f"[vmw_cloudinit_metadata.drivers]\n{entry_points}"
        )

    return install


@pytest.fixture(scope="module")
def instances(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Instance files of the tests of a module; a test may add files of its own."""
    return make_instances(tmp_path_factory.mktemp("module") / "instances")


@pytest.fixture(scope="module")
def server(instances: Path) -> Iterator[ServerProcess]:
    """A server process with the defaults, for `instances`, that the tests of a module share."""
    process = ServerProcess(instances)
    yield process
    process.end()


@pytest.fixture
def vm(server: ServerProcess) -> Iterator[Callable[..., Vm]]:
    """Connects VMs to `server`; they are disconnected after the test."""
    connected: list[Vm] = []

    def connect(*arguments: Any, **settings: Any) -> Vm:
        machine = Vm(server.port, *arguments, **settings)
        connected.append(machine)
        return machine

    yield connect
    for machine in connected:
        machine.close()


@pytest.fixture
def peers() -> Iterator[ExitStack]:
    """Closes what is entered into it after the test."""
    with ExitStack() as stack:
        yield stack


@pytest.fixture
def at_info() -> Iterator[None]:
    """The log is at level info."""
    level = logging.root.level
    logging.root.setLevel(logging.INFO)
    yield
    logging.root.setLevel(level)

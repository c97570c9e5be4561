"""Who may import whom: docs/architecture.md, checked."""

from __future__ import annotations

import ast
import functools
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest

PACKAGE = "vmw_cloudinit_metadata"
ROOT = Path(__file__).parent.parent / PACKAGE
FLOORS = {
    **dict.fromkeys(("protocol", "instance"), 0),
    **dict.fromkeys(("settings", "drivers"), 1),
    **dict.fromkeys(("monitoring", "process", "guest", "testing"), 2),
    "drivers.stores": 2,
    **dict.fromkeys(
        (f"drivers.stores.etcd.{name}" for name in ("gateway", "keyspace", "replay")), 1
    ),
    **dict.fromkeys(("serving", "client", "admin"), 3),
    **dict.fromkeys(("cli", "__main__", "__init__"), 4),
    **dict.fromkeys(
        ("settings.command", "settings.parameters", "settings.layers", "settings.reload"), 3
    ),
    **dict.fromkeys(("serving.tls", "serving.admission", "process.budget"), 1),
    **dict.fromkeys(("monitoring.ownfile", "guest.image"), 1),
    **dict.fromkeys(
        ("client.hypervisor", "client.expectation", "client.tally", "client.loadplan"), 0
    ),
    **dict.fromkeys(("monitoring.counters", "monitoring.gauges", "monitoring.facts"), 0),
    **dict.fromkeys(("monitoring.bounded", "monitoring.digests"), 0),
    **dict.fromkeys(("client.summary", "client.report", "admin.request"), 0),
    **dict.fromkeys(("guest.agent.printing", "guest.windows.publickeys"), 0),
    "guest.windows.networkdetails": 0,
    "serving.registerbucket": 0,
    **dict.fromkeys(
        (f"drivers.stores.netbox.{name}" for name in ("hookevent", "pagesize", "virtualmachine")), 0
    ),
    **dict.fromkeys(("guest.image.kernel", "guest.image.datasource", "guest.vsphere.portplan"), 0),
    **dict.fromkeys(("guest.check.dsidentify", "guest.check.finding"), 0),
    **dict.fromkeys(("process.fleet.fleetpart", "process.fleet.frames"), 0),
    **dict.fromkeys(("process.fleet.machinerows", "process.fleet.machinetables"), 0),
    **dict.fromkeys(
        (f"process.vcenter.{name}" for name in ("inventoryrows", "vcenterrows", "vcentertable")), 0
    ),
}
NOT_ON_FLOOR = {
    0: {"gevent", "socket", "threading", "time", "logging", "click", "os", "pathlib", "io"},
    1: {"gevent", "socket", "logging", "click"},
}
AGENT = sorted((ROOT / "guest/agent").glob("*.py"))  # PyYAML is there where cloud-init is
WINDOWS = sorted((ROOT / "guest/windows").glob("*.py"))
CLOUDBASE_INIT = {"cloudbaseinit", "oslo_config", "oslo_log", "serial", "yaml"}
INSTANCE_YAML = {"instance/parsing/seed.py", "instance/values/dump.py", "instance/model.py"}
ONE_HOME = {
    "yaml": INSTANCE_YAML | {"guest/agent/texts.py", "guest/windows/inquiry.py"},
    "pyVmomi": {f"guest/vsphere/{name}.py" for name in ("inventory", "spec", "vcenter")},
}
MODULES = sorted(ROOT.rglob("*.py"))


@functools.cache
def nodes_of(path: Path) -> list[ast.AST]:
    return list(ast.walk(ast.parse(path.read_text())))


@pytest.fixture(scope="module", autouse=True)
def forget_nodes() -> Iterator[None]:
    """Millions of nodes, which the collector would look at in the tests of other files."""
    yield
    nodes_of.cache_clear()


def imports(path: Path) -> Iterator[str]:
    for node in nodes_of(path):
        if isinstance(node, ast.Import):
            yield from (name.name for name in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield node.module or ""
            if node.module == PACKAGE:
                yield from (f"{PACKAGE}.{name.name}" for name in node.names)


def floor(path: Path) -> int:
    return floor_of(path.relative_to(ROOT).with_suffix("").parts)


def floor_of(parts: Sequence[str]) -> int:
    """Of ("client", "check"): its own, else that of its package."""
    names = [".".join(parts[:length]) for length in range(len(parts), 0, -1)]
    return next(FLOORS[name] for name in names if name in FLOORS)


# One test for all modules: a test for each would take five times as long.


def test_modules_import_from_their_own_floor_or_below() -> None:
    def higher(path: Path) -> set[str]:
        parts = (name.split(".")[1:] for name in imports(path) if name.startswith(f"{PACKAGE}."))
        known = [one for one in parts if one[0] in FLOORS]
        return {".".join(one) for one in known if floor_of(one) > floor(path)}

    assert faults_by_module(higher) == {}


def test_modules_import_no_library_of_a_higher_floor() -> None:
    def forbidden(path: Path) -> set[str]:
        libraries = {name.split(".")[0] for name in imports(path)}
        return libraries & NOT_ON_FLOOR.get(floor(path), set())

    assert faults_by_module(forbidden) == {}


def test_pure_modules_open_no_file() -> None:
    def opening(path: Path) -> set[str]:
        calls = [node.func for node in nodes_of(path) if isinstance(node, ast.Call)]
        return {"open" for call in calls if isinstance(call, ast.Name) and call.id == "open"}

    assert faults_by_module(lambda path: set() if floor(path) else opening(path)) == {}


def faults_by_module(faults_of: Callable[[Path], set[str]]) -> dict[str, set[str]]:
    found = {str(path.relative_to(ROOT)): faults_of(path) for path in MODULES}
    return {name: faults for name, faults in found.items() if faults}


@pytest.mark.parametrize("library", ONE_HOME)
def test_library_has_its_home(library: str) -> None:
    users = {str(p.relative_to(ROOT)) for p in MODULES if library in imports(p)}
    assert users == ONE_HOME[library]


@pytest.mark.parametrize("path", AGENT, ids=lambda p: p.stem)
def test_agent_needs_itself_and_the_standard_library_alone(path: Path) -> None:
    others = {name for name in imports(path) if not name.startswith(f"{PACKAGE}.guest.agent.")}
    assert {name.split(".")[0] for name in others} <= sys.stdlib_module_names | {"yaml"}


@pytest.mark.parametrize("path", WINDOWS, ids=lambda p: p.stem)
def test_file_for_windows_needs_what_cloudbase_init_brings_alone(path: Path) -> None:
    rooms = (f"{PACKAGE}.guest.windows.", f"{PACKAGE}.guest.agent.")
    others = {name for name in imports(path) if not name.startswith(rooms)}
    needed = {name.split(".")[0] for name in others} - {"winreg"}
    assert needed <= sys.stdlib_module_names | CLOUDBASE_INIT


def test_nothing_is_monkey_patched() -> None:
    assert [path for path in MODULES if "gevent.monkey" in path.read_text()] == []


@pytest.mark.parametrize("module", ["", ".protocol.session", ".instance.model", ".drivers.file"])
def test_import_without_the_server_needs_no_gevent(module: str) -> None:
    program = f"import sys, {PACKAGE}{module}; sys.exit('gevent' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0

"""The shape of the code: circles, sizes, names, and how far a request travels through the files."""

from __future__ import annotations

import ast
import functools
import socket
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from graphlib import CycleError, TopologicalSorter
from itertools import pairwise
from pathlib import Path
from types import FrameType

import gevent
import greenlet
import pytest

from tests.test_floors import (  # noqa: F401 - a fixture
    MODULES,
    PACKAGE,
    ROOT,
    forget_nodes,
    nodes_of,
)
from tests.vm import ALWAYS_KNOWN, BINARY, VC_UUID, suboption
from tests.waiting import wait_in_hub_until
from vmw_cloudinit_metadata import MetadataServer
from vmw_cloudinit_metadata.drivers.file import FileDriver
from vmw_cloudinit_metadata.monitoring.gauges import CONNECTIONS

MAX_CLASS_LINES = 300
MAX_METHODS = 25
MAX_MODULE_LINES = 500
MAX_ENTRIES = 15

# A request whose answer is cached: this many files, and so often from one file to another.
MAX_FILES = 9
MAX_CHANGES_OF_FILE = 26

TESTS = Path(__file__).parent

SETTLED_S = 2.2  # after which a file need not be read again


def classes() -> Iterator[tuple[Path, ast.ClassDef]]:
    for path in MODULES:
        yield from ((path, node) for node in nodes_of(path) if isinstance(node, ast.ClassDef))


def dotted(path: Path) -> str:
    """`serving.line` of vmw_cloudinit_metadata/serving/line.py, `serving` of its __init__.py."""
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" and len(parts) > 1 else parts)


NAMES = {dotted(path) for path in MODULES}
ROOMS = ["", *sorted({name.rpartition(".")[0] for name in NAMES} - {""})]


def imported(path: Path) -> Iterator[str]:
    """The modules of the package that one imports, also for the type checker alone."""
    for node in nodes_of(path):
        if isinstance(node, ast.Import):
            yield from (name.name.removeprefix(f"{PACKAGE}.") for name in node.names)
        elif isinstance(node, ast.ImportFrom) and (node.module or "").startswith(PACKAGE):
            module = (node.module or "").removeprefix(PACKAGE).removeprefix(".")
            for name in node.names:
                inner = f"{module}.{name.name}".removeprefix(".")
                yield inner if inner in NAMES else module


@functools.cache
def imports_by_module() -> dict[str, set[str]]:
    return {
        dotted(path): {name for name in imported(path) if name in NAMES} - {dotted(path)}
        for path in MODULES
    }


def circle_in(graph: Mapping[str, set[str]]) -> list[str]:
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        return list(error.args[1])
    return []


def test_modules_import_each_other_in_no_circle() -> None:
    assert circle_in(imports_by_module()) == []


def below(room: str, module: str) -> str:
    """`serving` of the root "" and serving.line, `line` of serving; "" of a module elsewhere."""
    prefix = f"{room}." if room else ""
    return module.removeprefix(prefix).split(".")[0] if module.startswith(prefix) else ""


@pytest.mark.parametrize("room", ROOMS, ids=lambda room: room or "root")
def test_modules_and_rooms_of_a_room_import_each_other_in_no_circle(room: str) -> None:
    graph: dict[str, set[str]] = {}
    for module, others in imports_by_module().items():
        if name := below(room, module):
            graph.setdefault(name, set()).update(below(room, other) for other in others)
    assert circle_in({name: others - {name, ""} for name, others in graph.items()}) == []


def test_no_class_is_long_or_has_many_methods() -> None:
    def is_large(node: ast.ClassDef) -> bool:
        methods = [part for part in node.body if isinstance(part, ast.FunctionDef)]
        lines = (node.end_lineno or 0) - node.lineno + 1
        return lines > MAX_CLASS_LINES or len(methods) > MAX_METHODS

    assert [f"{dotted(path)}.{node.name}" for path, node in classes() if is_large(node)] == []


def test_no_module_is_long() -> None:
    lines = {dotted(path): len(path.read_text().splitlines()) for path in MODULES}
    assert {name: count for name, count in lines.items() if count > MAX_MODULE_LINES} == {}


def test_root_of_the_package_has_few_entries() -> None:
    entries = [entry.name for entry in ROOT.iterdir() if entry.name != "__pycache__"]
    assert len(entries) <= MAX_ENTRIES, entries


def test_names_of_modules_are_unique() -> None:
    names = Counter(path.stem for path in MODULES if not path.stem.startswith("__"))
    assert [name for name, count in names.items() if count > 1] == []


def test_names_of_classes_are_unique() -> None:
    names = Counter(node.name for _, node in classes())
    assert [name for name, count in names.items() if count > 1] == []


# Tests

# Attributes that begin with "_" and are not another object's secret.
NOT_PRIVATE = {
    "_replace": "a public method of each NamedTuple",
    "_exit": "a public function of os",
    "_moId": "pyVmomi: the id of an object, which has no public name",
    "_GetPropertyList": "pyVmomi: the properties of a type, which have no public name",
}


def is_private(name: object) -> bool:
    is_hidden = isinstance(name, str) and name.startswith("_") and not name.startswith("__")
    return is_hidden and name not in NOT_PRIVATE


def is_constant(name: object) -> bool:
    return isinstance(name, str) and name.isupper()


def is_own(node: ast.expr) -> bool:
    return isinstance(node, ast.Name) and node.id in ("self", "cls")


def attributes_used(node: ast.AST) -> Iterator[object]:
    """Names of attributes of other objects, and those that are imported from modules."""
    match node:
        case ast.Attribute(value, name) if not is_own(value):
            yield name
        case ast.ImportFrom(names=names):
            yield from (one.name for one in names)
        case ast.Call(ast.Name("getattr" | "setattr"), [_, ast.Constant(name), *_]):
            yield name
        case ast.Call(ast.Attribute(_, "setattr" | "delattr"), [_, ast.Constant(name), *_]):
            yield name


def attributes_set(node: ast.AST) -> Iterator[object]:
    match node:
        case ast.Attribute(value, name, ast.Store()) if not is_own(value):
            yield name
        case ast.Call(ast.Attribute(_, "setattr"), [_, ast.Constant(name), *_]):
            yield name


def line_of(node: ast.AST) -> int:
    return int(getattr(node, "lineno", 0))


@functools.cache
def places_in_tests() -> tuple[list[str], list[str]]:
    """Where a private attribute is used, and where a constant is set."""
    used, set_ = list[str](), list[str]()
    for path in sorted(TESTS.rglob("*.py")):
        name = path.relative_to(TESTS)
        for node in ast.walk(ast.parse(path.read_text())):
            used += [f"{name}:{line_of(node)}: {a}" for a in attributes_used(node) if is_private(a)]
            set_ += [f"{name}:{line_of(node)}: {a}" for a in attributes_set(node) if is_constant(a)]
    return used, set_


def test_tests_use_no_private_attribute_of_another_object() -> None:
    assert places_in_tests()[0] == []


def test_tests_set_constants_only_by_the_two_ways_of_docs_development() -> None:
    assert places_in_tests()[1] == []


# The way of a request


@contextmanager
def files_entered() -> Iterator[list[str]]:
    """The file of each call of a function of the package, in all greenlets."""
    files: list[str] = []
    root = f"{ROOT}/"

    def profile(frame: FrameType, event: str, _argument: object) -> None:
        path = frame.f_code.co_filename
        if event == "call" and path.startswith(root):
            files.append(path.removeprefix(root))

    # Each greenlet has a profiler of its own.
    greenlet.settrace(lambda _event, _greenlets: sys.setprofile(profile))
    sys.setprofile(profile)
    try:
        yield files
    finally:
        greenlet.settrace(None)
        sys.setprofile(None)


class Peer:
    """A VM in this process: the hub runs while it waits."""

    def __init__(self, server: MetadataServer) -> None:
        self._socket = socket.create_connection(server.addresses[0])
        self._socket.setblocking(False)
        codes = ALWAYS_KNOWN + bytes([80, 81, 82, 83])
        identity = suboption(80, VC_UUID.encode()) + suboption(82, b"web1")
        self._socket.sendall(BINARY + b"\xff\xfb\xe8" + suboption(0, codes) + identity)
        self._socket.sendall(suboption(70, b"Cmy-metadata"))
        self._receive_until(lambda data: suboption(71) in data)

    def ask(self) -> None:
        self._socket.sendall(b"!!REQUEST_METADATA#\n")
        self._receive_until(lambda data: b"!!RESPONSE_METADATA" in data and data.endswith(b"\n"))

    def _receive_until(self, is_complete: Callable[[bytes], bool]) -> None:
        data = b""
        with gevent.Timeout(60):
            while not is_complete(data):
                gevent.sleep(0.001)
                try:
                    data += self._socket.recv(65536)
                except BlockingIOError:
                    continue

    def close(self) -> None:
        self._socket.close()


@pytest.fixture
def served(own_instances: Path) -> Iterator[MetadataServer]:
    time.sleep(SETTLED_S)
    driver = FileDriver({"directory": str(own_instances)})
    server = MetadataServer(driver, ["my-metadata"], [("127.0.0.1", 0)])
    server.start()
    yield server
    server.stop()


def asked(served: MetadataServer) -> tuple[list[str], list[str]]:
    """Return the files that the first request of a VM passes, and those of the next one."""
    vm = Peer(served)
    with files_entered() as first:
        vm.ask()
    with files_entered() as following:
        vm.ask()
    vm.close()
    wait_in_hub_until(lambda: not served.figures.gauges[CONNECTIONS])  # else it is a rival
    return first, following


def test_cached_request_passes_few_files(served: MetadataServer) -> None:
    """The first of a boot, whose answer another connection has just had, and the next one."""
    asked(served)
    for found in zip(*(asked(served) for _ in range(3)), strict=True):
        files = min(found, key=lambda one: len(set(one)))  # a timer may have run in between
        assert files.count("serving/line.py") > 0
        assert "process/threads.py" not in files, "the answer was not cached"
        assert len(set(files)) <= MAX_FILES, sorted(set(files))
        assert sum(one != other for one, other in pairwise(files)) <= MAX_CHANGES_OF_FILE, files

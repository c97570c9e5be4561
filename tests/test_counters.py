"""Declared counters, gauges and timings: each is used, and nothing else is counted."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from functools import cache
from itertools import chain
from pathlib import Path

import pytest

from tests.process import CHECKOUT
from tests.test_floors import forget_nodes, nodes_of  # noqa: F401 - a fixture
from tests.test_session import HELLO, new_session
from vmw_cloudinit_metadata.admin.metrics import Metrics, Scene
from vmw_cloudinit_metadata.monitoring import counters, gauges
from vmw_cloudinit_metadata.monitoring.counters import Family
from vmw_cloudinit_metadata.monitoring.figures import Figures
from vmw_cloudinit_metadata.protocol import events, telnet
from vmw_cloudinit_metadata.protocol.telnet import Option
from vmw_cloudinit_metadata.protocol.vmware import Suboption

PACKAGE = CHECKOUT / "vmw_cloudinit_metadata"
DECLARATIONS = {PACKAGE / "monitoring/counters.py", PACKAGE / "monitoring/gauges.py"}
SOURCES = [path for path in PACKAGE.rglob("*.py") if path not in DECLARATIONS]

ALL = [*counters.FAMILIES, *counters.ADMIN_FAMILIES, *gauges.GAUGES, *gauges.TIMINGS.values()]
EXPORTED = [family for family in ALL if family.name]
LISTS = {"FAMILIES", "ADMIN_FAMILIES", "GAUGES", "TIMINGS", "TABLES"}
# Values of labels that others hand in: violations by the protocol, documents by guests, versions
# by OpenSSL.
FROM_OUTSIDE = ("protocol_faults", "tls_handshakes")


def names_declared(path: Path) -> Iterator[tuple[str, str]]:
    for node in ast.parse(path.read_text()).body:
        targets = node.targets if isinstance(node, ast.Assign) else [getattr(node, "target", None)]
        for target in targets:
            if isinstance(target, ast.Name) and target.id.isupper() and target.id[0] != "_":
                yield f"vmw_cloudinit_metadata.monitoring.{path.stem}", target.id


def names_used(path: Path) -> Iterator[tuple[str, str]]:
    """The constants of both modules that a file names: by import, or as an attribute."""
    for node in nodes_of(path):
        if isinstance(node, ast.ImportFrom):
            yield from ((node.module or "", name.name) for name in node.names)
        elif isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
            yield f"vmw_cloudinit_metadata.monitoring.{node.value.id}", node.attr


@cache
def texts_in_code() -> set[str]:
    """Each text that is more than a docstring or a metric's help."""
    nodes = chain.from_iterable(map(nodes_of, SOURCES))
    return {
        node.value for node in nodes if isinstance(node, ast.Constant) and type(node.value) is str
    }


def test_every_declared_key_is_used() -> None:
    declared = set(chain.from_iterable(map(names_declared, DECLARATIONS)))
    used = set(chain.from_iterable(map(names_used, SOURCES)))
    assert {name for name in declared - used if name[1] not in LISTS} == set()


@pytest.mark.parametrize("family", [f for f in EXPORTED if f.labels], ids=lambda f: f.name)
def test_every_value_of_a_label_is_used(family: Family) -> None:
    if family.name in FROM_OUTSIDE:
        return
    values = set(chain.from_iterable(family.keys))
    assert values - texts_in_code() - {"other"} == set()


def test_every_key_is_plain_text() -> None:
    keys = [*counters.REFUSED.values(), counters.BOOTS, gauges.BOOT, *gauges.TIMINGS]
    assert {type(key) for key in keys} == {str}


@pytest.mark.parametrize(
    "families",
    [counters.FAMILIES, counters.ADMIN_FAMILIES, gauges.GAUGES],
    ids=["counters", "admin", "gauges"],
)
def test_no_key_is_declared_twice(families: list[Family]) -> None:
    keys = [key for family in families for key in family.keys.values()]
    shared = {key for key in keys if keys.count(key) > 1}
    assert shared <= {"TLS failed"}  # closes a connection, and is a metric of its own


def test_every_declared_metric_is_exported() -> None:
    scene = Scene(Figures(), True, {}, {"failed": 0, "stale": 0}, 0.0, {})
    families = {family.name: family for family in Metrics(lambda: scene).collect()}
    for declared in EXPORTED:
        family = families[f"vmw_metadata_{declared.name}"]
        assert family.documentation == declared.help
        if declared not in gauges.TIMINGS.values():
            values = {tuple(sample.labels.values()) for sample in family.samples}
            assert values == set(declared.keys)


def test_metrics_are_documented() -> None:
    text = (CHECKOUT / "docs/admin.md").read_text()
    assert [family.name for family in EXPORTED if f"`{family.name}" not in text] == []
    labels = [label for family in EXPORTED for label in family.labels]
    assert [label for label in labels if f"`{label}`" not in text] == []


def kinds_in_code() -> set[str]:
    """The kinds of violations that the protocol names where it finds one."""
    nodes = chain.from_iterable(map(nodes_of, (PACKAGE / "protocol").glob("*.py")))
    calls = [node for node in nodes if isinstance(node, ast.Call) and node.args]
    finders = {"violation", "Malformed"}
    return {
        call.args[0].value
        for call in calls
        if finders & {getattr(call.func, "attr", ""), getattr(call.func, "id", "")}
        and isinstance(call.args[0], ast.Constant)
    }


def kinds_of(suboption: Suboption, argument: bytes) -> Iterator[str]:
    """The kinds of violations that one suboption brings, of a VM that has said nothing before."""
    said = telnet.Subnegotiation(Option.VMWARE_TELNET_EXT, bytes([suboption]) + argument)
    found = new_session().receive_data(HELLO + telnet.encode_subnegotiation(said))
    yield from (event.kind for event in found if isinstance(event, events.Violation))


def test_every_kind_of_violation_is_declared_and_found() -> None:
    arguments = (b"", b"x" * 3000)
    cases = [(suboption, argument) for suboption in Suboption for argument in arguments]
    found = set(chain.from_iterable(kinds_of(*case) for case in cases))
    assert kinds_in_code() | found == set(events.VIOLATION_KINDS)

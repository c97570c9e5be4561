"""Kinds of happenings: each is declared once, reported somewhere, and documented."""

from __future__ import annotations

import ast
import logging
import re
from typing import get_args

import pytest

from tests.facts import BY_KIND, fact_of
from tests.process import CHECKOUT
from vmw_cloudinit_metadata.monitoring import facts
from vmw_cloudinit_metadata.monitoring.bounded import bytes_of
from vmw_cloudinit_metadata.monitoring.facts import KINDS, DocumentsServed, Fact
from vmw_cloudinit_metadata.monitoring.happenings import Happening
from vmw_cloudinit_metadata.monitoring.jsonobject import LEVEL_NAMES, fields
from vmw_cloudinit_metadata.protocol.packet import Packet, serialize

COLLECTED_BYTES, FLOAT_BYTES = 64, 24

SERVING = CHECKOUT / "vmw_cloudinit_metadata/serving"
DIGEST = serialize(Packet("RESPONSE_DIGEST", b'{"METADATA":{"length":1,"sha256":"0a"}}')).decode()
ROW = re.compile(r"^\| `([a-z ]+)` \| (debug|info|warning) \| (.*) \| (.*) \|$", re.MULTILINE)


def test_every_kind_is_of_one_class_and_of_a_known_level() -> None:
    assert set(KINDS) == set(get_args(Fact))
    assert len(BY_KIND) == len(KINDS)
    assert {facts.DEBUG, facts.INFO, facts.WARNING} == {
        logging.DEBUG,
        logging.INFO,
        logging.WARNING,
    }


@pytest.mark.parametrize("kind", BY_KIND)
def test_bytes_of_every_kind_are_those_of_its_parts(kind: str) -> None:
    fact = fact_of(kind, "a text", "web1", count=2)
    collections = [value for value in fact if isinstance(value, (dict, tuple))]
    parts = [part for collection in collections for part in collection]
    own_bytes = sum(one.__sizeof__() for one in (fact, *fact, *parts))
    assert bytes_of(fact) == own_bytes + COLLECTED_BYTES + FLOAT_BYTES * len(parts)


def test_every_kind_is_reported() -> None:
    used = {
        node.id
        for path in SERVING.glob("*.py")
        for call in ast.walk(ast.parse(path.read_text()))
        if isinstance(call, ast.Call)
        for node in (call.func, *call.args)  # its class is called, or handed to what calls it
        if isinstance(node, ast.Name)
    }
    assert {fact.__name__ for fact in KINDS} - used == set()


def test_every_kind_is_documented_with_its_level_and_fields() -> None:
    documented = {kind: (level, keys) for kind, level, keys, _ in ROW.findall(page("admin.md"))}
    declared = {
        kind.name: (LEVEL_NAMES[kind.level], ", ".join(f"`{key}`" for key in keys_of(kind.name)))
        for kind in KINDS.values()
    }
    assert documented == declared


def test_every_kind_is_in_the_document_of_the_log() -> None:
    row = next(line for line in page("operations.md").splitlines() if line.startswith("| `kind` |"))
    assert set(BY_KIND) <= set(re.findall("`([a-z ]+)`", row))


def page(name: str) -> str:
    return (CHECKOUT / "docs" / name).read_text()


def keys_of(kind: str) -> list[str]:
    """The keys of a kind in JSON, beside those that all have."""
    every = fields(Happening(fact_of("left"), 20, 0.0, "", "", "", None, ""))
    fact = fact_of(kind)
    if isinstance(fact, DocumentsServed):
        fact = fact._replace(digest=DIGEST)
    own = fields(Happening(fact, 20, 0.0, "", "", "", None, ""))
    return [key for key in own if key not in every]

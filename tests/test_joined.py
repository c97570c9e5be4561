"""The guest agent's one file: all of its modules in order, without collisions or unused names."""

from __future__ import annotations

import ast
import re

import pytest

from tests.guest import AGENT, GUEST
from tests.process import run
from vmw_cloudinit_metadata.guest.image import joined
from vmw_cloudinit_metadata.guest.image.joined import JoinError

MODULES = sorted(path.stem for path in (GUEST / "agent").glob("[!_]*.py"))
TEXT = joined.agent()
PAIR = {
    "__init__": '"""What it is."""\n',
    "one": '"""One."""\n\nimport os\nimport sys\nfrom typing import Any\n\n\n'
    "def first() -> Any:\n    return os.name, sys.path\n",
    "commandline": '"""The last.\n\nTwo lines.\n"""\n\nimport os\n\n'
    "from vmw_cloudinit_metadata.guest.agent.one import first\n\nprint(os.name, first())\n",
}


def join(**changed: str) -> str:
    return joined.joined({**PAIR, **changed}.__getitem__)


def test_file_is_made_of_each_module_in_the_order_of_imports() -> None:
    assert join() == (
        '#!/usr/bin/env python3\n"""What it is.\n"""\n\n'
        "import os\nimport sys\nfrom typing import Any\n\n\n"
        "# one.py\n#\n# One.\n\n\ndef first() -> Any:\n    return os.name, sys.path\n\n\n"
        "# commandline.py\n#\n# The last.\n#\n# Two lines.\n\n\nprint(os.name, first())\n"
    )


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ('"""A name."""\n\n\ndef first() -> int:\n    return 1\n', "first"),
        ('"""A library."""\n\nos = 1\n', "os"),
        ('"""A renamed import."""\n\nimport os as o\n', "`as`"),
        ('"""A late import."""\n\nx = 1\nimport os\n', "follows"),
    ],
    ids=lambda text: text[3:12],
)
def test_modules_that_cannot_be_joined_are_refused(text: str, reason: str) -> None:
    uses = "from vmw_cloudinit_metadata.guest.agent.{} import first\n"
    last = f'"""Both."""\n\n{uses.format("one")}{uses.format("other")}\nprint(first())\n'
    with pytest.raises(JoinError, match=re.escape(reason)):
        join(other=text, commandline=last)


def test_printed_file_is_the_joined_one() -> None:
    assert run("guest", "print", "agent").stdout == TEXT == AGENT.read_text()


def test_file_holds_each_module_once_and_nothing_of_the_package() -> None:
    assert sorted(re.findall(r"^# (\w+)\.py$", TEXT, re.MULTILINE)) == MODULES
    assert not re.search(r"^\s*(from|import) vmw_", TEXT, re.MULTILINE)


def bound(node: ast.stmt) -> list[str]:
    match node:
        case ast.Import(names=names) | ast.ImportFrom(names=names):
            return [alias.name for alias in names]
        case ast.FunctionDef(name=name) | ast.ClassDef(name=name):
            return [name]
        case ast.Assign(targets=[ast.Name(id=name)]):
            return [name]
    return []


def test_file_defines_and_imports_nothing_unused() -> None:
    tree = ast.parse(TEXT)
    names = [node for node in ast.walk(tree) if isinstance(node, ast.Name)]
    used = {name.id for name in names if isinstance(name.ctx, ast.Load)}
    assert [name for node in tree.body for name in bound(node) if name not in used] == []


def test_module_has_less_than_300_lines() -> None:
    paths = (GUEST / "agent").glob("*.py")
    assert max(len(path.read_text().splitlines()) for path in paths) < 300

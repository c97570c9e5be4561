"""The attack program reports which limits do not hold, and stops what it started."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

from tests.load import attack
from tests.load.attack import Attack, Place, Seen

SOURCE = Path(attack.__file__)


@pytest.mark.parametrize("holds", [True, False])
def test_row_prints_limit_and_what_was_seen(
    holds: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    assert attack.row(Attack("one", "the limit", lambda _: Seen(holds, "this"))) is holds
    assert f"the limit {'':<18} {'yes' if holds else 'NO'}" in capsys.readouterr().out


def test_attack_that_fails_does_not_hold_and_its_server_is_ended(
    capsys: pytest.CaptureFixture[str],
) -> None:
    started: list[int] = []

    def run(place: Place) -> Seen:
        server = place.server()
        assert attack.boot_s(server) is not None
        started.append(server.pid)
        raise OSError("no route")

    assert not attack.row(Attack("one", "the limit", run))
    assert "OSError: no route" in capsys.readouterr().out
    assert not Path(f"/proc/{started[0]}").exists()


def test_attack_with_an_unknown_name_is_an_error() -> None:
    with pytest.raises(SystemExit) as ended:
        attack.main(["nothing"])
    assert ended.value.code == 2


def test_each_attack_is_a_row_and_short() -> None:
    functions = {
        node.name: node.end_lineno - node.lineno + 1
        for node in ast.parse(SOURCE.read_text()).body
        if isinstance(node, ast.FunctionDef) and node.end_lineno
    }
    rows = [row.run.__name__ for row in attack.ATTACKS]
    assert len(rows) == len(set(rows)) > 10
    assert {name for name in rows if functions[name] > 30} == set()

"""The chronicle: how it learns what happened makes no difference to what it tells."""

from __future__ import annotations

from collections import Counter
from typing import Any

import gevent
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vmw_cloudinit_metadata.admin import chronicle as module
from vmw_cloudinit_metadata.admin.chronicle import MISSING, TROUBLE, Chronicle
from vmw_cloudinit_metadata.admin.port import HEARD_S, TOGETHER, AdminPort, AdminSettings
from vmw_cloudinit_metadata.config import Address
from vmw_cloudinit_metadata.happenings import Happening
from vmw_cloudinit_metadata.protocol.vmware import Machine

DETAILS: dict[str, dict[str, Any]] = {
    "served": {"answered": {"METADATA": 1.0, "USERDATA": 2.0}, "problem": ""},
    "failed": {"document": "METADATA", "error": "not-found"},
    "refused": {"reason": "refused: another service URI"},
}
KINDS = ("identified", "changed", "moved", "move begun", "move aborted", "left", *DETAILS, "stale")


@st.composite
def happenings(draw: st.DrawFn) -> list[Happening]:
    told = draw(
        st.lists(
            st.tuples(st.sampled_from(KINDS), st.integers(0, 3), st.integers(0, 4)), max_size=40
        )
    )
    return [
        Happening(
            *(kind, 20, float(at_s), f"7-{connection}", "10.0.0.1:4", "10.0.0.1"),
            *(Machine(vc_uuid=f"uuid-{number}"), "", kind, DETAILS.get(kind, {})),
        )
        for at_s, (kind, number, connection) in enumerate(told)
    ]


@given(happenings())
def test_counts_are_those_of_the_entries(all_of_them: list[Happening]) -> None:
    chronicle = Chronicle()
    for happening in all_of_them:
        chronicle.hear(happening)
    entries = list(chronicle.entries())
    assert +chronicle.states == Counter(entry.state for entry in entries)
    assert +chronicle.problems == Counter(e.problem for e in entries if e.state in TROUBLE)


LEFT = Happening("left", 10, 0.0, "7-1", "peer", "host", Machine(vc_uuid="one"), "", "left", {})


def test_admin_port_learns_of_many_at_once_and_keeps_few(monkeypatch: pytest.MonkeyPatch) -> None:
    port = AdminPort(AdminSettings(Address("127.0.0.1", 0)))
    learned: list[int] = []
    learn = port._learn

    def counted() -> None:
        learned.append(len(port._heard))
        learn()

    monkeypatch.setattr(port, "_learn", counted)
    for _ in range(2 * TOGETHER + 7):
        port.hear(LEFT)
    assert learned == [TOGETHER, TOGETHER]
    gevent.sleep(2 * HEARD_S)
    assert learned == [TOGETHER, TOGETHER, 7]
    for _ in range(3):  # as ever: one that comes does not make it look at once
        learned.clear()
        for _ in range(5):
            port.hear(LEFT)
            gevent.sleep(HEARD_S / 20)
        assert learned == []
        gevent.sleep(2 * HEARD_S)
        assert learned == [5]
    port.stop()


def test_expected_ones_keep_their_order() -> None:
    chronicle, expected = Chronicle(), [f"uuid-{number}" for number in range(6)]
    chronicle.expect(expected)
    assert chronicle.expected() == expected
    assert chronicle.states[MISSING] == 6


def test_last_answers_stay() -> None:
    chronicle = Chronicle()
    chronicle.hear(LEFT._replace(kind="identified"))
    for at_s in range(module.MAX_ASKED + 5):
        chronicle.hear(
            Happening(
                *("failed", 30, float(at_s), "7-1", "peer", "host", Machine(vc_uuid="one"), ""),
                *("failed", {"document": f"DOCUMENT{at_s}", "error": "unknown-request"}),
            )
        )
    entry = next(chronicle.entries())
    assert [document for document, *_ in entry.answers()] == [
        f"DOCUMENT{at_s}" for at_s in range(5, module.MAX_ASKED + 5)
    ]

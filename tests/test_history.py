"""The model that load runs check answers with: it finds what is wrong, and nothing else."""

from __future__ import annotations

from typing import Any

import pytest

from tests.load.history import ABSENT, BROKEN, INVALID, NOT_FOUND, Asking, History

WEB1 = Asking("web1", "", {})
BASE = {"metadata": {"hostname": "${vm.name}", "tags": ["a"]}, "documents": {"role": "r"}}


def history_of(*changes: tuple[float, dict[tuple[str, str], Any]]) -> History:
    history = History(["10", "20"])
    for time_s, versions in changes:
        history.begin(time_s, versions)
        history.end(time_s + 0.001)
    return history


def metadata(*tags: str) -> dict[str, Any]:
    return {"hostname": "web1", "local-hostname": "web1", "tags": list(tags)}


def own(tag: str) -> dict[str, Any]:
    return {"metadata": {"tags+": [tag]}}


def three_versions() -> History:
    return history_of(
        (0, {("layer", "10"): BASE, ("file", "web1"): own("1")}),
        (10, {("file", "web1"): own("2")}),
        (20, {("file", "web1"): own("3")}),
    )


@pytest.mark.parametrize(
    ("tag", "asked_s", "is_right"),
    [
        ("1", 5, True),
        ("1", 10.1, True),
        ("1", 10.3, False),
        ("2", 9.9, False),
        ("2", 10.0, True),
        ("3", 15, False),
        ("2", 20.2, True),
        ("2", 20.21, False),
    ],
)
def test_answer_is_right_until_the_change_must_be_served(
    tag: str, asked_s: float, is_right: bool
) -> None:
    why = three_versions().fault_of(WEB1, "METADATA", metadata("a", tag), asked_s, asked_s + 0.01)
    assert (why == "") is is_right, why


def test_older_answer_after_a_newer_one_is_wrong() -> None:
    history = three_versions()
    assert not history.fault_of(WEB1, "METADATA", metadata("a", "2"), 10.01, 10.02)
    why = history.fault_of(WEB1, "METADATA", metadata("a", "1"), 10.03, 10.04)
    assert why.startswith("older than an answer before")


def test_mixture_of_two_versions_is_wrong() -> None:
    history = history_of(
        (0, {("layer", "10"): BASE, ("layer", "20"): own("x1"), ("file", "web1"): own("1")}),
        (10, {("layer", "20"): own("x2"), ("file", "web1"): own("2")}),  # at once
    )
    mixed = metadata("a", "x1", "2")
    assert "never valid" in history.fault_of(WEB1, "METADATA", mixed, 10.01, 10.02)


def test_error_is_right_only_while_there_is_a_reason() -> None:
    history = history_of(
        (0, {("layer", "10"): BASE}),
        (10, {("file", "web1"): own("1")}),
        (20, {("inventory", "vms.yaml"): BROKEN}),
        (30, {("file", "web1"): ABSENT}),
        (40, {("inventory", "vms.yaml"): ABSENT, ("layer", "20"): BROKEN}),
        (50, {("file", "web1"): own("2")}),
    )
    expected = {5: NOT_FOUND, 15: metadata("a", "1"), 25: metadata("a", "1")}
    expected |= {35: INVALID, 45: NOT_FOUND, 55: INVALID}
    for time_s, answer in expected.items():
        assert not history.fault_of(WEB1, "METADATA", answer, time_s, time_s + 0.01)
        for other in {NOT_FOUND, INVALID} - {str(answer)}:
            assert history.fault_of(WEB1, "METADATA", other, time_s, time_s + 0.01)

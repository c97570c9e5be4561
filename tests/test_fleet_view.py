"""What the admin port takes of what the fleet's database, and so other servers, say."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest

from tests.playedlink import PlayedFleetLink
from tests.process import Constants
from vmw_cloudinit_metadata.admin.fleetview import FleetView
from vmw_cloudinit_metadata.process.fleet.frames import Fields, Reply
from vmw_cloudinit_metadata.process.fleet.machinestory import TOLD

MACHINE = {"id": "vm", "state": "gone", "problem": None, "asked": [], "story": []}


class AskedLink(PlayedFleetLink):
    """A fleet link whose database replies as a test says; None: it does not answer."""

    def __init__(self) -> None:
        super().__init__()
        self.replies: dict[str, Reply | None] = {}
        self.asked: list[str] = []
        self.story: bytes | None = None

    def asked_for(
        self, kind: str, fields: Fields, payload: bytes, then: Callable[[Reply | None], None]
    ) -> None:
        assert payload == b""
        self.asked.append(kind)
        if kind == "story" and self.story is not None:
            hear = self.handlers[TOLD]
            hear({"question": fields["question"] + 1}, b'{"story": [{}, {}]}')  # no such one
            hear({"question": fields["question"]}, self.story)
        then(self.replies.get(kind))


class Scene:
    def __init__(self) -> None:
        self.link = AskedLink()
        self.view = FleetView(self.link, "first")

    def machine(self, story: bytes | None, *, is_asked: bool = True) -> Any:
        """Return a machine of which another server tells a story."""
        fields = {"count": 1, "server_id": "other", "is_own": False}
        self.link.replies = {
            "machine": Reply(fields, json.dumps(MACHINE).encode()),
            "story": Reply({"is_asked": is_asked}),
        }
        self.link.story = story
        found = self.view.machine("vm")
        assert found
        return found.body


@pytest.fixture
def scene(constants: Constants) -> Scene:
    constants(admin__fleetview__STORY_S=0.01)
    return Scene()


def test_nothing_is_found_without_an_answer(scene: Scene) -> None:
    assert scene.view.page({}) is None
    assert scene.view.machine("vm") is None
    assert scene.view.summary() is None


def test_summary_has_each_state_and_is_kept_for_a_moment(scene: Scene) -> None:
    scene.link.replies["summary"] = Reply({}, b'{"machines": {"gone": 2}}')
    first, second = scene.view.summary(), scene.view.summary()
    assert first == second
    assert first
    assert (first["machines"]["gone"], first["machines"]["served"]) == (2, 0)
    assert scene.link.asked == ["summary"]
    scene.link.is_connected = False
    scene.link.replies = {}
    assert scene.view.summary() is None


def test_machine_has_what_another_server_tells_of_it(scene: Scene) -> None:
    machine = scene.machine(b'{"story": [{"kind": "served"}], "asked": [{}], "state": "served"}')
    assert machine["story"] == [{"kind": "served"}]
    assert machine["asked"] == [{}]
    assert machine["state"] == "gone"  # the database's word
    assert machine["next"].startswith("Its server is gone")


STORIES = {
    "none in time": None,
    "nothing": b"",
    "no JSON": b"{",
    "no object": b"[]",
    "no lists": b'{"story": {}, "asked": "x", "moves": 1, "ports": null}',
    "no objects": b'{"story": [1], "asked": ["x"], "moves": [null], "ports": [[]]}',
    "not UTF-8": b"\xff",
}


@pytest.mark.parametrize("story", STORIES.values(), ids=STORIES)
def test_what_is_no_story_is_left_out(scene: Scene, story: bytes | None) -> None:
    machine = scene.machine(story)
    assert (machine["story"], machine["asked"]) == ([], [])


def test_story_of_a_server_that_is_gone_is_not_waited_for(
    scene: Scene, constants: Constants
) -> None:
    constants(admin__fleetview__STORY_S=60.0)
    assert scene.machine(None, is_asked=False)["story"] == []

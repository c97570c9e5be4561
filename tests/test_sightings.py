"""What was seen of each key: bounded, and nothing that was forgotten holds."""

from __future__ import annotations

import pytest

from tests.process import Constants
from vmw_cloudinit_metadata import Key
from vmw_cloudinit_metadata.drivers.records.recordlayer import KeptRecord
from vmw_cloudinit_metadata.drivers.records.sightings import Sightings, sign_of
from vmw_cloudinit_metadata.drivers.revisions import Revisions

WEB1, WEB2 = Key("name", "web1"), Key("name", "web2")


def test_only_what_differs_counts_as_a_change() -> None:
    changes = Revisions()
    sightings = Sightings(changes)
    sightings.see(WEB1, "a")
    sightings.see(WEB1, "a")
    assert sightings.agrees(WEB2, "x")
    assert changes.revision == 0
    assert not sightings.agrees(WEB1, "b")
    sightings.see(WEB1, "b")
    assert not changes.unchanged(0, [WEB1])
    assert changes.unchanged(0, [WEB2])
    assert sightings.agrees(WEB1, "b")


def test_what_was_seen_before_a_change_was_told_does_not_matter() -> None:
    changes = Revisions()
    sightings = Sightings(changes)
    sightings.see(WEB1, "a")
    changes.changed(WEB1)
    assert sightings.agrees(WEB1, "b")
    assert not sightings.agrees(WEB1, "c")


@pytest.mark.parametrize("is_given", [False, True], ids=["seen", "given"])
def test_key_that_is_forgotten_counts_as_changed(is_given: bool, constants: Constants) -> None:
    constants(drivers__records__sightings__MAX_KEYS=1)
    changes = Revisions()
    sightings = Sightings(changes)
    sightings.see(WEB1, "a")
    before_bytes = sightings.kept_bytes
    if is_given:
        sightings.agrees(WEB2, "a")
    else:
        sightings.see(WEB2, "a")
    assert sightings.kept_bytes == before_bytes > 0
    assert not changes.unchanged(0, [WEB1])
    assert changes.unchanged(0, [WEB2])
    assert sightings.shed()
    assert not changes.unchanged(0, [WEB2])
    assert not sightings.shed()


def test_sign_is_one_of_the_data_and_not_of_its_place() -> None:
    one = KeptRecord(WEB1, "a", b"x", 1)
    assert sign_of([one]) == sign_of([KeptRecord(WEB2, "b", b"x", 1)])
    others = ([], [one, one], [KeptRecord(WEB1, "a", b"y", 1)], [KeptRecord(WEB1, "a", {}, 1)])
    assert len({sign_of([one]), *map(sign_of, others)}) == 5

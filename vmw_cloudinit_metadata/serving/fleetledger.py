"""FleetLedger: records claims in the fleet's database, so that each counts for all servers."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, Protocol

from vmw_cloudinit_metadata.serving.ledger import LATE_S, Claimed, Then, Unrecorded, Use


class LedgerLink(Protocol):
    """The part of a FleetLink that a ledger needs."""

    def ask(
        self,
        kind: str,
        fields: Mapping[str, Any],
        payload: bytes,
        within_s: float,
        then: Callable[[Any], None],
    ) -> None: ...


_UNREACHABLE = (
    "the fleet's database is out of reach, or too slow: without it nobody knows whether the "
    "document was used"
)


class FleetLedger:
    """A Book. Belongs to the hub."""

    def __init__(self, link: LedgerLink) -> None:
        self._link = link
        self._asked = 0

    def claim(self, use: Use, claimant: bytes, then: Then) -> None:
        self._asked += 1
        answered = partial(self._answered, then)
        self._link.ask("claim", _fields(use, claimant), b"", LATE_S, answered)

    def give_back(self, use: Use, claimant: bytes) -> None:
        self._asked += 1
        self._link.ask("claim back", _fields(use, claimant), b"", LATE_S, self._given_back)

    @property
    def is_busy(self) -> bool:
        return self._asked > 0

    def close(self) -> None:
        pass

    def _given_back(self, _reply: Any) -> None:
        self._asked -= 1

    def _answered(self, then: Then, reply: Any) -> None:
        self._asked -= 1
        match reply and reply.fields:
            case {
                "is_first": bool(is_first),
                "age_s": float() | int() as age_s,
                "had_in_window": bool(had_in_window),
                "was_reopened": bool(was_reopened),
            }:
                then(Claimed(is_first, age_s, had_in_window, was_reopened))
            case _:
                then(Unrecorded(_UNREACHABLE))


def _fields(use: Use, claimant: bytes) -> dict[str, Any]:
    return {
        "vm": use.vm,
        "instance": use.instance.hex(),
        "document": use.document,
        "claimant": claimant.hex(),
        "lasts_s": use.lasts_s,
    }

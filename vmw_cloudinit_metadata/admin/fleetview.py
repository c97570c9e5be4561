"""What the API shows of the whole fleet, as its database has it.

Each question has a deadline. Without an answer the admin port shows what its own server knows, and
says so.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, Protocol

import gevent
import ujson
from gevent.event import AsyncResult

from vmw_cloudinit_metadata.admin.knownhosts import HostEntry
from vmw_cloudinit_metadata.admin.machinerecord import FLEET_STATES
from vmw_cloudinit_metadata.admin.nextstep import next_step
from vmw_cloudinit_metadata.admin.slices import in_slices
from vmw_cloudinit_metadata.process.fleet import machineforgetting, machinestory, outcomerows
from vmw_cloudinit_metadata.process.fleet.frames import Fields, Reply

ANSWER_S = 2.0
STORY_S = 1.0  # for another server to say what only it knows
SUMMARY_S = 1.0  # several pages that are open get the same summary


class AsksFleet(Protocol):
    """The part of the fleet link that the view uses."""

    @property
    def is_connected(self) -> bool: ...

    def ask(
        self,
        kind: str,
        fields: Fields,
        payload: bytes,
        within_s: float,
        then: Callable[[Reply | None], None],
    ) -> None: ...

    def on(self, kind: str, handler: Callable[[Fields, bytes], None]) -> None: ...


_QUESTION_BITS = 56  # as many as a notice has digits for


class FleetMachine(NamedTuple):
    """The machines with an id or a name."""

    number: int
    is_own: bool  # it is one, and this server knows more of it
    body: Any  # the machine, if it is one; else the rows of the list


class FleetView:
    """Asks the database by `link`. A question waits for its answer, so nothing may be held."""

    def __init__(self, link: AsksFleet, server: str) -> None:
        self.server = server  # the name of this one
        self._link = link
        self._summary: dict[str, Any] | None = None
        self._until_s = 0.0  # by time.monotonic()
        self._questions: dict[int, AsyncResult[bytes]] = {}  # to other servers
        link.on(machinestory.TOLD, self._hear_story)

    def page(self, query: Mapping[str, Any]) -> tuple[int, bytes] | None:
        """Return how many machines match, and the rows of a page, which are a list in JSON."""
        reply = self._ask("machines", query)
        match reply:
            case Reply(fields={"total": int(total)}, payload=rows):
                return total, rows
        return None

    def machine(self, name: str) -> FleetMachine | None:
        reply = self._ask("machine", {"id": name})
        match reply:
            case Reply(fields={"server_id": str(server), "is_own": bool(is_own)}, payload=payload):
                body = ujson.loads(payload)
                body["next"] = next_step(body["state"], body.pop("problem") or "")
                story = {} if is_own else self._story(server, body["id"])
                return FleetMachine(1, is_own, body | story)
            case Reply(fields={"count": int(number)}, payload=payload):
                return FleetMachine(number, False, ujson.loads(payload))
        return None

    def forget(self, name: str) -> Reply | None:
        """Forget the machine with this id or name in the database and at all servers."""
        return self._ask(machineforgetting.FORGET, {"id": name})

    def _story(self, server: str, key: str) -> dict[str, Any]:
        """Return what only another server knows of a machine; {} if it does not say so in time."""
        question = secrets.randbits(_QUESTION_BITS)
        told: AsyncResult[bytes] = AsyncResult()
        self._questions[question] = told
        try:
            reply = self._ask("story", {"question": question, "server": server, "id": key})
            if reply is None or not reply.fields.get("is_asked"):
                return {}
            story = ujson.loads(told.get(timeout=STORY_S) or b"")
        except (gevent.Timeout, ValueError):
            return {}
        finally:
            del self._questions[question]
        return {
            name: story[name] for name in machinestory.PARTS if _is_list_of_objects(story, name)
        }

    def _hear_story(self, fields: Fields, payload: bytes) -> None:
        if told := self._questions.get(fields["question"]):
            told.set(payload)

    def known_hosts(self) -> list[tuple[HostEntry, bool]] | None:
        """Return the host keys of all machines, and whether each is connected; None if the database
        does not say so in time."""
        found, after = [], ""
        while True:
            match self._ask(outcomerows.KNOWN_HOSTS, {"after": after}):
                case Reply(fields={"last": str(last)}, payload=payload):
                    for *parts, is_connected in in_slices(ujson.loads(payload)):
                        if entry := HostEntry.of(ujson.dumps(parts)):
                            found.append((entry, is_connected))
                case _:
                    return None
            if not last:
                return found
            after = last

    def summary(self) -> dict[str, Any] | None:
        """Return what the head of the page shows of the fleet; at most SUMMARY_S old."""
        if time.monotonic() < self._until_s and self._link.is_connected:
            return self._summary
        reply = self._ask("summary", {})
        if reply is None:
            return None
        found: dict[str, Any] = ujson.loads(reply.payload)
        found["machines"] = dict.fromkeys(FLEET_STATES, 0) | found["machines"]
        self._summary, self._until_s = found, time.monotonic() + SUMMARY_S
        return found

    def _ask(self, kind: str, fields: Fields) -> Reply | None:
        answer: AsyncResult[Reply | None] = AsyncResult()
        self._link.ask(kind, fields, b"", ANSWER_S, answer.set)
        return answer.get()


def _is_list_of_objects(story: Any, name: str) -> bool:
    """Check what another server has written."""
    values = story.get(name) if isinstance(story, dict) else None
    return isinstance(values, list) and all(isinstance(value, dict) for value in values)

"""A played NetBox: it answers queries with recorded virtual machines, which tests change.

`tests/netbox/` has real answers and webhooks of NetBox 4.7.3, so the form of everything is NetBox's
own; the cursor, the filter by ids, and what a token may not see, are played. `make netbox` runs the
same store against a real one.
"""

from __future__ import annotations

import copy
import json
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from tests.httppeer import Asked, HttpPeer, reply
from vmw_cloudinit_metadata.drivers.stores.netbox.virtualmachine import SEEN

RECORDED = Path(__file__).parent / "netbox"
SECRET = "recorded webhooks of a NetBox"
TOKEN = "nbt_abc.def"


def recorded_answer() -> dict[str, Any]:
    found: dict[str, Any] = json.loads((RECORDED / "answer.json").read_text())
    return found


def recorded_webhooks() -> list[dict[str, str]]:
    found: list[dict[str, str]] = json.loads((RECORDED / "webhooks.json").read_text())["hooks"]
    return found


class FakeNetBox(HttpPeer):
    """`vms` are as GraphQL shows them, by id; `hidden` are lists that a token may not see."""

    def __init__(self) -> None:
        super().__init__(self._answer)
        self.recorded = recorded_answer()
        self.vms = {int(vm["id"]): vm for vm in self.recorded["data"].pop("found")}
        self.hidden: set[str] = set()
        self.largest_page = 1000
        self.page_s = 0.0  # in which a page is answered
        self.failing: list[bytes] | None = None  # what is answered in place of anything

    def add(self, number: int, **changes: Any) -> dict[str, Any]:
        """Add a copy of the virtual machine `bare`, with other values."""
        bare = next(vm for vm in self.vms.values() if vm["name"] == "bare")
        vm = self.vms[number] = {**copy.deepcopy(bare), "id": str(number), **changes}
        return vm

    def called(self, name: str) -> dict[str, Any]:
        return next(vm for vm in self.vms.values() if vm["name"] == name)

    @property
    def queries(self) -> list[dict[str, Any]]:
        """The variables of all queries."""
        return [json.loads(one.body)["variables"] for one in self.asked if one.method == "POST"]

    def _answer(self, asked: Asked) -> Iterable[bytes] | None:
        if self.failing is not None:
            return self.failing
        if asked.headers.get("authorization") != f"Bearer {TOKEN}":
            return reply('"Invalid v2 token"', "403 Forbidden")
        if asked.method == "GET":
            hidden = any(f"/api/{SEEN[kind]}/" in asked.target for kind in self.hidden)
            return reply("{}", "403 Forbidden" if hidden else "200 OK")
        assert asked.target == "/graphql/"
        data = self.recorded["data"] | {kind: [] for kind in self.hidden}
        variables = json.loads(asked.body)["variables"]
        if "start" in variables["pagination"]:
            time.sleep(self.page_s)
        found = self._found(variables)
        return reply(json.dumps({"data": {**data, "found": found}}))

    def _found(self, variables: dict[str, Any]) -> list[Any]:
        pagination = variables["pagination"]
        ids = ((variables["filters"] or {}).get("id") or {}).get("in_list", self.vms)
        numbers = [one for one in sorted(self.vms) if one in ids]
        numbers = [one for one in numbers if one >= pagination.get("start", 0)]
        return [self.vms[one] for one in numbers[: min(pagination["limit"], self.largest_page)]]

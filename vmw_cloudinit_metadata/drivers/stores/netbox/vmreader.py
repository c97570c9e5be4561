"""VmReader: asks NetBox for virtual machines, and makes entries of the mirror of them. Blocks."""

from __future__ import annotations

import json
import time
from collections.abc import Collection, Mapping
from typing import TYPE_CHECKING, Any

from vmw_cloudinit_metadata.drivers.stores.httperrors import ServerError
from vmw_cloudinit_metadata.drivers.stores.netbox import instancedata, virtualmachine
from vmw_cloudinit_metadata.drivers.stores.netbox.instancedata import Rules
from vmw_cloudinit_metadata.drivers.stores.netbox.mirror import MirroredVm
from vmw_cloudinit_metadata.drivers.stores.netbox.pagesize import PageSize
from vmw_cloudinit_metadata.drivers.stores.netbox.virtualmachine import (
    Page,
    UnusableAnswerError,
    VirtualMachine,
)

if TYPE_CHECKING:
    from vmw_cloudinit_metadata.drivers.stores.httpclient import HttpAnswer, HttpClient

READ_S = 8.0  # of one answer
SHORT_S = 0.4  # of one that others wait for: a change shall be served within a second
MAX_ANSWER_BYTES = 32 * 1024 * 1024
ATTEMPTS = 3  # to read what is changed meanwhile
PAUSE_S = 0.05  # between them

_HEADERS = {"Content-Type": "application/json", "Accept": "application/json"}

Found = dict[int, MirroredVm]  # by the id of the virtual machine


class VmReader:
    def __init__(self, client: HttpClient, filters: Mapping[str, Any], rules: Rules) -> None:
        self._client = client
        self._base = client.target.rstrip("/") + "/"
        self._filters = filters
        self._rules = rules
        self._size = PageSize()
        self._may_be_unseen: set[str] = set()  # kinds of which NetBox has none, in this round

    def page(self, start: int, aim_s: float, most: int) -> Found:
        """Return some virtual machines from this id on: as many as take about `aim_s`, or `most`.

        Raise ServerError.
        """
        if start == 0:
            self._may_be_unseen.clear()
        pagination = {"start": start, "limit": min(self._size.of(aim_s), most)}
        found = self._found({"pagination": pagination, "filters": self._filters or None})
        self._refuse_others([one for one in found if one < start])
        return found

    def these(self, ids: Collection[int]) -> Found:
        """Return those of these virtual machines that there are; raise ServerError."""
        found: Found = {}
        missing = sorted(ids)
        while missing:  # NetBox may return fewer than it is asked for, but then not none
            some = missing[: self._size.of(SHORT_S)]
            filters: dict[str, Any] = {"id": {"in_list": some}}
            if self._filters:
                filters["AND"] = self._filters
            answered = self._found({"filters": filters, "pagination": {"limit": len(some)}})
            self._refuse_others(answered.keys() - set(some))
            found |= answered
            seen = answered.keys() or set(some)
            missing = [one for one in missing if one not in seen]
        return found

    def _found(self, variables: Mapping[str, Any]) -> Found:
        try:
            page = self._read(virtualmachine.request_of(variables))
        except ServerError:
            self._size.failed()
            raise
        for kind in page.unseen - self._may_be_unseen:
            self._check_permission(kind)
            self._may_be_unseen.add(kind)
        return {vm.id: self._entry(vm) for vm in page.found}

    def _refuse_others(self, others: Collection[int]) -> None:
        """Raise ServerError if there are any: reading on would never end."""
        if others:
            raise self._client.error(
                "its answer has virtual machines that were not asked for: its GraphQL API must "
                "know pages by a cursor (`start`), and filters by id"
            )

    def _read(self, request: bytes) -> Page:
        """Return an answer; ask again for one in which interfaces may come and go."""
        for attempt in range(1, ATTEMPTS + 1):
            begun_s = time.monotonic()
            body = self._checked(self._answer("POST", "graphql/", request))
            try:
                page = virtualmachine.parsed(body)
            except UnusableAnswerError as error:
                raise self._client.error(str(error)) from None
            if page.found:
                self._size.took(len(page.found), time.monotonic() - begun_s, len(body))
            if attempt == ATTEMPTS or not any(vm.unseen_interfaces for vm in page.found):
                break
            time.sleep(PAUSE_S)
        return page

    def _check_permission(self, kind: str) -> None:
        """Raise ServerError unless NetBox has none of a kind of which none is seen."""
        if kind == "virtual_machine_list":
            raise self._client.error(
                "no virtual machine is seen: if there are some, let the token's user view them"
            )
        path = virtualmachine.SEEN[kind]
        answer = self._answer("GET", f"api/{path}/?limit=1&fields=id")
        if answer.status == 403:
            raise self._client.error(f"let the token's user view all {path}: none is seen")
        self._checked(answer)

    def _checked(self, answer: HttpAnswer) -> bytes:
        if answer.status != 200:
            raise self._client.status_error(answer.status)
        return answer.body

    def _answer(self, method: str, path: str, body: bytes | None = None) -> HttpAnswer:
        return self._client.request(
            *(method, self._base + path),
            headers=_HEADERS,
            body=body,
            max_bytes=MAX_ANSWER_BYTES,
            within_s=READ_S,
        )

    def _entry(self, vm: VirtualMachine) -> MirroredVm:
        data = instancedata.data_of(vm, self._rules)
        text = json.dumps(data, ensure_ascii=False).encode()  # of numbers of any size
        interfaces = tuple(one.id for one in vm.interfaces)
        key = instancedata.key_of(vm, self._rules)
        return MirroredVm(key, instancedata.label_of(vm), text, interfaces, vm.name)

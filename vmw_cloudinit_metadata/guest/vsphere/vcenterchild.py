"""The vCenter process: reads vCenter's inventory, for all processes of its server.

    python -m vmw_cloudinit_metadata.guest.vsphere.vcenterchild

The server starts it and writes a line with its work to the standard input. Each further line means:
try again now, with the password that the file has now. The process ends when its input does.

pyVmomi parses for seconds, in Python: in the server it would hold the hub. Here it runs in a
thread, and what changes is sent to each process of the server, which has a table of its own.
"""

from __future__ import annotations

import asyncio
import os
import sys
import threading
import time
import traceback
from collections.abc import Coroutine, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from vmw_cloudinit_metadata.process import keptchild
from vmw_cloudinit_metadata.process.fleet import frames
from vmw_cloudinit_metadata.process.fleet.linkserver import LinkServer, ProcessLink
from vmw_cloudinit_metadata.process.vcenter import vcenterrows
from vmw_cloudinit_metadata.process.vcenter.inventoryrows import (
    InventoryPage,
    InventoryRows,
    Rows,
    differences,
)
from vmw_cloudinit_metadata.process.vcenter.vcentertable import (
    MAX_PROBLEM,
    MAX_ROWS,
    VcenterState,
)
from vmw_cloudinit_metadata.process.vcenter.vcenterwork import VcenterWork
from vmw_cloudinit_metadata.protocol.printable import one_line, shortened
from vmw_cloudinit_metadata.settings.values import Address

MEMORY_BYTES = 1024**3
STATE_S = 1.0  # from one to the next: each is a sign of life too

BEGIN, ROWS, COMPLETE, STATE = "begin", "rows", "complete", "state"

_PAYLOAD_BYTES = 64 * 1024
_MAX_UNREAD_BYTES = 48 * 1024 * 1024  # of a process that does not read: all rows, twice
_MAX_INPUT_BYTES = 64 * 1024


class VcenterKeeper:
    """Reads vCenter in a thread, again when the connection is lost, and sends what has changed."""

    def __init__(self, work: VcenterWork) -> None:
        self._work = work
        self._links = LinkServer(_ignore, self._greeting, _MAX_UNREAD_BYTES)
        self._state = VcenterState(since_s=time.time(), place=str(Address(work.host, work.port)))
        self._rows: Rows | None = None  # what was sent; None until all has been read once
        self._reading = InventoryRows(MAX_ROWS)
        self._is_complete = False  # the present reading
        self._connects = 0
        self._loop = asyncio.get_running_loop()
        self._again = threading.Event()

    async def run(self) -> None:
        await self._links.start(self._work.address)
        threading.Thread(target=self._read, name="vCenter", daemon=True).start()
        while True:
            await asyncio.sleep(STATE_S)
            self._links.send(self._state_frame())

    def again(self) -> None:
        """Try again now, if it is not connected."""
        self._again.set()

    def _read(self) -> None:
        """Read vCenter, in a thread. Loading pyVmomi takes seconds on a busy machine, and a process
        that says nothing is killed: so it is loaded here."""
        try:
            from vmw_cloudinit_metadata.guest.vsphere.vcenterreader import VcenterReader

            VcenterReader(self._work, self, self._again).keep_reading()
        except BaseException as error:  # a fault of ours; its text may quote anything
            place = traceback.extract_tb(error.__traceback__)[-1]
            where = f"{Path(place.filename).name}:{place.lineno}"
            print(f"internal error: {type(error).__name__} in {where}", file=sys.stderr, flush=True)
            os._exit(1)

    # Called by the thread; each waits until the loop has done it, so one page is under way

    def begin(self) -> None:
        """Another reading begins."""
        self._in_loop(self._begin())

    def take(self, page: InventoryPage) -> None:
        self._in_loop(self._take(page))

    def lose(self, problem: str) -> None:
        """The connection is lost, or there was none."""
        self._in_loop(self._lose(problem))

    def _in_loop(self, step: Coroutine[Any, Any, None]) -> None:
        asyncio.run_coroutine_threadsafe(step, self._loop).result()

    # In the loop

    async def _begin(self) -> None:
        self._reading = InventoryRows(MAX_ROWS)
        self._is_complete = False

    async def _take(self, page: InventoryPage) -> None:
        changed = self._reading.take(page.changes)
        if self._is_complete:
            self._send(changed)
        elif page.is_last:
            self._is_complete = True
            self._read_all()

    def _read_all(self) -> None:
        """All has been read: send it, or after a reconnect what is different now."""
        if self._rows is None:
            self._rows = self._reading.rows
            for frame in self._everything(self._rows):
                self._links.send(frame)
        else:
            changed = differences(self._rows, self._reading.rows)
            self._rows = self._reading.rows
            self._send(changed)
        self._connects += 1
        self._set(True, "")

    def _send(self, changed: Rows) -> None:
        for payload in vcenterrows.joined(changed.items(), _PAYLOAD_BYTES):
            self._links.send(_frame(ROWS, payload))

    def _everything(self, rows: Rows) -> Iterator[bytes]:
        yield _frame(BEGIN)
        for payload in vcenterrows.joined(rows.items(), _PAYLOAD_BYTES):
            yield _frame(ROWS, payload)
        yield _frame(COMPLETE)

    async def _lose(self, problem: str) -> None:
        self._set(False, one_line(shortened(problem, MAX_PROBLEM)))

    def _set(self, is_connected: bool, problem: str) -> None:
        is_same = is_connected == self._state.is_connected
        since_s = self._state.since_s if is_same else time.time()
        self._state = replace(
            self._state, is_connected=is_connected, since_s=since_s, problem=problem
        )
        self._links.send(self._state_frame())

    def _state_frame(self) -> bytes:
        counts = {"reconnects": max(self._connects - 1, 0), "shed": self._reading.shed}
        return frames.encode({"kind": STATE, "fields": self._state.pack() | counts})

    def _greeting(self) -> bytes:
        rows = [] if self._rows is None else list(self._everything(self._rows))
        return b"".join([*rows, self._state_frame()])


def _frame(kind: str, payload: bytes = b"") -> bytes:
    return frames.encode({"kind": kind, "fields": {}}, payload)


def _ignore(link: ProcessLink, told: frames.Told) -> None:
    """The server's processes only listen."""


async def _run(line: bytes) -> None:
    keeper = VcenterKeeper(VcenterWork.of(line))

    def heard() -> None:
        if not os.read(0, _MAX_INPUT_BYTES):
            os._exit(0)  # the server is gone
        keeper.again()

    asyncio.get_running_loop().add_reader(0, heard)
    await keeper.run()


if __name__ == "__main__":
    keptchild.run(_run, MEMORY_BYTES)

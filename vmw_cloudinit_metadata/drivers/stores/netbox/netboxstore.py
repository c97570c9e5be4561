"""NetBoxStore: the virtual machines of a NetBox, mirrored. Blocks.

One thread reads NetBox: pages of the list one after another, without end, and between them the
virtual machines that webhooks name. What it has read counts at once, so it never goes back.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Collection, Iterable, Mapping
from math import ceil
from typing import Any, Literal

import ujson
from pydantic import Field

from vmw_cloudinit_metadata.drivers.drivererror import DriverError
from vmw_cloudinit_metadata.drivers.foreignerrors import text_of
from vmw_cloudinit_metadata.drivers.store import LAYERS, Changes, Key, Record, Store
from vmw_cloudinit_metadata.drivers.stores.httpextra import http_client
from vmw_cloudinit_metadata.drivers.stores.httpoptions import File, HttpOptions
from vmw_cloudinit_metadata.drivers.stores.netbox.hookevent import touched_by
from vmw_cloudinit_metadata.drivers.stores.netbox.inbox import Inbox
from vmw_cloudinit_metadata.drivers.stores.netbox.instancedata import SERIAL, Rules
from vmw_cloudinit_metadata.drivers.stores.netbox.mirror import EVERYTHING, Mirror
from vmw_cloudinit_metadata.drivers.stores.netbox.rounds import Rounds
from vmw_cloudinit_metadata.drivers.stores.netbox.vmreader import READ_S, SHORT_S, VmReader
from vmw_cloudinit_metadata.drivers.stores.signature import Signature
from vmw_cloudinit_metadata.protocol.webhook import Webhook

NEXT_PAGE_S = 3.0  # from one page to the next at the latest, as a NetBox that hangs says nothing
LONG_S = 2.0  # of a page while nobody waits for a change
FIRST_RETRY_S, LAST_RETRY_S = 1.0, 2.0  # while NetBox is out of reach
START_S = 0.3  # in which a server begins to follow NetBox; other programs do not
WAIT_S = 50.0  # for the first round, of who needs all virtual machines
SILENCE_S = 2 * READ_S + NEXT_PAGE_S


class NetBoxOptions(HttpOptions):
    uuid_field: str = Field(
        default=SERIAL,
        description="what has a virtual machine's VC UUID: serial, or the name of a custom field",
    )
    context_key: str = Field(
        default="cloud-init", description="the key of config context that has instance data"
    )
    gateway: Literal["none", "first", "last"] = Field(
        default="none",
        description="the address of a network that is its gateway, where no custom field has one",
    )
    filter: dict[str, Any] = Field(
        default={}, description="the virtual machines: a VirtualMachineFilter of NetBox's GraphQL"
    )
    refresh_s: float = Field(
        default=300,
        ge=1,
        le=86_400,
        description="seconds in which all virtual machines are read again",
    )
    webhook_key_file: File | None = Field(
        default=None, description="a file with the secret of NetBox's webhook"
    )
    max_age_s: float = Field(
        default=86_400, ge=0, description="for how long NetBox may be out of reach; 0: never"
    )


class NetBoxStore(Store):
    """Takes VMs from a mirror of NetBox's virtual machines."""

    Options = NetBoxOptions

    def __init__(self, options: Mapping[str, Any]) -> None:
        super().__init__(options)
        given: NetBoxOptions = self.options
        self._client = http_client("netbox", given)
        rules = Rules(given.uuid_field, given.context_key, given.gateway)
        self._mirror = Mirror()
        self._rounds = Rounds(VmReader(self._client, given.filter, rules), self._mirror)
        self._inbox = Inbox()
        self._signature = Signature("x-hook-signature", given.webhook_key_file)
        self._reading = threading.Lock()  # held by the thread that may read NetBox
        self._listens = threading.Event()  # set once a thread follows NetBox, as in a server
        self._complete = threading.Event()  # set once the mirror has all of NetBox
        self._away_s = 0.0  # since when NetBox is out of reach: time.monotonic()
        self._since = ""  # the same as text
        self._away = ""  # why, and since when
        self._read_s = -EVERYTHING  # when all was read last

    @property
    def name(self) -> str:
        return f"NetBox at {self._client.origin}"

    def fetch(self, keys: Collection[Key]) -> Iterable[Record]:
        self._need_mirror(within_s=0)
        away, away_s = self._away, self._away_s
        records = self._mirror.records(keys)
        if away and any(key != LAYERS for key in keys):
            is_old = time.monotonic() > away_s + self.options.max_age_s
            if is_old or not records:  # NetBox may have what the mirror has not
                raise DriverError(away)
        return records

    def all(self) -> Iterable[Record]:
        if not self._listens.is_set() and time.monotonic() > self._read_s + self.options.refresh_s:
            self._complete.clear()  # in a process that only looks at everything now and then
        self._need_mirror(within_s=WAIT_S)
        return self._mirror.all()

    def hook(self, webhook: Webhook) -> None:
        """Take what a webhook names: it is read when NetBox is asked next, within a second."""
        self._signature.check(webhook)
        try:
            event = ujson.loads(webhook.body)
        except ValueError:
            raise DriverError("the body of the webhook must be JSON") from None
        self._inbox.put(touched_by(event))

    def check(self) -> None:
        if self._away:
            raise DriverError(self._away)
        if self._listens.wait(START_S):
            self._need_mirror(within_s=0)

    def close(self) -> None:
        self._inbox.close()
        self._client.close()

    def listen(self, changes: Changes) -> None:
        self._listens.set()
        with self._reading:
            try:
                self._follow_for_ever(changes)
            except Exception as error:  # whatever it is: nothing is read any more
                self._note_away(text_of(error))
                raise

    def _follow_for_ever(self, changes: Changes) -> None:
        pause_s = FIRST_RETRY_S
        while not changes.closed.is_set():
            try:
                self._follow(changes)
            except DriverError as error:
                pause_s = min(1.5 * pause_s, LAST_RETRY_S) if self._away else FIRST_RETRY_S
                self._note_away(str(error))
                changes.lost(error)
                changes.closed.wait(pause_s)

    def _follow(self, changes: Changes) -> None:
        """Read NetBox until the server stops; raise ServerError."""
        rounds = self._rounds
        rounds.want_all()
        is_connected = False
        page_s = time.monotonic()
        while not changes.closed.is_set():
            wait_s = 0 if rounds.is_behind else max(page_s - time.monotonic(), 0)
            changes.changed(rounds.read(self._inbox.take(wait_s)))
            if rounds.is_behind or time.monotonic() >= page_s:
                changes.changed(self._page(is_connected))
                page_s = time.monotonic() + self._interval_s
            if not rounds.is_behind and not is_connected:
                is_connected = True
                self._complete.set()
                self._away = ""
                changes.connected(SILENCE_S)

    def _page(self, is_connected: bool) -> set[Key]:
        """Read as many virtual machines as can be read at once, or as are needed at a time."""
        if not is_connected:
            return self._rounds.page(LONG_S)
        if self._rounds.is_behind:
            return self._rounds.page(SHORT_S)
        share = NEXT_PAGE_S / self.options.refresh_s
        return self._rounds.page(SHORT_S, most=ceil(share * len(self._mirror)) + 1)

    @property
    def _interval_s(self) -> float:
        refresh_s: float = self.options.refresh_s
        return min(refresh_s / self._rounds.pages_of_last, NEXT_PAGE_S)

    def _note_away(self, reason: str) -> None:
        if not self._away:
            self._away_s = time.monotonic()
            self._since = time.strftime("%Y-%m-%d %H:%M:%S %Z")
        self._away = f"{self.name} is out of reach since {self._since}: {reason}"

    def _need_mirror(self, within_s: float) -> None:
        """Raise DriverError if the virtual machines are not known; read them if nobody does."""
        if self._complete.is_set():
            return
        if not self._listens.wait(START_S):
            with self._reading:
                if not self._complete.is_set():
                    self._read_all()
        elif not self._complete.wait(within_s):
            reading = f"{self.name}: its virtual machines are read, {len(self._mirror)} until now"
            raise DriverError(self._away or reading)

    def _read_all(self) -> None:
        self._rounds.want_all()
        while self._rounds.is_behind:
            self._rounds.page(LONG_S)
        self._complete.set()
        self._read_s = time.monotonic()

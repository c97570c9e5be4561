"""NetBoxStore: the virtual machines of a NetBox, mirrored. Blocks.

One thread reads NetBox, page after page without end, and between them what webhooks name, or is
asked for while it is in doubt (following.py). What it has read counts at once, so it never goes
back.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Collection, Iterable, Mapping
from typing import Any, Literal

import ujson
from pydantic import Field

from vmw_cloudinit_metadata.drivers.drivererror import DriverError
from vmw_cloudinit_metadata.drivers.foreignerrors import text_of
from vmw_cloudinit_metadata.drivers.store import (
    LAYERS,
    Changes,
    Fetched,
    Key,
    Record,
    Store,
)
from vmw_cloudinit_metadata.drivers.stores.httpextra import http_client
from vmw_cloudinit_metadata.drivers.stores.httpoptions import File, HttpOptions
from vmw_cloudinit_metadata.drivers.stores.netbox.following import (
    LONG_S,
    NEXT_PAGE_S,
    Following,
)
from vmw_cloudinit_metadata.drivers.stores.netbox.hookevent import Touched, touched_by
from vmw_cloudinit_metadata.drivers.stores.netbox.inbox import Inbox
from vmw_cloudinit_metadata.drivers.stores.netbox.instancedata import SERIAL, Rules
from vmw_cloudinit_metadata.drivers.stores.netbox.mirror import EVERYTHING, Mirror
from vmw_cloudinit_metadata.drivers.stores.netbox.pagesize import MOST
from vmw_cloudinit_metadata.drivers.stores.netbox.rounds import Rounds
from vmw_cloudinit_metadata.drivers.stores.netbox.vmreader import READ_S, VmReader
from vmw_cloudinit_metadata.drivers.stores.signature import Signature
from vmw_cloudinit_metadata.protocol.webhook import Webhook

FIRST_RETRY_S, LAST_RETRY_S = 0.5, 1.0  # while NetBox is out of reach
START_S = 0.3  # in which a server begins to follow NetBox; other programs do not
WAIT_S = 50.0  # for the first round, of who needs all virtual machines
SILENCE_S = 2 * READ_S + NEXT_PAGE_S
ASKED_S = 2.0  # for virtual machines that are asked for and in doubt: then what there is counts
MOST_ASKING = 16  # threads that wait so long: others of the 32 of the server shall be free


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
    can_prepare = True
    tells_versions = True  # another process has a mirror of its own

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
        self._complete = threading.Event()  # set once the mirror has had all of NetBox
        self._asking = threading.Semaphore(MOST_ASKING)
        self._away_s = 0.0  # since when NetBox is out of reach: time.monotonic()
        self._since = ""  # the same as text
        self._away = ""  # why, and since when
        self._read_s = -EVERYTHING  # when all was read last

    @property
    def name(self) -> str:
        return f"NetBox at {self._client.origin}"

    def fetch(self, keys: Collection[Key]) -> Iterable[Record]:
        self._need_mirror(within_s=0)
        wanted = [key for key in keys if key != LAYERS]
        is_sure = not wanted or self._is_sure(wanted)
        away, away_s = self._away, self._away_s
        records = self._mirror.records(wanted)
        if is_sure:
            return records
        is_old = away and time.monotonic() > away_s + self.options.max_age_s
        if is_old or not records:  # NetBox may have what the mirror has not
            raise DriverError(away or f"{self.name}: its virtual machines are read again")
        return Fetched(records, dict.fromkeys(wanted, 0.0))

    def _is_sure(self, keys: Collection[Key]) -> bool:
        """Return whether the mirror has what NetBox has; have that read first which is in doubt."""
        doubt = self._mirror.in_doubt(keys)
        if doubt is None:
            return True
        if self._away:
            return False
        if not self._asking.acquire(blocking=False):
            self._inbox.offer(doubt.ids, MOST)  # for the next time that they are asked for
            return False
        try:
            return self._is_read(keys, time.monotonic() + ASKED_S)
        finally:
            self._asking.release()

    def _is_read(self, keys: Collection[Key], end_s: float) -> bool:
        while doubt := self._mirror.in_doubt(keys):
            left_s = end_s - time.monotonic()
            if left_s <= 0 or self._away:
                return False
            self._inbox.put(Touched(doubt.ids))
            self._mirror.wait(keys, doubt, left_s)
        return True

    def record_version(self, key: Key) -> str | None:
        return self._mirror.version_of(key)

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
        options: NetBoxOptions = self.options
        following = Following(self._rounds, self._inbox, self._mirror, options.refresh_s)
        is_connected = False
        while not changes.closed.is_set():
            following.turn(changes)
            if self._mirror.is_whole:
                self._complete.set()
            if self._complete.is_set() and not is_connected:
                is_connected = True
                self._away = ""
                changes.connected(SILENCE_S)

    def _note_away(self, reason: str) -> None:
        if not self._away:
            self._away_s = time.monotonic()
            self._since = time.strftime("%Y-%m-%d %H:%M:%S %Z")
        self._away = f"{self.name} is out of reach since {self._since}: {reason}"
        self._mirror.doubt(absences=True)

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
        self._mirror.has_all()
        self._complete.set()
        self._read_s = time.monotonic()

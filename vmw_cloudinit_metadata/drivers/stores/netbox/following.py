"""Following: reads NetBox from one outage to the next. Blocks.

Virtual machines that somebody waits for are read first: those that are asked for while they are in
doubt, and those that webhooks name. Pages of all of them follow.
"""

from __future__ import annotations

import time
from math import ceil

from vmw_cloudinit_metadata.drivers.store import Changes, Key
from vmw_cloudinit_metadata.drivers.stores.netbox.inbox import Inbox
from vmw_cloudinit_metadata.drivers.stores.netbox.mirror import Mirror
from vmw_cloudinit_metadata.drivers.stores.netbox.pagesize import MOST
from vmw_cloudinit_metadata.drivers.stores.netbox.rounds import TOGETHER, Rounds
from vmw_cloudinit_metadata.drivers.stores.netbox.vmreader import SHORT_S

NEXT_PAGE_S = 3.0  # from one page to the next at the latest, as a NetBox that hangs says nothing
LONG_S = 2.0  # of a page while nobody waits for a change
# While everything is to be read at once, who has waited may ask for another one soon: until then,
# and at most so long after a page, there is no further page.
QUIET_S, BUSY_PAGE_S = 0.2, 2.0


class Following:
    def __init__(self, rounds: Rounds, inbox: Inbox, mirror: Mirror, refresh_s: float) -> None:
        self._rounds = rounds
        self._inbox = inbox
        self._mirror = mirror
        self._refresh_s = refresh_s
        self._whole = rounds.want_newest()  # the place where the mirror has everything
        self._page_s = -BUSY_PAGE_S  # when the last page was read: time.monotonic()
        self._named_s = -QUIET_S  # likewise, what somebody waited for

    def turn(self, changes: Changes) -> None:
        """Read what is due next, after at most NEXT_PAGE_S; raise ServerError."""
        touched = self._inbox.take(max(self._next_page_s - time.monotonic(), 0))
        if touched.all:
            self._rounds.want_all()
            self._mirror.doubt()
            changes.everything()
        if touched:
            changes.changed(self._rounds.read(touched))
            self._named_s = time.monotonic()
        if time.monotonic() >= self._next_page_s:
            changes.changed(self._page())
            self._page_s = time.monotonic()
            if self._rounds.has_reached(self._whole):
                self._mirror.has_all()

    @property
    def _next_page_s(self) -> float:
        if self._rounds.is_behind:
            return min(self._named_s + QUIET_S, self._page_s + BUSY_PAGE_S)
        pause_s = self._refresh_s / self._rounds.pages_of_last
        return self._page_s + min(pause_s, NEXT_PAGE_S)

    def _page(self) -> set[Key]:
        """Read as many virtual machines as can be read at once, or as are needed at a time."""
        if self._rounds.is_first:
            return self._rounds.page(LONG_S)
        if self._rounds.is_behind:
            is_busy = time.monotonic() < self._named_s + QUIET_S
            return self._rounds.page(SHORT_S, most=TOGETHER if is_busy else MOST)
        share = NEXT_PAGE_S / self._refresh_s
        return self._rounds.page(SHORT_S, most=ceil(share * len(self._mirror)) + 1)

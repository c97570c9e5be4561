"""Rounds: reads all virtual machines into the mirror, a page at a time, again and again. Blocks."""

from __future__ import annotations

from vmw_cloudinit_metadata.drivers.store import Key
from vmw_cloudinit_metadata.drivers.stores.netbox.hookevent import Touched
from vmw_cloudinit_metadata.drivers.stores.netbox.mirror import EVERYTHING, Mirror
from vmw_cloudinit_metadata.drivers.stores.netbox.pagesize import MOST
from vmw_cloudinit_metadata.drivers.stores.netbox.vmreader import VmReader

TOGETHER = 20  # virtual machines: read in 90 ms, and a single one in 60

Place = tuple[int, int]  # rounds that were read, and the id that the present one has come to


class Rounds:
    """Each method returns the keys whose records have changed; it raises ServerError."""

    def __init__(self, reader: VmReader, mirror: Mirror) -> None:
        self._reader = reader
        self._mirror = mirror
        self._done = 0
        self._start = 0  # the id from which the next page is read
        self._until: Place = (1, 0)  # what was wanted at once is read there
        self._pages = 0  # of this round
        self.pages_of_last = 1

    @property
    def is_behind(self) -> bool:
        """Return whether there is something to read at once."""
        return not self.has_reached(self._until)

    @property
    def is_first(self) -> bool:
        """Return whether not everything has been read yet."""
        return not self._done

    def has_reached(self, place: Place) -> bool:
        return (self._done, self._start) >= place

    def want_all(self) -> Place:
        """Have everything read at once, from where the round is now; return where that ends."""
        self._until = (self._done + 1, self._start)
        return self._until

    def want_newest(self) -> Place:
        """Have everything read at once, first what the mirror does not know."""
        self._start = self._mirror.last + 1
        return self.want_all()

    def page(self, aim_s: float, most: int = MOST) -> set[Key]:
        """Read the next page, of as many virtual machines as take about `aim_s`."""
        found = self._reader.page(self._start, aim_s, most)
        self._pages += 1
        last = max(found, default=EVERYTHING)
        changed = self._mirror.put_range(self._start, last, found)
        if found:
            self._start = max(found) + 1
        else:
            self.pages_of_last, self._pages = self._pages, 0
            self._start = 0
            self._done += 1
        return changed

    def read(self, touched: Touched) -> set[Key]:
        """Read what was touched, but for everything: that takes pages.

        Others that are in doubt are read too: some more cost NetBox little.
        """
        ids = touched.vms | self._mirror.vms_of(touched.interfaces)
        if not ids:
            return set()
        ids |= self._mirror.some_in_doubt(TOGETHER - len(ids))
        return self._mirror.put(ids, self._reader.these(ids))

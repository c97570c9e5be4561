"""VcenterReader: reads vCenter in a thread of the vCenter process, again when that fails."""

from __future__ import annotations

import threading
import time
from pathlib import Path
from typing import NoReturn, Protocol

from vmw_cloudinit_metadata.guest.vsphere import inventory, vcenter
from vmw_cloudinit_metadata.guest.vsphere.vcenter import LoginRefusedError, Trust
from vmw_cloudinit_metadata.process.vcenter.inventoryrows import InventoryPage
from vmw_cloudinit_metadata.process.vcenter.vcenterwork import VcenterWork
from vmw_cloudinit_metadata.settings import vcenterpassword
from vmw_cloudinit_metadata.settings.errors import ConfigError
from vmw_cloudinit_metadata.settings.values import Address

REQUEST_S = 20.0  # of each answer of vCenter; it has up to inventory.WAIT_S to begin
RETRY_S = 1.0  # after a connection was lost; doubled each time
MAX_RETRY_S = 30.0
REFUSED_S = 60.0  # after a login was refused: five in 3 minutes lock an account of vSphere's


class TakesPages(Protocol):
    """Who is told what is read."""

    def begin(self) -> None: ...

    def take(self, page: InventoryPage) -> None: ...

    def lose(self, problem: str) -> None: ...


class VcenterReader:
    """Reads all, and what changes. `again` ends a pause between two attempts."""

    def __init__(self, work: VcenterWork, owner: TakesPages, again: threading.Event) -> None:
        self._work = work
        self._place = Address(work.host, work.port)
        self._owner = owner
        self._again = again

    def keep_reading(self) -> NoReturn:
        wait_s = RETRY_S
        while True:
            self._again.clear()
            began_s = time.monotonic()
            try:
                self._follow()
            except LoginRefusedError as error:
                problem, wait_s = str(error), REFUSED_S
            except ConfigError as error:
                problem, wait_s = str(error), min(2 * wait_s, MAX_RETRY_S)
            except vcenter.FAILURES as error:
                problem = f"{self._place}: {vcenter.failure_text(error)}"
                was_connected = time.monotonic() - began_s > MAX_RETRY_S
                wait_s = RETRY_S if was_connected else min(2 * wait_s, MAX_RETRY_S)
            self._owner.lose(problem)
            self._again.wait(wait_s)

    def _follow(self) -> NoReturn:
        """Return by an exception when the connection is lost."""
        work = self._work
        file = Path(work.password_file) if work.password_file else None
        password = vcenterpassword.read("--vcenter-password-file", file)
        trust = Trust(Path(work.ca_file) if work.ca_file else None, work.thumbprint)
        with vcenter.session(
            self._place, work.user, password, trust, request_s=REQUEST_S
        ) as content:
            self._owner.begin()
            for page in inventory.pages(content):
                self._owner.take(page)
            raise AssertionError("the pages of an inventory have no end")

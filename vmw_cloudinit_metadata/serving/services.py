"""The services that all connections of a server share. They know no connection, line or
dialogue."""

from __future__ import annotations

import ssl
from collections import defaultdict
from dataclasses import dataclass, field
from functools import partial

from vmw_cloudinit_metadata.monitoring.counters import Key
from vmw_cloudinit_metadata.monitoring.figures import Timing
from vmw_cloudinit_metadata.monitoring.happenings import Happenings
from vmw_cloudinit_metadata.monitoring.onceaminute import LastTrouble, OnceAMinute
from vmw_cloudinit_metadata.process.deadlines import Deadlines
from vmw_cloudinit_metadata.protocol.identitydocument import IdentityIssuer
from vmw_cloudinit_metadata.protocol.session import Policy
from vmw_cloudinit_metadata.serving.admission import Admission
from vmw_cloudinit_metadata.serving.connectedmachines import ConnectedMachines
from vmw_cloudinit_metadata.serving.crosscheck import CrossCheck
from vmw_cloudinit_metadata.serving.fleetuses import FleetUses
from vmw_cloudinit_metadata.serving.ledger import Ledger, NoBook
from vmw_cloudinit_metadata.serving.lookup import Lookup
from vmw_cloudinit_metadata.serving.output import Turn
from vmw_cloudinit_metadata.serving.unsent import Unsent


@dataclass(slots=True)
class Services:
    policy: Policy
    lookup: Lookup
    admission: Admission
    unsent: Unsent
    tls: ssl.SSLContext | None = None  # replaced when the certificate is
    vcenter: CrossCheck | None = None  # None: nothing is known of any vCenter
    issuer: IdentityIssuer | None = None  # of identity documents; None: there are none
    tls_connections: int = 0  # now
    turn: Turn = field(default_factory=Turn)
    deadlines: Deadlines = field(default_factory=Deadlines)
    machines: ConnectedMachines = field(default_factory=ConnectedMachines)
    # For each source (a file), the lines of each VC UUID that are served from it: two VMs with one
    # file are a mistake.
    sources: dict[str, dict[str, int]] = field(default_factory=dict)
    uses: FleetUses | None = None  # the same, in other processes; None: the server is alone
    news: LastTrouble = field(default_factory=LastTrouble)
    throttle: OnceAMinute = field(default_factory=OnceAMinute)
    happenings: Happenings = field(default_factory=Happenings)
    # A Counter takes twice as long to count.
    counters: defaultdict[Key, int] = field(default_factory=partial(defaultdict, int))
    window_s: float = 0.0  # in which user-data is served; 0: always
    boots: Timing = field(default_factory=Timing)
    outcomes: Timing = field(default_factory=Timing)  # from meta-data to the report of a boot
    ledger: Ledger = field(init=False)  # what VMs have used up

    def __post_init__(self) -> None:
        self.ledger = Ledger(NoBook(), self.deadlines, self.counters)

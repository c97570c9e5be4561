"""What all connections of a server have in common."""

from __future__ import annotations

import ssl
from collections import defaultdict
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING

from vmw_cloudinit_metadata.monitoring.counters import Key
from vmw_cloudinit_metadata.monitoring.figures import Timing
from vmw_cloudinit_metadata.monitoring.happenings import Happenings
from vmw_cloudinit_metadata.monitoring.onceaminute import LastTrouble, OnceAMinute
from vmw_cloudinit_metadata.process.budget import Budget
from vmw_cloudinit_metadata.protocol.session import Policy, Session
from vmw_cloudinit_metadata.serving.admission import Admission
from vmw_cloudinit_metadata.serving.claims import Claims
from vmw_cloudinit_metadata.serving.deadlines import Deadlines
from vmw_cloudinit_metadata.serving.lookup import Lookup
from vmw_cloudinit_metadata.serving.machines import Machines
from vmw_cloudinit_metadata.serving.turn import Turn
from vmw_cloudinit_metadata.serving.unsent import Unsent

if TYPE_CHECKING:
    from vmw_cloudinit_metadata.serving.connection import Connection
    from vmw_cloudinit_metadata.serving.journey import Journey
    from vmw_cloudinit_metadata.serving.line import Line


@dataclass(slots=True)
class Shared:
    policy: Policy
    lookup: Lookup
    admission: Admission
    budget: Budget
    unsent: Unsent
    tls: ssl.SSLContext | None = None  # replaced when the certificate is
    turn: Turn = field(default_factory=Turn)
    deadlines: Deadlines = field(default_factory=Deadlines)
    machines: Machines[Line] = field(default_factory=Machines)
    journeys: dict[Session, Journey] = field(default_factory=dict)  # by the source's session
    claims: Claims = field(default_factory=Claims)
    news: LastTrouble = field(default_factory=LastTrouble)
    throttle: OnceAMinute = field(default_factory=OnceAMinute)
    happenings: Happenings = field(default_factory=Happenings)
    # A Counter takes twice as long to count.
    counters: defaultdict[Key, int] = field(default_factory=partial(defaultdict, int))
    boots: Timing = field(default_factory=Timing)
    tls_connections: int = 0  # now
    mute: dict[Connection, None] = field(default_factory=dict)  # kept, unserved; oldest first
    leaving: int = 0  # connections that have made room, and are about to end

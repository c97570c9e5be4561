"""The place of one connection among the others: its peer, whether it may stay, and how long."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Protocol

from vmw_cloudinit_metadata.monitoring import counters
from vmw_cloudinit_metadata.monitoring.facts import ConnectionClosed, Fact, PeerRejected
from vmw_cloudinit_metadata.monitoring.happenings import Peer
from vmw_cloudinit_metadata.protocol.state import FLAG, SECONDS, InvalidState, State, mapping
from vmw_cloudinit_metadata.protocol.vmware import Machine
from vmw_cloudinit_metadata.serving.admission import Refusal, plain_host
from vmw_cloudinit_metadata.serving.services import Services
from vmw_cloudinit_metadata.serving.timeouts import (
    FAREWELL_S,
    IDENTIFICATION_DEADLINE_S,
    MUTE_LINE_S,
)


class Occupant(Protocol):
    """The part of its connection that a standing uses."""

    @property
    def is_over(self) -> bool:
        """Whether the connection is closed or about to be."""

    def close(self) -> None:
        """End the connection now."""

    def finish(self) -> None:
        """End the connection when all is sent."""

    def hear(self) -> Iterator[None]:
        """Receive what has arrived, a turn at each step."""


class _Gone:
    """Occupant of a vacated place; avoids a reference cycle."""

    is_over = True

    def close(self) -> None: ...

    def finish(self) -> None: ...

    def hear(self) -> Iterator[None]:
        return iter(())


_GONE = _Gone()


class Standing:
    """Counts `occupant` as a connection of its host, and closes it when it may not stay."""

    __slots__ = (
        "_connection_id",
        "_is_accepted",
        "_is_counted",
        "_is_quiet",
        "_occupant",
        "_services",
        "has_made_room",
        "peer",
    )

    def __init__(self, services: Services, occupant: Occupant, host: str, port: int) -> None:
        self._services = services
        self._occupant = occupant
        self._connection_id = services.happenings.connection_id()
        self._is_accepted = False
        self._is_counted = False
        self._is_quiet = False
        self.has_made_room = False
        self._become(host, port)

    def _become(self, host: str, port: int) -> None:
        host = plain_host(host)
        name = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
        self.peer = Peer(name, host, self._connection_id)

    def enter(self) -> None:
        """Take a place, or be refused; call it once, before anything is received."""
        if self._services.admission.is_proxy(self.peer.host):
            self._is_quiet = True  # until it speaks for a client: health checks come and go
            self._services.admission.unidentified.add(self.peer.host, self)
        else:
            self._count()

    @property
    def begins_with_header(self) -> bool:
        """Whether the peer is a balancer that has not sent its PROXY protocol header yet."""
        return self._is_quiet

    def start_deadline(self) -> None:
        """Close the connection unless, in time, its VM is identified or it is refused."""
        self._services.deadlines.start(
            IDENTIFICATION_DEADLINE_S, self._unidentified, self._occupant.hear
        )

    def speak_for(self, address: tuple[str, int] | None) -> bool:
        """Count as a connection of the client in a PROXY protocol header; return whether it may
        stay. None: the header names no client."""
        admission = self._services.admission
        admission.unidentified.discard(self.peer.host, self)  # it counted as the balancer's
        if address:
            self._become(*address)
            # With version 1 a balancer's own health checks look like this.
            self._is_quiet = admission.is_proxy(self.peer.host)
        if refusal := admission.hurries(self.peer.host, time.monotonic()):
            self.refuse(refusal)
            return False
        return self._count()

    def _count(self) -> bool:
        """Count the connection for its host, unless that has too many."""
        refusal = self._services.admission.enter(self.peer.host)
        if refusal is None:
            self._is_counted = True
            self._services.admission.unidentified.add(self.peer.host, self)
            return True
        self.refuse(refusal)
        return False

    def accept(self, within_s: float | None = None) -> None:
        """Treat the peer as an ESXi host whose VM is served, or will be within `within_s`
        seconds."""
        self._is_accepted = True
        self._services.deadlines.cancel(self._unidentified, self._move_overdue)
        self._services.admission.unidentified.discard(self.peer.host, self)
        if within_s is not None:
            self._services.deadlines.start(within_s, self._move_overdue, self._occupant.hear)

    def start_over(self) -> None:
        """Treat the peer as unidentified again: nothing counts that it has sent so far."""
        if self._is_accepted:  # else its deadline is running already
            self._is_accepted = False
            self._services.deadlines.cancel(self._move_overdue)
            self._services.admission.unidentified.add(self.peer.host, self)
            self.start_deadline()

    def keep_mute(self) -> None:
        """Keep the connection open without service, until the peer closes it or time is over."""
        self.accept()
        if not self._occupant.is_over:
            self._services.admission.unidentified.add(self.peer.host, self)
        if oldest := self._services.admission.mute.add(self):
            oldest.end()
        self._services.deadlines.start(MUTE_LINE_S, self.end, self._occupant.hear)

    # Upgrade

    def state(self) -> State:
        """Return the state, for a standing of the next program."""
        left_s = self._services.deadlines.left_s
        return {
            "peer": [*self.peer],
            "is_accepted": self._is_accepted,
            "is_counted": self._is_counted,
            "is_quiet": self._is_quiet,
            "unidentified_s": left_s(self._unidentified),
            "move_overdue_s": left_s(self._move_overdue),
            "mute_s": left_s(self.end),
        }

    def restore(self, state: object) -> None:
        """Go on from a state, instead of `enter`; raise InvalidState."""
        written = mapping(state)
        self.peer = _peer_in(written["peer"])
        self._connection_id = self.peer.connection
        self._is_accepted, self._is_counted, self._is_quiet = (
            FLAG.read(written[name]) for name in ("is_accepted", "is_counted", "is_quiet")
        )
        if self._is_counted:
            self._services.admission.count(self.peer.host)
        hear = self._occupant.hear
        for name, end in (
            ("unidentified_s", self._unidentified),
            ("move_overdue_s", self._move_overdue),
            ("mute_s", self.end),
        ):
            if written[name] is not None:
                self._services.deadlines.go_on(SECONDS.read(written[name]), end, hear)
        is_mute = written["mute_s"] is not None
        if is_mute:
            self._services.admission.mute.add(self)
        if is_mute or not self._is_accepted:
            self._services.admission.unidentified.add(self.peer.host, self)

    # Peers that may not stay

    def refuse(self, refusal: Refusal) -> None:
        text = f"connection refused: {refusal.reason}"
        self.warn(PeerRejected, counters.REFUSED[refusal.kind], text)
        self._occupant.close()

    def refuse_header(self) -> None:
        self._is_quiet = False
        text = "closed: it did not begin with a PROXY protocol header"
        self.warn(PeerRejected, counters.REFUSED["PROXY header"], text)
        self._occupant.close()

    def dismiss(self, reason: str) -> None:
        """Close the connection of a peer that is not an ESXi host, once it has read our reply."""
        self.warn(ConnectionClosed, counters.CLOSED["strangers"], f"closed: {reason}")
        self._occupant.finish()
        self._services.deadlines.start(FAREWELL_S, self.end)

    def make_room(self) -> None:
        """Close the connection, whose VM is not served, in favor of another one."""
        text = "closed to make room for another connection: it identified no VM, or was refused"
        self.warn(ConnectionClosed, counters.CLOSED["made room"], text)
        self._leave_host()
        self.has_made_room = True
        self._services.admission.leaving += 1
        self._occupant.close()

    def _unidentified(self) -> None:
        text = f"closed: it identified no VM within {IDENTIFICATION_DEADLINE_S:g} s"
        self.warn(ConnectionClosed, counters.CLOSED["unidentified"], text)
        self._occupant.close()

    def _move_overdue(self) -> None:
        text = "closed: the vMotion to it was not completed in time"
        self.warn(ConnectionClosed, counters.MOVES["overdue"], text)
        self._occupant.close()

    def end(self) -> None:
        """Close the connection."""
        self._occupant.close()

    def leave(self) -> None:
        """Give the place back: the connection has ended."""
        self._services.deadlines.cancel(self._unidentified, self._move_overdue, self.end)
        self._leave_host()
        self._services.admission.mute.discard(self)
        if self.has_made_room:
            self._services.admission.leaving -= 1
        self._occupant = _GONE

    def _leave_host(self) -> None:
        """Let another connection have the place."""
        self._services.admission.unidentified.discard(self.peer.host, self)
        if self._is_counted:
            self._services.admission.leave(self.peer.host)
            self._is_counted = False

    # Reports

    def report(self, fact: Fact, machine: Machine | None = None) -> None:
        """Report a happening of this connection."""
        self._services.happenings.report(fact, self.peer, machine)

    def warn(
        self,
        kind: type[PeerRejected] | type[ConnectionClosed],
        reason: counters.Key,
        text: str,
    ) -> None:
        """Count a problem, and report it at most once a minute for each host."""
        self._services.counters[reason] += 1
        if self._is_quiet:
            return
        unreported = self._services.throttle.passes(reason, self.peer.host)
        if unreported is not None:
            self.report(kind(f"{text}{unreported}", reason))


def _peer_in(written: object) -> Peer:
    match written:
        case [str(name), str(host), str(connection)]:
            return Peer(name, host, connection)
    raise InvalidState("expected a peer")

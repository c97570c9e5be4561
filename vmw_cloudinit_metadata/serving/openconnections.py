"""The connections of a server: each is served in a greenlet, and goes on in the next program.

                  state: list of ──┐                        ┌──> restore: socket, standing,
    connection ─> descriptor, standing, layer  ──memfd──────┘    layer, and its greenlet
    journey ────> number, ends, time left ─────────────────────> when all lines are there

TLS cannot go on elsewhere, since Python shows nothing of what OpenSSL knows of a connection.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterable, Iterator
from socket import SocketType, socket
from typing import Any

import ujson

from vmw_cloudinit_metadata.monitoring.counters import CLOSED, CONNECTIONS
from vmw_cloudinit_metadata.process.budget import CONNECTION_BYTES, TLS_BYTES
from vmw_cloudinit_metadata.protocol.state import InvalidState, State, items, mapping, octets
from vmw_cloudinit_metadata.serving import linestate
from vmw_cloudinit_metadata.serving.connection import Connection
from vmw_cloudinit_metadata.serving.exchange import Exchange
from vmw_cloudinit_metadata.serving.journey import End, Journey, Journeys, JourneyState
from vmw_cloudinit_metadata.serving.line import Line
from vmw_cloudinit_metadata.serving.output import MAX_WAITING_BYTES
from vmw_cloudinit_metadata.serving.services import Services
from vmw_cloudinit_metadata.serving.transport import FirstByteLayer, HeaderLayer, TlsLayer

log = logging.getLogger(__name__)

_MOST = 1_000_000
_WAITING = octets(2 * MAX_WAITING_BYTES + 64 * 1024)  # one more write than fits
_PROXY_HEADER = octets(8192)

Spawn = Callable[[socket, Connection], None]
Written = tuple[bool, int, int, str]


class OpenConnections:
    """Begins, serves, counts and restores connections."""

    def __init__(self, services: Services, exchange: Exchange | None = None) -> None:
        self._services = services
        self._exchange = exchange
        self._journeys = Journeys(services, exchange)
        self._sockets: dict[Connection, socket] = {}

    def __len__(self) -> int:
        return len(self._sockets)

    def __iter__(self) -> Iterator[Connection]:
        return iter(list(self._sockets))

    @property
    def kept_bytes(self) -> int:
        return len(self) * CONNECTION_BYTES + self._services.tls_connections * TLS_BYTES

    @property
    def are_answering(self) -> bool:
        return any(connection.is_busy for connection in self._sockets)

    @property
    def with_tls(self) -> list[Connection]:
        return [one for one in self._sockets if isinstance(one.layer, TlsLayer)]

    def begin(self, sock: socket, address: tuple[Any, ...]) -> Connection:
        """Let a new connection take its place."""
        self._services.counters[CONNECTIONS] += 1
        connection = self._new(sock, str(address[0]), int(address[1]))
        connection.enter()
        return connection

    def serve(self, sock: socket, connection: Connection) -> None:
        """Serve a connection to its end, in a greenlet."""
        try:
            connection.serve()
        finally:
            sock.close()
            self._sockets.pop(connection, None)

    def _new(self, sock: socket, host: str, port: int) -> Connection:
        connection = Connection(self._services, self._journeys, sock, host, port)
        self._sockets[connection] = sock
        return connection

    # Upgrade: the program before it

    def hold_moves(self) -> None:
        """Ask no other process for a VM any more, until `release_moves`: the next program asks."""
        if self._exchange:
            self._exchange.hold()

    def release_moves(self) -> None:
        if self._exchange:
            self._exchange.go_on()

    @property
    def are_asking(self) -> bool:
        """Whether a VM that moves here waits for another process, at most a second."""
        return self._exchange is not None and self._exchange.is_asking

    def state(self) -> tuple[list[Written], list[int]]:
        """Return the state of each connection that can go on, and their descriptors. Call it
        between two turns of the hub."""
        states, descriptors = list[Written](), list[int]()
        for connection in self:
            if isinstance(connection.layer, Line):
                connection.guarded(connection.layer.dialogue.receipt.report)
        for connection, sock in self._sockets.items():
            state = None if connection.is_over else self._state_of(connection)
            if state:
                states.append(_written(state | {"fd": sock.fileno()}))
                descriptors.append(sock.fileno())
        states += [_written(self._state_of_gone(*gone)) for gone in self._journeys.ends_gone]
        return states, descriptors

    def _state_of(self, connection: Connection) -> State | None:
        state: State = {"standing": connection.standing.state()}
        if connection.output.waiting:
            state["waiting"] = _WAITING.write(connection.output.waiting)
        match connection.layer:
            case Line() as line:
                state["line"] = linestate.state_of(line, line.journey, self._services.deadlines)
            case HeaderLayer() as layer:
                state["header"] = _PROXY_HEADER.write(layer.header)
            case FirstByteLayer():
                state["has_begun"] = True
            case TlsLayer():
                return None
        return state

    def _state_of_gone(self, end: End, journey: Journey) -> State:
        assert isinstance(end, Line)
        line = linestate.state_of(end, journey, self._services.deadlines)
        return {"standing": end.standing.state(), "line": line}

    # Upgrade: the program after it

    def restore(self, states: object, spawn: Spawn) -> int:
        """Go on with connections, whose sockets are open; return how many could not. `spawn` serves
        one in a greenlet. Raise InvalidState if this is no list of them."""
        if self._exchange:  # others can be asked a little later
            self._exchange.hold()
            self._exchange.when_connected(self._exchange.go_on)
        restored: list[tuple[Line, State]] = []
        failed = 0
        for entry in sorted(items(states, _MOST), key=_order):
            connection = line = None
            try:
                state = _read(entry)
                connection = self._opened(state)
                line = self._restored(connection, state)
            except Exception as error:  # whatever it has: no other connection may suffer
                peer = connection.standing.peer if connection else "a connection"
                log.warning("%s: cannot go on after the upgrade: %s", peer, error)
                self._services.counters[CLOSED["upgrade"]] += 1
                failed += 1
                if connection:
                    connection.close()
            if line and state["line"].keys() & {"owed", "journey", "has_passage"}:
                restored.append((line, state["line"]))
            if connection and (sock := self._sockets.get(connection)):
                spawn(sock, connection)
        self._restore_journeys(restored)
        for line, state in restored:
            if "owed" in state:
                line.guarded(line.proceed)
        return failed

    def _opened(self, state: State) -> Connection:
        """Return the connection with its socket; or with a closed one, of an end of a vMotion that
        has disconnected."""
        descriptor = state.pop("fd", None)
        if descriptor is None:
            gone: Any = SocketType()
            gone.close()
            return Connection(self._services, self._journeys, gone, "::", 0)
        os.set_inheritable(descriptor, False)
        # Not gevent's, which has two watchers of its own. Nor Python's, which can become a file.
        sock: Any = SocketType(fileno=descriptor)
        sock.setblocking(False)
        return self._new(sock, "::", 0)

    def _restored(self, connection: Connection, state: State) -> Line | None:
        """Let the connection go on from its state; return its line."""
        connection.standing.restore(state.pop("standing"))
        connection.output.put(_WAITING.read(state.pop("waiting", "")))
        if state.keys() - {"line", "header", "has_begun"}:
            raise InvalidState("a connection has other parts")
        if "line" in state:
            return self._restored_line(connection, state["line"])
        if "header" in state:
            connection.layer = layer = HeaderLayer(connection)
            layer.header = _PROXY_HEADER.read(state["header"])
        elif "has_begun" in state:
            connection.begin()
        return None

    def _restored_line(self, connection: Connection, state: object) -> Line:
        line = connection.resume_line()
        try:
            linestate.restore(line, state, self._services.deadlines)
        except Exception:
            line.session.moves.end_move()
            raise
        if connection not in self._sockets:
            connection.is_over, line.is_open = True, False
            connection.standing.leave()
        return line

    def _restore_journeys(self, restored: Iterable[tuple[Line, State]]) -> None:
        sources: list[tuple[Line, JourneyState]] = []
        targets: dict[int, Line] = {}
        for line, state in restored:
            match linestate.journey_of(state):
                case True, JourneyState() as journey:
                    sources.append((line, journey))
                case False, JourneyState(number=number):
                    targets[number] = line
            if linestate.has_passage(state):
                self._journeys.restore_passage(line)
        for source, journey in sources:
            self._journeys.restore(journey, source, targets.get(journey.number))


def _written(state: State) -> Written:
    """Return a state as text, behind what it is sorted by: sources of vMotions come before their
    targets, older lines of a VM before newer ones. Thousands are read one by one: all at once they
    would take more memory than the connections."""
    line = state.get("line", {})
    is_source = "departure" in line.get("session", {}).get("moves", {})
    number = int(state["standing"]["peer"][2].rpartition("-")[2])
    return not is_source, line.get("rank", 0), number, ujson.dumps(state, ensure_ascii=False)


def _order(entry: object) -> tuple[bool, int, int]:
    match entry:
        case [bool(is_no_source), int(rank), int(number), str()]:
            return is_no_source, rank, number
    return True, 0, 0  # `_read` refuses it


def _read(entry: object) -> State:
    match entry:
        case [bool(), int(), int(), str(text)]:
            return mapping(ujson.loads(text))
    raise InvalidState("expected the state of a connection")

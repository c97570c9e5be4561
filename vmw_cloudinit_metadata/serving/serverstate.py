"""The state of a server as JSON has it, with which a server of the next program goes on."""

from __future__ import annotations

from vmw_cloudinit_metadata.monitoring import gauges
from vmw_cloudinit_metadata.monitoring.figures import Figures
from vmw_cloudinit_metadata.protocol.state import COUNT, InvalidState, State, mapping
from vmw_cloudinit_metadata.serving.openconnections import OpenConnections, Spawn
from vmw_cloudinit_metadata.serving.services import Services


def state_of(services: Services, connections: OpenConnections) -> tuple[State, list[int]]:
    """Return the state, and the descriptors of the connections in it. Call it between two turns of
    the hub."""
    states, descriptors = connections.state()
    admission = services.admission
    state = {
        "connections": states,
        "next_connection": services.happenings.next_connection,
        "moves": services.policy.moves.state(),
        "connection_rate": admission.connection_rate.state(),
        "handshake_rate": admission.handshake_rate.state(),
    }
    return state, descriptors


def restore(
    services: Services, connections: OpenConnections, state: object, spawn: Spawn
) -> tuple[int, int]:
    """Go on from a state; return how many connections do, and how many cannot. `spawn` serves one
    in a greenlet. Raise InvalidState."""
    match mapping(state):
        case {
            "connections": states,
            "next_connection": number,
            "moves": moves,
            "connection_rate": connection_rate,
            "handshake_rate": handshake_rate,
            **further,
        } if not further:
            services.policy.moves.restore(moves)
            services.admission.connection_rate.restore(connection_rate)
            services.admission.handshake_rate.restore(handshake_rate)
            failed = connections.restore(states, spawn)
            services.happenings.next_connection = COUNT.read(number)
            return len(connections) - failed, failed
    raise InvalidState("a server has other parts")


def take_figures(services: Services, before: Figures) -> None:
    """Count on from the figures of the program before."""
    for key, count in before.counters.items():
        services.counters[key] += count
    for name, timing in (
        (gauges.BOOT, services.boots),
        (gauges.OUTCOME, services.outcomes),
        (gauges.LOOKUP_WAITED, services.lookup.queued),
        (gauges.LOOKUP_RAN, services.lookup.ran),
    ):
        if name in before.timings:
            timing.add(before.timings[name])

"""The state of a line as JSON has it, with which a line of the next program goes on.

A line is its session, what it owes its guest, the VM that it counts as, and its place in a vMotion.
A look-up under way is no state: it is asked again.
"""

from __future__ import annotations

from vmw_cloudinit_metadata.process.deadlines import Deadlines
from vmw_cloudinit_metadata.protocol import sessionstate
from vmw_cloudinit_metadata.protocol.owed import MAX_UNSENT_BYTES, Owed
from vmw_cloudinit_metadata.protocol.servedboot import ServedBoot
from vmw_cloudinit_metadata.protocol.state import SECONDS, InvalidState, State, mapping, octets
from vmw_cloudinit_metadata.protocol.vmware import MACHINE
from vmw_cloudinit_metadata.serving.journey import Journey, JourneyState
from vmw_cloudinit_metadata.serving.line import Line
from vmw_cloudinit_metadata.serving.passage import Passage

_OWED = octets(MAX_UNSENT_BYTES + 1024 * 1024)
_NOTHING = Owed()


def state_of(line: Line, journey: Journey | Passage | None, deadlines: Deadlines) -> State:
    """Return the state. Call it between two turns of the hub, when all answers are reported."""
    session, receipt, known = line.session, line.dialogue.receipt, line.registration.known_as
    state: State = {"session": sessionstate.state_of(session)}
    owed = Owed(session.heard, line.dialogue.unanswered)
    if owed != _NOTHING:
        state["owed"] = _OWED.write(owed.to_bytes())
    if known:
        # Most VMs count as what their host has sent last.
        state["known"] = None if known == session.machine else MACHINE.write(known)
        state["rank"] = line.registration.rank
    if receipt.boot:
        state["boot"] = receipt.boot.state()
    if receipt.used:
        state["used"] = [*receipt.used]
    if (identity_s := deadlines.left_s(line.identity_overdue)) is not None:
        state["identity_s"] = identity_s
    match journey:
        case Journey() if journey.is_under_way:
            state["journey"] = [journey.source is line, *journey.state]
        case Passage() if journey.is_under_way:
            state["has_passage"] = True
    return state


def restore(line: Line, state: object, deadlines: Deadlines) -> None:
    """Let a new line go on from a state, but for its journey; raise InvalidState."""
    written = mapping(state)
    sessionstate.restore(line.session, written.pop("session", None))
    if "owed" in written:
        owed = Owed.from_bytes(_OWED.read(written.pop("owed")))
        line.session.resume(owed.heard)
        line.dialogue.resume(owed.unanswered)
    if "known" in written:
        known = written.pop("known")
        line.registration.restore(line.machine if known is None else MACHINE.read(known))
    if "boot" in written:
        line.dialogue.receipt.boot = ServedBoot.of_state(written.pop("boot"))
    match written.pop("used", None):
        case [str(source), str(vc_uuid)]:
            line.dialogue.receipt.use(source, vc_uuid)
        case used if used is not None:
            raise InvalidState("expected a source and the VC UUID that uses it")
    if "identity_s" in written:
        left_s = SECONDS.read(written.pop("identity_s"))
        deadlines.go_on(left_s, line.identity_overdue, line.hear)
    journey_of(written)  # checked here, where it costs no other line
    if written.keys() - {"rank", "journey", "has_passage"}:
        raise InvalidState("a line has other parts")


def journey_of(state: State) -> tuple[bool, JourneyState] | None:
    """Return whether the line is the source of its journey, and the state of that."""
    match state.get("journey"):
        case None:
            return None
        case [bool(is_source), int(number), None | float() | int() as left_s, bool(is_elsewhere)]:
            return is_source, JourneyState(number, left_s, is_elsewhere)
    raise InvalidState("expected a journey")


def has_passage(state: State) -> bool:
    """Return whether the line is the target of a move from another process."""
    return state.get("has_passage") is True

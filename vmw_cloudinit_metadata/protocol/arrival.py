"""The target's side of a vMotion: from VMOTION-PEER until the VM is taken over. Pure.

A move whose source is in this process is proved at once. Any other is a claim, which is checked
when the VC UUID of the VM is known. VMOTION-COMPLETE may arrive before that.
"""

from __future__ import annotations

from typing import ClassVar, Generic

from vmw_cloudinit_metadata.protocol import telnet
from vmw_cloudinit_metadata.protocol.identitytoken import PROOF, Proof
from vmw_cloudinit_metadata.protocol.state import COUNT, FLAG, Stateful, listed, octets
from vmw_cloudinit_metadata.protocol.vmotion import Claim, Move, Source

# What the guest may write before VMOTION-COMPLETE. It does not run here yet, so this is little.
MAX_EARLY_BYTES = 2 * 1024

# Behind VMOTION-COMPLETE it runs, and is heard when another process has handed it over.
MAX_BEHIND_BYTES = 64 * 1024
_EVENT_BYTES = 128  # of each, beside its payload


class Arrival(Stateful, Generic[Source]):
    """A move by which a VM comes to a session, and the data that arrives early."""

    __slots__ = (
        *("_behind_bytes", "behind", "early"),
        *("identity_proof", "is_accepted", "is_checked", "is_complete", "proof"),
    )
    STATE: ClassVar = {
        "identity_proof": PROOF,
        "is_checked": FLAG,
        "is_accepted": FLAG,
        "is_complete": FLAG,
        "early": octets(MAX_EARLY_BYTES),
        "behind": listed(telnet.EVENT, MAX_BEHIND_BYTES // _EVENT_BYTES),
        "_behind_bytes": COUNT,
    }

    def __init__(self, proof: Move[Source] | Claim) -> None:
        self.proof = proof
        self.identity_proof = Proof.UNASKED  # by a claim that is right
        self.is_checked = False  # the claim is right
        self.is_accepted = False  # VMOTION-PEER-OK was sent
        self.is_complete = False  # VMOTION-COMPLETE has come
        self.early = b""  # what the guest wrote before VMOTION-COMPLETE
        self.behind: list[telnet.Event] = []  # what came behind VMOTION-COMPLETE
        self._behind_bytes = 0

    def restore(self, state: object) -> None:
        super().restore(state)
        self._behind_bytes = max(self._behind_bytes, sum(map(_bytes_of, self.behind)))

    @property
    def move(self) -> Move[Source] | None:
        """The move, if this process knows its source."""
        return self.proof if isinstance(self.proof, Move) else None

    @property
    def number(self) -> int | None:
        """The number of that move, for events."""
        return self.proof.number if isinstance(self.proof, Move) else None

    @property
    def claim(self) -> Claim | None:
        """The claim, until it is checked."""
        return self.proof if isinstance(self.proof, Claim) and not self.is_checked else None

    @property
    def is_over(self) -> bool:
        """Whether the VM runs here, and its move is proved."""
        return self.is_accepted and self.is_complete

    def complete(self, sequence: bytes) -> bool:
        """Handle VMOTION-COMPLETE; return whether it is the first for this move."""
        if self.is_complete or sequence != self.proof.sequence:
            return False
        self.is_complete = True
        return True

    def keep_early(self, payload: bytes) -> bool:
        """Keep early data of the guest; return whether there is room for it."""
        has_room = len(self.early) + len(payload) <= MAX_EARLY_BYTES
        if has_room:
            self.early += payload
        return has_room

    def keep_behind(self, event: telnet.Event) -> bool:
        """Keep what comes behind VMOTION-COMPLETE; return whether there is room for it."""
        self._behind_bytes += _bytes_of(event)
        has_room = self._behind_bytes <= MAX_BEHIND_BYTES
        if has_room:
            self.behind.append(event)
        return has_room


def _bytes_of(event: telnet.Event) -> int:
    payload = event.payload if isinstance(event, telnet.Data | telnet.Subnegotiation) else b""
    return _EVENT_BYTES + len(payload)

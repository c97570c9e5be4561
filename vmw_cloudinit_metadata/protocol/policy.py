"""The settings that all sessions of a server share. Pure."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum
from typing import Protocol

from vmw_cloudinit_metadata.protocol.identitytoken import Keys
from vmw_cloudinit_metadata.protocol.known import Known
from vmw_cloudinit_metadata.protocol.owed import Heard
from vmw_cloudinit_metadata.protocol.vmotion import Moves
from vmw_cloudinit_metadata.protocol.vmware import Machine


class TlsPolicy(Enum):
    OFF = "off"
    ALLOW = "allow"
    REQUIRE = "require"


class Departing(Protocol):
    """The part of a move's source that its target uses."""

    @property
    def machine(self) -> Machine: ...

    def is_leaving_by(self, number: int) -> bool:
        """Return whether this move is not over."""

    def hand_over(self) -> tuple[Known, Heard]:
        """End here, and return what the target goes on with."""


@dataclass(frozen=True, slots=True)
class Policy:
    """The settings that all sessions of a server share."""

    uris: frozenset[str]  # the service URIs that it serves
    moves: Moves[Departing]
    tls: TlsPolicy = TlsPolicy.OFF
    identity_keys: Keys = field(default_factory=dict)  # none: no identity is proved
    requires_proof: bool = False  # else a VM without proof is reported, and served
    asks_claims: bool = False  # whether others may have seen the secret of a move used

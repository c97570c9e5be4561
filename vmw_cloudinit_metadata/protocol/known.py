"""What the source of a move knows of its VM, as a value for the target. Pure."""

from __future__ import annotations

from dataclasses import dataclass

from vmw_cloudinit_metadata.protocol.identitytoken import Proof
from vmw_cloudinit_metadata.protocol.vmware import Suboption

Codes = tuple[Suboption, ...]


@dataclass(frozen=True, slots=True)
class Known:
    """The identity of a VM, without what belongs to its host."""

    service_uri: str = ""
    direction: str = "client"
    name: str | None = None
    vc_uuid: str | None = None
    bios_uuid: str | None = None
    proof: Proof = Proof.UNASKED
    token: str | None = None  # the identity token in the service URI, a secret
    is_asked: bool = False
    unanswered: Codes = ()
    unusable: Codes = ()  # of the unanswered: something came that cannot be used
    is_confirmed: bool = False  # by vCenter

    def __repr__(self) -> str:
        return f"Known({self.name!r}, {self.vc_uuid!r})"  # without the token

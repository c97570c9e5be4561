"""Answers REQUEST_IDENTITY, with the identity document of a VM."""

from __future__ import annotations

import time

from vmw_cloudinit_metadata.protocol.identitydocument import AUDIENCE, MAX_AUDIENCE
from vmw_cloudinit_metadata.protocol.vmware import Machine
from vmw_cloudinit_metadata.serving.answer import Failure
from vmw_cloudinit_metadata.serving.receipt import Receipt
from vmw_cloudinit_metadata.serving.services import Services

_NO_ISSUER = Failure(
    "unknown-request",
    "the server has no --identity-signing-key",
    message="The server makes no identity documents",
)
_NO_AUDIENCE = Failure(
    "invalid",
    f"the audience of an identity document has 1 to {MAX_AUDIENCE} visible ASCII characters, "
    "without blanks",
    message=f"The audience is invalid: write 1 to {MAX_AUDIENCE} visible ASCII characters, without "
    "blanks",
)
_NO_PROOF = Failure(
    "refused",
    "an identity document is for VMs whose identity is proved, by token, by vCenter or by a move: "
    "see --identity-token and --vcenter-check",
    message="Nothing proves which VM this is, so it gets no identity document; ask an "
    "administrator to set its token",
)


def identity_document(
    services: Services, _receipt: Receipt, machine: Machine, argument: bytes
) -> bytes | Failure:
    """Return the JWT of a VM; `argument` is its audience."""
    if services.issuer is None:
        return _NO_ISSUER
    if not machine.proof.is_proved or not machine.vc_uuid:
        return _NO_PROOF
    if not AUDIENCE.fullmatch(argument):
        return _NO_AUDIENCE
    return services.issuer.document(machine, argument.decode(), time.time())

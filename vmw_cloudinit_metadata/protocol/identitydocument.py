"""The identity document: says, signed, to another service which VM holds it.

A JWT (RFC 7519) for one audience, by a key of the server; others check it with the public keys (RFC
7517) that the admin port publishes. VMware has nothing like a cloud's instance identity. Pure.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from vmw_cloudinit_metadata.protocol.vmware import Machine

LIFETIME_S = 300
MAX_AUDIENCE = 255
JWKS_PATH = "/.well-known/jwks.json"

AUDIENCE = re.compile(rb"[!-~]{1,%d}" % MAX_AUDIENCE)


@dataclass(frozen=True, slots=True)
class SigningKey:
    """A key, and what others know of it."""

    name: str  # `kid`
    algorithm: str  # "EdDSA" or "ES256"
    public: str  # a JSON object: the members of a JWK that make up the key
    private: Any = field(repr=False, compare=False)


@dataclass(frozen=True)
class IdentityIssuer:
    """Signs with the first of its keys, and publishes all of them."""

    url: str  # `iss`
    keys: tuple[SigningKey, ...]

    @cached_property
    def jwks(self) -> bytes:
        """The public keys, a JWK Set."""
        keys = [
            json.loads(key.public) | {"kid": key.name, "alg": key.algorithm, "use": "sig"}
            for key in self.keys
        ]
        return json.dumps({"keys": keys}).encode()

    def document(self, machine: Machine, audience: str, now_s: float) -> bytes:
        """Return the JWT of a VM whose identity is proved. Takes 0.1 ms."""
        import jwt  # of the extra `identity`

        claims: dict[str, Any] = {
            "iss": self.url,
            "sub": machine.vc_uuid,
            "aud": audience,
            "iat": int(now_s),
            "nbf": int(now_s),
            "exp": int(now_s) + LIFETIME_S,
            "proof": machine.proof.value,
        }
        if machine.name:
            claims["name"] = machine.name
        key, headers = self.keys[0], {"kid": self.keys[0].name}
        return jwt.encode(claims, key.private, algorithm=key.algorithm, headers=headers).encode()

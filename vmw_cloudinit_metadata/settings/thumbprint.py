"""Thumbprints of certificates: the SHA-1 or SHA-256, in lower-case hexadecimal. Pure."""

from __future__ import annotations

import hashlib

_ALGORITHMS = {40: "sha1", 64: "sha256"}  # by number of digits


def thumbprint_like(expected: str, certificate: bytes) -> str:
    """Return the thumbprint of the certificate (DER), by the algorithm of the expected one."""
    algorithm = _ALGORITHMS[len(expected)]
    return hashlib.new(algorithm, certificate, usedforsecurity=False).hexdigest()

"""Seal: what a move between servers leaves in the database, which shows nothing of it.

Everything is made with keys that HKDF-SHA-256 derives from that of --vmotion-key-file, one for each
purpose and move. So a row tells whoever reads it neither the secret of a move nor a document, and
nothing that somebody else has written into it is accepted.
"""

from __future__ import annotations

import hmac
import os

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

_PURPOSE = b"vmw-cloudinit-metadata "
_KEY_BYTES = 32
_NONCE_BYTES = 12
NAME_BYTES = 16


class BrokenSealError(ValueError):
    """This was not sealed with this key, for this move."""


class Seal:
    def __init__(self, key: bytes) -> None:
        self._key = key
        self._name_key = self._derived(b"move name")

    def name_of(self, token: bytes) -> bytes:
        """Return the name of a move in the database; `token` is its sequence and secret."""
        return hmac.digest(self._name_key, token, "sha256")[:NAME_BYTES]

    def close(self, token: bytes, content: bytes) -> bytes:
        """Return the content, encrypted, and bound to a move."""
        nonce = os.urandom(_NONCE_BYTES)
        return nonce + self._cipher(token).encrypt(nonce, content, self.name_of(token))

    def open(self, token: bytes, sealed: bytes) -> bytes:
        """Return what `close` has sealed; raise BrokenSealError."""
        nonce, encrypted = sealed[:_NONCE_BYTES], sealed[_NONCE_BYTES:]
        try:
            return self._cipher(token).decrypt(nonce, encrypted, self.name_of(token))
        except (InvalidTag, ValueError):  # ValueError: a nonce that is too short
            raise BrokenSealError("not sealed with this key, for this move") from None

    def _cipher(self, token: bytes) -> AESGCM:
        return AESGCM(self._derived(b"hand-over " + token))

    def _derived(self, purpose: bytes) -> bytes:
        return HKDF(SHA256(), _KEY_BYTES, None, _PURPOSE + purpose).derive(self._key)

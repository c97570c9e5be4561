"""The keys that sign identity documents: how they are read. Needs the extra `identity`."""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vmw_cloudinit_metadata.protocol.identitydocument import IdentityIssuer, SigningKey
from vmw_cloudinit_metadata.settings import permissions
from vmw_cloudinit_metadata.settings.errors import ConfigError

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.types import PrivateKeyTypes

OPTION = "--identity-signing-key"
MAX_KEYS = 8  # while one takes another's place

_CREATE = "create one with: (umask 077; openssl genpkey -algorithm ed25519 -out {})"


def issuer_of(url: str | None, files: Sequence[Path]) -> IdentityIssuer | None:
    """Return what signs with the first of these keys, and publishes all of them; None without any.
    Raise ConfigError."""
    if not files and url is None:
        return None
    if not files:
        raise ConfigError(f"--identity-issuer needs {OPTION}")
    if url is None:
        raise ConfigError(f"{OPTION} needs --identity-issuer")
    if len(files) > MAX_KEYS:
        raise ConfigError(f"{OPTION}: more than {MAX_KEYS} keys")
    if any(find_spec(name) is None for name in ("jwt", "cryptography")):
        raise ConfigError(f"{OPTION} needs PyJWT: pip install 'vmw-cloudinit-metadata[identity]'")
    return IdentityIssuer(url, tuple(map(_read, files)))


def _read(path: Path) -> SigningKey:
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, EllipticCurvePrivateKey
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
    from cryptography.hazmat.primitives.serialization import load_pem_private_key

    text = permissions.read(OPTION, path, permissions.MAX_KEY_BYTES)
    try:
        key = load_pem_private_key(text, None)
    except TypeError:
        raise ConfigError(
            f"{OPTION}: {path} is encrypted: the server cannot ask for its password"
        ) from None
    except (ValueError, UnsupportedAlgorithm):
        create = _CREATE.format(path)
        raise ConfigError(f"{OPTION}: {path} holds no private key in PEM: {create}") from None
    if isinstance(key, Ed25519PrivateKey):
        return _signing_key("EdDSA", key)
    if isinstance(key, EllipticCurvePrivateKey) and isinstance(key.curve, SECP256R1):
        return _signing_key("ES256", key)
    kind = type(key).__name__.removesuffix("PrivateKey")
    raise ConfigError(
        f"{OPTION}: {path} is a key of another kind ({kind}), expected Ed25519 or P-256: "
        f"{_CREATE.format(path)}"
    )


def _signing_key(algorithm: str, private: PrivateKeyTypes) -> SigningKey:
    """Return a key with its public half, and the RFC 7638 thumbprint of this as its name."""
    from jwt.algorithms import get_default_algorithms

    public: Mapping[str, Any] = get_default_algorithms()[algorithm].to_jwk(
        private.public_key(), as_dict=True
    )
    required = {name: public[name] for name in ("crv", "kty", "x", "y") if name in public}
    canonical = json.dumps(required, sort_keys=True, separators=(",", ":")).encode()
    digest = base64.urlsafe_b64encode(hashlib.sha256(canonical).digest())
    name = digest.rstrip(b"=").decode()
    return SigningKey(name, algorithm, json.dumps(required), private)

"""Reads sizes and digests of documents from a RESPONSE_DIGEST. Pure."""

from __future__ import annotations

from functools import lru_cache
from itertools import islice
from typing import Any

import ujson

from vmw_cloudinit_metadata.protocol import packet

_REMEMBERED_BYTES = 2048  # of a RESPONSE_DIGEST


def digests_in(response: str) -> dict[str, Any]:
    """Return {"METADATA": {"size": …, "sha256": …}}; {} for anything but a RESPONSE_DIGEST."""
    return _remembered(response) if len(response) <= _REMEMBERED_BYTES else _digests_in(response)


def _digests_in(response: str) -> dict[str, Any]:
    try:
        return {
            name: {"size": digest["length"], "sha256": digest["sha256"]}
            for name, digest in _parsed(response).items()
        }
    except (ValueError, TypeError, LookupError, AttributeError):  # from a worker out of order
        return {}


_remembered = lru_cache(maxsize=256)(_digests_in)  # 0.1 µs, not 16: 7 % of a JSON boot


def _parsed(response: str) -> dict[str, Any]:
    found = packet.parse(response.rstrip().encode("utf-8", "replace"))
    digests: dict[str, Any] = ujson.loads(found.body) if found else {}
    return digests


@lru_cache(maxsize=256)
def without_hashes(response: str) -> str:
    """Return a RESPONSE_DIGEST that has sizes alone."""
    sizes = {name: {**digest, "sha256": ""} for name, digest in _parsed(response).items()}
    return packet.serialize(packet.Packet("RESPONSE_DIGEST", ujson.dumps(sizes).encode())).decode()


def first_digests(response: str, most: int) -> tuple[str, int]:
    """Return a RESPONSE_DIGEST with only its first `most` documents, and how many it lost."""
    digests = _parsed(response)
    first = ujson.dumps(dict(islice(digests.items(), most)))
    cut = packet.serialize(packet.Packet("RESPONSE_DIGEST", first.encode()))
    return cut.decode(), len(digests) - most

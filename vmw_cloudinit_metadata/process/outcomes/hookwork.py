"""HookWork: what the server tells the process that delivers webhooks, and what that says. No I/O.

The server writes a line for each webhook, `ID TIME BODY`. The process delivers them in their order
and says, for each, `delivered`, `refused` or `expired`, and before that `failed` for each attempt
that it repeats; the reason follows. BEAT is its sign of life.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass

import ujson

BEAT = b"."
BEAT_S = 1.0

SIGNATURE_HEADER = "X-Hook-Signature"  # hexadecimal HMAC-SHA-512 of the body, as NetBox has it


@dataclass(frozen=True, slots=True)
class HookWork:
    url: str
    key_file: str

    def line(self) -> bytes:
        return ujson.dumps(asdict(self), escape_forward_slashes=False).encode() + b"\n"

    @classmethod
    def of(cls, line: bytes) -> HookWork:
        """Parse what the server has written, which is trusted."""
        return cls(**ujson.loads(line))

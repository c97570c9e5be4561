"""VcenterWork: what the server tells the vCenter process to do. No I/O."""

from __future__ import annotations

from dataclasses import asdict, dataclass

import ujson


@dataclass(frozen=True, slots=True)
class VcenterWork:
    address: str  # of the links
    host: str
    port: int
    user: str
    password_file: str | None  # None: the environment has it
    ca_file: str | None
    thumbprint: str | None

    def line(self) -> bytes:
        return ujson.dumps(asdict(self), escape_forward_slashes=False).encode() + b"\n"

    @classmethod
    def of(cls, line: bytes) -> VcenterWork:
        """Parse what the server has written, which is trusted."""
        return cls(**ujson.loads(line))

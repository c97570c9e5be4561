"""Conversations as files.

    > FF FB E8        from the VM; "text" in quotes, between the hexadecimal bytes
    < FF FD E8        what we say to that
    = Identified web1 01234567-...       what the session tells its owner
    ! identity overdue                   the owner says that the time is over
    ? tls allow                          the server's policy, in the first line

Whatever stands behind two blanks and a # is a comment.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path

from vmw_cloudinit_metadata.protocol.session import TlsPolicy

DIRECTORY = Path(__file__).parent / "transcripts"
_TOKEN = re.compile(r'"([^"]*)"|([0-9A-F]{2})|(\S+)')


@dataclass
class Step:
    """What is heard, or that the identity is overdue (None), and what comes of it."""

    heard: bytes | None
    said: bytes = b""
    events: list[str] = field(default_factory=list)


def tls_policy(path: Path) -> TlsPolicy:
    found = re.match(r"\? tls (\w+)", path.read_text())
    return TlsPolicy(found[1]) if found else TlsPolicy.OFF


def read(path: Path) -> list[Step]:
    steps = [Step(b"")]  # the greeting
    for number, line in enumerate(path.read_text().splitlines(), 1):
        kind, rest = line[:1], re.sub(r"  #.*", "", line[1:]).strip()
        match kind:
            case ">":
                steps.append(Step(_bytes(rest, f"{path}:{number}")))
            case "<":
                steps[-1].said += _bytes(rest, f"{path}:{number}")
            case "=":
                steps[-1].events.append(rest)
            case "!":
                steps.append(Step(None))
            case _:
                assert not kind or kind in "#?", f"{path}:{number}: {line}"
    return steps


def _bytes(text: str, place: str) -> bytes:
    result = b""
    for quoted, hexadecimal, other in _TOKEN.findall(text):
        assert not other, f"{place}: {other}"
        result += bytes.fromhex(hexadecimal) if hexadecimal else quoted.encode()
    return result

"""The channel between a worker and its parent: the worker encodes messages, the parent checks them.
The parent sends webhooks, and UPGRADE. No I/O.

A message is a datagram. The kernel keeps its bounds: half a message never arrives, and an invalid
one affects no other. A stream would need framing, and resynchronization after an error.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import ujson

from vmw_cloudinit_metadata.monitoring.figures import Figures
from vmw_cloudinit_metadata.monitoring.happenings import Happening
from vmw_cloudinit_metadata.monitoring.packed import pack, unpack
from vmw_cloudinit_metadata.monitoring.sourcestate import MAX_NAME, SourceState
from vmw_cloudinit_metadata.process.upgradereport import UpgradeOutcome
from vmw_cloudinit_metadata.protocol.printable import shortened
from vmw_cloudinit_metadata.protocol.webhook import Taken, Webhook

# No message is longer. The most that a peer can put into one happening, all of it control
# characters, which JSON writes with six bytes each, is 40 KiB; what a driver adds comes on top.
MESSAGE_BYTES = 128 * 1024

_MAX_TIME_S = 1e11  # since 1970

MAX_REASON = 8000  # characters of why a worker cannot start

UPGRADE = b"upgrade"  # the parent's message: be replaced by the program on disk

_HEAD, _TAIL = b'{"happenings":[', b"]}"


class InvalidMessage(ValueError):  # noqa: N818 - what a message is
    """A message that no worker sends."""


@dataclass(frozen=True, slots=True)
class Report:
    """One message, checked."""

    figures: Figures | None = None  # given once the worker accepts
    problem: str = ""  # why its driver cannot be used; beside figures
    source: SourceState = field(default_factory=SourceState)
    failure: str | None = None  # why it cannot start
    happenings: Sequence[Happening] = ()
    invalid: int = 0  # happenings that could not be read
    hook: int | None = None  # the number of a webhook
    taken: Taken | None = None  # what became of it
    upgraded: UpgradeOutcome | None = None  # what became of UPGRADE


def of_figures(figures: Figures, problem: str, source: SourceState) -> bytes:
    told = {
        "figures": figures.pack(),
        "problem": shortened(problem),
        "source": source.name,
        "since": source.failing_since_s,
    }
    return ujson.dumps(told).encode()


def of_failure(reason: str) -> bytes:
    return ujson.dumps({"failed": shortened(reason, MAX_REASON)}).encode()


def of_taken(hook: int, taken: Taken) -> bytes:
    return ujson.dumps({"hook": hook, "status": taken.status, "text": taken.text}).encode()


def of_upgrade(outcome: UpgradeOutcome) -> bytes:
    return ujson.dumps({"upgraded": outcome.is_done, "text": shortened(outcome.text)}).encode()


def of_hook(number: int, hook: Webhook) -> bytes:
    """Encode a webhook for a worker."""
    return ujson.dumps([number, hook.headers]).encode() + b"\n" + hook.body


def decode_hook(message: bytes) -> tuple[int, Webhook]:
    """Parse a message of the parent, which is trusted."""
    head, _, body = message.partition(b"\n")
    number, headers = ujson.loads(head)
    return number, Webhook(headers, body)


def of_happening(happening: Happening) -> bytes:
    """Encode a happening for `together`; raise JSON's error for a value that a driver has put into
    it."""
    return ujson.dumps(pack(happening)).encode()


def room_in(message_bytes: int) -> int:
    """Return how many bytes the happenings in `together` may have, each with a comma."""
    return message_bytes - len(_HEAD) - len(_TAIL)


def together(happenings: Iterable[bytes]) -> bytes:
    """Return one message with all of these happenings."""
    return b"%b%b%b" % (_HEAD, b",".join(happenings), _TAIL)


def decode(message: bytes) -> Report:
    """Parse a worker's message; raise InvalidMessage, and nothing else, whatever the bytes are.

    An invalid happening affects no other: it is counted in `invalid`.
    """
    try:
        found = ujson.loads(message)
    except ValueError as error:
        raise InvalidMessage(f"invalid JSON ({len(message)} bytes)") from error
    match found:
        case {
            "figures": packed,
            "problem": str(problem),
            "source": str(name),
            "since": float(since_s) | int(since_s),
        } if 0 <= since_s < _MAX_TIME_S:
            try:
                return Report(
                    Figures.unpack(packed), problem, SourceState(name[:MAX_NAME], since_s)
                )
            except ValueError as error:
                raise InvalidMessage(f"invalid figures: {error}") from error
        case {"failed": str(failure)}:
            return Report(failure=failure)
        case {"hook": int(hook), "status": int(status), "text": str(text)}:
            return Report(hook=hook, taken=Taken(status, shortened(text)))
        case {"upgraded": bool(is_done), "text": str(text)}:
            return Report(upgraded=UpgradeOutcome(is_done, shortened(text)))
        case {"happenings": [*packed]}:
            return _happenings(packed)
    raise InvalidMessage("neither figures, failed, hook, upgraded nor happenings")


def _happenings(packed: Sequence[object]) -> Report:
    happenings = []
    for one in packed:
        try:
            happenings.append(unpack(one))
        except ValueError:
            continue
    return Report(happenings=happenings, invalid=len(packed) - len(happenings))

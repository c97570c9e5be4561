"""The line protocol: one packet a line, `!!` CODE `#` BASE64. Pure."""

import base64
import binascii
import json
import re
from typing import Any, Dict, List, NamedTuple, Optional

from vmw_cloudinit_metadata.guest.agent.failures import ErrorAnswer
from vmw_cloudinit_metadata.guest.agent.printing import printable

MAX_LINE_BYTES = 8 * 1024 * 1024
MAX_NOISE_BYTES = 4096  # of a line in which no response has begun

LINE_END = re.compile(rb"[\r\n]")
BEGIN = b"!!RESPONSE_"
RESPONSE = re.compile(rb"!!RESPONSE_([A-Z_]{1,64})#(.*)", re.DOTALL)

Documents = Dict[str, bytes]  # by the protocol's names, such as METADATA


class GuestResponse(NamedTuple):
    """One response of the server."""

    name: str
    body: Optional[bytes]  # None: noise has damaged it


def request(name: str, argument: bytes = b"") -> bytes:
    return b"!!REQUEST_%s#%s\n" % (name.encode(), base64.b64encode(argument))


def parse(line: bytes) -> Optional[GuestResponse]:
    """Return the response on a line, or None. On a noisy line the last `!!RESPONSE_` counts."""
    match = RESPONSE.match(line[max(line.rfind(BEGIN), 0) :])
    if not match:
        return None
    return GuestResponse(match.group(1).decode(), decode(match.group(2).rstrip(b" \t\0")))


def decode(text: bytes) -> Optional[bytes]:
    """Decode strict Base64; return None for anything else."""
    try:
        body = base64.b64decode(text, validate=True)
    except binascii.Error:
        return None
    return body if base64.b64encode(body) == text else None


def load_json(text: str) -> Any:
    """Parse JSON; raise ValueError."""
    try:
        return json.loads(text)
    except RecursionError:
        raise ValueError("nested too deeply") from None


def parse_error(body: bytes, name: str) -> Optional[ErrorAnswer]:
    """Return what RESPONSE_ERROR says about the request for `name`, or None."""
    try:
        found = load_json(body.decode())
        request, error, message = found["request"], found["error"], found.get("message", "")
    except (ValueError, TypeError, KeyError, AttributeError):
        return None
    return (
        ErrorAnswer(printable(error), printable(message)) if request == "REQUEST_" + name else None
    )


class LineReader:
    """Cuts a stream into lines of bounded length; `noise` counts lines that are not responses."""

    def __init__(self) -> None:
        self._line = bytearray()
        self._dropping = False
        self.noise = 0

    @property
    def in_response(self) -> bool:
        return BEGIN in self._line

    def receive(self, data: bytes) -> List[GuestResponse]:
        """Return the responses that `data` completes."""
        *ended, tail = LINE_END.split(data)
        responses = [self._end(piece) for piece in ended]
        self._extend(tail)
        return [response for response in responses if response]

    def _end(self, piece: bytes) -> Optional[GuestResponse]:
        self._extend(piece)
        line, dropped = bytes(self._line), self._dropping
        self.forget()
        response = None if dropped else parse(line)
        if dropped or (line and (response is None or response.body is None)):
            self.noise += 1
        return response

    def forget(self) -> None:
        """Drop the line received so far."""
        self._line.clear()
        self._dropping = False

    def _extend(self, piece: bytes) -> None:
        if self._dropping:
            return
        self._line += piece
        if len(self._line) > MAX_LINE_BYTES:
            self._line.clear()
            self._dropping = True
        elif len(self._line) > MAX_NOISE_BYTES and not self.in_response:
            del self._line[: -len(BEGIN)]

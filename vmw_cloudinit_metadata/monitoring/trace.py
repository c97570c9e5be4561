"""The traffic of a line, for the log at level debug: `<` from the VM, `>` to it.

It shows no content: only the name and length of a suboption, the codes of a list, and the requests
on the serial line. Everything else may be the secret of a vMotion, under any code, or user-data, or
its echo.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence

from vmw_cloudinit_metadata.protocol import packet, telnet
from vmw_cloudinit_metadata.protocol.printable import quoted
from vmw_cloudinit_metadata.protocol.telnet import Data, Malformed, Negotiation, Subnegotiation
from vmw_cloudinit_metadata.protocol.vmware import Suboption

log = logging.getLogger(__name__)

_NAMES = {int(code): code.name for code in Suboption}

_LISTS = {
    Suboption.KNOWN_SUBOPTIONS_1,
    Suboption.KNOWN_SUBOPTIONS_2,
    Suboption.UNKNOWN_SUBOPTION_RCVD_1,
    Suboption.UNKNOWN_SUBOPTION_RCVD_2,
}


class Trace:
    """Logs both directions; each line begins with `str(peer)`, and counts for the peer's host."""

    def __init__(self, peer: object) -> None:
        self._peer = peer
        self._received = telnet.Decoder()
        self._sent = telnet.Decoder()
        self._lines = packet.LineSplitter()

    def received(self, data: bytes) -> None:
        self._log("<", self._received.receive_data(data), self._requests_in)

    def sent(self, data: bytes) -> None:
        self._log(">", self._sent.receive_data(data), _length)

    def _log(
        self, mark: str, events: Sequence[telnet.Event], plain: Callable[[bytes], str]
    ) -> None:
        for event in events:
            match event:
                case Data(payload):
                    text = plain(payload)
                case Negotiation():
                    text = telnet.encode_negotiation(event).hex(" ").upper()
                case Subnegotiation(telnet.Option.VMWARE_TELNET_EXT, payload) if payload:
                    text = _suboption(payload[0], payload[1:])
                case Subnegotiation(option, payload):
                    text = f"subnegotiation of option {option}, {len(payload)} bytes"
                case Malformed(fault):
                    text = fault
            log.debug("%s: %s %s", self._peer, mark, text)

    def _requests_in(self, payload: bytes) -> str:
        packets = map(packet.parse, self._lines.receive_data(payload))
        requests = [found.code for found in packets if found and found.requests]
        return f"{_length(payload)}{''.join(f', {quoted(code)}' for code in requests)}"


def _length(payload: bytes) -> str:
    return f"{len(payload)} bytes of the serial line"


def _suboption(code: int, argument: bytes) -> str:
    length = f"{_NAMES.get(code, f'suboption {code}')}, {len(argument)} bytes"
    if code not in _LISTS:
        return length
    codes = sorted(set(argument))  # sorted, and each once, so that the content cannot be inferred
    return f"{length}: {', '.join(map(str, codes))}"

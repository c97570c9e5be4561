"""What is said on a line, for the log at level debug: `<` from the VM, `>` to it.

Telnet is shown byte by byte. Of the serial line inside only requests are shown, of the rest its
length: it is user-data, or the echo of some.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence

from vmw_cloudinit_metadata.printable import quoted
from vmw_cloudinit_metadata.protocol import packet, telnet
from vmw_cloudinit_metadata.protocol.telnet import Data, Malformed, Negotiation, Subnegotiation
from vmw_cloudinit_metadata.protocol.vmware import Suboption

log = logging.getLogger(__name__)

_MAX_HEX_BYTES = 256

# Behind their sequence stands the secret of a vMotion.
_SECRET = {Suboption.VMOTION_GOAHEAD, Suboption.VMOTION_PEER}


class Trace:
    """Logs the bytes of both directions; `str(peer)` is the beginning of each line."""

    def __init__(self, peer: object) -> None:
        self._peer = peer
        self._heard = telnet.Decoder()
        self._said = telnet.Decoder()
        self._lines = packet.LineSplitter()

    def heard(self, data: bytes) -> None:
        self._log("<", self._heard.receive_data(data), self._guest_says)

    def said(self, data: bytes) -> None:
        self._log(">", self._said.receive_data(data), _length)

    def _log(
        self, mark: str, events: Sequence[telnet.Event], plain: Callable[[bytes], str]
    ) -> None:
        for event in events:
            match event:
                case Data(payload):
                    text = plain(payload)
                case Negotiation():
                    text = _hex(telnet.encode_negotiation(event))
                case Subnegotiation():
                    text = _subnegotiation(event)
                case Malformed(fault):
                    text = fault
            log.debug("%s: %s %s", self._peer, mark, text)

    def _guest_says(self, payload: bytes) -> str:
        packets = map(packet.parse, self._lines.receive_data(payload))
        requests = [found.code for found in packets if found and found.requests]
        return f"{_length(payload)}{''.join(f', {quoted(code)}' for code in requests)}"


def _length(payload: bytes) -> str:
    return f"{len(payload)} bytes of the serial line"


def _subnegotiation(event: Subnegotiation) -> str:
    code = event.payload[0] if event.payload else None
    if event.option == telnet.Option.VMWARE_TELNET_EXT and code in _SECRET:
        return f"{Suboption(code).name}, {len(event.payload) - 1} bytes"
    return _hex(telnet.encode_subnegotiation(event))


def _hex(data: bytes) -> str:
    rest = "" if len(data) <= _MAX_HEX_BYTES else f" ... {len(data)} bytes"
    return f"{data[:_MAX_HEX_BYTES].hex(' ').upper()}{rest}"

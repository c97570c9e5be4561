"""One end of a telnet connection: RFC 854 both ways, with options by RFC 1143. Pure.

Says what the option table wants to be said; whoever owns it adds data and subnegotiations.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

from vmw_cloudinit_metadata.protocol import telnet
from vmw_cloudinit_metadata.protocol.options import Options, Side
from vmw_cloudinit_metadata.protocol.telnet import Option

# A member of an enumeration takes some time to get at, and these are wanted for each piece.
_US, _HIM, _BINARY = Side.US, Side.HIM, Option.BINARY


class Endpoint:
    """`us` and `him` are the options that each side may switch on; it begins with `wishes`."""

    __slots__ = ("_decoder", "_hears_binary", "_nvt", "_options", "_out", "_says_binary")

    def __init__(
        self, us: frozenset[int], him: frozenset[int], wishes: tuple[tuple[Side, int], ...] = ()
    ) -> None:
        self._decoder = telnet.Decoder()
        self._nvt = telnet.NvtDecoder()
        options, said = _begun(us, him, wishes)
        self._options = options.copy()
        self._out = said
        self._hears_binary = self._says_binary = False

    def receive_data(self, data: bytes) -> Sequence[telnet.Event]:
        """Returns what these bytes mean; negotiations are to be given to `negotiate`."""
        return self._decoder.receive_data(data)

    def only_data(self, data: bytes) -> bytes | None:
        """Received bytes as `plain` has them, if they are data and nothing else; or None."""
        if self._decoder.begun or telnet.IAC in data:
            return None
        return data if self._hears_binary else self._nvt.receive_data(data)

    @property
    def is_idle(self) -> bool:
        """Whether the peer has begun nothing that is not complete."""
        return not self._decoder.begun

    def negotiate(self, negotiation: telnet.Negotiation) -> None:
        """Answers a negotiation that has arrived, where RFC 1143 has an answer to it."""
        self._say(self._options.receive(negotiation))
        if negotiation.option == _BINARY:
            self._binary_has_changed()

    def wish(self, side: Side, option: int, *, on: bool) -> None:
        self._say(self._options.wish(side, option, on))
        if option == _BINARY:
            self._binary_has_changed()

    def _binary_has_changed(self) -> None:
        self._hears_binary = self._options.is_on(_HIM, _BINARY)
        self._says_binary = self._options.is_on(_US, _BINARY)

    def is_on(self, side: Side, option: int) -> bool:
        return self._options.is_on(side, option)

    def plain(self, payload: bytes) -> bytes:
        """Received data as the other side's program has written it."""
        return payload if self._hears_binary else self._nvt.receive_data(payload)

    def send(self, data: bytes) -> None:
        """Encodes `data` for the other side's program."""
        self._out = self.sent_with(data)

    def sent_with(self, data: bytes) -> bytes:
        """Returns, once, what is to be written to the peer, and `data` encoded behind it."""
        out, self._out = self._out, b""
        if self._says_binary:
            return out + data.replace(telnet.IAC_BYTE, telnet.DOUBLED)
        return out + telnet.encode_data(data, binary=False)

    def subnegotiate(self, subnegotiation: telnet.Subnegotiation) -> None:
        self._out += telnet.encode_subnegotiation(subnegotiation)

    def say(self, encoded: bytes) -> None:
        """Says a command that is encoded already."""
        self._out += encoded

    def data_to_send(self) -> bytes:
        """Returns, once, what is to be written to the peer."""
        data, self._out = self._out, b""
        return data

    def _say(self, negotiation: telnet.Negotiation | None) -> None:
        if negotiation:
            self._out += telnet.encode_negotiation(negotiation)


@lru_cache  # the same at every connection
def _begun(
    us: frozenset[int], him: frozenset[int], wishes: tuple[tuple[Side, int], ...]
) -> tuple[Options, bytes]:
    """The options after these wishes, and what is said of them."""
    options = Options(us, him)
    said = [options.wish(side, option, on=True) for side, option in wishes]
    return options, b"".join(telnet.encode_negotiation(wish) for wish in said if wish)

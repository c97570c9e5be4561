"""One end of a telnet connection: RFC 854 both ways, with options by RFC 1143. Pure.

The endpoint sends what the option table asks for. Its owner adds data and subnegotiations.
"""

from __future__ import annotations

from collections.abc import Sequence

from vmw_cloudinit_metadata.protocol import telnet, telnetoptions
from vmw_cloudinit_metadata.protocol.state import State, mapping, octets
from vmw_cloudinit_metadata.protocol.telnet import Option
from vmw_cloudinit_metadata.protocol.telnetoptions import OPTIONS, Options, Q, Side

_OUR_BINARY, _HIS_BINARY = (Side.US, Option.BINARY, Q.YES), (Side.HIM, Option.BINARY, Q.YES)

_OUT = octets(64 * 1024)


class Endpoint:
    """A telnet endpoint, which has sent nothing but `greeting`, about these options."""

    __slots__ = ("_decoder", "_nvt", "_options", "_out", "_receives_binary", "_sends_binary")

    def __init__(self, options: Options, greeting: bytes = b"") -> None:
        self._decoder = telnet.Decoder()
        self._nvt = telnet.NvtDecoder()
        self._options = options
        self._out = greeting
        self._receives_binary = self._sends_binary = False

    def state(self) -> State:
        """Return the state, for an endpoint that goes on elsewhere."""
        return {
            "decoder": self._decoder.state(),
            "nvt": self._nvt.state(),
            "options": OPTIONS.write(self._options),
            "out": _OUT.write(self._out),
        }

    def restore(self, state: object) -> None:
        """Go on from a state, as a new endpoint; raise InvalidState."""
        written = mapping(state)
        self._decoder.restore(written.get("decoder"))
        self._nvt.restore(written.get("nvt"))
        self._options = OPTIONS.read(written.get("options"))
        self._out = _OUT.read(written.get("out"))
        self._note_binary()

    def receive_data(self, data: bytes) -> Sequence[telnet.Event]:
        """Return the events in these bytes. Give negotiations to `negotiate`, data to `plain`."""
        return self._decoder.receive_data(data)

    def only_data(self, data: bytes) -> bytes | None:
        """Return the bytes as `plain` would if they are nothing but data, or None."""
        if self._decoder.begun or telnet.IAC in data:
            return None
        return data if self._receives_binary else self._nvt.receive_data(data)

    def plain(self, payload: bytes) -> bytes:
        """Return received data as the other side's program wrote it."""
        return payload if self._receives_binary else self._nvt.receive_data(payload)

    @property
    def is_idle(self) -> bool:
        """Whether the peer has begun nothing that is incomplete."""
        return not self._decoder.begun

    def negotiate(self, negotiation: telnet.Negotiation) -> None:
        """Answer a negotiation that has arrived, where RFC 1143 has an answer to it."""
        self._options, answer = telnetoptions.received(self._options, negotiation)
        if answer:
            self._out += telnet.encode_negotiation(answer)
        if negotiation.option == Option.BINARY:
            self._note_binary()

    def wish(self, side: Side, option: int, *, on: bool) -> None:
        """Ask for an option to be switched on or off."""
        self._options, request = telnetoptions.wished(self._options, side, option, on=on)
        if request:
            self._out += telnet.encode_negotiation(request)
        if option == Option.BINARY:
            self._note_binary()

    def is_on(self, side: Side, option: int) -> bool:
        return self._options.is_on(side, option)

    def send(self, data: bytes) -> None:
        """Queue data for the other side's program."""
        self._out = self.sent_with(data)

    def sent_with(self, data: bytes) -> bytes:
        """Return, once, the bytes to write to the peer, followed by `data`, encoded."""
        out, self._out = self._out, b""
        if self._sends_binary:
            return out + data.replace(telnet.IAC_BYTE, telnet.DOUBLED)
        return out + telnet.encode_data(data, binary=False)

    def subnegotiate(self, subnegotiation: telnet.Subnegotiation) -> None:
        """Queue a subnegotiation."""
        self._out += telnet.encode_subnegotiation(subnegotiation)

    def send_command(self, encoded: bytes) -> None:
        """Queue an encoded command."""
        self._out += encoded

    def data_to_send(self) -> bytes:
        """Return, once, the bytes to write to the peer."""
        data, self._out = self._out, b""
        return data

    def _note_binary(self) -> None:
        self._receives_binary = _HIS_BINARY in self._options.states
        self._sends_binary = _OUR_BINARY in self._options.states

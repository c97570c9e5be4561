"""The uvloop yardstick: the exchange of the metadata server from memory, and nothing else.

    python yardstick_uvloop.py METADATA NETWORKDATA USERDATA

Shows what an event loop for Python can do without limits, log, look-up and vMotion. The arguments
are files with ready packets. Prints `listening on 127.0.0.1:PORT`.
"""

from __future__ import annotations

import asyncio
import resource
import sys
from pathlib import Path

import uvloop

SE, SB, WILL, DO, DONT, WONT, IAC = 240, 250, 251, 253, 254, 252, 255
BINARY, ECHO, SGA, VMWARE = 0, 1, 3, 232
KNOWN_1, UNKNOWN_2, DO_PROXY = 0, 3, 70
VM_ANSWERS, GETS = (80, 82, 84, 86), (81, 83, 85, 87)

OFFERS = ((WILL, BINARY), (WILL, SGA), (WILL, ECHO), (DO, BINARY), (DO, SGA), (DO, VMWARE))
GREETING = b"".join(bytes([IAC, verb, option]) for verb, option in OFFERS)
CODES = bytes([0, 1, 2, 3, 40, 41, 43, 44, 45, 46, 48, 70, 71, 73, *range(80, 88)])

packets: dict[bytes, bytes] = {}


def suboption(content: bytes) -> bytes:
    return bytes([IAC, SB, VMWARE]) + content + bytes([IAC, SE])


KNOWN_SUBOPTIONS_2 = suboption(b"\x01" + CODES)
WILL_PROXY = suboption(b"\x47")


class Yardstick(asyncio.Protocol):
    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport: asyncio.WriteTransport = transport  # type: ignore[assignment]
        self._tail = b""  # an incomplete telnet command
        self._line = b""
        self._knows_vmware = False
        self._transport.write(GREETING)

    def data_received(self, data: bytes) -> None:
        if self._tail:
            data, self._tail = self._tail + data, b""
        out = self._data(data) if IAC not in data else self._telnet(data)
        if out:
            self._transport.write(out)

    def _telnet(self, data: bytes) -> bytes:
        out, start = b"", 0
        while (place := data.find(IAC, start)) >= 0:
            if place > start:
                out += self._data(data[start:place])
            verb = data[place + 1] if place + 1 < len(data) else None
            if verb == IAC:
                out += self._data(b"\xff")
                start = place + 2
            elif verb is not None and WILL <= verb <= DONT and place + 2 < len(data):
                out += self._negotiation(verb, data[place + 2])
                start = place + 3
            elif verb == SB and (end := self._end_of_subnegotiation(data, place + 2)) > 0:
                out += self._subnegotiation(data[place + 2 : end].replace(b"\xff\xff", b"\xff"))
                start = end + 2
            elif verb is None or verb >= SB:
                self._tail = data[place:]
                return out
            else:
                start = place + 2
        return out + self._data(data[start:])

    def _end_of_subnegotiation(self, data: bytes, start: int) -> int:
        while 0 <= (place := data.find(IAC, start)) < len(data) - 1:
            if data[place + 1] == SE:
                return place
            start = place + 2
        return -1

    def _negotiation(self, verb: int, option: int) -> bytes:
        if verb == WILL and option == VMWARE and not self._knows_vmware:
            self._knows_vmware = True
            return KNOWN_SUBOPTIONS_2
        if verb == WILL and option not in (BINARY, SGA, VMWARE):
            return bytes([IAC, DONT, option])
        if verb == DO and option not in (BINARY, SGA, ECHO):
            return bytes([IAC, WONT, option])
        return b""

    def _subnegotiation(self, payload: bytes) -> bytes:
        if len(payload) < 2 or payload[0] != VMWARE:
            return b""
        code = payload[1]
        if code == KNOWN_1:
            return b"".join(suboption(bytes([get])) for get in GETS if get in payload[2:])
        if code == DO_PROXY:
            return WILL_PROXY
        return b"" if code in VM_ANSWERS else suboption(bytes([UNKNOWN_2, code]))

    def _data(self, data: bytes) -> bytes:
        *lines, self._line = (self._line + data).replace(b"\r", b"\n").split(b"\n")
        return b"".join(packets.get(line, b"") for line in lines)


async def serve() -> None:
    loop = asyncio.get_running_loop()
    server = await loop.create_server(Yardstick, "127.0.0.1", 0, backlog=4096)
    print(f"listening on 127.0.0.1:{server.sockets[0].getsockname()[1]}", flush=True)
    await server.serve_forever()


if __name__ == "__main__":
    for name, path in zip(("METADATA", "NETWORKDATA", "USERDATA"), sys.argv[1:], strict=True):
        packets[f"!!REQUEST_{name}#".encode()] = Path(path).read_bytes()
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    uvloop.run(serve())

"""A VM and its ESXi host over a raw socket, from the documents: no code of the package in here."""

from __future__ import annotations

import base64
import json
import re
import socket
import time
from typing import Any

KNOWN = bytes.fromhex("000102032829 2B2C2D2E30 464749 5051545556575253".replace(" ", ""))
ALWAYS_KNOWN = KNOWN[:14]
VC_UUID = "01 23 45 67 89 ab cd ef-fe dc ba 98 00 00 00 01"
SEQUENCE = b"\x00\x00\x01\x02"
LIMIT_S = 60.0  # of what takes no time, on a busy machine: a test that passes does not wait
BINARY = b"\xff\xfb\x00\xff\xfd\x00"


def suboption(code: int, argument: bytes = b"") -> bytes:
    return b"\xff\xfa\xe8" + bytes([code]) + argument.replace(b"\xff", b"\xff\xff") + b"\xff\xf0"


class Closed(AssertionError):  # noqa: N818 - what has happened, not an error
    """The server has closed a line on which something was to come."""


class Vm:
    """Connects, and by default says all that makes it a VM of `my-metadata`."""

    def __init__(
        self,
        port: int,
        name: str | bytes | None = "web1",
        *,
        vc_uuid: str | None = VC_UUID,
        bios_uuid: str | None = None,
        uri: str = "my-metadata",
        direction: str = "C",
        known: bytes | None = None,
        silent: bool = False,
        address: str = "127.0.0.1",
        receive_buffer: int | None = None,
    ) -> None:
        family = socket.AF_INET6 if ":" in address else socket.AF_INET
        self.socket = socket.socket(family)
        if receive_buffer:
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        self.socket.settimeout(LIMIT_S)
        self.socket.connect((address, port))
        self.raw = b""
        self.before_go_ahead = b""
        if silent:
            return
        told = {80: vc_uuid, 82: name, 84: bios_uuid}
        told = {code: text for code, text in told.items() if text is not None}
        if known is None:  # it knows the questions that it can answer
            known = ALWAYS_KNOWN + bytes(sorted([*told, *(code + 1 for code in told)]))
        self.send(BINARY + b"\xff\xfb\xe8" + suboption(0, known))
        for code, text in told.items():
            self.send(suboption(code, text.encode() if isinstance(text, str) else text))
        self.send(suboption(70, direction.encode() + uri.encode()))

    def send(self, data: bytes) -> None:
        self.socket.sendall(data)

    def receive_until(self, expected: bytes, limit_s: float = LIMIT_S) -> bytes:
        """Reads until `expected` is there; returns all up to its end and keeps the rest."""
        return self.receive_matching(re.escape(expected), limit_s)

    def receive_matching(self, pattern: bytes, limit_s: float = LIMIT_S) -> bytes:
        """The same for a regular expression."""
        end_s = time.monotonic() + limit_s
        while not (found := re.search(pattern, self.raw, re.DOTALL)):
            self.socket.settimeout(max(end_s - time.monotonic(), 0.001))
            data = self.socket.recv(65536)
            if not data:
                raise Closed(f"closed before {pattern!r}; got {self.raw[-200:]!r}")
            self.raw += data
        before, self.raw = self.raw[: found.end()], self.raw[found.end() :]
        return before

    def receive_all(self, limit_s: float | None = LIMIT_S) -> bytes:
        """Reads to the end of the stream, however long it takes if `limit_s` is None."""
        self.socket.settimeout(limit_s)
        while data := self.socket.recv(65536):
            self.raw += data
        return self.raw

    def hears(self, seconds: float) -> bytes:
        """All that arrives within `seconds`."""
        end_s = time.monotonic() + seconds
        heard, self.raw = self.raw, b""
        while (left_s := end_s - time.monotonic()) > 0:
            self.socket.settimeout(left_s)
            try:
                data = self.socket.recv(65536)
            except TimeoutError:
                break
            if not data:
                break
            heard += data
        return heard

    def answer(self, limit_s: float = LIMIT_S) -> tuple[str, bytes]:
        """The next response: its code and its body."""
        line = self.receive_matching(rb"!![A-Z_]+#[^\r\n]*\r?\n", limit_s)
        code, _, body = line[line.rindex(b"!!") + 2 :].strip().partition(b"#")
        return code.decode(), base64.b64decode(body, validate=True)

    def ask(
        self, document: str, limit_s: float = LIMIT_S, argument: bytes = b""
    ) -> tuple[str, bytes]:
        encoded = base64.b64encode(argument)
        self.send(b"!!REQUEST_%b#%b\n" % (document.encode(), encoded))
        return self.answer(limit_s)

    def document(self, document: str) -> bytes:
        code, body = self.ask(document)
        assert code == f"RESPONSE_{document}", (code, body)
        return body

    def metadata(self) -> Any:
        return json.loads(self.document("METADATA"))

    def error(self, document: str, limit_s: float = LIMIT_S, argument: bytes = b"") -> str:
        """Asks, and returns the error that must come."""
        code, body = self.ask(document, limit_s, argument)
        assert code == "RESPONSE_ERROR", (code, body)
        told = json.loads(body)
        assert told["request"] == f"REQUEST_{document}"
        assert told["message"]
        return str(told["error"])

    # vMotion

    def begin_move(self, sequence: bytes = SEQUENCE, limit_s: float = LIMIT_S) -> bytes:
        """VMOTION-BEGIN; returns the secret of the GOAHEAD that must come.

        What came before it is in `before_go_ahead`.
        """
        self.send(suboption(40, sequence))
        said = self.receive_matching(rb"\xff\xfa\xe8\x29(?:[^\xff]|\xff\xff)*\xff\xf0", limit_s)
        self.before_go_ahead, _, argument = said[:-2].partition(b"\xff\xfa\xe8\x29")
        argument = argument.replace(b"\xff\xff", b"\xff")
        assert argument.startswith(sequence), argument
        return argument[len(sequence) :]

    @classmethod
    def arriving(
        cls,
        port: int,
        secret: bytes,
        sequence: bytes = SEQUENCE,
        *,
        name: str = "web1",
        vc_uuid: str | None = VC_UUID,
        **settings: Any,
    ) -> Vm:
        """The target host's connection: sends VMOTION-PEER before the identity of the VM."""
        target = cls(port, silent=True, **settings)
        target.send(
            BINARY + b"\xff\xfb\xe8" + suboption(0, KNOWN) + suboption(44, sequence + secret)
        )
        if vc_uuid:
            target.send(suboption(80, vc_uuid.encode()))
        target.send(suboption(82, name.encode()) + suboption(2, b"\x55") + suboption(2, b"\x57"))
        return target

    def is_welcome(self, sequence: bytes = SEQUENCE) -> None:
        """VMOTION-PEER-OK must come, with the sequence only."""
        self.receive_until(suboption(45, sequence))

    def complete(self, sequence: bytes = SEQUENCE) -> None:
        self.send(suboption(46, sequence))

    def close(self) -> None:
        self.socket.close()

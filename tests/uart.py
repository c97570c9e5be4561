"""A serial port for the agent, and what is at its other end: the bundled bridge, or a script.

The port is a pty with the defaults of a UART's tty (canonical, with echo); a pump in a thread
carries bytes between it and the far end, in pieces, late, or with noise, as a test wants.
"""

from __future__ import annotations

import base64
import hashlib
import json
import os
import re
import select
import socket
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Any

Change = Callable[[bytes], bytes]


def unchanged(data: bytes) -> bytes:
    return data


class Uart:
    """`path` is the guest's end; `far` is a connected stream socket.

    `to_guest` and `to_host` may change each piece that passes; `echo` says all that the guest
    writes back to it.
    """

    def __init__(
        self,
        far: socket.socket,
        *,
        piece_bytes: int = 4096,
        pause_s: float = 0.0,
        echo: bool = False,
        to_guest: Change = unchanged,
        to_host: Change = unchanged,
    ) -> None:
        self.far = far
        self._master, self._slave = os.openpty()
        self.path = os.ttyname(self._slave)
        self._piece_bytes = piece_bytes
        self._pause_s = pause_s
        self._echo = echo
        self._to_guest = to_guest
        self._to_host = to_host
        self.written = b""  # by the guest
        self._is_open = True
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        with suppress(OSError, ValueError):
            while self._is_open:
                ready, _, _ = select.select([self._master, self.far], [], [], 0.01)
                if self._master in ready:
                    self._from_guest(os.read(self._master, 4096))
                if self.far in ready:
                    self._from_far()

    def _from_guest(self, data: bytes) -> None:
        self.written += data
        if self._echo:
            self._write(data)
        with suppress(OSError):
            self.far.sendall(self._to_host(data))

    def _from_far(self) -> None:
        data = self.far.recv(self._piece_bytes)
        if not data:
            self._is_open = False
        self._write(self._to_guest(data))
        time.sleep(self._pause_s)

    def _write(self, data: bytes) -> None:
        while data and self._is_open:
            _, ready, _ = select.select([], [self._master], [], 0.05)
            if ready:
                data = data[os.write(self._master, data[:512]) :]

    def close(self) -> None:
        """Hangs up; twice is as good as once."""
        self._is_open = False
        self._thread.join(5)
        if self.far.fileno() < 0:
            return
        os.close(self._master)
        os.close(self._slave)
        self.far.close()


def response(name: str, body: bytes) -> bytes:
    return b"!!RESPONSE_%s#%s\n" % (name.encode(), base64.b64encode(body))


def refusal(name: str, error: str, message: str = "no reason") -> bytes:
    output = {"request": f"REQUEST_{name}", "error": error, "message": message}
    return response("ERROR", json.dumps(output).encode())


Answers = Callable[[str], bytes]


class ScriptedServer:
    """Answers each request line with what `answers` says.

    `asked` has the names so far, `argument` what came with the last one.
    """

    def __init__(self, answers: Answers) -> None:
        self.near, self._end = socket.socketpair()
        self._answers = answers
        self.asked: list[str] = []
        self.argument = b""
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        heard = b""
        with suppress(OSError):
            while data := self._end.recv(4096):
                *lines, heard = re.split(rb"[\r\n]", heard + data)
                for line in lines:
                    self._take(line)

    def _take(self, line: bytes) -> None:
        found = re.search(rb"!!REQUEST_([A-Z_]+)#([\w+/]*=*)$", line)
        if found:
            self.argument = base64.b64decode(found[2])
            self.asked.append(found[1].decode())
            self.say(self._answers(found[1].decode()))

    def say(self, data: bytes) -> None:
        self._end.sendall(data)

    def close(self) -> None:
        with suppress(OSError):
            self._end.shutdown(socket.SHUT_RDWR)
        self._thread.join(5)
        self._end.close()


class ScriptedUart(Uart):
    """A serial port with a scripted server behind it."""

    def __init__(self, answers: Answers, **line: Any) -> None:
        self.server = ScriptedServer(answers)
        super().__init__(self.server.near, **line)

    @property
    def asked(self) -> list[str]:
        return list(self.server.asked)

    def say(self, data: bytes) -> None:
        """What nobody has asked for."""
        self.server.say(data)

    def close(self) -> None:
        super().close()
        self.server.close()


METADATA = b'{"instance-id": "i-1", "local-hostname": "one"}'
DOCUMENTS = {"METADATA": METADATA, "NETWORKDATA": b"", "USERDATA": b"#cloud-config\n{}\n"}


def old_server(documents: Mapping[str, bytes]) -> Answers:
    """One that knows its documents, and is silent about all else."""
    return lambda name: response(name, documents[name]) if name in documents else b""


def digest(documents: Mapping[str, bytes]) -> bytes:
    rows = {
        name: {"length": len(body), "sha256": hashlib.sha256(body).hexdigest()}
        for name, body in documents.items()
        if body
    }
    return json.dumps(rows).encode()


def server_of(documents: Mapping[str, bytes]) -> Answers:
    """One that knows REQUEST_DIGEST."""
    return old_server({**documents, "DIGEST": digest(documents)})


def in_turn(*answers: Answers, until: str = "METADATA") -> Answers:
    """Another server for each time that `until` is asked; the last one stays."""
    left = list(answers)

    def answer(name: str) -> bytes:
        said = left[0](name)
        if name == until and len(left) > 1:
            left.pop(0)
        return said

    return answer


def silent(_name: str) -> bytes:
    return b""


def refusing(error: str) -> Answers:
    return lambda name: refusal(name, error)

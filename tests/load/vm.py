"""VMs for load: their instance data, a boot with checked answers, and vMotions."""

from __future__ import annotations

import base64
import json
import re
import socket
import struct
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from random import Random

from tests.vm import BINARY, KNOWN, Vm, suboption

DOCUMENTS = ("METADATA", "NETWORKDATA", "USERDATA")
SECRET_BYTES = 8
GO_AHEAD_S = 1.0  # VMOTION-BEGIN is answered within this

_TELNET = re.compile(rb"\xff\xfa(?:[^\xff]|\xff\xff)*\xff\xf0|\xff[\xfb-\xfe].", re.DOTALL)
_ANSWER = rb"!![A-Z_]+#[^\r\n]*\r?\n"
_EVERY = 10  # one VM in so many has a large user-data
_SMALL, _LARGE = 20, 2000  # lines of user-data


@dataclass(frozen=True)
class Instance:
    """One VM and its instance file."""

    number: int

    @property
    def name(self) -> str:
        return f"vm-{self.number:05}"

    @property
    def vc_uuid(self) -> str:
        low = self.number.to_bytes(8, "big").hex(" ")
        return f"01 23 45 67 89 ab cd ef-{low}"

    @property
    def address(self) -> str:
        return f"10.{1 + (self.number >> 16)}.{self.number >> 8 & 255}.{self.number & 255}"

    @property
    def userdata(self) -> str:
        lines = _SMALL if self.number % _EVERY else _LARGE
        return "#cloud-config\n" + f"# this is the user-data of {self.name}\n" * lines

    @property
    def file(self) -> str:
        userdata = self.userdata.replace("\n", "\n  ").rstrip(" ")
        return (
            f"metadata: {{instance-id: i-{self.number}, hostname: {self.name}}}\n"
            f"network: {{address: {self.address}, netmask: 255.0.0.0, gateway: 10.255.255.254}}\n"
            f"userdata: |\n  {userdata}"
        )

    def check(self, document: str, body: bytes) -> None:
        """Assert that `body` is the document of this VM."""
        match document:
            case "METADATA":
                found = json.loads(body)
                assert found["instance-id"] == f"i-{self.number}", (self, body)
                assert found["local-hostname"] == self.name, (self, body)
            case "NETWORKDATA":
                (interface,) = json.loads(body)["config"]
                assert interface["subnets"][0]["address"] == self.address, (self, body)
            case "USERDATA":
                assert body == self.userdata.encode(), (self, body[:100], len(body))


def write_instances(directory: Path, count: int) -> list[Instance]:
    instances = [Instance(number) for number in range(count)]
    for instance in instances:
        (directory / f"{instance.name}.yaml").write_text(instance.file)
    return instances


class Guest(Vm):
    """The VM of `instance`; checks its answers byte by byte."""

    def __init__(
        self,
        port: int,
        instance: Instance,
        *,
        silent: bool = False,
        receive_buffer: int | None = None,
    ) -> None:
        super().__init__(
            port,
            instance.name,
            vc_uuid=instance.vc_uuid,
            silent=silent,
            receive_buffer=receive_buffer,
        )
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.instance = instance

    def answer(self, limit_s: float = 10.0) -> tuple[str, bytes]:
        """Return the next response; assert that nothing else precedes it on the serial line."""
        line = serial(self.receive_matching(_ANSWER, limit_s))
        assert re.fullmatch(_ANSWER, line), line[:200]
        code, _, body = line[2:].strip().partition(b"#")
        return code.decode(), base64.b64decode(body, validate=True)

    def ask_for(self, documents: Sequence[str]) -> None:
        self.send(b"".join(map(request, documents)))

    def get(self, documents: Sequence[str], limit_s: float = 10.0) -> None:
        """Assert that the answers arrive in this order, each within `limit_s`."""
        for document in documents:
            code, body = self.answer(limit_s)
            assert code == f"RESPONSE_{document}", (self.instance, document, code, body[:200])
            self.instance.check(document, body)

    def is_silent(self) -> None:
        """Assert that no unread data has arrived."""
        self.socket.settimeout(0)
        with suppress(BlockingIOError):
            self.raw += self.socket.recv(65536)
        assert not self.raw, f"sent while the VM moves: {self.raw[:200]!r}"

    @classmethod
    def at_target(
        cls, port: int, instance: Instance, proof: bytes, receive_buffer: int | None = None
    ) -> Guest:
        """Open the target host's connection of a move, up to VMOTION-PEER."""
        target = cls(port, instance, silent=True, receive_buffer=receive_buffer)
        target.send(BINARY + b"\xff\xfb\xe8" + suboption(0, KNOWN) + suboption(44, proof))
        return target

    def tell_identity(self) -> None:
        self.send(
            suboption(80, self.instance.vc_uuid.encode())
            + suboption(82, self.instance.name.encode())
            + suboption(2, b"\x55")
            + suboption(2, b"\x57")
        )


def boot(port: int, instance: Instance) -> None:
    """Connect, identify, get the three documents one by one, and disconnect."""
    guest = Guest(port, instance)
    try:
        for document in DOCUMENTS:
            guest.ask_for([document])
            guest.get([document])
    finally:
        guest.close()


def reset(sock: socket.socket) -> None:
    """Close the connection with RST."""
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    sock.close()


def serial(data: bytes) -> bytes:
    """Return the part of `data` that the guest sees."""
    return _TELNET.sub(b"", data)


def request(document: str) -> bytes:
    return f"!!REQUEST_{document}#\n".encode()


def sequence(rng: Random) -> bytes:
    """Return four bytes, many of them IAC."""
    return bytes(rng.choice((255, 255, 0, 1, rng.randrange(256))) for _ in range(4))


class Traveller:
    """A VM that moves from host to host, with the serial line of its guest."""

    def __init__(self, port: int, instance: Instance, rng: Random) -> None:
        self._port = port
        self._rng = rng
        self.guest = Guest(port, instance)
        self.check()

    def check(self) -> None:
        document = self._rng.choice(DOCUMENTS)
        self.guest.ask_for([document])
        self.guest.get([document])

    def close(self) -> None:
        self.guest.close()

    def begin(self) -> tuple[bytes, float]:
        """Send VMOTION-BEGIN; return the proof of the move, and the seconds until GOAHEAD."""
        number, begun_s = sequence(self._rng), time.monotonic()
        secret = self.guest.begin_move(number)
        took_s = time.monotonic() - begun_s
        assert len(secret) == SECRET_BYTES, secret
        assert took_s < GO_AHEAD_S, f"GOAHEAD after {took_s:.1f} s"
        return number + secret, took_s

    def move(self) -> float:
        """Run one vMotion between requests of the guest; return the seconds until GOAHEAD."""
        rng, source, instance = self._rng, self.guest, self.guest.instance
        before = rng.choice(([], [], ["USERDATA"], ["METADATA", "USERDATA"]))
        during = rng.choices(DOCUMENTS, k=rng.randrange(4))
        last = rng.choice(DOCUMENTS)
        cut = rng.randrange(1, len(request(last)))
        half, rest = request(last)[:cut], request(last)[cut:]
        source.ask_for(before)
        if not during:
            source.send(half)
        proof, took_s = self.begin()
        carried = serial(source.before_go_ahead)
        if during:
            source.ask_for(during)
            source.send(half)
        number = proof[:-SECRET_BYTES]
        target = Guest.at_target(self._port, instance, proof)
        try:
            assert b"!!" not in serial(target.receive_until(suboption(45, number)))
            target.raw = carried + target.raw
            self._arrive(target, number, rest)
            target.get([*before, *during, last])
        except (AssertionError, OSError):
            target.close()
            raise
        if source.socket.fileno() >= 0:
            source.is_silent()
            source.close()
        self.guest = target
        return took_s

    def _arrive(self, target: Guest, number: bytes, rest: bytes) -> None:
        target.tell_identity()
        if self._rng.random() < 0.5:  # the source may close before COMPLETE, or after it
            self.guest.is_silent()
            self.guest.close()
        is_early = self._rng.random() < 0.3
        if is_early:
            target.send(rest)
        target.complete(number)
        if not is_early:
            target.send(rest)

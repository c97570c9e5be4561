"""Send a million hostile messages to a server; check that it still serves and leaks nothing.

    python -m tests.load.fuzz --messages 1000000 --seed 1

A message is one unit that a peer can send: a telnet command, a subnegotiation, or a line of the
serial port. Most peers follow the protocol at first, to get further into the server before they
break it. Only messages that the server has certainly read count: those of peers that wait for the
server to close the connection.

With --workers, data of the peers also goes from the workers to their parent. The parent is then the
process that is watched.
"""

from __future__ import annotations

import argparse
import hashlib
import hmac
import re
import socket
import ssl
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import ExitStack, suppress
from pathlib import Path
from random import Random

import gevent

from tests.certificates import make_pair
from tests.load import Level, Run, WatchedServer
from tests.load.vm import Instance, boot, request, reset, sequence, write_instances
from tests.vm import ALWAYS_KNOWN, BINARY, KNOWN, Vm, suboption

INSTANCES = 20
WORKERS = 32
MAX_WARM_WORKERS = 256  # more than later, so that the heap reaches its largest size early
MESSAGES_A_WORKER = 250  # roughly
WARM_SHARE = 0.05  # at least this share of the messages warms the server up
PROBE_S, SERVED_S = 1.0, 1.0  # interval and limit of a normal boot
MAX_RUN_S = 30 * 60.0
EXPIRES_S = 1.0  # lifetime of a move, instead of 60

# Bounded tables of the server have smaller bounds here: they are full when the server is warm, so
# any later growth is a leak.
CONSTANTS = {
    "serving__timeouts__MOVE_EXPIRES_S": EXPIRES_S,
    "protocol__vmotion__EXPIRES_S": 2 * EXPIRES_S,  # of its secret, which has whole seconds
    "serving__cachedanswers__KEPT_BYTES": 500_000,
    "monitoring__onceaminute__MAX_MACHINES": 100,
    "monitoring__onceaminute__MAX_KEYS": 100,
    "admin__chronicle__MAX_GONE": 100,
    "admin__eventstream__KEPT": 100,
    "protocol__rate__BURST_S": 4.0,
}
MAX_PER_HOST = 500  # more than all other peers together
MAX_PENDING_MOVES = 64  # of these, 16 for one host
MAX_MOVE_RATE = 100  # per host and second: fewer than the messages start
# Counters that need several connections in one process: with workers they depend on chance.
BY_CHANCE = ("rival connections", "vMotions completed", "fault: too much before VMOTION-COMPLETE")
DEAF_S = 2.0
EACH_AT_FIRST = 4  # each play runs so often before plays are random, for short runs
FULL_POOL = 64  # look-ups at a time, enough to use each thread of the pool
KEY = b"a key that servers share"
LOAD_BALANCER = "127.0.0.2"
GREEDY_HOST = "127.0.0.3"
FLOOD = 4000  # requests, of which the server reads 12 and answers 3 in a turn
PATIENCE_S = 10.0
STALLED_S = 15.0  # peers that play end one after the other; longer than the patience of each
FREED_S = 15.0  # until the server has freed everything of the peers that have disconnected

# Counters that must not be 0 in the server: otherwise the messages did not get far enough.
REACHED = (
    *(
        "TLSv1.2",
        "TLSv1.3",
        "TLS failed",
        "refused: plain bytes before TLS",
        "fault: unexpected AUTHENTICATION",
    ),
    *("refused: PROXY header", "refused: another service URI", "refused: VMOTION-PEER"),
    *("strangers", "answered", "answered not-found", "answered unknown-request", "output dropped"),
    *("fault: line that is no request", "fault: line too long", "fault: subnegotiation too long"),
    *(
        "fault: unterminated subnegotiation",
        "fault: unknown suboption",
        "fault: unexpected subnegotiation",
    ),
    *("fault: suboption without a code", "fault: unusable VM-NAME", "fault: unusable VM-VC-UUID"),
    *(
        "fault: unexpected VMOTION-PEER",
        "fault: unexpected VMOTION-COMPLETE",
        "fault: unexpected VMOTION-ABORT",
    ),
    *("vMotions completed", "vMotions aborted", "vMotions replaced", "vMotions expired"),
    *("vMotions declined", "vMotions from elsewhere", "identities changed", "rival connections"),
    *("requests dropped", "fault: too many requests before the identity"),
    "fault: too much before VMOTION-COMPLETE",
    "fault: too much before the end of AUTHENTICATION",
    *("made room", "vMotions made room", "vMotions declined by rate"),
)

Words = Callable[[Random], bytes]


# Messages


def _some(rng: Random, most: int) -> bytes:
    return rng.randbytes(rng.randint(0, most))


def _option(rng: Random) -> int:
    return rng.choice((0, 1, 3, 24, 31, 34, 44, 232, rng.randrange(256)))


def command(rng: Random) -> bytes:
    return bytes((255, rng.randrange(236, 256)))


def negotiation(rng: Random) -> bytes:
    return bytes((255, rng.randrange(251, 255), _option(rng)))


def subnegotiation(rng: Random) -> bytes:
    return bytes((255, 250, _option(rng))) + _some(rng, 60) + b"\xff\xf0"


def unterminated(rng: Random) -> bytes:
    return bytes((255, 250, 232)) + _some(rng, 20) + negotiation(rng)


def empty(rng: Random) -> bytes:
    return rng.choice(
        (b"\xff\xfa\xff\xf0", b"\xff\xfa\xe8\xff\xf0", b"\xff\xff", b"\0", b"\xff\xf1")
    )


_UNKNOWN = [code for code in range(256) if code not in KNOWN]


def unknown_suboption(rng: Random) -> bytes:
    return suboption(rng.choice(_UNKNOWN), _some(rng, 60))


def known_suboption(rng: Random) -> bytes:
    """A known code with an invalid argument. Not DO-PROXY, which ends a conversation."""
    code = rng.choice([code for code in KNOWN if code not in (0, 70)])
    return suboption(code, _some(rng, 60))


def known_suboptions(rng: Random) -> bytes:
    return suboption(0, rng.choice((KNOWN, b"", _some(rng, 256))))


def identity(rng: Random) -> bytes:
    name = rng.choice(
        (
            b"..",
            b"../../etc/passwd",
            b"a/b\\c%00d",
            b"\xff\xfe\xfd",
            "n\u0430me \u202e\U0001f4a9".encode(),
            b"<script>\r\n%s%n${x}{0}",
            b"x" * rng.choice((1024, 1025, 4000)),
            bytes([rng.randrange(1, 32)]) * 1024,
            _some(rng, 80),
            b"vm-%05d" % rng.randrange(2 * INSTANCES),
        )
    )
    uuid = rng.choice(
        (
            rng.randbytes(16).hex(" "),
            rng.randbytes(15).hex(" "),
            "0" * 1000,
            "zz " * 16,
            "\u0661\u0662 " * 8,
            f"{{{rng.randbytes(16).hex()}}}",
        )
    ).encode()
    return rng.choice((suboption(82, name), suboption(rng.choice((80, 84, 86)), uuid)))


def vmotion(rng: Random) -> bytes:
    argument = rng.choice((sequence(rng), sequence(rng) + rng.randbytes(8), _some(rng, 80)))
    return suboption(rng.choice((40, 40, 41, 44, 46, 46, 48)), argument)


def packet(rng: Random) -> bytes:
    kind = rng.choice((b"REQUEST_", b"REQUEST_", b"RESPONSE_", b"", b"!!", b"request_"))
    name = rng.choice((b"METADATA", b"USERDATA", b"DIGEST", b"VENDORDATA", b"X", b"A" * 70, b"A_B"))
    body = rng.choice((b"", b"", b"AAAA", b"A", b"====", _some(rng, 20)))
    end = rng.choice((b"\n", b"\r", b"\r\n", b"\n\r", b"\0\n", b"", b"\r\0"))
    noise = rng.choice((b"", b"", b"login: ", b"!!REQUEST_", b"\0\0", _some(rng, 20)))
    return noise.replace(b"\xff", b"\xff\xff") + b"!!" + kind + name + b"#" + body + end


def noise(rng: Random) -> bytes:
    return rng.choice(
        (
            b"[    0.000000] Linux version 6.12\r\n",
            b"\r\nlogin: ",
            b"!" * 30,
            b"\n\r" * 10,
            b"{" + _some(rng, 40).replace(b"\xff", b"\xff\xff") + b"}\n",
        )
    )


def raw(rng: Random) -> bytes:
    return _some(rng, 30)


def huge(rng: Random) -> bytes:
    size = rng.randint(4000, 9000)
    return rng.choice(
        (
            b"\xff\xfa\xe8\x52" + b"x" * size + b"\xff\xf0",
            b"\xff\xfa\xe8" + b"\xff\xff" * size + b"\xff\xf0",
            b"!!REQUEST_" + b"A" * size + b"\n",
            b"\xff\xff" * size + b"\n",
            b"y" * size,
        )
    )


def valid(rng: Random) -> bytes:
    """A valid message, maybe at the wrong time; none that ends the conversation."""
    return rng.choice(VALID)


def mutated(rng: Random) -> bytes:
    data = bytearray(rng.choice(VALID))
    for _ in range(rng.randint(1, 3)):
        place = rng.randrange(len(data) + 1)
        match rng.randrange(4):
            case 0:
                data[place:place] = _some(rng, 4)
            case 1:
                del data[place : place + rng.randint(1, 4)]
            case 2:
                data[place : place + 1] = rng.choice((b"\xff", b"\0", rng.randbytes(1)))
            case 3:
                data[place:place] = data[place : place + 8] * 2
    return bytes(data)


VALID = (
    *(b"\xff\xfb\x00", b"\xff\xfd\x00", b"\xff\xfb\x03", b"\xff\xfd\x03", b"\xff\xfd\x01"),
    *(b"\xff\xfb\xe8", b"\xff\xfb\x2c", b"\xff\xf1"),
    *(suboption(0, KNOWN), suboption(2, b"\x51"), suboption(82, b"vm-00003"), suboption(48)),
    suboption(80, b"01 23 45 67 89 ab cd ef-00 00 00 00 00 00 00 03"),
    *(suboption(code, b"\0\0\1\2") for code in (40, 46)),
    *(request(name) for name in ("METADATA", "NETWORKDATA", "USERDATA", "DIGEST", "VENDORDATA")),
)

HOSTILE: tuple[tuple[Words, float], ...] = (
    (command, 10),
    (negotiation, 12),
    (subnegotiation, 8),
    (unterminated, 3),
    (empty, 5),
    (unknown_suboption, 8),
    (known_suboption, 8),
    (known_suboptions, 1),
    (identity, 5),
    (vmotion, 4),
    (packet, 12),
    (noise, 5),
    (raw, 3),
    (huge, 0.2),
    (valid, 10),
    (mutated, 12),
)
_KINDS, _WEIGHTS = [kind for kind, _ in HOSTILE], [weight for _, weight in HOSTILE]

# First bytes of peers that are not ESXi hosts.
STRANGE: tuple[bytes, ...] = (
    b"GET / HTTP/1.1\r\nHost: x\r\n\r\n",
    b"SSH-2.0-OpenSSH_9.9\r\n",
    b"\x16\x03\x01\x00\x05hello",
    b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(500),
    b"\x16",
    b"\x80\x2e\x01\x03\x01",
    b"PROXY TCP4 10.0.0.1 10.0.0.2 1 2\r\n",
    b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0c" + bytes(12),
    b"EHLO x\r\n",
    b"\0" * 1000,
    b"\xff\xfe\xe8\xff\xfc\xe8",
    b"\x03\x00\x00\x2f\x2a\xe0",
    b"A" * 5000,
)


class Peer:
    """One connection to the server, which may switch to TLS."""

    def __init__(self, port: int, rng: Random, *, source: str, reads: bool) -> None:
        self._rng = rng
        self.reads = reads
        self.messages = 0
        self.socket = socket.socket()
        if not reads:
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        # Without this, bind takes up to 20 ms once half of the address's ports are in TIME-WAIT.
        self.socket.setsockopt(socket.IPPROTO_IP, socket.IP_BIND_ADDRESS_NO_PORT, 1)
        self.socket.bind((source, 0))
        self.socket.settimeout(PATIENCE_S)
        self.socket.connect(("127.0.0.1", port))
        self._incoming, self._outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._tls: ssl.SSLObject | None = None

    def send(self, *data: bytes) -> None:
        """Send these messages, and read what has arrived."""
        self.messages += len(data)
        together = b"".join(data)
        if self._tls:
            self._tls.write(together)
            together = self._outgoing.read()
        self.socket.sendall(together)
        if self.reads:
            self._hear()

    def hostile(self, least: int, most: int) -> None:
        """Send `least` to `most` hostile messages, in several segments."""
        left = self._rng.randint(least, most)
        while left > 0:
            size = min(self._rng.randint(1, 60), left)
            kinds = self._rng.choices(_KINDS, _WEIGHTS, k=size)
            self.send(*(kind(self._rng) for kind in kinds))
            left -= size

    def hear_answer(self) -> bytes | None:
        """Return the argument of the next VMOTION-GOAHEAD, or None if VMOTION-NOTNOW comes."""
        heard = b""
        while True:
            if b"\xff\xfa\xe8\x2b" in heard:
                return None
            _, found, rest = heard.partition(b"\xff\xfa\xe8\x29")
            argument, end, _ = rest.replace(b"\xff\xff", b"\xff\xfe").partition(b"\xff\xf0")
            if found and end:
                return argument.replace(b"\xff\xfe", b"\xff")
            data = self.socket.recv(65536)
            if not data:
                raise ConnectionResetError
            heard += data

    def start_tls(self, *, newest: bool) -> None:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        if not newest:
            context.maximum_version = ssl.TLSVersion.TLSv1_2
        tls = context.wrap_bio(self._incoming, self._outgoing)
        while True:
            try:
                tls.do_handshake()
                break
            except ssl.SSLWantReadError:
                self.socket.sendall(self._outgoing.read())
                data = self.socket.recv(65536)
                if not data:
                    raise ConnectionResetError from None
                self._incoming.write(data)
        self._tls = tls

    def end(self) -> int:
        """Close the stream, wait until the server closes too; return how many messages it read."""
        self.socket.shutdown(socket.SHUT_WR)
        while self.socket.recv(65536):
            pass
        return self.messages

    def _hear(self) -> None:
        self.socket.settimeout(0)
        with suppress(BlockingIOError):
            while self.socket.recv(65536):
                pass
        self.socket.settimeout(PATIENCE_S)


class Fuzz:
    """The hostile peers of one server. A peer depends only on the seed and its number."""

    def __init__(self, run: Run, server: WatchedServer, seed: int) -> None:
        self._run = run
        self._server = server
        self._seed = seed
        self._number = 0
        self._ports: dict[int, int] = {}  # local port: number of the connection
        self.read = 0  # messages read by the server
        self.ended = 0  # connections

    def connections(self, messages: int) -> None:
        """Play one connection after the other until `messages` are read. Runs in a greenlet."""
        while self.read < messages and not self._run.is_stopped:
            if self._run.elapsed_s > MAX_RUN_S:
                self._run.fault(f"gave up after {self.read} messages")
                return
            self._number += 1
            number = self._number
            try:
                self.connection(number)
            except ConnectionError as error:
                self._run.fault(f"connection {number}: {error}")
                self._run.look_at(self._server)
            self.ended += 1

    def connection(self, number: int) -> None:
        rng = Random(f"{self._seed}:{number}")
        play = _play_of(number, rng)
        is_balanced = rng.random() < 0.15
        peer = Peer(
            self._server.port,
            rng,
            source=LOAD_BALANCER if is_balanced else "127.0.0.1",
            reads=play is not Fuzz.deaf and rng.random() < 0.93,
        )
        self._ports[peer.socket.getsockname()[1]] = number
        try:
            if is_balanced:
                peer.send(_proxy_header(rng))
            play(self, peer, rng)
            self._leave(peer, rng)
        except TimeoutError:
            self._run.fault(f"connection {number}: {play.__name__}: the server does not respond")
        except OSError:
            self._run.counts["closed by the server"] += 1
        finally:
            peer.socket.close()
        self._run.counts[f"{play.__name__.replace('_', ' ')}"] += 1
        self._run.counts["messages sent"] += peer.messages

    def with_connection(self, fault: str) -> str:
        """Add the number of the connection whose port is in the fault."""
        found = re.search(r"127\.0\.0\.[12]:(\d+)", fault)
        number = self._ports.get(int(found[1])) if found else None
        return f"{fault} (connection {number})" if number else fault

    def _leave(self, peer: Peer, rng: Random) -> None:
        kind = rng.random()
        if not peer.reads:
            gevent.sleep(rng.uniform(0, 0.5))
        if kind < 0.8:
            self._has_read(peer.end())
        elif kind < 0.9:
            reset(peer.socket)

    def _has_read(self, messages: int) -> None:
        self.read += messages

    # Plays

    def stranger(self, peer: Peer, rng: Random) -> None:
        peer.send(rng.choice(STRANGE))
        if rng.random() < 0.5:
            peer.hostile(0, 5)

    def negotiating(self, peer: Peer, rng: Random) -> None:
        """Never send DO-PROXY; maybe offer TLS."""
        if rng.random() < 0.5:
            early = rng.choice((0, 50, 50))
            peer.send(b"\xff\xfb\x25", *[suboption(82, b"x" * 1000)] * early)
        peer.send(b"\xff\xfb\x00")
        if rng.random() < 0.5:
            peer.send(
                *(rng.choice((b"\xff\xfa\x25" + _some(rng, 5) + b"\xff\xf0", b"\xff\xfd\x25")),)
            )
        if rng.random() < 0.5:
            peer.send(request("METADATA") * rng.choice((1, 100)))
        peer.hostile(50, 200)

    def identified(self, peer: Peer, rng: Random) -> None:
        self._identify(peer, rng)
        peer.hostile(100, 300)

    def flooding(self, peer: Peer, rng: Random) -> None:
        """Request more than may wait."""
        self._identify(peer, rng)
        peer.send(request("USERDATA") * FLOOD)
        peer.hostile(100, 300)

    def without_header(self, _peer: Peer, rng: Random) -> None:
        """A load balancer that does not begin with a PROXY header."""
        peer = Peer(self._server.port, rng, source=LOAD_BALANCER, reads=True)
        with peer.socket:
            peer.send(rng.choice(NO_HEADERS), rng.choice(VALID))
            self._has_read(peer.end())

    def deaf(self, peer: Peer, rng: Random) -> None:
        """Send many messages that are answered, and do not read."""
        self._identify(peer, rng)
        peer.send(request("USERDATA") * 200)
        for _ in range(20):
            peer.hostile(0, 3)
            peer.send(b"\xff\xfc\xe8\xff\xfb\xe8" * 300)  # KNOWN-SUBOPTIONS-2 each time
        gevent.sleep(DEAF_S)

    def refused(self, peer: Peer, rng: Random) -> None:
        peer.send(BINARY, b"\xff\xfb\xe8", suboption(0, KNOWN))
        peer.hostile(0, 5)
        peer.send(
            suboption(70, rng.choice((b"Cother", b"", b"C", b"Xmy-metadata", _some(rng, 300))))
        )
        peer.hostile(0, 10)

    def moving(self, peer: Peer, rng: Random) -> None:
        """Start and abort moves at the source."""
        self._identify(peer, rng)
        for _ in range(rng.randint(1, 3)):
            peer.send(suboption(40, sequence(rng)))
            peer.hostile(20, 80)
            if rng.random() < 0.5:
                peer.send(suboption(48))
                peer.hostile(5, 40)

    def arriving(self, peer: Peer, rng: Random) -> None:
        """Play both ends of a real move."""
        self._move(peer, rng, early=b"")

    def arriving_early(self, peer: Peer, rng: Random) -> None:
        """The same, and the guest writes more than it may before VMOTION-COMPLETE."""
        self._move(peer, rng, early=b"early" * 5000)

    def _move(self, peer: Peer, rng: Random, *, early: bytes) -> None:
        self._identify(peer, rng)
        number = sequence(rng)
        peer.reads = False  # GOAHEAD must not be discarded
        peer.send(suboption(48), suboption(40, number))
        proof = peer.hear_answer()
        peer.reads = True
        if proof is None:
            return
        target = Peer(self._server.port, rng, source="127.0.0.1", reads=True)
        try:
            self._arrive(peer, target, rng, number, proof, early)
            self._has_read(target.end())
        except TimeoutError:
            raise
        except OSError:
            self._run.counts["targets closed by the server"] += 1
        finally:
            target.socket.close()
            self._run.counts["messages sent"] += target.messages

    def _arrive(
        self, peer: Peer, target: Peer, rng: Random, number: bytes, proof: bytes, early: bytes
    ) -> None:
        target.send(BINARY, b"\xff\xfb\xe8", suboption(0, KNOWN))
        if rng.random() < 0.3:
            target.hostile(0, 20)
        target.send(suboption(44, proof))
        if early:
            target.send(early)
        many = rng.choice((0, 0, 10, 60))
        target.hostile(0, many)
        peer.hostile(0, many)
        if rng.random() < 0.7:
            target.send(suboption(46, number))
        target.hostile(20, 100)
        peer.hostile(0, 20)

    def greedy(self, _peer: Peer, rng: Random) -> None:
        """A host that uses up its limits: connections, abandoned moves, and the rate of moves."""
        with ExitStack() as stack:
            for _ in range(MAX_PER_HOST + 20):
                self._greedy_peer(stack, rng)
        for count in (*[1] * MAX_PENDING_MOVES, 500):
            with ExitStack() as stack:
                peer = self._greedy_peer(stack, rng)
                self._identify(peer, rng)
                peer.send(*(suboption(40, sequence(rng)) for _ in range(count)))
                self._has_read(peer.end())

    def _greedy_peer(self, stack: ExitStack, rng: Random) -> Peer:
        peer = Peer(self._server.port, rng, source=GREEDY_HOST, reads=True)
        stack.enter_context(peer.socket)
        return peer

    def wrong_target(self, peer: Peer, rng: Random) -> None:
        """A target with an invalid proof, or one that looks like another server's."""
        peer.send(BINARY, b"\xff\xfb\xe8", suboption(0, ALWAYS_KNOWN + b"\x50\x51"))
        forged = int(time.time()).to_bytes(4, "big") + rng.randbytes(20)
        proof = rng.choice(
            (sequence(rng) + forged, sequence(rng) + rng.randbytes(8), _some(rng, 120))
        )
        peer.send(suboption(44, proof))
        peer.hostile(0, 10)

    def from_elsewhere(self, peer: Peer, rng: Random) -> None:
        """The target of a move that began at another server with the same key."""
        instance, number = Instance(rng.randrange(INSTANCES)), sequence(rng)
        head = int(time.time()).to_bytes(4, "big") + rng.randbytes(4)
        digits = instance.vc_uuid.replace(" ", "").replace("-", "")
        cuts = ((0, 8), (8, 12), (12, 16), (16, 20), (20, 32))
        vc_uuid = "-".join(digits[begin:end] for begin, end in cuts)
        text = head + bytes([len(number)]) + number + vc_uuid.encode()
        proof = number + head + hmac.new(KEY, text, hashlib.sha256).digest()[:16]
        peer.send(BINARY, b"\xff\xfb\xe8", suboption(0, ALWAYS_KNOWN + b"\x50\x51"))
        peer.send(suboption(44, proof))
        if rng.random() < 0.3:
            peer.hostile(0, 30)
        peer.send(suboption(80, instance.vc_uuid.encode()))
        peer.send(suboption(46, number))
        peer.hostile(20, 100)

    def tls_at_once(self, peer: Peer, rng: Random) -> None:
        peer.start_tls(newest=rng.random() < 0.7)
        self._inside_tls(peer, rng)

    def tls_by_authentication(self, peer: Peer, rng: Random) -> None:
        peer.send(b"\xff\xfb\x25", unknown_suboption(rng))
        start = b"\xff\xfa\x25\x00\x07" + rng.randbytes(1).replace(b"\xff", b"\0") + b"\x01\xff\xf0"
        if rng.random() < 0.3:
            peer.send(start, rng.choice((b"\xff\xfb\x00", b"\x16\x03\x01", raw(rng))))
            return
        peer.reads = False
        peer.send(start)
        while b"\xff\xfa\x25\x02" not in (said := peer.socket.recv(65536)):
            if not said:
                return
        peer.reads = True
        peer.start_tls(newest=rng.random() < 0.7)
        self._inside_tls(peer, rng)

    def _inside_tls(self, peer: Peer, rng: Random) -> None:
        self._identify(peer, rng)
        peer.hostile(20, 100)
        if rng.random() < 0.3:
            peer.socket.sendall(rng.choice((b"\x17\x03\x03\x00\x05hello", _some(rng, 100))))

    def _identify(self, peer: Peer, rng: Random) -> None:
        """Identify a VM, with harmless messages in between."""
        instance = Instance(rng.randrange(2 * INSTANCES))
        steps = (
            BINARY,
            b"\xff\xfb\xe8",
            suboption(0, ALWAYS_KNOWN + b"\x50\x51\x52\x53"),
            suboption(80, instance.vc_uuid.encode()),
            suboption(82, instance.name.encode()),
            suboption(70, rng.choice((b"C", b"S")) + b"my-metadata"),
        )
        for step in steps:
            peer.send(step)
            if rng.random() < 0.2:
                peer.send(rng.choice(_HARMLESS)(rng))


_HARMLESS = (unknown_suboption, noise, empty)

Play = Callable[[Fuzz, Peer, Random], None]
PLAYS: tuple[tuple[Play, float], ...] = (
    (Fuzz.stranger, 7),
    (Fuzz.negotiating, 12),
    (Fuzz.identified, 32),
    (Fuzz.flooding, 3),
    (Fuzz.deaf, 1),
    (Fuzz.refused, 4),
    (Fuzz.without_header, 1),
    (Fuzz.moving, 13),
    (Fuzz.arriving, 8),
    (Fuzz.arriving_early, 4),
    (Fuzz.greedy, 0.3),
    (Fuzz.wrong_target, 4),
    (Fuzz.from_elsewhere, 4),
    (Fuzz.tls_at_once, 4),
    (Fuzz.tls_by_authentication, 4),
)


def _play_of(number: int, rng: Random) -> Play:
    plays, weights = zip(*PLAYS, strict=True)
    if number <= EACH_AT_FIRST * len(plays):
        return plays[number % len(plays)]
    return rng.choices(plays, weights)[0]


PROXY_2 = b"\r\n\r\n\0\r\nQUIT\n"
NO_HEADERS = (
    *(PROXY_2 + b"\x21\x11\0\x05" + bytes(5), PROXY_2 + b"\x22\x11\0\x0c"),
    *(b"PROXY TCP4 300.0.0.1 1 1 99999\r\n", b"PROXY TCP4 " + b"1" * 200, BINARY),
)


def _proxy_header(rng: Random) -> bytes:
    host = f"10.0.0.{rng.randrange(16)}"
    return rng.choice(
        (
            f"PROXY TCP4 {host} 10.0.0.99 1234 13370\r\n".encode(),
            b"PROXY TCP6 ::1 ::1 1 2\r\n",
            b"PROXY UNKNOWN\r\n",
            PROXY_2 + b"\x21\x11\0\x0c" + socket.inet_aton(host) * 2 + b"\1\2\3\4",
            PROXY_2 + b"\x21\x21\0\x24" + rng.randbytes(36),
            PROXY_2 + b"\x20\x00\0\0",
            PROXY_2 + rng.randbytes(4),
            b"PROXY TCP4 " + _some(rng, 200) + b"\r\n",
            negotiation(rng),
            rng.choice(NO_HEADERS),
        )
    )


def main() -> int:
    parser = argparse.ArgumentParser(description="Send hostile messages to a real server process.")
    parser.add_argument("--messages", type=int, default=1_000_000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--connection", type=int, help="play only the connection with this number")
    arguments = parser.parse_args()
    run = Run("fuzz")
    with tempfile.TemporaryDirectory() as directory:
        instances, own = Path(directory) / "instances", Path(directory)
        instances.mkdir()
        write_instances(instances, INSTANCES)
        (own / "key").write_bytes(KEY)
        server = WatchedServer(
            instances,
            *make_pair("openssl", own, "fuzz").options,
            *("--proxy-protocol", f"{LOAD_BALANCER}/32", "--vmotion-key-file", str(own / "key")),
            *("--max-per-host", str(MAX_PER_HOST), "--max-pending-moves", str(MAX_PENDING_MOVES)),
            *("--max-move-rate", str(MAX_MOVE_RATE)),
            *("--workers", str(arguments.workers)),
            **CONSTANTS,
        )
        with run.against(server):
            fuzz = Fuzz(run, server, arguments.seed)
            if arguments.connection:
                fuzz.connection(arguments.connection)
                run.look_at(server)
            else:
                _fuzz(run, server, fuzz, arguments.messages, arguments.workers)
    run.faults[:] = map(fuzz.with_connection, run.faults)
    return run.end()


def _fuzz(run: Run, server: WatchedServer, fuzz: Fuzz, messages: int, workers: int) -> None:
    normal = Instance(0)
    boot(server.port, normal)
    before = server.returns_to(server.level(), limit_s=1)
    watcher = gevent.spawn(run.watch, server, lambda: _progress(run, fuzz))
    gevent.joinall([gevent.spawn(_look_up, server.port, number) for number in range(FULL_POOL)])
    _play(
        *(run, fuzz, min(MAX_WARM_WORKERS, messages // MESSAGES_A_WORKER)),
        int(WARM_SHARE * messages),
    )
    if run.is_stopped:
        return
    warm: Level = server.returns_to(before, limit_s=EXPIRES_S + FREED_S)
    run.expect(warm.holds_as_much_as(before), f"leak when warm: {warm}; before: {before}")
    warm_messages = fuzz.read
    prober = gevent.spawn(_probe, run, server.port, normal)
    begun_s, client_s, server_s = time.monotonic(), time.process_time(), server.cpu_s
    _play(run, fuzz, WORKERS, messages)
    elapsed_s = time.monotonic() - begun_s
    prober.kill()
    if run.is_stopped:
        return
    _boot(run, server.port, normal)
    after: Level = server.returns_to(before, limit_s=EXPIRES_S + FREED_S)
    watcher.kill()
    read, sent = fuzz.read, run.counts.pop("messages sent")
    share = f"client {(time.process_time() - client_s) / elapsed_s:.0%} of a processor"
    run.row("load", f"{share}, server {(server.cpu_s - server_s) / elapsed_s:.0%}")
    run.row(
        "messages",
        f"{read} read by the server, {warm_messages} of them while warming up, {sent} sent",
    )
    run.row("a second", f"{(read - warm_messages) / elapsed_s:.0f} messages read")
    run.row("peers", ", ".join(f"{name}: {count}" for name, count in sorted(run.counts.items())))
    run.time_rows()
    run.row("when warm", str(warm))
    run.compare(before, after, warm.rss_bytes)
    run.look_at(server)
    counters = server.stop()
    run.row("the server", ", ".join(f"{name}: {count}" for name, count in counters.items()))
    run.expect(not counters["internal errors"], "internal errors")
    chance = BY_CHANCE if workers > 1 else ()
    missing = [name for name in REACHED if not counters[name] and name not in chance]
    run.expect(not missing, f"never counted: {', '.join(missing)}")
    # The parent receives all data, whatever names the peers have, and no worker is replaced.
    for name in ("events dropped", "workers restarted"):
        run.expect(not counters[name], f"{name}: {counters[name]}")


def _play(run: Run, fuzz: Fuzz, workers: int, messages: int) -> None:
    """Let `workers` play until `messages` are read; a fault if no connection ends for STALLED_S."""
    working = [gevent.spawn(fuzz.connections, messages) for _ in range(workers)]
    ended = -1
    while ended < fuzz.ended and not all(worker.ready() for worker in working):
        ended = fuzz.ended
        gevent.joinall(working, timeout=STALLED_S)
    playing = sum(not worker.ready() for worker in working)
    if playing:
        run.fault(f"none of {playing} connections has ended for {STALLED_S:g} s")
        run.is_stopped = True
    run.expect(
        all(worker.successful() or not worker.ready() for worker in working), "a worker failed"
    )


def _look_up(port: int, number: int) -> None:
    """Boot a VM whose answer is not cached, because it has its own BIOS UUID."""
    instance = Instance(0)
    vm = Vm(port, instance.name, bios_uuid=number.to_bytes(16, "big").hex(" "))
    vm.document("METADATA")
    vm.close()


def _probe(run: Run, port: int, instance: Instance) -> None:
    while run.pause(PROBE_S):
        _boot(run, port, instance)


def _boot(run: Run, port: int, instance: Instance) -> None:
    with run.checking("a normal boot"):
        begun_s = time.monotonic()
        boot(port, instance)
        took_s = time.monotonic() - begun_s
        assert took_s < SERVED_S, f"took {took_s:.1f} s"


def _progress(run: Run, fuzz: Fuzz) -> str:
    return f"{fuzz.read} messages read, {len(run.faults)} failed"


if __name__ == "__main__":
    sys.exit(main())

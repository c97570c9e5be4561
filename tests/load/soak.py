"""Mix boots, vMotions, resets and junk for some minutes; check that the server leaks nothing.

python -m tests.load.soak --minutes 5
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from random import Random

import gevent

from tests.load import Level, Run, WatchedServer
from tests.load.vm import (
    DOCUMENTS,
    SECRET_BYTES,
    Guest,
    Instance,
    Traveller,
    boot,
    request,
    reset,
    write_instances,
)
from tests.vm import Vm, suboption

INSTANCES = 300
EXPIRES_S = 1.5  # lifetime of a move, instead of 60
MAX_MUTE_S = 1.5  # how long a refused line stays open, instead of 60

# The server counts as warm after a tenth of the time, but not before 15 s, and in short runs not
# after half of the time.
WARM_SHARE, WARM_S, LATEST_SHARE = 0.1, 15.0, 0.5


class Soak:
    """The peers of one server. Each kind is a method that runs one peer once."""

    def __init__(
        self,
        run: Run,
        server: WatchedServer,
        instances: list[Instance],
        until_s: float,
        redial_s: float,
    ) -> None:
        self._run = run
        self._until_s = until_s
        self._redial_s = redial_s
        self._port = server.port
        self._instances = instances
        self._free = list(instances)  # those without a connection

    def boots(self, _rng: Random, instance: Instance) -> None:
        boot(self._port, instance)

    def moves(self, rng: Random, instance: Instance) -> None:
        """A VM that moves several times."""
        traveller = Traveller(self._port, instance, rng)
        try:
            for _ in range(rng.randint(1, 4)):
                self._run.took("BEGIN to GOAHEAD", traveller.move())
                traveller.check()
        finally:
            traveller.close()

    def aborted_moves(self, rng: Random, instance: Instance) -> None:
        traveller = Traveller(self._port, instance, rng)
        try:
            held, half = rng.choices(DOCUMENTS, k=2), rng.choice(DOCUMENTS)
            traveller.guest.send(request(half)[:9])
            proof, _ = traveller.begin()
            traveller.guest.send(request(half)[9:])
            traveller.guest.ask_for(held)
            target = self._arrived(rng, instance, proof)
            traveller.guest.is_silent()
            traveller.guest.send(suboption(48))
            traveller.guest.get([half, *held])
            target.close()
        finally:
            traveller.close()

    def expired_moves(self, rng: Random, instance: Instance) -> None:
        """The VM stays at its source or disconnects; a late target is refused in both cases."""
        traveller = Traveller(self._port, instance, rng)
        try:
            proof, _ = traveller.begin()
            traveller.guest.ask_for(["USERDATA"])
            if rng.random() < 0.5:
                traveller.guest.get(["USERDATA"])
            else:
                traveller.close()
                gevent.sleep(EXPIRES_S + 0.5)
            late = Guest.at_target(self._port, instance, proof)
            late.receive_until(suboption(3, b"\x2c"))
            late.close()
        finally:
            traveller.close()

    def targets_that_go(self, rng: Random, instance: Instance) -> None:
        """The target host disconnects: the VM continues at its source."""
        traveller = Traveller(self._port, instance, rng)
        try:
            proof, _ = traveller.begin()
            traveller.guest.ask_for(["METADATA"])
            self._arrived(rng, instance, proof).close()
            traveller.guest.get(["METADATA"])
        finally:
            traveller.close()

    def _arrived(self, rng: Random, instance: Instance, proof: bytes) -> Guest:
        target = Guest.at_target(self._port, instance, proof)
        target.receive_until(suboption(45, proof[:-SECRET_BYTES]))
        if rng.random() < 0.5:
            target.tell_identity()
        return target

    def wrong_targets(self, rng: Random, instance: Instance) -> None:
        """A wrong secret gets nothing, and the right move is unharmed."""
        traveller = Traveller(self._port, instance, rng)
        try:
            proof, _ = traveller.begin()
            wrong = bytearray(proof)
            wrong[rng.randrange(len(wrong))] ^= 1 << rng.randrange(8)
            thief = Guest.at_target(self._port, instance, bytes(wrong))
            thief.receive_until(suboption(3, b"\x2c"))
            thief.close()
            self._arrived(rng, instance, proof).close()
        finally:
            traveller.close()

    def redials(self, rng: Random, instance: Instance) -> None:
        """Cut a line anywhere in a boot, perhaps twice; dial again, ask for the rest, check all."""
        left, cuts = list(DOCUMENTS), rng.choice((1, 1, 2))
        while left:
            guest = Guest(self._port, instance)
            try:
                while left:
                    guest.ask_for(left[:1])
                    if cuts and rng.random() < 0.5:
                        break
                    guest.get(left[:1])
                    del left[0]
            finally:
                reset(guest.socket)
            if left:
                cuts -= 1
                gevent.sleep(self._redial_s)

    def resets(self, rng: Random, instance: Instance) -> None:
        """Reset a connection during the negotiation, an answer, or a move."""
        guest = Guest(self._port, instance, silent=rng.random() < 0.2)
        guest.ask_for(rng.choices(DOCUMENTS, k=rng.randint(0, 9)))
        if rng.random() < 0.3:
            guest.send(suboption(40, b"\xff\0\0\1"))
        if rng.random() < 0.5:
            gevent.sleep(rng.uniform(0, 0.01))
        reset(guest.socket)

    def junk(self, rng: Random, _instance: Instance) -> None:
        peer = Vm(self._port, silent=True)
        peer.send(
            rng.choice(
                (
                    b"GET / HTTP/1.1\r\n\r\n",
                    b"SSH-2.0-OpenSSH_9.9\r\n",
                    b"\x16\x03\x01\x02\x00\x01\x00" + rng.randbytes(500),
                    b"\xff\xfa\xe8\x52" + b"x" * 100_000,
                    b"\xff\xfb\x00!!REQUEST_" + b"A" * 20_000,
                    b"\xff\xfb\xe8" * 500,
                    rng.randbytes(2000),
                    b"",
                )
            )
        )
        if rng.random() < 0.5:
            gevent.sleep(rng.uniform(0, 0.2))
        peer.close()

    def strangers(self, _rng: Random, _instance: Instance) -> None:
        """A peer that waits gets an explanation, and is disconnected."""
        peer = Vm(self._port, silent=True)
        peer.send(b"\r\n")
        assert b"virtual serial ports" in peer.receive_all()
        peer.close()

    def refused(self, rng: Random, instance: Instance) -> None:
        """VMs with another service URI: their lines stay open for a while, mute."""
        guest = Vm(self._port, instance.name, vc_uuid=instance.vc_uuid, uri="another")
        guest.receive_until(suboption(73))
        if rng.random() < 0.2:
            guest.receive_all()
        guest.close()

    def long_lines(self, rng: Random, instance: Instance) -> None:
        """A VM that stays connected, and sends requests now and then."""
        traveller = Traveller(self._port, instance, rng)
        try:
            for _ in range(rng.randint(1, 20)):
                if not self._goes_on_after(rng.uniform(0, 2)):
                    break
                traveller.check()
                if rng.random() < 0.3:
                    traveller.guest.send(b"[    1.0] a line of the kernel\r\n!!RESPONSE_X#\n")
        finally:
            traveller.close()

    def _goes_on_after(self, seconds: float) -> bool:
        return self._run.pause(seconds) and self._run.elapsed_s < self._until_s

    def keep_playing(
        self, play: Callable[[Random, Instance], None], pause_s: float, rng: Random
    ) -> None:
        """Run one such peer after the other. Runs in a greenlet."""
        while self._goes_on_after(rng.uniform(0, 2 * pause_s)):
            instance = self._free.pop(rng.randrange(len(self._free)))
            with self._run.checking(play.__name__.replace("_", " ")):
                play(rng, instance)
            self._free.append(instance)

    # Each kind with the number of peers at a time, and the mean pause before each, in seconds.
    PEERS = (
        (boots, 10, 0.25),
        (moves, 10, 0.25),
        (aborted_moves, 4, 0.25),
        (expired_moves, 4, 0.25),
        (targets_that_go, 4, 0.25),
        (wrong_targets, 4, 0.25),
        (redials, 4, 0.1),
        (resets, 4, 0.1),
        (junk, 4, 0.1),
        (strangers, 2, 0.25),
        (refused, 4, 0.25),
        (long_lines, 50, 0.5),
    )


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=5)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument(
        "--redial", type=float, default=0.2, metavar="SECONDS", help="from a cut to the next dial"
    )
    arguments = parser.parse_args()
    run = Run("soak")
    with tempfile.TemporaryDirectory() as directory:
        instances = write_instances(Path(directory), INSTANCES)
        server = WatchedServer(
            Path(directory),
            *("--max-move-rate", "0"),  # more moves than one host has
            serving__timeouts__MOVE_EXPIRES_S=EXPIRES_S,
            serving__timeouts__MUTE_LINE_S=MAX_MUTE_S,
        )
        with run.against(server):
            seconds = arguments.minutes * 60
            _soak(run, server, instances, seconds, arguments.seed, arguments.redial)
    return run.end()


def _soak(
    run: Run,
    server: WatchedServer,
    instances: list[Instance],
    seconds: float,
    seed: int,
    redial_s: float,
) -> None:
    for instance in instances:  # so that the server's caches are filled from the start
        boot(server.port, instance)
    before = server.returns_to(server.level(), limit_s=1)
    until_s = run.elapsed_s + seconds
    soak, rng = Soak(run, server, instances, until_s, redial_s), Random(seed)
    peers = [
        gevent.spawn(soak.keep_playing, getattr(soak, play.__name__), pause_s, one)
        for play, count, pause_s in Soak.PEERS
        for one in (Random(rng.random()) for _ in range(count))
    ]
    watcher = gevent.spawn(run.watch, server, lambda: _progress(run))
    warm_s = min(max(WARM_SHARE * seconds, WARM_S), LATEST_SHARE * seconds)
    run.pause(warm_s)
    warm_bytes = server.rss_bytes
    gevent.joinall(peers, timeout=until_s - run.elapsed_s + 60)
    run.expect(all(peer.dead for peer in peers), "a peer hangs")
    gevent.killall(peers)
    if run.is_stopped:
        return
    after: Level = server.returns_to(before, limit_s=EXPIRES_S + MAX_MUTE_S + 15)
    watcher.kill()
    run.time_rows()
    run.row("after", f"{warm_s:.0f} s {warm_bytes / 2**20:.1f} MiB")
    run.compare(before, after, warm_bytes)
    run.look_at(server)
    counters = server.stop()
    run.row("the server", ", ".join(f"{name}: {count}" for name, count in counters.items()))
    run.expect(not counters["internal errors"], "internal errors")


def _progress(run: Run) -> str:
    return f"{sum(run.counts.values())} peers served, {len(run.faults)} failed"


if __name__ == "__main__":
    sys.exit(main())

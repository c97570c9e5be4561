"""The load tests: how one process plays its share, with one greenlet per busy VM."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from itertools import count, cycle
from pathlib import Path

import gevent
from gevent.pool import Pool

from vmw_cloudinit_metadata.client.expectation import DOCUMENTS, LineCut, VmFailure
from vmw_cloudinit_metadata.client.fleet import FleetVm, by_directory, by_pattern, stems
from vmw_cloudinit_metadata.client.hypervisor import GoAhead
from vmw_cloudinit_metadata.client.loadplan import Share
from vmw_cloudinit_metadata.client.played import Manner, PlayedVm, within
from vmw_cloudinit_metadata.client.redial import KeptLine, Redialler
from vmw_cloudinit_metadata.client.tally import Tally
from vmw_cloudinit_metadata.client.wire import Destination, TlsMode
from vmw_cloudinit_metadata.settings import identitykeys
from vmw_cloudinit_metadata.settings.identitykeys import NumberedFile
from vmw_cloudinit_metadata.settings.values import Address

Random = random.Random

_MAX_MOVES = 3
_MAX_JUNK_BYTES = 2000

# A move between two server processes loses half a request, or a response that was held back. A
# guest waits this long before it repeats the request; a later response would be a duplicate.
_REPEATS_AFTER_S = 5.0


class Play:
    """One process's share of a load test. `gather` waits until all processes are ready."""

    def __init__(self, share: Share, gather: Callable[[], None]) -> None:
        plan = share.plan
        self.share = share
        self.plan = plan
        self.tally = Tally()
        self.started_s = time.monotonic()
        self.started_cpu_s = time.process_time()
        self._gather = gather
        self._sources = cycle(plan.sources or (None,))
        destination = Destination(
            Address.parse(plan.server),
            TlsMode(plan.tls),
            Path(plan.ca) if plan.ca else None,
            plan.thumbprint,
        )
        self.fleet, self.left_out = _fleet(share, destination)
        self._manner = Manner(
            destination,
            None if plan.pace_ms is None else plan.pace_ms / 1000,
            plan.limit_s,
        )
        chance = Random(f"{plan.seed}.{share.index}")
        self._redialler = Redialler(plan.redial_s, self.at_once, self.tally, chance)

    def run(self) -> None:
        SCENARIOS[self.plan.scenario](self)

    def gather(self) -> None:
        """Wait for the other processes, and start measuring."""
        self._gather()
        self.started_s = time.monotonic()
        self.started_cpu_s = time.process_time()

    @property
    def seconds(self) -> float:
        return time.monotonic() - self.started_s

    @property
    def cpu_share(self) -> float:
        """Return the share of one core used since measuring started."""
        return (time.process_time() - self.started_cpu_s) / max(self.seconds, 0.001)

    @property
    def at_once(self) -> int:
        return max(len(self.share.of(self.plan.at_once)), 1)

    def new(self, vm: FleetVm) -> PlayedVm:
        return PlayedVm(self._manner, vm.machine, self.next_source())

    def next_source(self) -> str | None:
        return next(self._sources)

    @contextmanager
    def timed(self, phase: str) -> Iterator[None]:
        """Measure the block, unless it raises."""
        began_s = time.monotonic()
        yield
        self.tally.measure(phase, time.monotonic() - began_s)

    def complete(self, played: PlayedVm) -> None:
        self.tally.complete(int(self.seconds))
        self._redialler.complete(played)

    def fail(self, vm: FleetVm, played: PlayedVm, failure: VmFailure) -> None:
        failure = self._redialler.fail(played, failure)
        self.tally.fail(int(self.seconds), failure, str(vm))

    @contextmanager
    def counted(self, vm: FleetVm, played: PlayedVm) -> Iterator[None]:
        """Count the block as a boot or a failure, within the time limit of a VM."""
        try:
            with within(self.plan.limit_s, played):
                yield
        except VmFailure as failure:
            self.fail(vm, played, failure)
        else:
            self.complete(played)

    def connect(self, played: PlayedVm) -> None:
        with self.redialling(played):
            self._dial(played)

    def _dial(self, played: PlayedVm) -> None:
        with self.timed("connect"):
            played.connect()
        with self.timed("ready"):
            played.get_ready()

    @contextmanager
    def redialling(self, played: PlayedVm) -> Iterator[None]:
        """Leave the block when the line is cut, and open it again; without --redial, fail."""
        try:
            yield
        except LineCut as cut:
            self._redialler.restore(played, cut, self._dial)

    def keep(self, played: PlayedVm) -> KeptLine:
        return KeptLine(played, self._redialler, self._dial, self.plan.limit_s)

    def ask_all(self, vm: FleetVm, played: PlayedVm) -> None:
        for document in DOCUMENTS:
            vm.expectation.check(document, self._ask(played, document))

    def _ask(self, played: PlayedVm, document: str) -> bytes:
        """Return the document; ask again whenever the line was cut and is open again."""
        while True:
            with self.redialling(played), self.timed(document):
                return played.ask(document)

    def each(self, things: Iterable[FleetVm], act: Callable[[FleetVm], None]) -> None:
        """Act on each, as many at once as the plan allows."""
        rest = iter(things)

        def one_after_the_other() -> None:
            for thing in rest:
                act(thing)

        _all([one_after_the_other] * self.at_once)


def _fleet(share: Share, destination: Destination) -> tuple[list[FleetVm], list[str]]:
    vms, skipped = _vms(share, destination)
    if share.plan.identity_key_file:
        number, path = share.plan.identity_key_file
        key = identitykeys.read_one(NumberedFile(number, Path(path)))
        vms = [vm.with_token(key) for vm in vms]
    return vms, skipped


def _vms(share: Share, destination: Destination) -> tuple[list[FleetVm], list[str]]:
    plan = share.plan
    if plan.directory is None:
        assert plan.pattern is not None
        return by_pattern(plan.pattern, share.of(plan.vms), plan.uri), []
    directory = Path(plan.directory)
    names = stems(directory, plan.defaults)
    chosen = [names[number] for number in share.of(min(plan.vms, len(names)))]
    peer = plan.sources[0] if plan.sources else destination.local_address()
    return by_directory(directory, plan.defaults, chosen, plan.uri, peer)


def _all(functions: Iterable[Callable[[], None]]) -> None:
    """Run all concurrently; an exception in one is an error of the client."""
    gevent.joinall([gevent.spawn(function) for function in functions], raise_error=True)


# storm


def storm(play: Play) -> None:
    """Boot VMs: at most so many at a time, or so many per second."""
    boots = len(play.share.of(play.plan.boots))
    vms = (vm for vm, _ in zip(cycle(play.fleet), range(boots), strict=False))
    play.gather()
    if play.plan.rate is None:
        play.each(vms, partial(boot, play))
    else:
        _storm_at_rate(play, vms, play.plan.rate / play.plan.processes)


def boot(play: Play, vm: FleetVm) -> None:
    played = play.new(vm)
    try:
        with play.counted(vm, played), play.timed("boot"):
            play.connect(played)
            play.ask_all(vm, played)
    finally:
        played.close()


def _storm_at_rate(play: Play, vms: Iterable[FleetVm], rate: float) -> None:
    pool = Pool(play.at_once)
    for number, vm in zip(count(), vms, strict=False):
        gevent.sleep(max(number / rate - play.seconds, 0))
        pool.spawn(boot, play, vm)  # blocks while the pool is full
    pool.join(raise_error=True)


# herd and steady


def herd(play: Play) -> None:
    """Connect and identify all VMs; then let all request at once."""
    waiting = _connected(play)
    play.gather()
    _all([partial(_ask_once, play, vm, line) for vm, line in waiting])


def steady(play: Play) -> None:
    """Request all documents without pause, on one connection per VM."""
    waiting = _connected(play)
    play.gather()
    _all([partial(_ask_on, play, vm, line) for vm, line in waiting])


def _connected(play: Play) -> list[tuple[FleetVm, KeptLine]]:
    waiting: list[tuple[FleetVm, KeptLine]] = []

    def connect(vm: FleetVm) -> None:
        played = play.new(vm)
        try:
            with within(play.plan.limit_s, played):
                play.connect(played)
        except VmFailure as failure:
            played.close()
            play.fail(vm, played, failure)
        else:
            waiting.append((vm, play.keep(played)))

    play.each(play.fleet, connect)
    return waiting


def _ask_once(play: Play, vm: FleetVm, line: KeptLine) -> None:
    try:
        with play.counted(vm, line.played):
            play.ask_all(vm, line.take())
            play.tally.measure("boot", play.seconds)
    finally:
        line.played.close()


def _ask_on(play: Play, vm: FleetVm, line: KeptLine) -> None:
    played = line.played
    try:
        line.take()
        while play.seconds < play.plan.seconds:
            with play.timed("boot"), within(play.plan.limit_s, played):
                play.ask_all(vm, played)
            play.complete(played)
    except VmFailure as failure:
        play.fail(vm, played, failure)
    finally:
        played.close()


# soak


def soak(play: Play) -> None:
    """Mix boots, vMotions, host failures and junk."""
    play.gather()
    seeds = [f"{play.plan.seed}.{play.share.index}.{place}" for place in range(play.at_once)]
    _all([partial(_live, play, Random(seed)) for seed in seeds])


def _live(play: Play, chance: Random) -> None:
    while play.seconds < play.plan.seconds:
        (act,) = chance.choices(list(_ACTS), list(_ACTS.values()))
        act(play, chance.choice(play.fleet), chance)


def _boot(play: Play, vm: FleetVm, _chance: Random) -> None:
    boot(play, vm)


def _move(play: Play, vm: FleetVm, chance: Random) -> None:
    """Make some vMotions in a row, each in the middle of a request; some are aborted."""
    here = play.new(vm)
    try:
        with play.counted(vm, here):
            play.connect(here)
            for _ in range(chance.randint(1, _MAX_MOVES)):
                with play.redialling(here):
                    here = _move_once(play, here, chance)
                with play.redialling(here):
                    vm.expectation.check("METADATA", _answer_or_repeat(here))
                play.ask_all(vm, here)
    finally:
        here.close()


def _answer_or_repeat(here: PlayedVm) -> bytes:
    try:
        with within(_REPEATS_AFTER_S, here):
            return here.answer("METADATA")
    except VmFailure as failure:
        if failure.kind != "timeout":
            raise
    return here.ask("METADATA")


def _move_once(play: Play, source: PlayedVm, chance: Random) -> PlayedVm:
    request = b"!!REQUEST_METADATA#\n"
    cut = chance.randint(0, len(request))
    source.write(request[:cut])
    source.begin_move(chance.randbytes(4))
    arrival = source.wait_for(GoAhead).arrival
    if chance.random() < 0.2:
        source.abort_move()
        source.write(request[cut:])
        return source
    with play.timed("move"):
        target = source.arrive(arrival, play.next_source())
        with _closing_if_it_fails(target):
            target.take_over(source)
    source.close()
    with _closing_if_it_fails(target):
        target.write(request[cut:])
    return target


@contextmanager
def _closing_if_it_fails(target: PlayedVm) -> Iterator[None]:
    try:
        yield
    except BaseException:  # a gevent.Timeout, too
        target.close()
        raise


def _reset(play: Play, vm: FleetVm, chance: Random) -> None:
    """Reset the connection at a random moment, like a host that loses its power."""
    played = play.new(vm)
    with suppress(VmFailure), within(play.plan.limit_s, played):
        played.connect()
        if chance.random() < 0.7:
            played.get_ready()
            played.request(chance.choice(DOCUMENTS))
            gevent.sleep(chance.random() * 0.01)
    played.reset()


def _junk(play: Play, vm: FleetVm, chance: Random) -> None:
    """Send noise before a request, which must still be served, and then raw junk."""
    played = play.new(vm)
    junk = chance.randbytes(chance.randint(1, _MAX_JUNK_BYTES))
    try:
        with play.counted(vm, played):
            play.connect(played)
            with play.redialling(played):
                played.write(junk + b"\n")
            play.ask_all(vm, played)
        with suppress(VmFailure):
            played.send_raw(junk)
    finally:
        played.close()


_ACTS = {_boot: 60, _move: 20, _reset: 10, _junk: 10}

SCENARIOS = {"storm": storm, "herd": herd, "steady": steady, "soak": soak}

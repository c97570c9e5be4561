"""The process of the catalogue: surveys a driver's data at the start and after changes.

    python -m vmw_cloudinit_metadata.drivers.catalogue.child

The server starts it, writes one line with the driver to its standard input, and then `again` for
each survey that it wants at once. If surveys prepare answers, they wait for the line `begin` after
they have said that they began: the server notes first which changes it has counted. The process
writes records (records.py) to its standard output, and ends when its input does. Nothing else uses
it; it never writes a file.
"""

from __future__ import annotations

import os
import resource
import select
import signal
import sys
import time
from contextlib import closing, suppress
from pathlib import Path

import ujson

from vmw_cloudinit_metadata.drivers import contract
from vmw_cloudinit_metadata.drivers.catalogue import records
from vmw_cloudinit_metadata.drivers.catalogue.findings import Findings
from vmw_cloudinit_metadata.drivers.checking.instancecheck import Judge
from vmw_cloudinit_metadata.drivers.driver import Driver, DriverError
from vmw_cloudinit_metadata.drivers.foreignerrors import reason_of, text_of
from vmw_cloudinit_metadata.drivers.loading import load
from vmw_cloudinit_metadata.instance.advice import unrecorded
from vmw_cloudinit_metadata.settings.errors import ConfigError

# A short survey is over soon, also where cores are busy. A long one gives way to all others, above
# all to VMs: it may take minutes.
NICE = 10
LONG_CPU_S = 3.0  # from then on:
NICEST = 19

WATCHES_S = 0.25  # until a driver watches its data, if it can
TICK_S = 1.0  # between two looks at the revision
ALIVE_S = 2.0  # between two records that say that the process works

# After a change, others usually follow. A survey takes at most a fifth of the time in a storm of
# changes, and a twentieth where nothing notifies.
SETTLE_S = 2.0
STORM_SHARE = 1 / 5
LOOK_S = 60.0
LOOK_SHARE = 1 / 20
RETRY_S = 10.0  # after a failure

AGAIN = b"again"
BEGIN = b"begin"
_MAX_INPUT_BYTES = 1024 * 1024
_WORST = "1000"  # of all processes, the kernel ends this one first when memory is short


class Input:
    """The standard input: what the server wants."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self._rest = b""
        self._is_asked = False
        self._may_begin = False

    def line(self, limit_s: float | None = None) -> bytes | None:
        """Return the next line; None if there is none in time. Exit at the end of the input."""
        while b"\n" not in self._rest:
            if not select.select([self._descriptor], [], [], limit_s)[0]:
                return None
            piece = os.read(self._descriptor, 64 * 1024)
            if not piece or len(self._rest) > _MAX_INPUT_BYTES:
                sys.exit(0)
            self._rest += piece
        line, _, self._rest = self._rest.partition(b"\n")
        return line

    def look(self, limit_s: float = 0.0) -> None:
        """Wait at most so long for a line, and remember what it asks for."""
        line = self.line(limit_s)
        self._is_asked = line == AGAIN or self._is_asked
        self._may_begin = line == BEGIN or self._may_begin

    def take(self) -> bool:
        """Return whether the server has asked for a survey from the beginning, once."""
        is_asked, self._is_asked = self._is_asked, False
        return is_asked

    def may_begin(self) -> bool:
        """Return whether the server has let a survey begin, once."""
        may_begin, self._may_begin = self._may_begin, False
        return may_begin


class RecordWriter:
    """Writes records. The server reads them; if it does not, this process waits, or exits if the
    server has."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self._said_s = 0.0

    def write(self, record: bytes) -> None:
        self._said_s = time.monotonic()
        rest = memoryview(record)
        try:
            while rest:
                rest = rest[os.write(self._descriptor, rest) :]
        except BrokenPipeError:
            sys.exit(0)

    def stay_alive(self, checked: int = 0) -> bool:
        """Say from time to time that the process works; return whether it has."""
        is_due = time.monotonic() - self._said_s > ALIVE_S
        if is_due:
            self.write(records.of_alive(checked))
        return is_due


class Priority:
    """The priority of this process, as low as the system allows."""

    def __init__(self) -> None:
        self._is_lowest = False
        _be_nice(NICE)

    def lower_if_long(self) -> None:
        if not self._is_lowest and time.process_time() > LONG_CPU_S:
            self._is_lowest = True
            _be_nice(NICEST)
            with suppress(OSError):  # a VM need not even wait for the end of a time slice
                os.sched_setscheduler(0, os.SCHED_IDLE, os.sched_param(0))


def _be_nice(nice: int) -> None:
    with suppress(OSError):  # forbidden here
        os.setpriority(os.PRIO_PROCESS, 0, nice)


class Surveyor:
    """Surveys the data of one driver again and again, until the input ends."""

    def __init__(
        self,
        spec: str,
        options: dict[str, object],
        prepared_bytes: int,
        ask: Input,
        tell: RecordWriter,
        judge: Judge | None = None,
    ) -> None:
        self._spec = spec
        self._options = options
        self._prepared_bytes = prepared_bytes  # that the server keeps; 0: nothing is prepared
        self._judge = judge
        self._ask = ask
        self._tell = tell
        self._priority = Priority()

    def run(self) -> None:
        while True:
            driver = load(self._spec, self._options)
            driver.judge = self._judge
            if not driver.can_validate:
                self._tell.write(records.of_unable())
                return
            try:
                with closing(driver):
                    self._use(driver)
            except MemoryError:
                raise
            except Exception as error:  # a driver is foreign code
                raise DriverError(reason_of(driver, error)) from error

    def _use(self, driver: Driver) -> None:
        _watch(driver)
        if self._prepared_bytes and driver.prepared:
            driver.prepared.prepare(self._tell.write, self._prepared_bytes)
        self._follow(driver)

    def _follow(self, driver: Driver) -> None:
        """Survey at once and after each change; return when the server wants all read again."""
        while True:
            revision = contract.revision(driver, driver.revision())  # before the server notes its
            self._begin()
            began_s = time.monotonic()
            has_failed = not self._survey(driver)
            took_s = time.monotonic() - began_s
            if self._is_wanted_again(driver, revision, took_s, has_failed=has_failed):
                return

    def _is_wanted_again(
        self, driver: Driver, revision: int | None, took_s: float, *, has_failed: bool
    ) -> bool:
        """Wait for a change, or for the next look; return whether the server wants all anew."""
        ended_s = time.monotonic()
        pause_s = max(SETTLE_S, took_s / STORM_SHARE)
        if revision is None:  # the driver may have begun to notify, and have waited for that
            pause_s = SETTLE_S
        look_s = RETRY_S if has_failed else max(LOOK_S, took_s / LOOK_SHARE)
        while (waited_s := time.monotonic() - ended_s) < look_s:
            if self._ask.take():
                return True
            self._ask.look(TICK_S)
            self._tell.stay_alive()
            if driver.revision() != revision and waited_s > pause_s:
                return False
        return False

    def _begin(self) -> None:
        self._tell.write(records.of_began())
        while self._prepared_bytes and not self._ask.may_begin():
            self._ask.look(TICK_S)
            self._tell.stay_alive()

    def _survey(self, driver: Driver) -> bool:
        """Return whether all was read."""
        began_s, findings, checked = time.monotonic(), Findings(), 0
        try:
            for observation in contract.observations(driver, driver.survey()):
                checked += observation is None
                self._priority.lower_if_long()
                if observation:
                    findings.add(observation)
                if self._tell.stay_alive(checked):
                    self._ask.look()  # and exit if the server has
        except DriverError as error:
            self._tell.write(records.of_failed(reason_of(driver, error)))
            return False
        for finding in findings:
            self._tell.write(records.of_finding(finding))
        census = contract.census(driver, driver.census())
        self._tell.write(
            records.of_done(
                records.Surveyed(
                    findings.states(census),
                    census.vms or 0,
                    census.layers,
                    findings.counts[False],
                    findings.counts[True],
                    findings.left_out,
                    time.monotonic() - began_s,
                    census.noun,
                )
            )
        )
        return True


def _watch(driver: Driver) -> None:
    """Have the driver watch its data, and wait a moment until it does: what changes earlier would
    be a reason for a second survey."""
    driver.watch(lambda _: None)  # the server's own driver reports what it watches
    end_s = time.monotonic() + WATCHES_S
    while driver.revision() is None and time.monotonic() < end_s:
        time.sleep(0.01)


def main() -> None:
    for number in (signal.SIGINT, signal.SIGHUP):  # they are the server's: it ends the input
        signal.signal(number, signal.SIG_IGN)
    tell = RecordWriter(os.dup(1))
    nowhere = os.open(os.devnull, os.O_WRONLY)
    for output in (1, 2):  # for what a driver prints: it may be secret
        os.dup2(nowhere, output)
    ask = Input(0)
    line = ask.line()
    assert line is not None
    work = ujson.loads(line)
    _give_way(work["memory_bytes"])
    try:
        what = work["driver"], work["options"], work["prepared_bytes"]
        Surveyor(*what, ask, tell, None if work["records_uses"] else unrecorded).run()
    except MemoryError:
        tell.write(records.of_failed(f"more than {work['memory_bytes']:,} bytes of memory needed"))
        sys.exit(1)
    except (ConfigError, DriverError) as error:
        tell.write(records.of_failed(str(error)))
        sys.exit(1)
    except Exception as error:  # a fault of ours
        tell.write(records.of_failed(text_of(error)))
        sys.exit(1)


def _give_way(memory_bytes: int) -> None:
    """Let VMs have memory first; where the system forbids that, go on without."""
    with suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text(_WORST)
    with suppress(OSError, ValueError):
        resource.setrlimit(resource.RLIMIT_DATA, (memory_bytes, memory_bytes))


if __name__ == "__main__":
    main()

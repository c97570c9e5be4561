"""FleetUses: what VMs of this process have in common with VMs of others, and should not: a serial
port's identity, or their own data.

What begins and ends here is told every two seconds. Whoever began it hears who else has it.
"""

from __future__ import annotations

import hashlib
import logging
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import islice
from typing import Any, Protocol

import gevent
import ujson

from vmw_cloudinit_metadata.monitoring.onceaminute import OnceAMinute

log = logging.getLogger(__name__)

TOLD_EVERY_S = 2.0
SETTLED_S = 8.0  # so long after something began, others are asked for
SEEN_EVERY_S = 8.0  # a process that says nothing for 30 s has ended
TOLD_AT_ONCE = 1000
SHORT = 100  # characters
MAX_REPORTS = 1000
_ANSWERED_S = 10.0

Key = tuple[str, str]  # the name of what is used, and its user


@dataclass(frozen=True, slots=True)
class Others:
    """Who else uses something."""

    number: int
    named: Sequence[tuple[str, str]]  # users and their servers
    held_back: int | None  # reports, since the last one in the fleet; None: report nothing now

    @property
    def remark(self) -> str:
        """What a report ends with."""
        return _remark(self.held_back)


Noticed = Callable[[Others], None]
Report = Callable[[str], None]  # with what the report ends with


class UsesLink(Protocol):
    """The part of a FleetLink that uses need."""

    @property
    def is_connected(self) -> bool: ...

    def ask(
        self,
        kind: str,
        fields: Mapping[str, Any],
        payload: bytes,
        within_s: float,
        then: Callable[[Any], None],
    ) -> None: ...

    def when_connected(self, call: Callable[[], None]) -> None: ...


class FleetUses:
    """Tells what is used here. `begin` and `end` cost little: all is told later, together."""

    def __init__(self, link: UsesLink) -> None:
        self._link = link
        self._used: dict[Key, tuple[float, Noticed]] = {}  # since when
        self._untold: dict[Key, None] = {}  # what has begun, or ended
        self._reports: dict[str, Report] = {}  # that wait for their turn in the fleet
        self._is_anew = True  # nobody knows of this process
        self._is_asking = False
        self._throttle = OnceAMinute()
        self._told_s = 0.0
        self._begun_s = 0.0  # when something began last
        link.when_connected(self._begin_anew)
        # Deadlines would wake the hub 20 times as often.
        self._timer = gevent.get_hub().loop.timer(TOLD_EVERY_S, repeat=TOLD_EVERY_S)
        self._timer.start(self._tick)

    def close(self) -> None:
        """Tell no more."""
        self._timer.stop()
        self._timer.close()

    def begin(self, what: str, user: str, noticed: Noticed) -> None:
        """Count `user` for `what`; call `noticed` if others turn out to use it too."""
        key = (_named(what), user)
        self._begun_s = time.monotonic()
        if key not in self._used:
            self._note(key)
        self._used[key] = self._begun_s, noticed

    def end(self, what: str, user: str) -> None:
        key = (_named(what), user)
        if self._used.pop(key, None):
            self._note(key)

    def report_once(self, about: str, report: Report) -> None:
        """Call `report` soon, unless another process has reported the same within a minute."""
        if not self._link.is_connected or len(self._reports) >= MAX_REPORTS:
            report("")
        else:
            self._reports[_named(about)] = report

    def _note(self, key: Key) -> None:
        """Note what is to be told; nothing, if it has ended before it was told, or began again."""
        if key in self._untold:
            del self._untold[key]
        else:
            self._untold[key] = None

    def _begin_anew(self) -> None:
        self._is_anew = True

    def _tick(self) -> None:
        if not self._link.is_connected:
            self._is_anew = True
            self._untold.clear()
            self._pass_all(self._taken_reports())
        elif not self._is_asking and self._is_due(time.monotonic()):
            self.tell()

    def _is_due(self, now_s: float) -> bool:
        is_settling = now_s - self._begun_s < SETTLED_S
        is_quiet = now_s - self._told_s > SEEN_EVERY_S
        return bool(self._untold or self._reports) or self._is_anew or is_settling or is_quiet

    def tell(self) -> None:
        """Tell what has begun and ended since the last time."""
        is_anew, self._is_anew = self._is_anew, False
        if is_anew:
            self._untold = dict.fromkeys(self._used)
        keys = list(islice(self._untold, TOLD_AT_ONCE))
        for key in keys:
            del self._untold[key]
        self._told_s = now_s = time.monotonic()
        rows = [
            (*key, round(now_s - self._used[key][0], 3) if key in self._used else None)
            for key in keys
        ]
        self._is_asking = True
        reports = self._taken_reports()
        payload = ujson.dumps({"uses": rows, "reports": list(reports)}).encode()
        then = partial(self._answered, reports)
        self._link.ask("uses", {"is_anew": is_anew}, payload, _ANSWERED_S, then)

    def _taken_reports(self) -> dict[str, Report]:
        reports, self._reports = self._reports, {}
        return reports

    def _pass_all(self, reports: Mapping[str, Report]) -> None:
        for report in reports.values():
            report("")

    def _answered(self, reports: Mapping[str, Report], reply: Any) -> None:
        self._is_asking = False
        if reply is None:
            self._is_anew = True  # it is not known what was written
            self._pass_all(reports)
            return
        try:
            found, passed = _read(ujson.loads(reply.payload))
        except (ValueError, TypeError):
            self._pass_all(reports)
            unreported = self._throttle.passes("reply")
            if unreported is not None:
                log.warning("fleet: what others use cannot be read%s", unreported)
            return
        for key, others in found:
            if used := self._used.get(key):
                _, noticed = used
                noticed(others)
        for name, held_back in passed:
            if report := reports.get(name):
                report(_remark(held_back))


def _named(what: str) -> str:
    """Return the name of something in the database, which is short."""
    if len(what) <= SHORT:
        return what
    return hashlib.blake2b(what.encode(errors="replace"), digest_size=16).hexdigest()


def _remark(held_back: int | None) -> str:
    return f" ({held_back} more since the last such line)" if held_back else ""


def _read(answer: object) -> tuple[list[tuple[Key, Others]], list[tuple[str, int]]]:
    """Check what the database says of uses and reports; raise ValueError."""
    match answer:
        case {"found": [*found], "passed": [*passed]}:
            return [_found(row) for row in found], [_passed(row) for row in passed]
    raise ValueError("not an answer about uses")


def _passed(row: object) -> tuple[str, int]:
    match row:
        case [str(name), int(held_back)]:
            return name, held_back
    raise ValueError("not a report that passes")


def _found(row: object) -> tuple[Key, Others]:
    """Check what the database says of one use; raise ValueError."""
    match row:
        case [str(what), str(user), int(number), [*users], [*names], int() | None as held_back]:
            named = [
                (str(user)[:64], str(name)[:64]) for user, name in zip(users, names, strict=True)
            ]
            return (what, user), Others(number, named, held_back)
    raise ValueError("not what others use")

"""Send a million hostile reports of boots to a server; each gets one answer, and nothing is left.

    python -m tests.load.reports --reports 1000000 --seed 1

The server reads each of them: it has no pause between two reports of a line here. Those that are a
report are confirmed, all others are errors; meanwhile VMs boot as ever, and read their right data.
"""

from __future__ import annotations

import argparse
import base64
import hashlib
import json
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any

import gevent

from tests.load import Level, Run, WatchedServer
from tests.load.vm import Instance, boot, write_instances
from tests.vm import Vm

INSTANCES = 20
WORKERS = 32
TOGETHER = 40  # reports on their way on one line
EACH = 2_000  # reports of one line
WARM_SHARE = 0.05
PROBE_S, SERVED_S = 1.0, 2.0
FREED_S = 20.0

# Tables are full when the server is warm. No pause: each report is read.
CONSTANTS = {
    "serving__outcomeanswer__INTERVAL_S": 0.0,
    "admin__eventstream__KEPT": 100,
    "monitoring__onceaminute__MAX_MACHINES": 100,
    "monitoring__onceaminute__MAX_KEYS": 100,
}

ED25519 = (
    "ssh-ed25519 "
    + base64.b64encode(b"\0\0\0\x0bssh-ed25519\0\0\0\x20" + bytes(range(32))).decode()
)


def whole(instance: Instance) -> dict[str, Any]:
    return {
        "v": 1,
        "instance": f"i-{instance.number}",
        "status": "error",
        "errors": ["('runcmd', ProcessExecutionError())"],
        "stages": {"modules-final": 12.3},
        "hostkeys": [f"{ED25519} root@vm"],
        "boot": "0a1b2c3d-0000-4000-8000-0123456789ab",
    }


def other_value(rng: Random) -> Any:
    return rng.choice(
        (
            *(None, True, -1, 1e300, "", "x" * 300, [], {}, [[]], "\x1b[2J", "\u202e", "\ud800"),
            *(["x"] * 9, ["*"] * 6, {"a": "b"}, {"a b": 1}, {"a": -1}, [ED25519] * 7),
            *(["ssh-ed25519 AAAA"], [f"{ED25519}A"], [ED25519[:-8]], ["* " + ED25519], [{}]),
            *("done", "degraded", "running", 2, "i-1", rng.random(), [rng.randrange(10**6)]),
        )
    )


def changed(report: dict[str, Any], rng: Random) -> bytes:
    name = rng.choice([*report, "x", "*"])
    return json.dumps(report | {name: other_value(rng)}).encode()


def shorter(report: dict[str, Any], rng: Random) -> bytes:
    return json.dumps(
        {name: value for name, value in report.items() if rng.random() < 0.8}
    ).encode()


def damaged(report: dict[str, Any], rng: Random) -> bytes:
    data = bytearray(json.dumps(report).encode())
    for _ in range(rng.randint(1, 4)):
        place = rng.randrange(len(data))
        data[place : place + rng.randrange(3)] = rng.randbytes(rng.randrange(3))
    return bytes(data)


def nested(_report: dict[str, Any], rng: Random) -> bytes:
    return rng.choice((b"[", b'{"v":', b'{"v":1,"errors":[')) * rng.randint(1, 160)


def twice(report: dict[str, Any], rng: Random) -> bytes:
    text = json.dumps(report)
    return f'{text[:-1]}, "{rng.choice([*report])}": 1}}'.encode()


def number(report: dict[str, Any], rng: Random) -> bytes:
    digits = rng.choice(("1e999", "-1e999", "9" * 2000, "NaN", "Infinity", "0x1", "1.", "-0"))
    return json.dumps(report).replace("12.3", digits).encode()


def noise(_report: dict[str, Any], rng: Random) -> bytes:
    return rng.randbytes(rng.randrange(100))


def valid(report: dict[str, Any], rng: Random) -> bytes:
    return json.dumps(report | {"stages": {"modules-final": rng.randrange(10**6)}}).encode()


def long(report: dict[str, Any], rng: Random) -> bytes:
    return json.dumps(report | {"errors": ["x" * 190] * rng.choice((8, 8, 14))}).encode()


KINDS: tuple[tuple[Callable[[dict[str, Any], Random], bytes], float], ...] = (
    *((changed, 30), (shorter, 15), (damaged, 20), (nested, 5), (twice, 5), (number, 8)),
    *((noise, 10), (valid, 2), (long, 2)),
)
_MAKERS, _WEIGHTS = zip(*KINDS, strict=True)


def hostile(instance: Instance, rng: Random) -> bytes:
    return rng.choices(_MAKERS, _WEIGHTS)[0](whole(instance), rng)


class Reporters:
    """Guests that report, one connection after the other."""

    def __init__(self, run: Run, port: int, seed: int) -> None:
        self._run = run
        self._port = port
        self._seed = seed
        self.answered = 0
        self._begun = 0

    def work(self, until: int) -> None:
        while self.answered < until and not self._run.is_stopped:
            self._begun += 1
            rng = Random(f"{self._seed} {self._begun}")
            with self._run.checking("a line"):
                self._line(Instance(rng.randrange(INSTANCES)), rng, until)

    def _line(self, instance: Instance, rng: Random, until: int) -> None:
        machine = Vm(self._port, instance.name, vc_uuid=instance.vc_uuid)
        try:
            machine.metadata()
            for _ in range(EACH // TOGETHER):
                if self.answered >= until:
                    break
                reports = [hostile(instance, rng) for _ in range(TOGETHER)]
                lines = [b"!!REQUEST_STATUS#%b\n" % base64.b64encode(one) for one in reports]
                machine.send(b"".join(lines))
                for report in reports:
                    self._check(report, *machine.answer())
        finally:
            machine.close()

    def _check(self, report: bytes, code: str, body: bytes) -> None:
        found = json.loads(body)
        if code == "RESPONSE_STATUS":
            assert found == {"sha256": hashlib.sha256(report).hexdigest()}
            outcome = "confirmed"
        else:
            assert (code, found["request"]) == ("RESPONSE_ERROR", "REQUEST_STATUS")
            outcome = found["error"]
            assert outcome in ("invalid", "refused"), (outcome, report)
        self._run.counts[outcome] += 1
        self.answered += 1


def _probe(run: Run, port: int) -> None:
    while run.pause(PROBE_S):
        with run.checking("a normal boot"):
            begun_s = time.monotonic()
            boot(port, Instance(0))
            took_s = time.monotonic() - begun_s
            assert took_s < SERVED_S, f"took {took_s:.1f} s"


def main() -> int:
    parser = argparse.ArgumentParser(description="Send hostile reports of boots to a real server.")
    parser.add_argument("--reports", type=int, default=1_000_000)
    parser.add_argument("--seed", type=int, default=1)
    arguments = parser.parse_args()
    run = Run("reports")
    with tempfile.TemporaryDirectory() as directory:
        write_instances(Path(directory), INSTANCES)
        server = WatchedServer(Path(directory), **CONSTANTS)
        with run.against(server):
            _report(run, server, Reporters(run, server.port, arguments.seed), arguments.reports)
    return run.end()


def _report(run: Run, server: WatchedServer, reporters: Reporters, count: int) -> None:
    boot(server.port, Instance(0))
    before = server.returns_to(server.level(), limit_s=1)
    watcher = gevent.spawn(
        run.watch, server, lambda: f"{reporters.answered} answered, {len(run.faults)} failed"
    )
    _work(reporters, int(WARM_SHARE * count))
    warm: Level = server.returns_to(before, limit_s=FREED_S)
    prober = gevent.spawn(_probe, run, server.port)
    _work(reporters, count)
    prober.kill()
    after: Level = server.returns_to(before, limit_s=FREED_S)
    watcher.kill()
    run.row("reports", f"{reporters.answered} answered, {reporters.answered / run.elapsed_s:.0f}/s")
    run.row("answers", ", ".join(f"{name}: {number}" for name, number in run.counts.items()))
    run.time_rows()
    run.compare(before, after, warm.rss_bytes)
    run.look_at(server)
    counters = server.stop()
    run.expect(reporters.answered >= count, f"only {reporters.answered} of {count} were answered")
    run.expect(not counters["internal errors"], "internal errors")
    for name in ("reports refused: invalid", "reports refused: another instance"):
        run.expect(counters[name] > 0, f"never counted: {name}")
    taken = sum(counters[f"boots reported: {status}"] for status in ("done", "degraded", "error"))
    run.expect(0 < taken <= run.counts["confirmed"], f"{taken} taken of {run.counts['confirmed']}")


def _work(reporters: Reporters, until: int) -> None:
    gevent.joinall([gevent.spawn(reporters.work, until) for _ in range(WORKERS)])


if __name__ == "__main__":
    sys.exit(main())

"""The table of targets."""

from __future__ import annotations

import json
import time
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from tests import transcript
from tests.coverage_fuzz import agent, etcd, files, wire, workers
from tests.coverage_fuzz.law import pumped
from tests.process import CHECKOUT

HERE = Path(__file__).parent
_PUMPED_SHARE = 1 / 32  # of the inputs: the large ones take long


class TooSlow(AssertionError):  # noqa: N818 - what has happened
    """An input took more processor time than one of its size may."""


@dataclass(frozen=True)
class Target:
    holds: Callable[[bytes], None]  # raises if a law does not hold
    seeds: Callable[[], Sequence[bytes]]
    tokens: str  # a dictionary, beside this file
    max_bytes: int = 8192
    limit_s: float = 2.0  # of processor time, for `max_bytes`, under instrumentation

    @property
    def name(self) -> str:
        return self.holds.__name__

    @property
    def cases(self) -> Path:
        """Inputs that are kept: found once, or no other file of the repository has them."""
        return HERE / "corpus" / self.name

    def run(self, data: bytes) -> None:
        """Raises if a law does not hold for `data`, or it takes too long."""
        self._within_limit(data)
        if zlib.crc32(data) < _PUMPED_SHARE * 2**32:
            self._within_limit(pumped(data, self.max_bytes))

    def _within_limit(self, data: bytes) -> None:
        begun_s = time.process_time()
        self.holds(data)
        took_s = time.process_time() - begun_s
        if took_s > self.limit_s:
            raise TooSlow(f"{len(data)} bytes took {took_s:.1f} s, of {self.limit_s} s: {data!r}")

    def inputs(self) -> list[bytes]:
        """All that a run begins with."""
        kept = sorted(self.cases.iterdir()) if self.cases.is_dir() else []
        return [*self.seeds(), *(path.read_bytes() for path in kept)]


def _transcripts() -> list[bytes]:
    """What the hosts of tests/transcripts say."""
    paths = sorted(transcript.DIRECTORY.glob("*.txt"))
    return [b"".join(step.heard or b"" for step in transcript.read(path)) for path in paths]


def _instance_files() -> list[bytes]:
    examples = sorted((CHECKOUT / "conf").rglob("*.yaml"))
    return [path.read_bytes() for path in examples if path.stat().st_size < 8192]


def _guest_files() -> list[bytes]:
    paths = sorted((CHECKOUT / "vmw_cloudinit_metadata/guest").iterdir())
    return [path.read_bytes() for path in paths if path.is_file() and path.suffix != ".py"]


def _messages() -> list[bytes]:
    happenings = [workers.packed(seed) for seed in _transcripts()[:3]]
    figures = {"counters": {"connections": 3}, "timings": {"boot": [[0] * 21, 0.5]}, "gauges": {}}
    told = (
        {"ready": True},
        {"failed": "why"},
        {"figures": figures, "problem": "", "source": "", "since": 0},
    )
    return [json.dumps(message).encode() for message in (*told, {"happenings": happenings})]


def _etcd_answers() -> list[bytes]:
    state = {"cluster_id": "7", "member_id": "8", "revision": "5", "raft_term": "2"}
    pair = {"key": "L3Ztcy93ZWIx", "mod_revision": "4", "version": "1", "value": "e30="}
    found = {"header": state, "kvs": [pair], "more": True, "count": "1"}
    answers = (
        found,
        {"header": state, "succeeded": True, "responses": [{"response_range": found}]},
        {"result": {"header": state, "created": True, "events": [{"kv": pair}]}},
        {"result": {"header": state, "canceled": True, "compact_revision": "4"}},
        {"error": "etcdserver: invalid auth token", "code": 16},
        {"header": state, "token": "abc.5"},
    )
    return [json.dumps(answer).encode() for answer in answers]


def _boot_reports() -> list[bytes]:
    key = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIF4QuaHe1axjC4LCWKuKb2MqrG4JrHH7nPGVGVsrZNgT"
    report = {"v": 1, "instance": "i-1", "status": "error", "errors": ["('runcmd', 1)"]}
    more = {"stages": {"init": 0.5}, "hostkeys": [f"{key} root@vm"], "boot": ""}
    return [json.dumps(one).encode() for one in (report, report | more)]


def _none() -> list[bytes]:
    return []


TARGETS = {
    target.name: target
    for target in (
        Target(wire.telnet_decoder, _transcripts, "wire.dict", max_bytes=2048),
        Target(wire.serial_line, _transcripts, "wire.dict", max_bytes=2048),
        Target(wire.proxy_header, _none, "wire.dict", max_bytes=4200),
        Target(wire.boot_report, _boot_reports, "text.dict", max_bytes=3200),
        Target(wire.session, _transcripts, "wire.dict", max_bytes=2048),
        Target(files.seed_reader, _instance_files, "text.dict"),
        Target(workers.worker_messages, _messages, "text.dict"),
        Target(etcd.etcd_answers, _etcd_answers, "text.dict"),
        Target(agent.agent_line, _none, "wire.dict", max_bytes=2048),
        Target(agent.agent_documents, _instance_files, "text.dict", max_bytes=2048, limit_s=8.0),
        Target(agent.agent_texts, _guest_files, "text.dict", limit_s=4.0),
    )
}

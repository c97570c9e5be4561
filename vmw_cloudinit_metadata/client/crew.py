"""Run a load test: start the client processes, collect their reports, and add them up."""

from __future__ import annotations

import json
import os
import platform
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from typing import Any

import gevent
from gevent import subprocess
from gevent.event import Event

from vmw_cloudinit_metadata import __version__
from vmw_cloudinit_metadata.client.expectation import VmFailure
from vmw_cloudinit_metadata.client.loadplan import LoadPlan, Share
from vmw_cloudinit_metadata.client.redial import redialled
from vmw_cloudinit_metadata.client.tally import Tally
from vmw_cloudinit_metadata.client.watched import Watched
from vmw_cloudinit_metadata.instance.counts import counted
from vmw_cloudinit_metadata.process.interpreter import command_of
from vmw_cloudinit_metadata.settings.errors import ConfigError

_WORKER = "vmw_cloudinit_metadata.client.worker"

# A client process that uses more of its core than this measures itself instead of the server.
# Short tests do not count (start-up dominates), nor those where most VMs fail (failures cost CPU).
BOTTLENECK_SHARE = 0.9
BOTTLENECK_SPAN_S = 1.0


class Crew:
    """Runs `plan`; calls `on_news` several times a second meanwhile."""

    def __init__(
        self, plan: LoadPlan, server_pids: Sequence[int], on_news: Callable[[Crew], None]
    ) -> None:
        self._plan = plan
        self._on_news = on_news
        self._watched = Watched(server_pids)
        self._crew: list[_Member] = []
        self.tally = Tally()
        self._started = datetime.now(UTC)
        self._started_s = time.monotonic()
        self.is_running = False
        self.left_out = 0  # instance files that cannot be served
        self.left_out_because = ""  # an example

    @property
    def seconds(self) -> float:
        """Return how long the test has been running; 0 during preparation."""
        return time.monotonic() - self._started_s if self.is_running else 0.0

    def run(self) -> dict[str, Any]:
        """Return the result; raise ConfigError."""
        try:
            for index in range(self._plan.processes):
                self._crew.append(_Member(Share(self._plan, index), self._receive))
            self._wait_for(lambda member: member.is_gathered)
            self._begin()
            self._wait_for(lambda member: member.is_over)
            return self._result(self.seconds)
        finally:
            for member in self._crew:
                member.end()

    def _begin(self) -> None:
        self._watched.begin()
        self._started = datetime.now(UTC)
        self._started_s = time.monotonic()
        self.is_running = True
        for member in self._crew:
            member.go()

    def _wait_for(self, condition: Callable[[_Member], bool]) -> None:
        for member in self._crew:
            while not condition(member):
                member.news.wait()
                member.news.clear()

    def _receive(self, member: _Member, message: dict[str, Any]) -> None:
        if "error" in message:
            member.error = message["error"]
        elif "left_out" in message:
            self.left_out += message["left_out"][0]
            self.left_out_because = message["left_out"][1]
        elif "tally" in message:
            self.tally.merge(message["tally"])
            self._on_news(self)

    def _result(self, seconds: float) -> dict[str, Any]:
        for member in self._crew:
            if member.error:
                raise ConfigError(member.error)
            if member.cpu_share is None:
                crash = VmFailure("client crashed", "the process ended before the test")
                self.tally.fail(int(seconds), crash, "a client process")
        tally = self.tally
        return {
            "scenario": self._plan.scenario,
            "started": self._started.isoformat(timespec="seconds"),
            "seconds": round(seconds, 3),
            "options": self._plan.as_options(),
            "environment": environment(self._plan.server),
            "boots": tally.completed,
            "rate": round(tally.completed / seconds, 3) if seconds else 0.0,
            "phases": {phase: latencies.result() for phase, latencies in tally.phases.items()},
            "timeline": tally.timeline,
            "failures": dict(tally.failures),
            "examples": tally.examples,
            "redial": None if self._plan.redial_s is None else redialled(tally),
            "server": self._watched.end(tally.completed),
            "client": self._client(seconds),
        }

    def _client(self, seconds: float) -> dict[str, Any]:
        share = max(member.cpu_share or 0.0 for member in self._crew)
        return {
            "cpu_share": round(share, 3),
            "is_bottleneck": is_bottleneck(share, seconds, self.tally),
            "processes": self._plan.processes,
        }


def environment(server: str) -> dict[str, str]:
    """Return where the test was run, and by which versions."""
    return {
        "client": f"{platform.node()}, {counted(os.cpu_count() or 1, 'processor')}",
        "server": server,
        "system": f"{platform.system()} {platform.release()} {platform.machine()}",
        "vmw-cloudinit-metadata": __version__,
        "Python": platform.python_version(),
        "gevent": gevent.__version__,
    }


def is_bottleneck(cpu_share: float, seconds: float, tally: Tally) -> bool:
    """Return whether the busiest client process limited the result."""
    is_significant = seconds >= BOTTLENECK_SPAN_S and tally.completed > tally.failed
    return is_significant and cpu_share > BOTTLENECK_SHARE


class _Member:
    """One client process."""

    def __init__(self, share: Share, on_message: Callable[[_Member, dict[str, Any]], None]) -> None:
        self._on_message = on_message
        self.news = Event()
        self.is_gathered = self.is_over = False
        self.cpu_share: float | None = None
        self.error = ""
        self._process = subprocess.Popen(
            command_of(_WORKER, json.dumps(share.as_json())),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        assert self._process.stdin
        assert self._process.stdout
        self._commands, self._messages = self._process.stdin, self._process.stdout
        self._reader = gevent.spawn(self._read)

    def _read(self) -> None:
        for line in self._messages:
            message = json.loads(line)
            self.is_gathered = self.is_gathered or "gathered" in message
            if "done" in message:
                self.cpu_share = message["done"]["cpu_share"]
            self._on_message(self, message)
            self.news.set()
        self.is_gathered = self.is_over = True
        self.news.set()

    def go(self) -> None:
        with suppress(OSError):  # it has ended, which _read finds
            self._commands.write(b"g")
            self._commands.flush()

    def end(self) -> None:
        if self._process.poll() is None:
            self._process.kill()
        self._process.wait()
        self._reader.kill()
        with suppress(OSError):
            self._commands.close()
        self._messages.close()

"""What a load test is to do: made from options, and handed to each client process as JSON. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class LoadPlan:
    """One load test; `processes` share its VMs."""

    scenario: str  # a key of scenarios.SCENARIOS
    server: str  # ADDRESS:PORT
    uri: str
    directory: str | None = None  # of instance files, or else
    pattern: str | None = None  # of VM names
    defaults: str | None = None
    vms: int = 0  # different ones
    boots: int = 0  # of a storm
    at_once: int = 200
    rate: float | None = None  # boots begun each second
    seconds: float = 0.0
    sources: Sequence[str] = ()
    tls: str = "none"
    ca: str | None = None
    thumbprint: str | None = None
    pace_ms: float | None = None
    limit_s: float = 60.0
    seed: int = 0
    processes: int = 1

    def as_options(self) -> dict[str, Any]:
        """What was given, without what was not."""
        return {name: value for name, value in asdict(self).items() if value not in (None, ())}


@dataclass(frozen=True, slots=True)
class Share:
    """What one process does of a plan."""

    plan: LoadPlan
    index: int

    def of(self, count: int) -> range:
        """Which of so many things are this process's."""
        return range(self.index, count, self.plan.processes)

    def as_json(self) -> dict[str, Any]:
        return {"plan": asdict(self.plan), "index": self.index}

    @classmethod
    def from_json(cls, parts: Mapping[str, Any]) -> Share:
        return cls(LoadPlan(**parts["plan"]), parts["index"])

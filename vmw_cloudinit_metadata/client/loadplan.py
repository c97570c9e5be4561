"""The plan of a load test, and the share of one client process, as JSON. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from vmw_cloudinit_metadata.protocol import identitytoken


@dataclass(frozen=True, slots=True)
class LoadPlan:
    """One load test; its VMs are divided among `processes`."""

    scenario: str  # a key of scenarios.SCENARIOS
    server: str  # ADDRESS:PORT
    uri: str
    directory: str | None = None  # of instance files; or
    pattern: str | None = None  # of VM names
    defaults: str | None = None
    vms: int = 0  # number of different VMs
    boots: int = 0  # of a storm
    at_once: int = 200
    rate: float | None = None  # boots started per second
    seconds: float = 0.0
    sources: Sequence[str] = ()
    tls: str = "none"
    ca: str | None = None
    thumbprint: str | None = None
    pace_ms: float | None = None
    limit_s: float = 60.0
    redial_s: float | None = None  # from a cut to the next dial; None: a cut is a failure
    seed: int = 0
    identity_key_file: tuple[int, str] | None = None  # number and path of the key of tokens
    processes: int = 1

    def as_options(self) -> dict[str, Any]:
        """Return the options that were given."""
        options = asdict(self) | {"uri": identitytoken.taken_from(self.uri)[0]}
        return {name: value for name, value in options.items() if value not in (None, ())}


@dataclass(frozen=True, slots=True)
class Share:
    """The part of a plan that one process plays."""

    plan: LoadPlan
    index: int

    def of(self, count: int) -> range:
        """Return which of `count` items belong to this process."""
        return range(self.index, count, self.plan.processes)

    def as_json(self) -> dict[str, Any]:
        return {"plan": asdict(self.plan), "index": self.index}

    @classmethod
    def from_json(cls, parts: Mapping[str, Any]) -> Share:
        return cls(LoadPlan(**parts["plan"]), parts["index"])

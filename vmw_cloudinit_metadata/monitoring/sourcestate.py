"""SourceState: where a process takes instance data from, and since when that fails. Pure."""

from __future__ import annotations

from dataclasses import dataclass

MAX_NAME = 200  # characters

UNCHECKED = "the data source has not been checked yet"  # a problem: at the start


@dataclass(frozen=True, slots=True)
class SourceState:
    """`failing_since_s` is a time since 1970; 0: it does not fail."""

    name: str = ""
    failing_since_s: float = 0.0

    @property
    def is_failing(self) -> bool:
        return self.failing_since_s > 0

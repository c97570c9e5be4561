"""What the check of an image finds: a file, what is wrong, and the remedy. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

from vmw_cloudinit_metadata.protocol.printable import one_line, shortened


@dataclass(frozen=True, slots=True)
class ImageFinding:
    """A fault keeps cloud-init from using the server's data; a warning is a risk."""

    file: str  # "" if it concerns no file
    problem: str
    remedy: str
    is_warning: bool = False

    def __str__(self) -> str:
        text = ": ".join(_safe(part) for part in (self.file, self.problem, self.remedy) if part)
        return f"warning: {text}" if self.is_warning else text

    @classmethod
    def parse(cls, line: str) -> Self:
        """Return the finding of a line of the agent's own check."""
        file, _, rest = line.partition(": ")
        if not file.startswith("/") or not rest:
            file, rest = "", line
        problem, _, remedy = rest.rpartition(": ")
        return cls(file, problem or remedy, remedy if problem else "")

    @property
    def plain(self) -> dict[str, str]:
        """Return it for JSON."""
        return {
            "severity": "warning" if self.is_warning else "fault",
            "file": _safe(self.file),
            "problem": _safe(self.problem),
            "remedy": _safe(self.remedy),
        }


def _safe(text: str) -> str:
    """Return text that may come from the image, bounded, and fit for a terminal and JSON."""
    return one_line(shortened(text))

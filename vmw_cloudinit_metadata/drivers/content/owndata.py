"""OwnData: where a VM's own data stands, and the identity that it was found by."""

from __future__ import annotations

from dataclasses import dataclass

BY_LAYER = "layer"  # in place of an identity: the VM has no data of its own


@dataclass(frozen=True, slots=True)
class OwnData:
    """A file or record, the entry of an inventory that begins on `line`, or nothing but layers."""

    matched_by: str
    path: str
    stem: str  # of the VM's file, were it one
    line: int = 0

    @property
    def label(self) -> str:
        """What names it for an operator, and among all others: `vms.yaml:12`."""
        return f"{self.path}:{self.line}" if self.line else self.path


def path_of_label(label: str) -> str:
    """The file. An instance file's own name ends otherwise than in a number."""
    path, _, line = label.rpartition(":")
    return path if line.isdecimal() else label

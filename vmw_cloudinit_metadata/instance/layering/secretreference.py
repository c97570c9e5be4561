"""A reference to a secret: `vms/web1#root_password`, a path and perhaps a key. Pure.

What a VM says may be a part of it, so it is checked as a whole: no part of a path leads elsewhere.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal

REFERENCE_BEGINS = "${secret:"
MAX_CHARACTERS = 512

# Why a secret cannot be had.
SecretProblem = Literal["unreachable", "late", "sealed", "failing", "denied", "absent", "unusable"]

# No part of a path begins with a dot: `..` leads up, and `..data` is Kubernetes' own.
_PART = r"[A-Za-z0-9_@+=,~-][A-Za-z0-9._@+=,~-]*"
_FORM = re.compile(rf"({_PART}(?:/{_PART})*)(?:#([A-Za-z0-9._@+=,~-]{{1,128}}))?")
_EXPECTED = (
    "a path and a key, such as ${secret:vms/web1#root_password}, of A-Z a-z 0-9 . _ @ + = , ~ -, "
    "no part of which begins with a dot; write $${ for a ${ of shell"
)


@dataclass(frozen=True, slots=True)
class SecretReference:
    path: str
    key: str = ""

    def __str__(self) -> str:
        return f"{self.path}#{self.key}" if self.key else self.path


def reference_of(text: str) -> SecretReference:
    """Return the reference that stands between `${secret:` and `}`; raise ValueError."""
    found = _FORM.fullmatch(text) if len(text) <= MAX_CHARACTERS else None
    if found is None:
        raise ValueError(_EXPECTED)
    return SecretReference(found[1], found[2] or "")


def shown(reference: object) -> str:
    """Return what stands for the value wherever it is not to be read."""
    return f"<secret {reference}>"

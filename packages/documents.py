"""The documents of a package, and what they link to, in one directory."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

BESIDE = ("README.md", "SECURITY.md", "requirements.lock")
CHANGELOG = "changelog.gz"  # as Debian's policy names it

_TO_CHANGELOG = re.compile(r"(?<=\]\()((?:\.\./)*)CHANGELOG\.md(?=[)#])")


def write(place: Path, checkout: Path) -> None:
    """Write all but the changelog and `conf`, which the package has there in other forms."""
    shutil.copytree(checkout / "docs", place / "docs", ignore=shutil.ignore_patterns("site"))
    shutil.copytree(checkout / "examples", place / "examples")
    for name in BESIDE:
        shutil.copy(checkout / name, place)
    for document in place.rglob("*.md"):
        document.write_text(_TO_CHANGELOG.sub(rf"\1{CHANGELOG}", document.read_text()))

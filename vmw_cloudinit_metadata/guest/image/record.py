"""The record of an installation: what was written and what was there before, to undo it."""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from vmw_cloudinit_metadata.guest.image.tree import Entry, File, Link, Tree
from vmw_cloudinit_metadata.settings.errors import ConfigError

FILE = "/usr/lib/vmw-metadata-agent/installed.json"
# A boot loader's file that was edited may hold a password's hash.
_MODE = 0o600


@dataclass(frozen=True, slots=True)
class Written:
    """The previous entry of a path, and the digest of the new one."""

    before: Entry | None
    digest: str | None


@dataclass(frozen=True, slots=True)
class ChangeRecord:
    """Every path that was changed and every directory that was created."""

    written: Mapping[str, Written] = field(default_factory=dict)
    directories: tuple[str, ...] = ()

    @classmethod
    def read(cls, tree: Tree) -> ChangeRecord:
        """Return the tree's record, empty if there is none; raise ConfigError if it is damaged."""
        content = tree.read(FILE)
        if content is None:
            return cls()
        try:
            return _parse(json.loads(content))
        except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
            raise ConfigError(
                f"{tree.root}{FILE} is damaged ({type(error).__name__}): remove it; the"
                " previous files can then not be restored"
            ) from error

    def save(self, tree: Tree) -> None:
        file = File(self._text().encode(), _MODE)
        if tree.entry(FILE) != file:
            tree.write(FILE, file)

    def before(self, path: str, now: Entry | None) -> Entry | None:
        """Return the entry before our change, or `now` if somebody else has changed it since."""
        written = self.written.get(path)
        return written.before if written and written.digest == digest(now) else now

    def _text(self) -> str:
        paths = {
            path: {"before": _plain(written.before), "written": written.digest}
            for path, written in sorted(self.written.items())
        }
        return json.dumps({"paths": paths, "directories": self.directories}, indent=1) + "\n"


def digest(entry: Entry | None) -> str | None:
    """Return the digest of a content or target; `/lib` is `/usr/lib`, as systemctl may write it."""
    if entry is None:
        return None
    if isinstance(entry, File):
        return hashlib.sha256(entry.content).hexdigest()
    target = f"/usr{entry.target}" if entry.target.startswith("/lib/") else entry.target
    return hashlib.sha256(f"link to {target}".encode()).hexdigest()


def _parse(plain: dict[str, Any]) -> ChangeRecord:
    written = {
        str(path): Written(_entry(value["before"]), value["written"])
        for path, value in plain["paths"].items()
    }
    return ChangeRecord(written, tuple(map(str, plain["directories"])))


def _plain(entry: Entry | None) -> dict[str, object] | None:
    if entry is None:
        return None
    if isinstance(entry, Link):
        return {"target": entry.target}
    return {"content": base64.b64encode(entry.content).decode(), "mode": entry.mode}


def _entry(plain: dict[str, Any] | None) -> Entry | None:
    if plain is None:
        return None
    if "target" in plain:
        return Link(str(plain["target"]))
    return File(base64.b64decode(plain["content"], validate=True), int(plain["mode"]) & 0o7777)

"""Installs the agent into a tree, and removes it. Doing it twice changes nothing.

The previous content is recorded first. So other options, a newer version or a removal start from
the tree as it was; files that somebody else has changed since then are left alone.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from vmw_cloudinit_metadata.guest.image import record
from vmw_cloudinit_metadata.guest.image.parts import Choices, Edit, edits
from vmw_cloudinit_metadata.guest.image.record import ChangeRecord, Written
from vmw_cloudinit_metadata.guest.image.tree import Entry, Tree
from vmw_cloudinit_metadata.settings.errors import ConfigError


@dataclass(frozen=True, slots=True)
class Done:
    """What happened to a path: `wrote`, `changed`, `removed`, `put back`, `left`."""

    what: str
    path: str
    why: str = ""

    def __str__(self) -> str:
        return f"{self.what:8} {self.path}" + (f" ({self.why})" if self.why else "")


@dataclass(frozen=True, slots=True)
class _Change:
    path: str
    before: Entry | None
    now: Entry | None
    wanted: Entry | None

    @property
    def written(self) -> Written:
        return Written(self.before, record.digest(self.wanted))


def open_tree(root: Path) -> Tree:
    """Return the tree; raise ConfigError if the directory is not the root of a system."""
    tree = Tree(root)
    if not tree.is_directory("/etc") and not tree.is_directory("/usr"):
        raise ConfigError(f"--root: {root} has neither etc nor usr: not the root of a system")
    return tree


def install(tree: Tree, choices: Choices) -> list[Done]:
    """Make the tree match the choices; changes that only earlier choices needed are undone."""
    old = ChangeRecord.read(tree)
    changes = [_change(tree, old, path, edit) for path, edit in edits(tree, choices).items()]
    ours = {c.path: c.written for c in changes if c.wanted != c.before}
    dropped = {path: old.written[path] for path in old.written.keys() - {c.path for c in changes}}
    made = [d for path in (record.FILE, *ours) for d in tree.missing_directories(path)]
    directories = tuple(dict.fromkeys([*old.directories, *made]))
    ChangeRecord({**dropped, **ours}, directories).save(tree)
    done = [*_put_back(tree, dropped), *_carry_out(tree, changes)]
    ChangeRecord(ours, directories).save(tree)
    return done


def remove(tree: Tree) -> list[Done]:
    """Restore everything as it was before; files changed since then are left alone."""
    old = ChangeRecord.read(tree)
    done = list(_put_back(tree, old.written))
    if tree.entry(record.FILE):
        tree.remove(record.FILE)
    for directory in sorted(old.directories, key=len, reverse=True):
        tree.remove_if_empty(directory)
    return done


def _change(tree: Tree, old: ChangeRecord, path: str, edit: Edit) -> _Change:
    now = tree.entry(path)
    before = old.before(path, now)
    return _Change(path, before, now, edit(before))


def _carry_out(tree: Tree, changes: Iterable[_Change]) -> Iterator[Done]:
    for change in changes:
        if change.wanted == change.now:
            continue
        if change.wanted is None:
            tree.remove(change.path)
        else:
            tree.write(change.path, change.wanted)
        yield Done("wrote" if change.before is None else "changed", change.path)


def _put_back(tree: Tree, written: Mapping[str, Written]) -> Iterator[Done]:
    for path, was in sorted(written.items()):
        now = tree.entry(path)
        if record.digest(now) != was.digest:
            yield Done("left", path, "changed or removed since")
        elif was.before is None:
            tree.remove(path)
            yield Done("removed", path)
        else:
            tree.write(path, was.before)
            yield Done("put back", path)

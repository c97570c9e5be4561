"""DirectoryWatch: counts the changes of files in a directory, by inotify(7), in its own thread.

Only on file systems of this machine: what another machine changes on NFS is not notified. inotify
does not report writes to mapped memory before the file is closed, writes through a hard link in
another directory, and changes of what links lead to. So snapshot.py looks at links and at files
with several names as without notification, and at every file after a minute.

The thread does not wait for events: it collects them several times a second, so that a storm of
changes costs little, and looks each time whether the path still leads to the same directory. The
library inotify_simple is a thin wrapper of the system calls; watchfiles groups events by time, and
does not say up to when they are complete.
"""

from __future__ import annotations

import errno
import os
import stat
import time
from collections.abc import Callable
from math import inf
from threading import Event, Thread

from inotify_simple import INotify, flags

from vmw_cloudinit_metadata.drivers.filesystem import mounts
from vmw_cloudinit_metadata.drivers.filesystem.mounts import Mounts
from vmw_cloudinit_metadata.drivers.revisions import Revisions

ROUND_S = 0.05  # between two rounds while VMs ask
IDLE_S = 60.0  # until the next round when none has asked for a while
RETRY_S = 10.0  # after a failure
_ASKED_S = 2.0

LOCAL = frozenset(
    {"ext2", "ext3", "ext4", "xfs", "btrfs", "f2fs", "zfs", "bcachefs", "tmpfs", "ramfs", "overlay"}
)

_OF_FILES = (
    flags.CREATE
    | flags.DELETE
    | flags.MOVED_FROM
    | flags.MOVED_TO
    | flags.MODIFY
    | flags.CLOSE_WRITE
    | flags.ATTRIB
)
_WATCHED = _OF_FILES | flags.ONLYDIR
_LOST = flags.DELETE_SELF | flags.MOVE_SELF | flags.UNMOUNT | flags.IGNORED
_DIRECTORY = os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC

_LIMITS = {  # of all processes of one user
    errno.ENOSPC: "the limit fs.inotify.max_user_watches",
    errno.EMFILE: "the limit fs.inotify.max_user_instances, or that of open files,",
}

_USUAL = "notified by the system again"
_SEEN_BY = "found by looking at the files, and no answers are prepared: {}"

Report = Callable[[str], None]


class CannotWatch(Exception):  # noqa: N818 - not an error: the files are looked at instead
    """The directory cannot be watched; the text is the reason, for the operator."""


class DirectoryWatch:
    """Watches the directory at `path` once started; reports the start and end of failures.

    Its subdirectory `below` is watched too. Keys of changes are paths relative to the directory.
    """

    def __init__(self, path: str, below: str, changes: Revisions) -> None:
        self._path = path
        self._below = below
        self._changes = changes
        self._closed = Event()
        self._mounts: Mounts | None = None
        self._inotify: INotify | None = None
        self._places: dict[int, str] = {}  # by the watch: what precedes a name in a key

    def start(self, report: Report) -> None:
        Thread(target=self._run, args=[report], name="directory watch", daemon=True).start()

    def close(self) -> None:
        self._closed.set()
        self._changes.wanted.set()

    def _run(self, report: Report) -> None:
        reported = ""  # nothing needs to be said of what is usual
        while not self._closed.is_set():
            reason: object = ""
            try:
                self._round()
            except OSError as error:
                reason = error.strerror
            except CannotWatch as error:
                reason = error
            if reason:
                self._drop()
            if str(reason) != reported:
                reported = str(reason)
                report(
                    f"changes in {self._path} are {_SEEN_BY.format(reported) if reason else _USUAL}"
                )
            self._pause(has_failed=bool(reason))
        self._drop()

    def _pause(self, *, has_failed: bool) -> None:
        wanted = self._changes.wanted
        wanted.clear()
        if has_failed:
            self._closed.wait(RETRY_S)
        elif time.monotonic() - self._changes.asked_s < _ASKED_S:
            self._closed.wait(ROUND_S)
        else:
            wanted.wait(IDLE_S)

    def _round(self) -> None:
        began_s = time.monotonic()
        if self._inotify is None or (self._mounts and self._mounts.have_changed()):
            self._watch_anew()
        assert self._inotify
        for event in self._inotify.read(timeout=0):
            self._count(event.wd, event.mask, event.name)
        if self._inotify is not None and self._is_same():
            self._changes.complete_until(began_s)
        else:
            self._drop()

    def _count(self, watch: int, mask: int, name: str) -> None:
        key = self._places.get(watch, "") + name
        if mask & _LOST or key == self._below:
            self._drop()  # and watch what is there now
        elif mask & flags.Q_OVERFLOW or not name or self._is_second_link(mask, key):
            self._changes.all_changed()  # without a name: of the directory itself
        else:
            self._changes.changed(key)
            if key != name:
                self._changes.changed(self._below)  # a name came or went, perhaps

    def _is_second_link(self, mask: int, name: str) -> bool:
        """Return whether a new entry is a hard link, through which the file may be written
        unseen."""
        if not mask & (flags.CREATE | flags.MOVED_TO):
            return False
        try:
            found = os.lstat(os.path.join(self._path, name))
        except OSError:
            return False  # gone again
        return found.st_nlink > 1 and not stat.S_ISDIR(found.st_mode)

    def _is_same(self) -> bool:
        """Return whether the path still leads to the directory that is watched."""
        try:
            found = os.stat(self._path)
        except FileNotFoundError:
            return False
        return self._changes.source == (found.st_dev, found.st_ino)

    def _watch_anew(self) -> None:
        self._drop()
        self._mounts = Mounts()  # before what depends on them is looked at
        descriptor = os.open(self._path, _DIRECTORY)
        try:
            self._check(descriptor)
            found = os.fstat(descriptor)
            self._changes.source = (found.st_dev, found.st_ino)
            self._add_watches(descriptor)
        finally:
            os.close(descriptor)
        self._changes.all_changed()  # whatever changed while nothing was watched

    def _add_watches(self, descriptor: int) -> None:
        try:
            self._inotify = INotify(nonblocking=True)
            place = f"/proc/self/fd/{descriptor}"
            self._places = {self._inotify.add_watch(place, _WATCHED): ""}
            below = self._inotify.add_watch(f"{place}/{self._below}", _WATCHED | flags.DONT_FOLLOW)
            self._places[below] = f"{self._below}/"
        except (FileNotFoundError, NotADirectoryError):
            pass  # there is no such subdirectory; a link is looked at
        except OSError as error:
            if error.errno not in _LIMITS:
                raise
            raise CannotWatch(f"{_LIMITS[error.errno]} of this system is reached") from error

    def _check(self, descriptor: int) -> None:
        kind = mounts.file_system_of(descriptor)
        if kind not in LOCAL:
            raise CannotWatch(f"it is on a file system of the type {kind or 'unknown'}")
        if points := mounts.points_below(self._path):
            raise CannotWatch(f"another file system is mounted at {points[0]}")

    def _drop(self) -> None:
        self._changes.complete_until(-inf)
        self._changes.source = None
        if self._inotify:
            self._inotify.close()
            self._inotify = None
        if self._mounts:
            self._mounts.close()
            self._mounts = None

"""Replay: where each watch begins, so that the next ones tell what one has lost. Pure.

A watch that hangs looks like one that has nothing to tell, since the gateway tells no progress
unless it is asked, and it can be asked nothing after its answer has begun. So a watch ends when it
has been quiet for a moment, and each begins where the quiet one before the last was created: every
change is told by two quiet watches, of which each was seen to begin.
"""

from __future__ import annotations

from collections.abc import Iterable

from vmw_cloudinit_metadata.drivers.stores.etcd.gateway import ClusterState, KeyEvent


class Replay:
    """Begins with what a read says of the cluster: all changes after that are told."""

    def __init__(self, newest: ClusterState) -> None:
        self._newest = newest
        self._created = newest.revision  # when the last watch was created
        self._quiet = self._quiet_before = newest.revision  # likewise, of those that ended quietly
        self._told = 0  # all that changed before this revision was told
        self.has_begun = False  # a watch was created

    @property
    def start(self) -> int:
        """The first revision that the next watch has to tell."""
        return max(self._quiet_before + 1, self._told)

    def follows(self, newest: ClusterState) -> bool:
        """Return whether a read is of the same history, and note it.

        It is not if a backup has taken the place of the cluster, whose revisions go on from there.
        """
        last, self._newest = self._newest, newest
        return (
            newest.cluster_id == last.cluster_id
            and newest.revision >= max(last.revision, self._created)
            and newest.raft_term >= last.raft_term
        )

    def created(self, state: ClusterState) -> bool:
        """Note that a watch was created; return False if its member is behind the last read."""
        if state.cluster_id != self._newest.cluster_id or state.revision < self._newest.revision:
            return False
        self._created = state.revision
        self.has_begun = True
        return True

    def untold(self, events: Iterable[KeyEvent]) -> list[bytes]:
        """Return the keys whose events were not told before, and count these as told.

        The events of one revision may come in several messages.
        """
        keys = []
        for event in events:
            if event.revision >= self._told:
                self._told = event.revision
                keys.append(event.key)
        return keys

    def is_quiet(self) -> None:
        """Note that the last watch has told nothing more for a moment."""
        self._quiet_before, self._quiet = self._quiet, self._created

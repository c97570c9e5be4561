"""AwaitedOutcomes: connected machines with meta-data that have not reported their boot. No I/O."""

from __future__ import annotations

from vmw_cloudinit_metadata.admin.machinerecord import MachineRecord

LATE_S = 900.0  # a boot takes less, with what user-data does in it


class AwaitedOutcomes:
    """Each in the order in which it had its meta-data, as far as that is known in order."""

    def __init__(self) -> None:
        self.expects_all = False  # also of machines that have never reported
        self._awaited: dict[str, tuple[float, bool]] = {}  # when; whether it has ever reported
        self._late: dict[str, bool] = {}

    def put(self, record: MachineRecord) -> None:
        """Note a connected machine, which is not noted yet."""
        if record.awaits_outcome:
            self._awaited[record.key] = record.metadata_s, record.outcome is not None

    def remove(self, record: MachineRecord) -> None:
        if self._awaited.pop(record.key, None) is None:
            self._late.pop(record.key, None)

    def count_late(self, now_s: float) -> int:
        """Return how many have had LATE_S for their boot, and are expected to report."""
        for key, (served_s, has_reported) in list(self._awaited.items()):
            if served_s > now_s - LATE_S:
                continue
            del self._awaited[key]
            self._late[key] = has_reported
        return len(self._late) if self.expects_all else sum(self._late.values())

"""CachedAnswers: the answers that can be given again, and the last good one of each VM."""

from __future__ import annotations

from operator import attrgetter

from cachetools import LRUCache

from vmw_cloudinit_metadata.protocol.vmware import Machine
from vmw_cloudinit_metadata.serving.answer import Answer

KEPT_BYTES = 256 * 1024 * 1024

_Identity = tuple[object, ...]


class CachedAnswers(LRUCache[Machine, Answer]):
    """Answers by machine, within KEPT_BYTES: beyond, the one that was used longest ago is dropped.

    One without a token cannot be given again, and is there as a last good answer only.
    """

    def __init__(self) -> None:
        super().__init__(KEPT_BYTES, getsizeof=attrgetter("size"))
        # The machine of each VM's last answer: after a power cut it may come by another host.
        self._machines: dict[_Identity, Machine] = {}

    @property
    def kept_bytes(self) -> int:
        return int(self.currsize)

    def shed(self) -> bool:
        """Drop the answer that was used longest ago; return False if there is none."""
        if not self:
            return False
        self.popitem()
        return True

    def forget(self, machine: Machine) -> None:
        """Drop the last answers to this machine, and to the VM by way of another host."""
        self.pop(machine, None)
        if last := self._machines.get(identity_of(machine)):
            self.pop(last, None)

    def last_good(self, machine: Machine) -> Answer | None:
        """Return the VM's last answer, unless the driver itself gave a last good one.

        A VM without a VC UUID has none: names may change owners.
        """
        last = self._machines.get(identity_of(machine))
        answer = None if last is None else self[last]
        return None if answer is None or answer.origin.problem else answer

    def __setitem__(self, machine: Machine, answer: Answer) -> None:
        super().__setitem__(machine, answer)
        if machine.vc_uuid:
            self._machines[identity_of(machine)] = machine

    def __delitem__(self, machine: Machine) -> None:
        super().__delitem__(machine)
        identity = identity_of(machine)
        if self._machines.get(identity) == machine:
            del self._machines[identity]


def identity_of(machine: Machine) -> _Identity:
    """Return what a driver may decide by, without what changes when a VM starts elsewhere."""
    return (
        *(machine.vc_uuid, machine.bios_uuid, machine.name),
        *(machine.service_uri, machine.direction, machine.proof),
    )

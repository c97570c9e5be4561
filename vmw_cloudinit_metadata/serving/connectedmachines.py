"""The connected VMs, and the lines of each: one line per serial port."""

from __future__ import annotations

from collections.abc import Hashable

from vmw_cloudinit_metadata.protocol.vmware import Machine


class ConnectedMachines:
    """The lines of each VC UUID and service URI, the oldest first.

    The newest of these lines counts as the VM. An older one belongs to a host that died, or to
    another VM that claims the same identity.
    """

    def __init__(self) -> None:
        self._ports: dict[str, dict[str, dict[Hashable, None]]] = {}
        self.rivals = 0  # lines that share VC UUID and service URI, beyond the first of each

    def add(self, line: Hashable, machine: Machine) -> None:
        if machine.vc_uuid:
            ports = self._ports.setdefault(machine.vc_uuid, {})
            lines = ports.setdefault(machine.service_uri, {})
            self.rivals += bool(lines)
            lines[line] = None

    def remove(self, line: Hashable, machine: Machine) -> bool:
        """Return whether it was the last line of this serial port of the machine."""
        ports = self._ports.get(machine.vc_uuid or "", {})
        lines = ports.get(machine.service_uri, {})
        if line not in lines:
            return False
        del lines[line]
        if lines:
            self.rivals -= 1
            return False
        del ports[machine.service_uri]
        if not ports:
            del self._ports[machine.vc_uuid or ""]
        return True

    def is_older(self, line: Hashable, machine: Machine) -> bool:
        """Return whether a newer line counts as this serial port of the machine."""
        return self.newest(machine) not in (line, None)

    def port_count(self, machine: Machine) -> int:
        """Return how many serial ports of the machine are connected."""
        return len(self._ports.get(machine.vc_uuid or "", ()))

    def line_count(self, machine: Machine) -> int:
        """Return how many lines have the machine's VC UUID and service URI."""
        return len(self._lines(machine))

    def newest(self, machine: Machine) -> Hashable | None:
        """Return the line that counts as this serial port of the machine."""
        return next(reversed(self._lines(machine)), None)

    def rank(self, line: Hashable, machine: Machine) -> int:
        """Return how many lines of this serial port of the machine are older."""
        return list(self._lines(machine)).index(line) if machine.vc_uuid else 0

    def _lines(self, machine: Machine) -> dict[Hashable, None]:
        return self._ports.get(machine.vc_uuid or "", {}).get(machine.service_uri, {})

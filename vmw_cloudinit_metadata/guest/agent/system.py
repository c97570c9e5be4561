"""What the kernel and the system report about this machine, or about an image below a root."""

import os
import re
import subprocess
from contextlib import suppress
from typing import List, NamedTuple

from vmw_cloudinit_metadata.guest.agent.osfiles import names_in, read_text

TTY_S = re.compile(r"ttyS\d+$")
MAX_LINKS = 40  # as Linux
NOWHERE = "/dev/null/nowhere"  # stands for the target of links that form a loop
UNIT_DIRECTORIES = ("/etc", "/run", "/usr/local/lib", "/usr/lib", "/lib")  # the first one counts


def swapped(uuid: str) -> str:
    """Return the UUID with its first three fields in the other byte order."""
    fields = uuid.split("-")
    turned = ["".join(reversed(re.findall("..", field))) for field in fields[:3]]
    return "-".join(turned + fields[3:])


def path_parts(place: str) -> List[str]:
    return [name for name in place.split("/") if name not in ("", ".")]


def link_target(path: str) -> str:
    """Return the target of a symlink, or ""."""
    try:
        return os.readlink(path)
    except OSError:
        return ""


class EthernetCard(NamedTuple):
    """A network card."""

    name: str
    mac: str


class System:
    """The system whose tree is below `root`; `/` is the running one."""

    def __init__(self, root: str) -> None:
        self.root = root

    def at(self, place: str) -> str:
        """Return the path of `place` below the root; links are followed and never lead outside."""
        if self.root == "/":
            return place
        found: List[str] = []
        pending = path_parts(place)
        links = 0
        while pending:
            found.append(pending.pop(0))
            if found[-1] == "..":
                del found[-2:]
            target = link_target(os.path.join(self.root, *found))
            if target:
                links += 1
                found = [] if target.startswith("/") else found[:-1]
                pending = path_parts(target) + pending
            if links > MAX_LINKS:
                return NOWHERE + place
        return os.path.join(self.root, *found)

    def itself(self, place: str) -> str:
        """Like `at`, but do not follow a link at the place itself."""
        above, name = os.path.split(place.rstrip("/"))
        return os.path.join(self.at(above), name)

    def device(self, place: str) -> str:
        """Return the path of a port below the root; its links may lead anywhere."""
        return os.path.join(self.root, place.lstrip("/"))

    def tty(self, device: str) -> str:
        """Return the kernel's name of a port, such as ttyS1, also if links lead to it."""
        place = device
        for _ in range(MAX_LINKS):
            target = self.leads_to(place)
            if not target or os.path.exists(self.at("/sys/class/tty/" + os.path.basename(place))):
                break
            place = os.path.join(os.path.dirname(place), target)
        return os.path.basename(place)

    def leads_to(self, place: str) -> str:
        """Return the target of a link as written, or ""."""
        return link_target(self.itself(place))

    def is_masked(self, unit: str) -> bool:
        places = [f"{at}/systemd/system/{unit}" for at in UNIT_DIRECTORIES]
        found = [place for place in places if os.path.lexists(self.itself(place))]
        return bool(found) and self._leads_to_null(found[0])

    def _leads_to_null(self, place: str) -> bool:
        """Return whether a link is a mask; systemctl writes absolute ones, people others too."""
        target = os.path.join(os.path.dirname(place), self.leads_to(place))
        return os.path.normpath(target) == "/dev/null"

    def read(self, place: str) -> str:
        return read_text(self.at(place)).strip()

    @property
    def uuid(self) -> str:
        """DMI's product UUID, or "" where it cannot be read."""
        return self.read("/sys/class/dmi/id/product_uuid").lower()

    def has_uuid(self, uuid: str) -> bool:
        """Return whether `uuid` is this machine's; newer hardware versions swap some of its bytes.

        A UUID that could not be read, now or earlier, does not indicate another machine.
        """
        return not (self.uuid and uuid) or self.uuid in (uuid, swapped(uuid))

    @property
    def is_vmware(self) -> bool:
        names = ("sys_vendor", "product_name", "bios_vendor")
        return any("vmware" in self.read("/sys/class/dmi/id/" + name).lower() for name in names)

    @property
    def consoles(self) -> List[str]:
        """Terminals of the kernel's console, such as ttyS0."""
        lines = self.read("/proc/consoles").splitlines()
        active = self.read("/sys/class/tty/console/active").split()
        return [line.split()[0] for line in lines if line.split()] + active

    @property
    def serial_ports(self) -> List[str]:
        """Names of the ports with a UART, such as ttyS1."""
        ports = filter(TTY_S.match, names_in(self.at("/sys/class/tty")))
        return sorted(filter(self.has_uart, ports), key=lambda tty: int(tty[4:]))

    def has_uart(self, tty: str) -> bool:
        return self.read(f"/sys/class/tty/{tty}/type") != "0"

    def has_getty(self, tty: str) -> bool:
        wanted = f"serial-getty@{tty}.service"
        return not self.is_masked(wanted) and any(
            wanted in names_in(self.at(f"{place}/systemd/system/{target}"))
            for place in ("/etc", "/run", "/usr/lib", "/lib")
            for target in ("getty.target.wants", "multi-user.target.wants")
        )

    def has_login(self, tty: str) -> bool:
        """Return whether the booted system has a getty on the port, as on each console."""
        is_console = tty in self.consoles and not self.is_masked(f"serial-getty@{tty}.service")
        return is_console or self.has_getty(tty)

    @property
    def cards(self) -> List[EthernetCard]:
        """Physical network cards: those of Ethernet with a device behind them."""
        base = "/sys/class/net/"
        return [
            EthernetCard(name, self.read(base + name + "/address"))
            for name in names_in(self.at(base))
            if os.path.exists(self.at(base + name + "/device"))
            and self.read(base + name + "/type") == "1"
        ]

    @property
    def has_serial_driver(self) -> bool:
        """Whether a driver has looked for UARTs, and has made its ports, with or without one."""
        return any(map(TTY_S.match, names_in(self.at("/sys/class/tty"))))

    def settle(self, limit_s: float = 20) -> None:
        """Wait until udev has given devices their drivers and names."""
        if self.root == "/":
            with suppress(OSError):
                # udevadm's directory differs; the unit's PATH is systemd's own.
                subprocess.call(["udevadm", "settle", f"--timeout={limit_s:.0f}"])  # nosec B603 B607

"""One boot of a virtual machine under QEMU, from power-on to power-off.

Uses software emulation, because a host may have /dev/kvm and still not boot a guest. The firmware
claims to be VMware's, so that the guest's own checks pass. The machine's second serial port, or its
only one, is a Unix socket.
"""

from __future__ import annotations

import secrets
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path

from tests.e2e.disk import Disk

# A boot takes 45 s on an idle machine with two cores, and three times as long on a busy one.
BOOT_LIMIT_S = 400.0
KERNEL = "root=/dev/nvme0n1 rw console=ttyS0 mitigations=off"
QEMU = (
    *("setpriv", "--pdeathsig", "KILL"),  # QEMU ends with the tests, however they end
    *("qemu-system-x86_64", "-nodefaults", "-no-user-config", "-no-reboot", "-display", "none"),
    *("-machine", "pc", "-m", "1024", "-accel", "tcg,thread=multi,tb-size=512"),
    *("-cpu", "max,-hypervisor"),
)


@dataclass(frozen=True)
class Hardware:
    uuid: str
    macs: tuple[str, ...]
    only_one_port: bool = False  # ttyS0, which is also the kernel's console
    has_dhcp: bool = False  # QEMU's, for 10.0.2.0/24, without a way out


class Machine:
    """`serial` is the socket of the metadata port, `command_line` that of the kernel."""

    def __init__(self, hardware: Hardware, disk: Disk, kernel: Path, directory: Path) -> None:
        self.serial = directory / "serial"
        self.command_line = _command_line(hardware)
        self._console = directory / "console"
        self._began_s = time.monotonic()
        self._process = subprocess.Popen(
            [
                *QEMU,
                *_firmware(hardware),
                *_disk(disk),
                *("-kernel", str(kernel), "-append", self.command_line),
                *(() if hardware.only_one_port else _port("console", f"file,path={self._console}")),
                *_port("metadata", f"socket,path={self.serial},server=on,wait=off"),
                *(argument for mac in hardware.macs for argument in _card(mac, hardware)),
            ],
            stdin=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )

    @property
    def console(self) -> str:
        return self._console.read_text(errors="replace") if self._console.exists() else ""

    def wait_for_power_off(self, limit_s: float = BOOT_LIMIT_S) -> float:
        """Return how many seconds the machine was on."""
        try:
            _, errors = self._process.communicate(timeout=limit_s)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"the machine was still on after {limit_s:g} s") from None
        assert self._process.returncode == 0, errors
        return time.monotonic() - self._began_s

    def end(self) -> None:
        if self._process.poll() is None:
            self._process.kill()
            self._process.communicate()


def _command_line(hardware: Hardware) -> str:
    """Include a random name of this boot, which identifies its proof on the disk."""
    noise = "loglevel=7" if hardware.only_one_port else "quiet systemd.show_status=0"
    return f"{KERNEL} {noise} e2e.boot={secrets.token_hex(4)}"


def _firmware(hardware: Hardware) -> tuple[str, ...]:
    names = "manufacturer=VMware,, Inc.,product=VMware7,,1"  # QEMU doubles a comma
    return ("-smbios", f"type=1,{names},uuid={hardware.uuid}")


def _disk(disk: Disk) -> tuple[str, ...]:
    """Use NVMe, which is built into Debian's cloud kernels: no initrd is needed."""
    return (
        *("-drive", f"if=none,id=disk,format=raw,cache=unsafe,file={disk.path}"),
        *("-device", "nvme,drive=disk,serial=disk"),
    )


def _port(name: str, backend: str) -> tuple[str, ...]:
    kind, _, settings = backend.partition(",")
    return (
        *("-chardev", f"{kind},id={name},{settings}"),
        *("-device", f"isa-serial,chardev={name}"),
    )


def _card(mac: str, hardware: Hardware) -> tuple[str, ...]:
    """Add a network card that is connected to nothing, or to a DHCP server only."""
    name = f"card{mac.replace(':', '')}"
    backend = "user,restrict=on" if hardware.has_dhcp else "hubport,hubid=0"
    return (
        *("-netdev", f"{backend},id={name}"),
        *("-device", f"vmxnet3,netdev={name},mac={mac}"),
    )

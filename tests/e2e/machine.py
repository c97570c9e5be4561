"""One boot of a virtual machine under QEMU, from power-on to power-off.

Software emulation: a host may have /dev/kvm and still not boot a guest. The machine says that it
is VMware's, so that the guest's own checks see what they would see there. Its second serial port,
or its only one, is a Unix socket.
"""

from __future__ import annotations

import secrets
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path

from tests.e2e.disk import Disk

# An idle machine of two cores needs 45 s; one that is busy with other work three times that.
BOOT_LIMIT_S = 400.0
KERNEL = "root=/dev/nvme0n1 rw console=ttyS0 mitigations=off"
QEMU = (
    *("setpriv", "--pdeathsig", "KILL"),  # nothing is left running, whatever becomes of the tests
    *("qemu-system-x86_64", "-nodefaults", "-no-user-config", "-no-reboot", "-display", "none"),
    *("-machine", "pc", "-m", "1024", "-accel", "tcg,thread=multi,tb-size=512"),
    *("-cpu", "max,-hypervisor"),
)


@dataclass(frozen=True)
class Hardware:
    uuid: str
    macs: tuple[str, ...]
    only_one_port: bool = False  # ttyS0, which is the kernel's console too
    has_dhcp: bool = False  # QEMU's own, which tells of 10.0.2.0/24, and leads nowhere


class Machine:
    """`serial` is the socket of the port for metadata; `command_line` is its kernel's."""

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
        """Returns how many seconds it was on."""
        try:
            _, said = self._process.communicate(timeout=limit_s)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"the machine was still on after {limit_s:g} s") from None
        assert self._process.returncode == 0, said
        return time.monotonic() - self._began_s

    def end(self) -> None:
        if self._process.poll() is None:
            self._process.kill()
            self._process.communicate()


def _command_line(hardware: Hardware) -> str:
    """With a name of this boot, so that its proof is not taken for that of another one."""
    noise = "loglevel=7" if hardware.only_one_port else "quiet systemd.show_status=0"
    return f"{KERNEL} {noise} e2e.boot={secrets.token_hex(4)}"


def _firmware(hardware: Hardware) -> tuple[str, ...]:
    names = "manufacturer=VMware,, Inc.,product=VMware7,,1"  # QEMU doubles a comma
    return ("-smbios", f"type=1,{names},uuid={hardware.uuid}")


def _disk(disk: Disk) -> tuple[str, ...]:
    """NVMe: Debian's cloud kernels have it built in, so no initrd is needed."""
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
    """A network card that is plugged in nowhere, or only to a DHCP server."""
    name = f"card{mac.replace(':', '')}"
    backend = "user,restrict=on" if hardware.has_dhcp else "hubport,hubid=0"
    return (
        *("-netdev", f"{backend},id={name}"),
        *("-device", f"vmxnet3,netdev={name},mac={mac}"),
    )

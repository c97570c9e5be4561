"""The serial port: which ones to ask on, and how to use one alone, in raw mode."""

import errno
import fcntl
import os
import select
import termios
import time
from contextlib import suppress
from typing import Any, List, Optional, Sequence

from vmw_cloudinit_metadata.guest.agent.conf import CONFIG
from vmw_cloudinit_metadata.guest.agent.failures import (
    AgentError,
    NoPort,
    PortLost,
    PortMissing,
)
from vmw_cloudinit_metadata.guest.agent.port import GuestPort
from vmw_cloudinit_metadata.guest.agent.system import System

WRITE_S = 1.0
WHEN_OPENED = {
    errno.EBUSY: PortLost,  # another's TIOCEXCL
    errno.ENOENT: PortMissing,
    errno.ENXIO: PortMissing,  # the next two: a node whose driver is not there yet
    errno.ENODEV: PortMissing,
}

NO_PORT = "this machine has no serial port: add one to the VM"
CONSOLE_ONLY = (
    "the only serial port, %s, is the console: add a second serial port to the VM, "
    "or set `device = /dev/%s` in " + CONFIG + " to share it with kernel messages"
)
NONE_FREE = (
    "every serial port (%s) is a console or has a getty: add another port to the VM, mask a "
    "getty, or set `device` in " + CONFIG
)


def find_ports(system: System, device: Optional[str]) -> List[str]:
    """Return the ports to ask on, such as /dev/ttyS1; raise NoPort."""
    if device:
        if not system.has_uart(system.tty(device)):
            raise NoPort(f"{device} has no UART: does the VM have this serial port?")
        return [device]
    ports = system.serial_ports
    free = [tty for tty in ports if tty not in system.consoles and not system.has_getty(tty)]
    if free:
        return ["/dev/" + tty for tty in free]
    if len(ports) == 1 and ports[0] in system.consoles:
        raise NoPort(CONSOLE_ONLY % (ports[0], ports[0]))
    if ports:
        raise NoPort(NONE_FREE % ", ".join(ports))
    raise NoPort(NO_PORT) if system.has_serial_driver else PortMissing(NO_PORT)


class SerialPort(GuestPort):
    """A serial port in raw mode, locked against other programs."""

    def __init__(self, device: str, place: str, is_shared: bool) -> None:
        """Raise NoPort, or PortLost if opening it may work later.

        A port that is shared, with a console or a getty, gets its attributes back in the end.
        """
        super().__init__(device)
        self._restore = is_shared
        flags = os.O_RDWR | os.O_NOCTTY | os.O_NONBLOCK | os.O_CLOEXEC
        try:
            self.descriptor = os.open(place, flags)
        except OSError as error:
            kind = WHEN_OPENED.get(error.errno or 0, NoPort)
            raise kind(f"{device}: {error.strerror}") from None
        try:
            self._claim()
        except AgentError:
            os.close(self.descriptor)
            raise

    def _claim(self) -> None:
        try:
            self._found = termios.tcgetattr(self.descriptor)
        except (termios.error, OSError) as error:
            reasons = {errno.EIO: "no UART", errno.ENOTTY: "not a serial port"}
            reason = reasons.get(error.args[0], error.args[-1])
            raise NoPort(f"{self.device}: {reason}") from None
        try:
            fcntl.flock(self.descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            termios.tcsetattr(self.descriptor, termios.TCSANOW, raw_mode(self._found))
            fcntl.ioctl(self.descriptor, termios.TIOCEXCL)
            termios.tcflush(self.descriptor, termios.TCIOFLUSH)
        except BlockingIOError:
            raise PortLost(f"{self.device} is in use by another program") from None
        except (termios.error, OSError) as error:
            raise PortLost(f"{self.device}: {error.args[-1]}") from None

    def fileno(self) -> int:
        return self.descriptor

    def read(self) -> bytes:
        try:
            data = os.read(self.descriptor, 65536)
        except BlockingIOError:
            return b""
        except OSError as error:
            raise PortLost(f"{self.device}: {error.strerror}") from None
        if not data:
            raise PortLost(f"{self.device} was hung up")
        return data

    def write(self, data: bytes) -> None:
        end_s = time.monotonic() + WRITE_S
        while data and time.monotonic() < end_s:
            try:
                data = data[os.write(self.descriptor, data) :]
            except BlockingIOError:
                select.select([], [self.descriptor], [], max(end_s - time.monotonic(), 0))
            except OSError as error:
                raise PortLost(f"{self.device}: {error.strerror}") from None

    def close(self) -> None:
        with suppress(termios.error, OSError):
            fcntl.ioctl(self.descriptor, termios.TIOCNXCL)
            if self._restore:
                self._found[2] &= ~termios.HUPCL  # otherwise closing it drops the line
                termios.tcsetattr(self.descriptor, termios.TCSANOW, self._found)
        os.close(self.descriptor)


def raw_mode(found: Sequence[Any]) -> List[Any]:
    """Return attributes for 8 bits, without echo, editing, flow control or hang-up on close."""
    characters = list(found[6])
    characters[termios.VMIN], characters[termios.VTIME] = 1, 0
    control = termios.CS8 | termios.CREAD | termios.CLOCAL
    return [termios.IGNBRK, 0, control, 0, termios.B115200, termios.B115200, characters]


def wait_for(ports: Sequence[Any], limit_s: float) -> List[Any]:
    """Return the ports that can be read, after at most `limit_s`."""
    ready, _, _ = select.select(ports, [], [], max(limit_s, 0))
    return ready


def open_ports(system: System, devices: Sequence[str]) -> List[SerialPort]:
    """Open as many as possible; raise the last failure if none can be opened."""
    ports = []
    failure: AgentError = NoPort(NO_PORT)
    for device in devices:
        tty = system.tty(device)
        is_shared = tty in system.consoles or system.has_getty(tty)
        try:
            ports.append(SerialPort(device, system.device(device), is_shared))
        except AgentError as error:
            failure = error
    if not ports:
        raise failure
    return ports

"""The serial ports of Windows, through pyserial."""

import sys
import time
from typing import Any, Callable, Iterable, List, Optional, Sequence

import serial

from vmw_cloudinit_metadata.guest.agent.failures import AgentError, NoPort, PortLost
from vmw_cloudinit_metadata.guest.agent.port import GuestPort
from vmw_cloudinit_metadata.guest.agent.printing import printable

BAUD = 115200
BUFFER_BYTES = 65536  # Windows keeps 4,096 by default: 0.3 s of a line of this speed
READ_BYTES = 65536
WRITE_S = 1.0
LOOK_S = 0.01  # between two looks at the ports, which cannot be waited for together

ListPorts = Callable[[], Iterable[Any]]  # as serial.tools.list_ports.comports

NO_PORT = "this machine has no serial port: add one to the VM"
LOGS_TO_PORT = (
    "cloudbase-init itself logs to %s: remove logging_serial_port_settings from its configuration, "
    "or add a second serial port to the VM and set port in [vmwmetadata]"
)


class ComPort(GuestPort):
    """A serial port that no other program can open."""

    def __init__(self, device: str) -> None:
        """Raise PortLost: another program may have opened the port, and may close it."""
        super().__init__(device)
        try:
            self._serial = serial.Serial(device, BAUD, timeout=0, write_timeout=WRITE_S)
            if sys.platform == "win32":
                self._serial.set_buffer_size(rx_size=BUFFER_BYTES)
        except (OSError, ValueError) as error:
            raise PortLost(f"{device} cannot be opened: {printable(error)}") from None

    @property
    def has_data(self) -> bool:
        """Return whether `read` has something to return or to raise."""
        try:
            return bool(self._serial.in_waiting)
        except OSError:
            return True

    def read(self) -> bytes:
        try:
            return bytes(self._serial.read(READ_BYTES))
        except OSError as error:
            raise PortLost(f"{self.device} was lost: {printable(error)}") from None

    def write(self, data: bytes) -> None:
        try:
            self._serial.write(data)
        except serial.SerialTimeoutException:
            return  # the host takes nothing at present: the request is repeated
        except OSError as error:
            raise PortLost(f"{self.device} was lost: {printable(error)}") from None

    def close(self) -> None:
        self._serial.close()


def wait_for(ports: Sequence[Any], limit_s: float) -> List[Any]:
    """Return the ports that can be read, after at most `limit_s`."""
    end_s = time.monotonic() + limit_s
    while True:
        ready = [port for port in ports if port.has_data]
        left_s = end_s - time.monotonic()
        if ready or left_s <= 0:
            return ready
        time.sleep(min(LOOK_S, left_s))


def find_ports(list_ports: ListPorts, port: Optional[str], log_port: Optional[str]) -> List[str]:
    """Return the ports to ask on, such as COM1; raise NoPort.

    `port` is the one that is set, `log_port` the one that cloudbase-init writes its log to.
    """
    names = [port] if port else sorted(found.device for found in list_ports())
    free = [name for name in names if not is_same(name, log_port)]
    if free:
        return free
    raise NoPort(LOGS_TO_PORT % printable(log_port) if names else NO_PORT)


def is_same(port: str, other: Optional[str]) -> bool:
    r"""Return whether both are one port: COM1, com1 and \\.\COM1 are."""
    return other is not None and plain(port) == plain(other)


def plain(port: str) -> str:
    return port.strip().upper().replace("\\\\.\\", "", 1)


def open_ports(devices: Iterable[str]) -> List[GuestPort]:
    """Open as many as possible; raise the last failure if none can be opened."""
    ports: List[GuestPort] = []
    failure: AgentError = NoPort(NO_PORT)
    for device in devices:
        try:
            ports.append(ComPort(device))
        except PortLost as error:
            failure = error
    if not ports:
        raise failure
    return ports

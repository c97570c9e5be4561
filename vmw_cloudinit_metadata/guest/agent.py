#!/usr/bin/env python3
"""The agent in the guest: fetches cloud-init's NoCloud seed over a VMware virtual serial port.

It is copied into an image as this one file: standard library only, Python 3.6 or later. It runs
before cloud-init, publishes the seed whole or not at all, and never fails a boot because a port or
a server is missing. docs/agent.md tells how it decides.
"""

import argparse
import base64
import binascii
import configparser
import difflib
import errno
import fcntl
import hashlib
import itertools
import json
import os
import re
import select
import shutil
import signal
import socket
import stat
import subprocess
import sys
import termios
import time
from contextlib import contextmanager, suppress
from typing import (
    Any,
    Callable,
    Dict,
    Iterable,
    Iterator,
    List,
    NamedTuple,
    Optional,
    Sequence,
    Tuple,
)

NAME = "vmw-metadata-agent"
AGENT = "/usr/libexec/vmw-metadata-agent"
CONFIG = "/etc/vmw-metadata-agent.conf"
SEED_DIR = "/var/lib/cloud/seed/nocloud"
UNIT = "vmw-metadata-agent.service"

QUIET_S = 0.2  # bytes queued on the host arrive late: so long a line must be silent to be empty
SOON_S = 0.1  # to the first question anew after a damaged answer; then twice as long, and so on
DRAIN_S = 2.0  # a line that is never quiet is used as it is
WRITE_S = 1.0
MAX_LINE_BYTES = 8 * 1024 * 1024
MAX_NOISE_BYTES = 4096  # of a line in which no answer has begun
MAX_TOLD_CHARS = 200
MAX_FILE_BYTES = 8 * 1024 * 1024  # of a file that is read; no document is longer than its line
MAX_LINKS = 40  # as Linux
MAX_CONFIG_LINE_CHARS = 8192  # configparser takes the square of it
MAX_CONFIG_FAULTS = 100  # each is looked for in the file again

EPILOG = """\
exit codes:
  0  the boot can go on: the seed is published, unchanged or kept, or there is nothing to ask
  1  the seed could not be written; --check found something; --dry-run got no data
  2  the command line is wrong
  143, 130  it was stopped (SIGTERM, SIGINT); the seed is the old one, or the new one

Each option but --config, --root, --check, --dry-run and --force can stand in the section [agent]
of the configuration file, under the same name: `first-boot-timeout = 60`.
"""


# What went wrong


class AgentError(Exception):
    """Base class; its text is a line for people."""


class NoPort(AgentError):
    """There is no serial port to ask, and there will be none."""


class PortLost(AgentError):
    """The port was there, and went away, or is in use."""


class Refused(AgentError):
    """The server says RESPONSE_ERROR."""

    def __init__(self, error: str, message: str) -> None:
        super().__init__(f"the server says {error}: {message}")
        self.error = error


class Unusable(AgentError):
    """The answers are no seed: they do not belong together, or cloud-init could not read them."""


class GaveUp(AgentError):
    """The data did not come in time."""


# Words for people


def printable(text: object) -> str:
    """On one line, ASCII, short: what others wrote is safe for consoles and journals."""
    clean = re.sub(r"[^ -~]", "?", str(text))
    return clean if len(clean) <= MAX_TOLD_CHARS else clean[:MAX_TOLD_CHARS] + "..."


class Teller:
    """Tells the journal (standard error), and the console of the machine."""

    def __init__(self, console: str) -> None:
        self._console = console

    def journal(self, line: object) -> None:
        with suppress(OSError):
            sys.stderr.write(f"{line}\n")
            sys.stderr.flush()

    def both(self, line: object) -> None:
        self.journal(line)
        with suppress(OSError):
            flags = os.O_WRONLY | os.O_APPEND | os.O_NOCTTY | os.O_NONBLOCK
            descriptor = os.open(self._console, flags)
            try:
                os.write(descriptor, (f"{NAME}: {line}\r\n").encode("ascii", "replace"))
            finally:
                os.close(descriptor)


# Files


def read_file(path: str) -> bytes:
    """The content of a regular file of a bounded size; raises OSError. A pipe is not waited for."""
    flags = os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
    with open(path, "rb", opener=lambda name, _: os.open(name, flags)) as file:
        if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
            raise OSError(errno.EINVAL, "it is no regular file", path)
        content = file.read(MAX_FILE_BYTES + 1)
    if len(content) > MAX_FILE_BYTES:
        raise OSError(errno.EFBIG, os.strerror(errno.EFBIG), path)
    return content


def read_text(path: str) -> str:
    """The text of a small file, or nothing where there is none."""
    try:
        return read_file(path).decode("utf-8", "replace")
    except OSError:
        return ""


def names_in(directory: str) -> List[str]:
    try:
        return sorted(os.listdir(directory))
    except OSError:
        return []


def remove(path: str) -> None:
    """A file, a symlink or a tree, if it is there."""
    if os.path.isdir(path) and not os.path.islink(path):
        shutil.rmtree(path)
    elif os.path.lexists(path):
        os.unlink(path)


def sync_directory(path: str) -> None:
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_file(path: str, content: bytes) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        while content:
            content = content[os.write(descriptor, content) :]
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def exchange(one: str, other: str) -> bool:
    """Swaps two names at one instant; False where system or file system cannot."""
    try:
        import ctypes

        swap = ctypes.CDLL(None).renameat2
    except (ImportError, OSError, AttributeError):
        return False
    at_cwd, exchange_flag = -100, 2
    return bool(swap(at_cwd, os.fsencode(one), at_cwd, os.fsencode(other), exchange_flag) == 0)


# Settings


def seconds(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 <= value < 1e9:
        raise ValueError("a number of seconds, such as 300")
    return value


def pause(text: str) -> float:
    value = seconds(text)
    if value < 0.1:
        raise ValueError("a number of seconds from 0.1 on, such as 4")
    return value


def yes_or_no(text: str) -> bool:
    value = configparser.ConfigParser.BOOLEAN_STATES.get(text.lower())
    if value is None:
        raise ValueError("yes or no")
    return value


def path(text: str) -> str:
    if not text.startswith("/") or not text.strip("/") or "\0" in text:
        raise ValueError("a path that begins with /")
    return text


def one_of(*words: str) -> Callable[[str], str]:
    def read(text: str) -> str:
        if text not in words:
            raise ValueError(" or ".join(words))
        return text

    return read


class Setting(NamedTuple):
    name: str
    default: Any
    read: Callable[[str], Any]  # raises ValueError with what is expected
    values: str  # what --help shows
    help: str


SETTINGS = (
    Setting("device", None, path, "PATH", "the serial port; without it each free one is asked"),
    Setting("seed-dir", SEED_DIR, path, "DIR", f"where the seed is published ({SEED_DIR})"),
    Setting("timeout", None, seconds, "SECONDS", "for both of the next two"),
    Setting("first-boot-timeout", 300.0, seconds, "SECONDS", "wait so long without a seed (300)"),
    Setting("later-boot-timeout", 15.0, seconds, "SECONDS", "wait so long, keep the seed (15)"),
    Setting("not-found-timeout", 120.0, seconds, "SECONDS", "without a seed, ask again so long "
            "after the first not-found (120)"),
    Setting("silence-timeout", 15.0, seconds, "SECONDS", "an answer that is coming may pause so "
            "long, whatever the waits above say (15)"),
    Setting("longest-wait", 600.0, seconds, "SECONDS", "the end of every wait (600)"),
    Setting("retry", 4.0, pause, "SECONDS", "ask again after such a silence, or an error (4)"),
    Setting("on-failure", "continue", one_of("continue", "hold"), "continue|hold", "without data "
            "and without a seed, continue, or hold the boot until there is data (continue)"),
    Setting("keep-instance-id", False, yes_or_no, "yes|no", "hold the instance-id that this "
            "machine has (no)"),
    Setting("gate", "vmware", one_of("vmware", "off"), "vmware|off", "vmware: ask on machines of "
            "VMware only, unless a device is given; off: on each machine (vmware)"),
)  # fmt: skip

Settings = Dict[str, Any]


def defaults() -> Settings:
    return {setting.name: setting.default for setting in SETTINGS}


def line_of(pattern: str, text: str) -> int:
    for number, line in enumerate(text.splitlines(), 1):
        if re.match(pattern, line, re.IGNORECASE):
            return number
    return 1


def read_config(place: str, is_needed: bool = False) -> Tuple[Settings, List[str]]:
    """What a configuration file sets, and its faults; a key that is wrong has no effect."""
    try:
        text = read_file(place).decode("utf-8", "replace")
    except OSError as error:
        is_fault = is_needed or error.errno != errno.ENOENT
        return {}, [f"{place}: cannot be read: {error.strerror}"] if is_fault else []
    longest = max(map(len, text.splitlines()), default=0)
    if longest > MAX_CONFIG_LINE_CHARS:
        return {}, [f"{place}: nothing of this file is used: it has a line of {longest} characters"]
    parser = configparser.ConfigParser(
        interpolation=None,
        strict=False,
        inline_comment_prefixes=("#",),
        default_section="",  # no section has that name
    )
    try:
        parser.read_string(text, place)
    except configparser.Error as error:
        return {}, [f"nothing of this file is used: {printable(error)}"]
    settings = {}  # type: Settings
    faults = []
    for section in parser.sections()[:MAX_CONFIG_FAULTS]:
        if section != "agent":
            where = line_of(rf"\s*\[{re.escape(section)}\]", text)
            faults.append(f"{place}:{where}: found [{printable(section)}], expected [agent]")
    for key, value in parser["agent"].items() if "agent" in parser else ():
        try:
            settings[key] = read_setting(key, value)
        except ValueError as error:
            where = line_of(rf"\s*{re.escape(key)}\s*[=:]", text)
            faults.append(f"{place}:{where}: {error}")
            if len(faults) > MAX_CONFIG_FAULTS:
                faults.append(f"{place}: too many faults: the rest of this file is not used")
                break
    return settings, faults


def read_setting(key: str, value: str) -> Any:
    """Raises ValueError with a line for people."""
    known = {setting.name: setting for setting in SETTINGS}
    if key not in known:
        near = difflib.get_close_matches(key, known, 1, 0.4)
        meant = f"did you mean {near[0]}?" if near else "expected one of " + ", ".join(known)
        raise ValueError(f"unknown key {printable(key)}: {meant}")
    try:
        return known[key].read(value)
    except ValueError as error:
        raise ValueError(f"{key}: found {printable(repr(value))}, expected {error}") from None


# This machine


def swapped(uuid: str) -> str:
    """The same UUID with its first three fields in the other byte order."""
    fields = uuid.split("-")
    turned = ["".join(reversed(re.findall("..", field))) for field in fields[:3]]
    return "-".join(turned + fields[3:])


NOWHERE = "/dev/null/nowhere"  # where links end that go round in circles


def names_of(place: str) -> List[str]:
    return [name for name in place.split("/") if name not in ("", ".")]


def link_target(path: str) -> str:
    try:
        return os.readlink(path)
    except OSError:
        return ""


class Card(NamedTuple):
    """A network card."""

    name: str
    mac: str


class Machine:
    """What kernel and system say of this machine, below `root`."""

    def __init__(self, root: str) -> None:
        self.root = root

    def at(self, place: str) -> str:
        """Where that is: links lead where the tree's own system sees them, never out of it."""
        if self.root == "/":
            return place
        found, pending, links = [], names_of(place), 0  # type: List[str], List[str], int
        while pending:
            found.append(pending.pop(0))
            if found[-1] == "..":
                del found[-2:]
            target = link_target(os.path.join(self.root, *found))
            if target:
                links += 1
                found = [] if target.startswith("/") else found[:-1]
                pending = names_of(target) + pending
            if links > MAX_LINKS:
                return NOWHERE + place
        return os.path.join(self.root, *found)

    def itself(self, place: str) -> str:
        """The same, but a link at the place itself is not followed."""
        above, name = os.path.split(place.rstrip("/"))
        return os.path.join(self.at(above), name)

    def device(self, place: str) -> str:
        """A port: below the root, and wherever links lead from there."""
        return os.path.join(self.root, place.lstrip("/"))

    def leads_to(self, place: str) -> str:
        """Where a link points to, as it is written; or nothing."""
        return link_target(self.itself(place))

    def is_masked(self, unit: str) -> bool:
        places = ("/etc", "/run")
        return any(self.leads_to(f"{at}/systemd/system/{unit}") == "/dev/null" for at in places)

    def read(self, place: str) -> str:
        return read_text(self.at(place)).strip()

    @property
    def uuid(self) -> str:
        """DMI's product UUID, or nothing where it cannot be read."""
        return self.read("/sys/class/dmi/id/product_uuid").lower()

    def is_the_one(self, uuid: str) -> bool:
        """Whether `uuid` was this machine's; a later hardware version turns bytes around.

        One that could not be read, now or then, is no sign of another machine.
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
        ports = [tty for tty in names_in(self.at("/sys/class/tty")) if re.match(r"ttyS\d+$", tty)]
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

    @property
    def cards(self) -> List[Card]:
        """Real network cards: with a device behind them, and of Ethernet."""
        base = "/sys/class/net/"
        return [
            Card(name, self.read(base + name + "/address"))
            for name in names_in(self.at(base))
            if os.path.exists(self.at(base + name + "/device"))
            and self.read(base + name + "/type") == "1"
        ]

    def settle(self) -> None:
        """Waits until network cards have their drivers and their names."""
        if self.root == "/":
            with suppress(OSError):
                # Where udevadm is differs; the unit's PATH is systemd's own.
                subprocess.call(["udevadm", "settle", "--timeout=20"])  # nosec B603 B607


# Which port


NO_PORT = "this machine has no serial port: add one to the VM"
CONSOLE_ONLY = (
    "the only serial port, %s, is the console: add a second serial port to the VM, "
    "or set `device = /dev/%s` in " + CONFIG + " to use it in spite of the kernel's messages"
)
NONE_FREE = (
    "each serial port (%s) is a console or has a getty: add another one to the VM, mask a getty, "
    "or set `device` in " + CONFIG
)


FOUND_BY_ITSELF = (
    "warning: no device is set, so the first port that answers is believed, and what it says is "
    "done as root: set `device = {}` in " + CONFIG
)


def find_ports(machine: Machine, device: Optional[str]) -> List[str]:
    """The ports to ask, such as /dev/ttyS1; raises NoPort."""
    if device:
        tty = os.path.basename(device)
        if not machine.has_uart(tty):
            raise NoPort(f"{device} has no UART behind it: is the serial port in the VM?")
        return [device]
    there = machine.serial_ports
    free = [tty for tty in there if tty not in machine.consoles and not machine.has_getty(tty)]
    if free:
        return ["/dev/" + tty for tty in free]
    if len(there) == 1 and there[0] in machine.consoles:
        raise NoPort(CONSOLE_ONLY % (there[0], there[0]))
    if there:
        raise NoPort(NONE_FREE % ", ".join(there))
    raise NoPort(NO_PORT)


# The port


class Port:
    """A serial port in raw mode, for this program alone."""

    def __init__(self, device: str, place: str, is_console: bool) -> None:
        """Raises NoPort, or PortLost where it may work later."""
        self.device = device
        self.lines = LineReader()
        self._restore = is_console
        flags = os.O_RDWR | os.O_NOCTTY | os.O_NONBLOCK | os.O_CLOEXEC
        try:
            self.descriptor = os.open(place, flags)
        except OSError as error:
            kind = PortLost if error.errno == errno.EBUSY else NoPort  # busy: TIOCEXCL of another
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
            reasons = {errno.EIO: "no UART behind it", errno.ENOTTY: "no serial port"}
            reason = reasons.get(error.args[0], error.args[-1])
            raise NoPort(f"{self.device}: {reason}") from None
        try:
            fcntl.flock(self.descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            termios.tcsetattr(self.descriptor, termios.TCSANOW, raw(self._found))
            fcntl.ioctl(self.descriptor, termios.TIOCEXCL)
            termios.tcflush(self.descriptor, termios.TCIOFLUSH)
        except BlockingIOError:
            raise PortLost(f"{self.device} is in use by another program") from None
        except (termios.error, OSError) as error:
            raise PortLost(f"{self.device}: {error.args[-1]}") from None

    def drain(self) -> None:
        """Drops what arrives until the line is quiet."""
        end_s = time.monotonic() + DRAIN_S
        while time.monotonic() < end_s and wait_for([self], QUIET_S):
            self.read()
        self.lines.forget()

    def read(self) -> bytes:
        """What has arrived, maybe nothing; raises PortLost."""
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
        """All of it, or as much as the port takes in a second; raises PortLost."""
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
                self._found[2] &= ~termios.HUPCL  # else closing it drops the line
                termios.tcsetattr(self.descriptor, termios.TCSANOW, self._found)
        os.close(self.descriptor)


def raw(found: Sequence[Any]) -> List[Any]:
    """8 bits, no echo, no editing, no flow control, and no hang-up on close."""
    characters = list(found[6])
    characters[termios.VMIN], characters[termios.VTIME] = 1, 0
    control = termios.CS8 | termios.CREAD | termios.CLOCAL
    return [termios.IGNBRK, 0, control, 0, termios.B115200, termios.B115200, characters]


def wait_for(ports: Sequence[Port], limit_s: float) -> List[Port]:
    """The ports that have something to read, after at most `limit_s`."""
    by_descriptor = {port.descriptor: port for port in ports}
    ready, _, _ = select.select(list(by_descriptor), [], [], max(limit_s, 0))
    return [by_descriptor[descriptor] for descriptor in ready]


# The line protocol: one packet a line, `!!` CODE `#` BASE64


LINE_END = re.compile(rb"[\r\n]")
BEGIN = b"!!RESPONSE_"
ANSWER = re.compile(rb"!!RESPONSE_([A-Z_]{1,64})#(.*)", re.DOTALL)


Documents = Dict[str, bytes]  # by the protocol's names, such as METADATA


class Answer(NamedTuple):
    name: str
    body: Optional[bytes]  # None: noise has damaged it


def request(name: str) -> bytes:
    return b"!!REQUEST_%s#\n" % name.encode()


def parse(line: bytes) -> Optional[Answer]:
    """The answer on a line, or None. In a noisy line it begins at the last `!!RESPONSE_`."""
    match = ANSWER.match(line[max(line.rfind(BEGIN), 0) :])
    if not match:
        return None
    return Answer(match.group(1).decode(), decode(match.group(2).rstrip(b" \t\0")))


def decode(text: bytes) -> Optional[bytes]:
    """Base64, and nothing that only looks like it."""
    try:
        body = base64.b64decode(text, validate=True)
    except binascii.Error:
        return None
    return body if base64.b64encode(body) == text else None


class LineReader:
    """Cuts a stream into lines, bounded; `noise` counts what was no answer."""

    def __init__(self) -> None:
        self._line = bytearray()
        self._dropping = False
        self.noise = 0

    @property
    def in_answer(self) -> bool:
        return BEGIN in self._line

    def receive(self, data: bytes) -> List[Answer]:
        """The answers that `data` completes."""
        *ended, tail = LINE_END.split(data)
        answers = [self._end(piece) for piece in ended]
        self._extend(tail)
        return [answer for answer in answers if answer]

    def _end(self, piece: bytes) -> Optional[Answer]:
        self._extend(piece)
        line, dropped = bytes(self._line), self._dropping
        self.forget()
        answer = None if dropped else parse(line)
        if dropped or (line and (answer is None or answer.body is None)):
            self.noise += 1
        return answer

    def forget(self) -> None:
        """What has come of the line so far is nothing."""
        self._line.clear()
        self._dropping = False

    def _extend(self, piece: bytes) -> None:
        if self._dropping:
            return
        self._line += piece
        if len(self._line) > MAX_LINE_BYTES:
            self._line.clear()
            self._dropping = True
        elif len(self._line) > MAX_NOISE_BYTES and not self.in_answer:
            del self._line[: -len(BEGIN)]


# Patience: how long to wait


class Patience:
    """Until when it is asked anew; and until when an answer that is coming is waited for."""

    def __init__(self, wait_s: float, settings: Settings, hold: bool) -> None:
        self._silence_s = settings["silence-timeout"]  # type: float
        now_s = time.monotonic()
        self._longest_s = now_s + settings["longest-wait"]  # type: float
        self._end_s = min(now_s + wait_s, self._longest_s)  # type: float
        if hold:
            self._longest_s = self._end_s = float("inf")
        self._answer_s = self._end_s

    def progress(self) -> None:
        """An answer is coming: it gets its time, also beyond the end."""
        later_s = time.monotonic() + self._silence_s
        self._answer_s = min(max(self._end_s, later_s), self._longest_s)

    @property
    def left_s(self) -> float:
        """For questions."""
        return max(self._end_s - time.monotonic(), 0.0)

    @property
    def answer_left_s(self) -> float:
        return max(self._answer_s - time.monotonic(), 0.0)

    @property
    def is_over(self) -> bool:
        return self.left_s <= 0


# The dialogue with the server


class Dialogue:
    """Asks on all ports at once until one of them answers; then on that one."""

    def __init__(self, ports: List[Port], patience: Patience, retry_s: float, tell: Teller) -> None:
        self.ports = ports
        self._patience = patience
        self._retry_s = retry_s
        self._tell = tell
        self._wanted = ""
        self.heard = {}  # type: Documents
        self._damaged = False

    @property
    def noise(self) -> int:
        return sum(port.lines.noise for port in self.ports)

    @property
    def where(self) -> str:
        return ", ".join(port.device for port in self.ports)

    def ask(self, name: str, also: str = "") -> bytes:
        """A document by its name; raises Refused, PortLost or GaveUp.

        Behind it `also` is asked for, and not waited for. Answers come in the order of requests, so
        it is in `heard` when the next document is there; or the server does not know it.
        """
        self.heard.pop(name, None)
        self._wanted = name
        for attempt in itertools.count():
            with_also = also and attempt % 2 == 0  # an old server may close on what it knows not
            text = request(name) + (request(also) if with_also else b"")
            self._write(b"\n" + text if attempt else text)
            if self._listen(attempt):
                break
            self._say_again()
        return self.heard[name]

    def _say_again(self) -> None:
        if self._patience.is_over:
            raise GaveUp(f"no answer on {self.where}")
        extend_start()
        told = "no good answer to REQUEST_{} on {}: asking again"
        self._tell.both(told.format(self._wanted, self.where))

    def _write(self, text: bytes) -> None:
        for port in list(self.ports):
            with self._losing(port):
                port.write(text)

    @contextmanager
    def _losing(self, port: Port) -> Iterator[None]:
        """A port that goes away is no loss while there are others; else raises PortLost."""
        try:
            yield
        except PortLost:
            if self.ports == [port]:
                raise
            port.close()
            self.ports.remove(port)

    def _listen(self, attempt: int) -> bool:
        """False after a silence, and soon after an answer that noise has damaged."""
        self._damaged = False
        end_s = time.monotonic() + self._retry_s
        while self._wanted not in self.heard and not self._damaged:
            left_s = self._patience.answer_left_s
            if not self._patience.is_over:  # then there is time to ask again
                left_s = min(left_s, end_s - time.monotonic())
            if left_s <= 0:
                return False
            heard = [self._hear(port) for port in wait_for(self.ports, left_s)]
            if any(heard):
                self._patience.progress()
                end_s = time.monotonic() + self._retry_s
        if self._damaged:
            self.wait(soon(attempt, self._retry_s))
        return not self._damaged

    def _hear(self, port: Port) -> bool:
        """Takes in what has arrived; true if it is of an answer."""
        if port not in self.ports:  # another one has just answered
            return False
        data = b""
        with self._losing(port):
            data = port.read()
        answers = port.lines.receive(data)
        for answer in answers:
            self._take(port, answer)
        return bool(answers) or port.lines.in_answer

    def _take(self, port: Port, answer: Answer) -> None:
        if answer.body is None:
            self._damaged = self._damaged or answer.name == self._wanted
            return
        self._keep_only(port)
        if answer.name == "ERROR":
            refusal = parse_error(answer.body, self._wanted)
            if refusal:
                raise refusal
        elif answer.name in KINDS:
            self.heard[answer.name] = answer.body

    def _keep_only(self, port: Port) -> None:
        for other in self.ports:
            if other is not port:
                other.close()
        self.ports[:] = [port]

    def drain(self) -> None:
        """Drops what waited on the host, until the lines are quiet."""
        for port in list(self.ports):
            with self._losing(port):
                port.drain()

    def wait(self, pause_s: float) -> None:
        """Lets time pass, and drops what arrives meanwhile."""
        end_s = time.monotonic() + min(pause_s, self._patience.left_s)
        while time.monotonic() < end_s:
            for port in wait_for(self.ports, end_s - time.monotonic()):
                with self._losing(port):
                    port.read()
        for port in self.ports:
            port.lines.forget()


def soon(attempt: int, retry_s: float) -> float:
    """How long to wait after a damaged answer: first a moment, in the end as after a silence."""
    return min(SOON_S * (1 << min(attempt, 10)), retry_s)


def parse_error(body: bytes, name: str) -> Optional[Refused]:
    """What RESPONSE_ERROR says about the request for `name`, or None."""
    try:
        told = load_json(body.decode())
        request, error, message = told["request"], told["error"], told.get("message", "")
    except (ValueError, TypeError, KeyError, AttributeError):
        return None
    return Refused(printable(error), printable(message)) if request == "REQUEST_" + name else None


def extend_start() -> None:
    """Tells systemd that this start goes on, where it listens."""
    address = os.environ.get("NOTIFY_SOCKET", "")
    if address[:1] not in ("/", "@"):
        return
    with suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        place = "\0" + address[1:] if address[0] == "@" else address
        sock.sendto(b"EXTEND_TIMEOUT_USEC=120000000", place)


# The documents: what the server says, read until it belongs together


FILES = {
    "METADATA": "meta-data",
    "NETWORKDATA": "network-config",
    "USERDATA": "user-data",
    "VENDORDATA": "vendor-data",
}
KINDS = {*FILES, "DIGEST"}
NEEDED = ("meta-data", "user-data")  # cloud-init takes no seed without them; user-data may be empty


class Reader:
    """Reads a set of documents; remembers the last one that could not be checked."""

    def __init__(self) -> None:
        self._unchecked = None  # type: Optional[Documents]

    def read(self, dialogue: Dialogue) -> Documents:
        """Raises Unusable if what came does not belong together, and what `ask` raises."""
        noise_before = dialogue.noise
        dialogue.heard.clear()
        documents = {
            "METADATA": dialogue.ask("METADATA", also="DIGEST"),
            "NETWORKDATA": ask_for(dialogue, "NETWORKDATA", also="DIGEST"),  # noise may hit one
            "USERDATA": ask_for(dialogue, "USERDATA"),
        }
        digest = parse_digest(dialogue.heard.get("DIGEST"))
        if digest is None:
            if dialogue.ask("METADATA") != documents["METADATA"]:
                raise Unusable("the data changed while it was read")
            return self._believe(documents, dialogue.noise != noise_before)
        if "VENDORDATA" in digest:
            documents["VENDORDATA"] = ask_for(dialogue, "VENDORDATA")
        return checked(documents, digest)

    def _believe(self, documents: Documents, noisy: bool) -> Documents:
        """An old server gives no digest: what came over a noisy line has to come twice."""
        if noisy and documents != self._unchecked:
            self._unchecked = documents
            raise Unusable("the line is noisy and the server has no digest")
        return documents


def ask_for(dialogue: Dialogue, name: str, also: str = "") -> bytes:
    """A document, empty if there is none."""
    try:
        return dialogue.ask(name, also)
    except Refused as refused:
        if refused.error == "unknown-request":
            return b""
        raise


def parse_digest(body: Optional[bytes]) -> Optional[Dict[str, Any]]:
    """What each document must be: {"METADATA": {"length": 412, "sha256": "..."}}, or None."""
    try:
        digest = load_json((body or b"").decode())
    except ValueError:
        return None
    return digest if isinstance(digest, dict) else None


def checked(documents: Documents, digest: Dict[str, Any]) -> Documents:
    """The documents, if the digest is theirs; raises Unusable."""
    wrong = [
        FILES[name]
        for name, body in documents.items()
        if not is_told(body, digest.get(name, {"length": 0, "sha256": sha256(b"")}))
    ]
    if wrong:
        raise Unusable("{} and the digest do not belong together".format(", ".join(wrong)))
    return documents


def is_told(body: bytes, row: Any) -> bool:
    return isinstance(row, dict) and (row.get("length"), row.get("sha256")) == (
        len(body),
        sha256(body),
    )


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


# Texts that cloud-init reads


def load_json(text: str) -> Any:
    """Raises ValueError."""
    try:
        return json.loads(text)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None


# PyYAML lets them out of its constructors.
ODD = (LookupError, TypeError, AttributeError, ArithmeticError, RecursionError)


def load_yaml(text: str) -> Any:
    """By PyYAML, which is there where cloud-init is; raises ImportError, or ValueError."""
    import yaml

    try:
        return yaml.safe_load(text)
    except (yaml.YAMLError, *ODD) as error:
        raise ValueError(printable(error)) from None


def load(text: str) -> Any:
    """JSON or YAML; raises as `load_yaml` does."""
    try:
        return load_json(text)
    except ValueError:
        return load_yaml(text)


def load_mapping(document: bytes) -> Dict[Any, Any]:
    """A document of JSON or YAML as a mapping; raises ValueError."""
    text = document.decode()
    try:
        value = load(text)
    except ImportError:
        value = pairs_of(text)
    if not isinstance(value, dict):
        raise ValueError("it is no mapping")
    return value


def pairs_of(text: str) -> Dict[str, str]:
    """The lines `name: text` of a block of YAML, where there is no PyYAML."""
    found = {}
    for line in text.split("\n"):
        name, _, said = line.partition(":")
        if said[:1] in (" ", "\t") and re.match(r"[\w-]+\Z", name):
            said = said.strip(" \t\r")
            is_quoted = len(said) > 1 and said[0] in "\"'" and said[0] == said[-1]
            found[name] = said[1:-1] if is_quoted else said
    return {name: said for name, said in found.items() if said}


# What PyYAML does not take as it is, takes as a line break, or takes as a byte order mark.
UNREADABLE = re.compile("[\x7f-\x9f\u2028\u2029\ufeff\ufffe\uffff]")


def dump_mapping(mapping: Dict[Any, Any]) -> bytes:
    """One line of JSON that PyYAML reads too: it does not join escaped surrogate pairs."""
    text = json.dumps(mapping, ensure_ascii=False)
    return UNREADABLE.sub(lambda found: f"\\u{ord(found.group()):04x}", text).encode()


def instance_id_of(metadata: bytes) -> str:
    """Raises Unusable if it is no meta-data for cloud-init."""
    try:
        found = load_mapping(metadata).get("instance-id")
        if isinstance(found, (dict, list)):
            raise ValueError("its instance-id is no text")
        instance_id = "" if found is None else str(found)  # a number may have too many digits
    except ValueError as error:
        raise Unusable(f"meta-data cannot be read: {printable(error)}") from None
    if not instance_id:
        raise Unusable("meta-data has no instance-id")
    return instance_id


def with_instance_id(metadata: bytes, instance_id: str) -> bytes:
    """The same meta-data with another instance-id; raises Unusable."""
    text = metadata.decode()
    try:
        return dump_mapping(dict(load_json(text), **{"instance-id": instance_id}))
    except ValueError:
        line = "instance-id: " + json.dumps(instance_id)
        changed = re.sub(r"^instance-id:.*$", lambda _: line, text, flags=re.MULTILINE).encode()
    if instance_id_of(changed) != instance_id:
        raise Unusable("meta-data is no JSON, and its instance-id cannot be replaced")
    return changed


# The seed: a directory of its own for each set of files, and a symlink that says which one holds


MEMORY = "vmw-metadata-agent.json"
NEW = ".agent-new"
OLD = ".agent-old"
LEFT_OVER = r"\.([0-9a-f]{16}(\.\d+)?|agent-new|agent-old)"

Files = Dict[str, bytes]  # by cloud-init's names


class Memory(NamedTuple):
    """What is remembered beside a seed's files; it holds only while they are these files."""

    machine: str  # DMI's product UUID
    instance_id: str
    served_instance_id: str  # another one, if --keep-instance-id held the old one
    files: Dict[str, str]  # SHA-256 by name

    @classmethod
    def parse(cls, text: str) -> "Optional[Memory]":
        try:
            told = load_json(text)
            texts = [told[name] for name in cls._fields[:3]]
            files = {str(name): str(digest) for name, digest in told["files"].items()}
        except (ValueError, TypeError, KeyError, AttributeError):
            return None
        return cls(str(texts[0]), str(texts[1]), str(texts[2]), files)

    def serialize(self) -> bytes:
        return (json.dumps(dict(self._asdict()), indent=1, sort_keys=True) + "\n").encode()


class SeedDir:
    """The seed that cloud-init reads, at `place`: at each instant the old set, or the new one."""

    def __init__(self, place: str) -> None:
        self.place = place.rstrip("/")
        self._parent, self._name = os.path.split(self.place)

    def recover(self) -> None:
        """Mends what a power loss left, where names could not be swapped at one instant."""
        if not os.path.lexists(self.place) and os.path.isdir(self.place + OLD):
            os.rename(self.place + OLD, self.place)

    @property
    def is_there(self) -> bool:
        """Whether cloud-init would take it, whoever has written it."""
        return all(os.path.exists(os.path.join(self.place, name)) for name in NEEDED)

    def memory(self) -> Optional[Memory]:
        """What is remembered, if the seed's files are those it was remembered for."""
        memory = Memory.parse(read_text(os.path.join(self.place, MEMORY)))
        files = self._digests()
        return memory if memory and memory.files == files and set(NEEDED) <= set(files) else None

    def _digests(self) -> Dict[str, str]:
        found = {}
        for name in FILES.values():
            with suppress(OSError):
                found[name] = sha256(read_file(os.path.join(self.place, name)))
        return found

    def publish(self, files: Files, memory: Memory) -> None:
        """Replaces the seed; raises OSError, and then the old one is still there."""
        make_directories(self._parent)
        with self._locked():
            self.recover()
            self._sweep()
            target = self._free_name(sha256(memory.serialize())[:16])
            try:
                self._write_set(os.path.join(self._parent, target), files, memory)
                self._point_to(target)
            except OSError:
                with suppress(OSError):
                    self.recover()
                    self._sweep()  # what is half written takes room on a full disk
                raise
            self._sweep()

    def remove(self) -> None:
        """Removes the seed and every set of it; raises OSError."""
        with self._locked():
            if os.path.isdir(self.place) and not os.path.islink(self.place):
                os.rename(self.place, self.place + OLD)
            remove(self.place)
            sync_directory(self._parent)
            self._sweep()

    @contextmanager
    def _locked(self) -> Iterator[None]:
        descriptor = os.open(self._parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            yield
        finally:
            os.close(descriptor)

    def _sweep(self) -> None:
        current = os.path.realpath(self.place)
        for name in names_in(self._parent):
            left = os.path.join(self._parent, name)
            is_left_over = re.fullmatch(re.escape(self._name) + LEFT_OVER, name)
            if is_left_over and os.path.realpath(left) != current:
                remove(left)

    def _free_name(self, digest: str) -> str:
        """The set that holds now may have this name, and be damaged."""
        name, number = f"{self._name}.{digest}", 0
        while os.path.lexists(os.path.join(self._parent, name)):
            number += 1
            name = "%s.%s.%d" % (self._name, digest, number)
        return name

    def _write_set(self, place: str, files: Files, memory: Memory) -> None:
        os.mkdir(place, 0o700)
        for name, content in files.items():
            write_file(os.path.join(place, name), content)
        write_file(os.path.join(place, MEMORY), memory.serialize())
        sync_directory(place)
        sync_directory(self._parent)

    def _point_to(self, target: str) -> None:
        link = self.place + NEW
        os.symlink(target, link)
        if os.path.isdir(self.place) and not os.path.islink(self.place):
            self._replace_directory(link)
        else:
            os.rename(link, self.place)
        sync_directory(self._parent)

    def _replace_directory(self, link: str) -> None:
        """A plain directory, as others make it, becomes the symlink."""
        if not exchange(link, self.place):  # then `recover` fills the gap before cloud-init looks
            os.rename(self.place, self.place + OLD)
            os.rename(link, self.place)


def make_directories(place: str) -> None:
    if not os.path.isdir(place):
        make_directories(os.path.dirname(place))
        os.mkdir(place, 0o755)
        os.chmod(place, 0o755)  # nosec B103 # above the seed, which has 0o700


# Network cards: an interface that cloud-init would not find


UNCERTAIN = "uncertain"  # a MAC address that is no text, or a card that is found by something else
WANTED = {1: "mac_address", 2: "match: {macaddress: ...} and set-name"}


class Entry(NamedTuple):
    """An interface in a network-config."""

    version: int
    name: str
    mac: str
    place: Tuple[Any, ...]  # keys that lead to it


def physical_entries(config: Any) -> List[Entry]:
    """Those that cloud-init has to find a network card for."""
    above = ("network",) if isinstance(config, dict) and "network" in config else ()
    body = row_at(config, above)
    if not isinstance(body, dict):
        return []
    if body.get("version") == 1:
        return list(entries_of_1(body.get("config"), (*above, "config")))
    if body.get("version") == 2:
        return list(entries_of_2(body.get("ethernets"), (*above, "ethernets")))
    return []


def entries_of_1(rows: Any, above: Tuple[Any, ...]) -> Iterator[Entry]:
    for number, row in enumerate(rows if isinstance(rows, list) else []):
        is_card = isinstance(row, dict) and row.get("type") == "physical"
        if is_card and isinstance(row.get("name"), str):
            yield Entry(1, row["name"], mac_of(row.get("mac_address")), (*above, number))


def entries_of_2(rows: Any, above: Tuple[Any, ...]) -> Iterator[Entry]:
    """Without a match, the name is a card's."""
    for name, row in rows.items() if isinstance(rows, dict) else []:
        if isinstance(name, str) and isinstance(row, dict) and row:
            match = row.get("match")
            mac = mac_of(match.get("macaddress")) if isinstance(match, dict) else ""
            is_found = "match" in row or "set-name" in row
            yield Entry(2, name, mac or (UNCERTAIN if is_found else ""), (*above, name))


def mac_of(mac: Any) -> str:
    return mac.lower() if isinstance(mac, str) else UNCERTAIN if mac else ""


def lost_entries(entries: Iterable[Entry], names: Iterable[str]) -> List[Entry]:
    """Those that no card will be found for: no MAC address, and a name that no card has."""
    there = set(names)
    return [entry for entry in entries if not entry.mac and entry.name not in there]


def name_the_card(document: bytes, machine: Machine) -> Tuple[bytes, List[str]]:
    """The network-config with the card's MAC address where it lacks; and lines for people."""
    try:
        config = load(document.decode())
    except (ValueError, ImportError) as error:
        return document, [f"network-config was not looked into: {printable(error)}"]
    entries = physical_entries(config)
    if not any(not entry.mac for entry in entries):
        return document, []
    machine.settle()
    cards = machine.cards
    lost = lost_entries(entries, [card.name for card in cards])
    if not lost:
        return document, []
    if len(lost) > 1 or len(cards) != 1 or is_taken(cards[0], entries):
        return document, [cannot_name(lost, cards)]
    return fill_in(document, config, lost[0], cards[0])


def is_taken(card: Card, entries: Iterable[Entry]) -> bool:
    """Whether the card is another interface's, or may be."""
    return any(entry.mac in (card.mac, UNCERTAIN) or entry.name == card.name for entry in entries)


def cannot_name(lost: Sequence[Entry], cards: Sequence[Card]) -> str:
    there = ", ".join("{} ({})".format(*card) for card in cards) or "none"
    names = ", ".join(printable(entry.name) for entry in lost)
    wanted = WANTED[lost[0].version]
    return (
        f"network-config: {names} has no {wanted} and no card has that name (cards: {there}): "
        f"it will not be configured; give {wanted}"
    )


def naming(entry: Entry, card: Card) -> Dict[str, Any]:
    """The keys by which cloud-init finds the card for the interface."""
    if entry.version == 1:
        return {"mac_address": card.mac}
    return {"match": {"macaddress": card.mac}, "set-name": entry.name}


def fill_in(document: bytes, config: Any, entry: Entry, card: Card) -> Tuple[bytes, List[str]]:
    """The document with the card's MAC address in `entry`, if that is all that changes in it."""
    try:
        filled = insert_mac(document.decode(), entry, card)
        row_at(config, entry.place).update(naming(entry, card))
        is_right = load(filled) == config
    except (ValueError, ImportError, *ODD):  # aliases can do what was not foreseen here
        is_right = False
    if not is_right:
        return document, [cannot_name([entry], [card])]
    told = "network-config: {} has no {}: it is the only card, {} ({})"
    wanted = "mac_address" if entry.version == 1 else "match"
    return filled.encode(), [told.format(printable(entry.name), wanted, card.name, card.mac)]


def row_at(config: Any, place: Iterable[Any]) -> Any:
    for key in place:
        config = config[key]
    return config


def insert_mac(text: str, entry: Entry, card: Card) -> str:
    """The text as it is, with keys more, so all else stays what cloud-init would have read.

    Raises ValueError, or ImportError.
    """
    import yaml

    try:
        node = yaml.compose(text, Loader=yaml.SafeLoader)  # type: Any
    except yaml.YAMLError as error:
        raise ValueError(printable(error)) from None  # JSON is not always YAML
    for key in entry.place:
        node = child(node, key)
    at = node.start_mark.index + bool(node.flow_style)  # behind a `{`
    between = ", " if node.flow_style else "\n" + " " * node.start_mark.column
    pairs = naming(entry, card).items()
    added = "".join(f"{json.dumps(key)}: {json.dumps(value)}{between}" for key, value in pairs)
    return text[:at] + added + text[at:]


def child(node: Any, key: Any) -> Any:
    """The node that PyYAML takes; raises ValueError where a merge key hides it."""
    if isinstance(key, int):
        return node.value[key]
    for name, value in reversed(node.value):  # of two equal keys the last one holds
        if name.value == key:
            return value
    raise ValueError(key)


# What cloud-init will do with it


def advice(before: Optional[Memory], now: Memory) -> List[str]:
    """Lines about a machine that had a seed before."""
    if before is None:
        return []
    if now.served_instance_id != now.instance_id:
        told = "instance-id: %s is kept, though the server says %s: cloud-init applies nothing new"
        return [told % (printable(now.instance_id), printable(now.served_instance_id))]
    if now.instance_id != before.instance_id:
        told = (
            "instance-id changed from %s to %s: to cloud-init this is a new machine: it applies "
            "everything again, with new SSH host keys; --keep-instance-id would hold the old one"
        )
        return [told % (printable(before.instance_id), printable(now.instance_id))]
    names = sorted(set(before.files) | set(now.files))
    changed = [name for name in names if before.files.get(name) != now.files.get(name)]
    if not changed:
        return []
    told = (
        "%s changed and instance-id did not: cloud-init applies nothing of it until instance-id "
        "changes (network-config: also if its configuration says so for every boot)"
    )
    return [told % ", ".join(changed)]


# The fetch: asking until there is a seed, or patience is over


class Fetch:
    """Asks until there is data; `has_seed` says that there is a seed to go on with."""

    def __init__(self, machine: Machine, settings: Settings, tell: Teller, has_seed: bool) -> None:
        self._machine = machine
        self._device = settings["device"]
        self._retry_s = settings["retry"]  # type: float
        self._not_found_s = 0.0 if has_seed else settings["not-found-timeout"]
        self._not_found_until_s = None  # type: Optional[float]
        self._tell = tell
        self._hold = not has_seed and settings["on-failure"] == "hold"
        self._reader = Reader()
        self._unusable = 0
        wait_s = settings["timeout"]
        if wait_s is None:
            wait_s = settings["later-boot-timeout" if has_seed else "first-boot-timeout"]
        self._patience = Patience(wait_s, settings, self._hold)

    def run(self) -> Tuple[Documents, str]:
        """The documents, and the port they came from; raises NoPort or GaveUp."""
        devices = find_ports(self._machine, self._device)
        while True:
            try:
                with self._opened(devices) as ports:
                    dialogue = Dialogue(ports, self._patience, self._retry_s, self._tell)
                    dialogue.drain()
                    return self._ask(dialogue), ports[0].device
            except PortLost as lost:
                self._consider(lost)
                time.sleep(min(self._retry_s, self._patience.left_s))

    @contextmanager
    def _opened(self, devices: Sequence[str]) -> Iterator[List[Port]]:
        ports = []  # type: List[Port]
        try:
            ports += open_ports(self._machine, devices)
            yield ports
        finally:
            for port in ports:
                port.close()

    def _ask(self, dialogue: Dialogue) -> Documents:
        while True:
            try:
                documents = self._reader.read(dialogue)
                instance_id_of(documents["METADATA"])
                return documents
            except (Unusable, Refused) as caught:
                failure = caught  # type: AgentError
            self._consider(failure)
            dialogue.wait(self._pause_after(failure))
            if self._patience.is_over:
                raise GaveUp(str(failure))

    def _pause_after(self, failure: AgentError) -> float:
        if isinstance(failure, Refused):
            return self._retry_s
        self._unusable += 1
        return soon(self._unusable, self._retry_s)

    def _consider(self, failure: AgentError) -> None:
        """Tells it, and that it is tried again; raises GaveUp if it is not."""
        not_found = isinstance(failure, Refused) and failure.error == "not-found"
        if self._patience.is_over or (not_found and self._not_found_is_over()):
            raise GaveUp(str(failure))
        extend_start()
        self._tell.both(f"{failure}: asking again")

    def _not_found_is_over(self) -> bool:
        if self._not_found_until_s is None:
            self._not_found_until_s = time.monotonic() + self._not_found_s
        return not self._hold and time.monotonic() >= self._not_found_until_s


def open_ports(machine: Machine, devices: Sequence[str]) -> List[Port]:
    """Those that can be opened; raises what the last one said if there is none."""
    ports = []
    failure = NoPort(NO_PORT)  # type: AgentError
    for device in devices:
        try:
            port = Port(
                device, machine.device(device), os.path.basename(device) in machine.consoles
            )
        except AgentError as error:
            failure = error
        else:
            ports.append(port)
    if not ports:
        raise failure
    return ports


# The agent


class Agent:
    """One run: on which machine, for which seed, under which settings."""

    def __init__(self, machine: Machine, settings: Settings, tell: Teller) -> None:
        self._machine = machine
        self._settings = settings
        self._tell = tell
        self._seed = SeedDir(machine.itself(settings["seed-dir"]))
        self._before = None  # type: Optional[Memory]

    def run(self, dry: bool = False) -> int:
        """Returns the exit code."""
        began_s = time.monotonic()
        try:
            self._look_back(dry)
            if not self._may_ask():
                self._tell.journal(
                    "this is no machine of VMware: nothing is asked (gate = off asks)"
                )
                return 1 if dry else 0
            documents, device = self._fetch()
            if not self._settings["device"]:
                self._tell.journal(FOUND_BY_ITSELF.format(device))
            files, memory = self._seed_of(documents)
            if dry:
                return show(self._seed.place, files)
            self._publish(files, memory, f"{time.monotonic() - began_s:.1f} s on {device}")
        except AgentError as error:
            return self._go_on(error, dry)
        except OSError as error:
            left = self._what_is_left()
            self._tell.both(f"{self._seed.place}: the seed could not be written: {error}: {left}")
            return 1
        return 0

    def _look_back(self, dry: bool) -> None:
        """Takes the seed for what it is: this machine's, or that of the one it was cloned from."""
        if not dry:
            self._seed.recover()
        self._before = self._seed.memory()
        if self._before is None or self._machine.is_the_one(self._before.machine):
            return
        self._before = None
        told = "the seed was another machine's (this one is a copy): it %s removed"
        if not dry:
            self._seed.remove()
        self._tell.both(told % ("would be" if dry else "is"))

    def _may_ask(self) -> bool:
        off = self._settings["gate"] == "off" or self._settings["device"]
        return bool(off or self._machine.is_vmware)

    def _fetch(self) -> Tuple[Documents, str]:
        has_seed = self._before is not None
        return Fetch(self._machine, self._settings, self._tell, has_seed).run()

    def _seed_of(self, documents: Documents) -> Tuple[Files, Memory]:
        """The files as cloud-init is to read them."""
        files = {
            name: documents[code]
            for code, name in FILES.items()
            if documents.get(code) or name in NEEDED
        }
        served_id = instance_id = instance_id_of(files["meta-data"])
        if self._settings["keep-instance-id"] and self._before:
            instance_id = self._before.instance_id
        if instance_id != served_id:
            files["meta-data"] = with_instance_id(files["meta-data"], instance_id)
        if "network-config" in files:
            files["network-config"], lines = name_the_card(files["network-config"], self._machine)
            for line in lines:
                self._tell.both(line)
        digests = {name: sha256(content) for name, content in files.items()}
        return files, Memory(self._machine.uuid, instance_id, served_id, digests)

    def _publish(self, files: Files, memory: Memory, how: str) -> None:
        if memory == self._before:
            what = "is unchanged"
        else:
            self._seed.publish(files, memory)
            what = "is published"
        for line in advice(self._before, memory):
            self._tell.both(line)
        sizes = ", ".join("%s %d bytes" % (name, len(files[name])) for name in files)
        named = printable(memory.instance_id)
        self._tell.journal(f"the seed of {named} {what}: {sizes}; {how}")

    def _go_on(self, error: AgentError, dry: bool) -> int:
        self._tell.both(f"{error}: {self._what_is_left()}")
        return 1 if dry else 0

    def _what_is_left(self) -> str:
        """It may be there by now: another run has the port."""
        memory = self._seed.memory()
        if memory and self._machine.is_the_one(memory.machine):
            return "keeping the seed of " + printable(memory.instance_id)
        if self._seed.is_there:
            return "cloud-init takes the seed that is there"
        return "cloud-init goes on without data"


def show(place: str, files: Files) -> int:
    """What would be written, on standard output."""
    out = sys.stdout.buffer
    for name, content in files.items():
        out.write(("==> %s/%s (%d bytes) <==\n" % (place, name, len(content))).encode())
        out.write(content if content.endswith(b"\n") or not content else content + b"\n")
    out.flush()
    return 0


# The check: what in this image, or on this machine, will prevent it


class Image:
    """A system's tree, read for what stands against the agent."""

    def __init__(self, machine: Machine, settings: Settings, config: str) -> None:
        self.machine = machine
        self.settings = settings
        self.config = config

    def findings(self) -> List[str]:
        return [line for check in CHECKS for line in check(self)]

    def has(self, place: str) -> bool:
        return os.path.lexists(self.machine.itself(place))

    def units(self, name: str) -> List[str]:
        places = ("/etc/systemd/system/", "/usr/lib/systemd/system/", "/lib/systemd/system/")
        return [place + name for place in places if self.has(place + name)]

    @property
    def cloud_configs(self) -> List[Tuple[str, Any]]:
        """cloud-init's configuration files in its order: place, and what is in them."""
        base = "/etc/cloud/cloud.cfg.d/"
        names = [name for name in names_in(self.machine.at(base)) if name.endswith(".cfg")]
        places = ["/etc/cloud/cloud.cfg"] + [base + name for name in names]
        return [(place, self._load(place)) for place in places if self.has(place)]

    def last(self, key: str) -> Tuple[str, Any]:
        """Where `key` is set last, and to what."""
        told = [(place, config[key]) for place, config in self.cloud_configs if key in config]
        return told[-1] if told else ("", None)

    def _load(self, place: str) -> Dict[Any, Any]:
        text = read_text(self.machine.at(place))
        with suppress(ValueError, ImportError):
            value = load_yaml(text)
            return value if isinstance(value, dict) else {}
        return by_lines(text)

    @property
    def kernel_words(self) -> List[Tuple[str, str]]:
        """Words of kernel command lines: this machine's, and those of the boot loaders."""
        base = "/boot/loader/entries/"
        entries = [base + name for name in names_in(self.machine.at(base))]
        places = [*BOOT_FILES, *entries]
        texts = [(place, COMMENT.sub("", self.machine.read(place))) for place in places]
        return [(place, word) for place, text in texts for word in re.split(r"[\s\"']+", text)]


BOOT_FILES = ("/proc/cmdline", "/etc/kernel/cmdline", "/etc/default/grub", "/boot/grub/grub.cfg",
              "/boot/grub2/grub.cfg", "/boot/grub2/grubenv")  # fmt: skip
COMMENT = re.compile(r"^[ \t]*#.*$", re.MULTILINE)


# In brackets, or a line for each; in the time that the text takes to read, whatever is in it.
DATASOURCES = re.compile(
    r"^datasource_list:(\s{0,99}\[[^\]]{0,4096}\]|[ \t]*(?:(?:\n[ \t]*)+- .*)+)", re.MULTILINE
)


def by_lines(text: str) -> Dict[str, Any]:
    """The two keys that are looked for, where there is no PyYAML."""
    found = {}  # type: Dict[str, Any]
    sources = DATASOURCES.search(text)
    if sources:
        found["datasource_list"] = re.findall(r"\w+", sources.group(1))
    network = re.search(
        r"^network:\s{0,99}\{?\s{0,99}(config:\s*[\"']?disabled)?", text, re.MULTILINE
    )
    if network:
        found["network"] = {"config": "disabled"} if network.group(1) else {}
    return found


def check_cloud_init(image: Image) -> Iterator[str]:
    if not image.has("/usr/bin/cloud-init"):
        yield "/usr/bin/cloud-init: not there: install cloud-init"
    if image.has("/etc/cloud/cloud-init.disabled"):
        yield "/etc/cloud/cloud-init.disabled: cloud-init is disabled: remove this file"
    for place, word in image.kernel_words:
        if word in ("cloud-init=disabled", "network-config=disabled"):
            yield f"{place}: take {word} off the kernel's command line"
    for name in ("cloud-init.target", "cloud-init-local.service", "cloud-init.service",
                 "cloud-init-main.service"):  # fmt: skip
        if image.machine.is_masked(name):
            yield f"{name} is masked: systemctl unmask {name}"


def check_network(image: Image) -> Iterator[str]:
    place, network = image.last("network")
    if isinstance(network, dict) and network.get("config") == "disabled":
        yield f"{place}: network: {{config: disabled}}: no network is configured: remove it"


def check_datasources(image: Image) -> Iterator[str]:
    place, sources = image.last("datasource_list")
    advised = "put `datasource_list: [NoCloud, None]` into /etc/cloud/cloud.cfg.d/99-nocloud.cfg"
    if not place:
        yield "no datasource_list: cloud-init finds no data source and is not started: " + advised
    elif "NoCloud" not in (sources if isinstance(sources, list) else []):
        yield f"{place}: this last datasource_list has no NoCloud: remove it, or add NoCloud"
    policy = image.machine.read("/etc/cloud/ds-identify.cfg")
    if re.search(r"^[ \t]*policy:[ \t]*disabled", policy, re.MULTILINE):
        yield "/etc/cloud/ds-identify.cfg: policy: disabled: cloud-init is not started: remove it"


def check_disc(image: Image) -> Iterator[str]:
    for place in ("/dev/disk/by-label/cidata", "/dev/disk/by-label/CIDATA"):
        if image.has(place):
            yield f"{place}: cloud-init puts what is on this disc over the seed: take it out"


def check_port(image: Image) -> Iterator[str]:
    device = image.settings["device"]
    if device:
        yield from check_device(image, os.path.basename(device))
    elif image.machine.serial_ports:
        try:
            find_ports(image.machine, None)
        except NoPort as error:
            yield str(error)
    elif image.has("/sys/class/tty"):
        yield NO_PORT


def check_device(image: Image, tty: str) -> Iterator[str]:
    if image.has("/sys/class/tty") and not image.has("/sys/class/tty/" + tty):
        yield f"/dev/{tty}: there is no such port on this machine"
    elif not image.machine.has_uart(tty):
        yield f"/dev/{tty} has no UART behind it: is the serial port in the VM?"
    if image.machine.has_getty(tty):
        yield f"serial-getty@{tty}.service is enabled on the port: systemctl mask it"
    for place in sorted({place for place, word in image.kernel_words
                         if re.match(rf"console={re.escape(tty)}(,|$)", word)}):  # fmt: skip
        yield f"{place}: console={tty} is on the port: take it off, or use a second serial port"


def check_agent(image: Image) -> Iterator[str]:
    if not image.has(AGENT):
        yield f"{AGENT}: not there: install the agent"
    units = image.units(UNIT)
    if not units:
        yield f"{UNIT}: not there: install it to /etc/systemd/system"
    elif image.machine.is_masked(UNIT):
        yield f"{UNIT} is masked: systemctl unmask {UNIT}"
    elif not any(UNIT in names_in(image.machine.at(place + "/cloud-init.target.wants"))
                 for place in ("/etc/systemd/system", "/usr/lib/systemd/system")):  # fmt: skip
        yield f"{UNIT} is not enabled: systemctl enable {UNIT}"
    for program in interpreters(image, units):
        if not image.has(program):
            yield f"{program}: the agent is started with it, and it is not there: install Python 3"


def interpreters(image: Image, units: Sequence[str]) -> List[str]:
    """Programs that the unit starts the agent with; or else the agent's own first line."""
    if units:
        found = re.findall(
            r"^ExecStart=[-@:+!]*([^\s\0]+)", image.machine.read(units[0]), re.MULTILINE
        )
        if found and found != [AGENT]:
            return found
    found = re.findall(r"\A#!\s*([^\s\0]+)(?:[ \t]+([^\s\0]+))?", image.machine.read(AGENT))
    program, argument = found[0] if found else ("/usr/bin/python3", "")
    return ["/usr/bin/" + argument] if program.endswith("/env") else [program]


def check_labels(image: Image) -> Iterator[str]:
    selinux = re.search(r"^SELINUX=(\w+)", image.machine.read("/etc/selinux/config"), re.MULTILINE)
    if not selinux or selinux.group(1) == "disabled" or image.has("/.autorelabel"):
        return
    for place in [AGENT, *image.units(UNIT)]:
        if image.has(place) and not has_label(image.machine.at(place)):
            yield f"{place}: no SELinux label: restorecon it, or touch /.autorelabel"


def has_label(place: str) -> bool:
    try:
        return b":unlabeled_t:" not in os.getxattr(place, "security.selinux")
    except OSError:
        return False


def check_config(image: Image) -> Iterator[str]:
    yield from read_config(image.machine.at(image.config), image.config != CONFIG)[1]


def check_seed(image: Image) -> Iterator[str]:
    memory = SeedDir(image.machine.at(image.settings["seed-dir"])).memory()
    if memory and image.machine.uuid and not image.machine.is_the_one(memory.machine):
        yield "the seed is that of another machine: a template is to be cleaned: cloud-init clean"


CHECKS = (check_cloud_init, check_network, check_datasources, check_disc, check_port, check_agent,
          check_labels, check_config, check_seed)  # fmt: skip


def run_check(image: Image) -> int:
    """Prints what was found; returns the exit code."""
    found = image.findings()
    for line in found:
        print(re.sub(r"[^ -~]", "?", line))  # names of files are anybody's; a boot has no locale
    if not found:
        print("nothing found that would prevent it")
    return 1 if found else 0


# The command line


def parser() -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(
        NAME,
        description="Fetches cloud-init's NoCloud seed over a VMware virtual serial port.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    for setting in SETTINGS:
        switch = {"nargs": "?", "const": "yes"} if setting.read is yes_or_no else {}  # type: Any
        made.add_argument("--" + setting.name, metavar=setting.values, help=setting.help, **switch)
    made.add_argument("--config", metavar="FILE", default=CONFIG, help=f"settings ({CONFIG})")
    made.add_argument("--root", metavar="DIR", default="/", help="the system's tree: every path "
                      "is below it (/)")  # fmt: skip
    made.add_argument("--force", action="store_true", help="the same as --gate off")
    made.add_argument("--dry-run", action="store_true", help="print what would be written, and "
                      "write nothing; user-data and its secrets are printed too")  # fmt: skip
    made.add_argument("--check", action="store_true", help="tell what in this image, or on this "
                      "machine, will prevent it")  # fmt: skip
    return made


def settings_of(
    made: argparse.ArgumentParser, arguments: argparse.Namespace, config: Settings
) -> Settings:
    """Defaults < configuration file < command line; ends with exit code 2 where that is wrong."""
    settings = dict(defaults(), **config)
    for setting in SETTINGS:
        given = getattr(arguments, setting.name.replace("-", "_"))
        if given is None:
            continue
        try:
            settings[setting.name] = setting.read(given)
        except ValueError as error:
            made.error(f"--{setting.name}: found {given!r}, expected {error}")
    if arguments.force:
        settings["gate"] = "off"
    return settings


def main(words: Optional[Sequence[str]] = None) -> int:
    """Returns the exit code."""
    made = parser()
    arguments = made.parse_args(words)
    machine = Machine(os.path.abspath(arguments.root))
    tell = Teller(machine.at("/dev/console"))
    try:
        path(arguments.config)
    except ValueError as error:
        made.error(f"--config: found {arguments.config!r}, expected {error}")
    config, faults = read_config(machine.at(arguments.config), arguments.config != CONFIG)
    settings = settings_of(made, arguments, config)
    if arguments.check:
        return run_check(Image(machine, settings, arguments.config))
    for fault in faults:
        tell.both(fault)
    os.umask(0o077)
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, stop)
    return Agent(machine, settings, tell).run(arguments.dry_run)


def stop(number: int, _frame: Any) -> None:
    """Ends it in order: the port gets back what it was."""
    sys.exit(128 + number)


if __name__ == "__main__":
    sys.exit(main())

"""The agent's settings: their defaults, their values, and the file that sets them."""

import configparser
import difflib
import errno
import re
from typing import Any, Callable, Dict, List, NamedTuple, Tuple

from vmw_cloudinit_metadata.guest.agent.osfiles import read_file
from vmw_cloudinit_metadata.guest.agent.printing import printable

CONFIG = "/etc/vmw-metadata-agent.conf"
SEED_DIR = "/var/lib/cloud/seed/nocloud"

MAX_CONFIG_LINE_CHARS = 8192  # configparser's time grows as the square of it
MAX_CONFIG_FAULTS = 100  # finding the line of a fault reads the file again


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
        raise ValueError("a number of seconds, at least 0.1, such as 4")
    return value


def yes_or_no(text: str) -> bool:
    value = configparser.ConfigParser.BOOLEAN_STATES.get(text.lower())
    if value is None:
        raise ValueError("yes or no")
    return value


def absolute_path(text: str) -> str:
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
    """One setting: a key of the file and an option of the command line."""

    name: str
    default: Any
    read: Callable[[str], Any]  # raises ValueError with what is expected
    values: str  # as --help shows them
    help: str


SETTINGS = (
    Setting("device", None, absolute_path, "PATH", "the serial port to ask on; default: every "
            "free port is asked"),
    Setting("seed-dir", SEED_DIR, absolute_path, "DIR", f"where to publish the seed ({SEED_DIR})"),
    Setting("timeout", None, seconds, "SECONDS", "sets both of the next two"),
    Setting("first-boot-timeout", 300.0, seconds, "SECONDS", "how long to wait without a seed "
            "(300)"),
    Setting("later-boot-timeout", 15.0, seconds, "SECONDS", "how long to wait before keeping the "
            "existing seed (15)"),
    Setting("not-found-timeout", 120.0, seconds, "SECONDS", "without a seed: how long to retry "
            "after the first not-found (120)"),
    Setting("silence-timeout", 15.0, seconds, "SECONDS", "how long an answer may pause once it "
            "has begun, whatever the limits above (15)"),
    Setting("longest-wait", 600.0, seconds, "SECONDS", "upper limit of every wait (600)"),
    Setting("port-timeout", 10.0, seconds, "SECONDS", "how long to wait for a port whose device "
            "does not exist yet (10)"),
    Setting("retry", 4.0, pause, "SECONDS", "interval between retries after silence or an error "
            "(4)"),
    Setting("on-failure", "continue", one_of("continue", "hold"), "continue|hold", "without data "
            "and without a seed: continue, or hold the boot until data arrives (continue)"),
    Setting("keep-instance-id", False, yes_or_no, "yes|no", "keep this machine's instance-id (no)"),
    Setting("report", True, yes_or_no, "yes|no", "report to the server how the boot ended, and the "
            "SSH host keys (yes)"),
    Setting("gate", "vmware", one_of("vmware", "off"), "vmware|off", "vmware: ask only on VMware "
            "machines, unless a device is set; off: ask on every machine (vmware)"),
)  # fmt: skip

Settings = Dict[str, Any]


def defaults() -> Settings:
    return {setting.name: setting.default for setting in SETTINGS}


def opens_gate(settings: Settings) -> bool:
    """Return whether the agent may ask on a machine that is not VMware's."""
    return bool(settings["gate"] == "off" or settings["device"])


def line_of(pattern: str, text: str) -> int:
    """Return the number of the first line that matches, or 1."""
    for number, line in enumerate(text.splitlines(), 1):
        if re.match(pattern, line, re.IGNORECASE):
            return number
    return 1


def read_config(place: str, is_needed: bool = False) -> Tuple[Settings, List[str]]:
    """Return what a configuration file sets, and its faults; an invalid key has no effect."""
    try:
        text = read_file(place).decode("utf-8", "replace")
    except OSError as error:
        is_fault = is_needed or error.errno != errno.ENOENT
        return {}, [f"{place}: cannot be read: {error.strerror}"] if is_fault else []
    longest = max(map(len, text.splitlines()), default=0)
    if longest > MAX_CONFIG_LINE_CHARS:
        return {}, [f"{place}: file ignored: a line has {longest} characters, "
                    f"the limit is {MAX_CONFIG_LINE_CHARS}"]  # fmt: skip
    parser = configparser.ConfigParser(
        interpolation=None,
        strict=False,
        inline_comment_prefixes=("#",),
        default_section="",  # no section has that name
    )
    try:
        parser.read_string(text, place)
    except configparser.Error as error:
        return {}, [f"file ignored: {printable(error)}"]
    settings: Settings = {}
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
                faults.append(f"{place}: too many faults: the rest of the file is ignored")
                break
    return settings, faults


def read_setting(key: str, value: str) -> Any:
    """Return the value of a key; raise ValueError with a line for people."""
    known = {setting.name: setting for setting in SETTINGS}
    if key not in known:
        near = difflib.get_close_matches(key, known, 1, 0.4)
        meant = f"did you mean {near[0]}?" if near else "expected one of " + ", ".join(known)
        raise ValueError(f"unknown key {printable(key)}: {meant}")
    try:
        return known[key].read(value)
    except ValueError as error:
        raise ValueError(f"{key}: found {printable(repr(value))}, expected {error}") from None

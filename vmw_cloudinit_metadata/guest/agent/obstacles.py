"""What in an image, or on this machine, keeps the agent from working."""

import os
import re
from contextlib import suppress
from typing import Any, Dict, Iterator, List, Sequence, Tuple

from vmw_cloudinit_metadata.guest.agent.agentoutput import put
from vmw_cloudinit_metadata.guest.agent.conf import CONFIG, Settings, read_config
from vmw_cloudinit_metadata.guest.agent.failures import NoPort
from vmw_cloudinit_metadata.guest.agent.osfiles import names_in, read_text
from vmw_cloudinit_metadata.guest.agent.seeddirectory import SeedDir
from vmw_cloudinit_metadata.guest.agent.serialport import NO_PORT, find_ports
from vmw_cloudinit_metadata.guest.agent.system import System
from vmw_cloudinit_metadata.guest.agent.texts import load_yaml

AGENT = "/usr/libexec/vmw-metadata-agent"
UNIT = "vmw-metadata-agent.service"

BOOT_FILES = ("/proc/cmdline", "/etc/kernel/cmdline", "/etc/default/grub", "/boot/grub/grub.cfg",
              "/boot/grub2/grub.cfg", "/boot/grub2/grubenv")  # fmt: skip
COMMENT = re.compile(r"^[ \t]*#.*$", re.MULTILINE)


class Image:
    """The tree of a system, read for what stands against the agent."""

    def __init__(self, system: System, settings: Settings, config: str) -> None:
        self.system = system
        self.settings = settings
        self.config = config

    def findings(self) -> List[str]:
        return [line for check in CHECKS for line in check(self)]

    def has(self, place: str) -> bool:
        return os.path.lexists(self.system.itself(place))

    def systemctl(self, words: str) -> str:
        """Return the command for this tree, and not for the machine where the check runs."""
        root = self.system.root
        return f"systemctl {words}" if root == "/" else f"systemctl --root={root} {words}"

    def units(self, name: str) -> List[str]:
        """Return the places of a unit, each file once: /lib may be /usr/lib."""
        directories = ("/etc/systemd/system/", "/usr/lib/systemd/system/", "/lib/systemd/system/")
        found: Dict[str, str] = {}
        for place in (directory + name for directory in directories):
            if self.has(place):
                found.setdefault(self.system.itself(place), place)
        return list(found.values())

    @property
    def cloud_configs(self) -> List[Tuple[str, Any]]:
        """cloud-init's configuration files, in its order: place and content."""
        base = "/etc/cloud/cloud.cfg.d/"
        names = [name for name in names_in(self.system.at(base)) if name.endswith(".cfg")]
        places = ["/etc/cloud/cloud.cfg"] + [base + name for name in names]
        return [(place, self._load(place)) for place in places if self.has(place)]

    @property
    def network(self) -> Tuple[str, Any]:
        """Return the last place that sets a network, and the network merged over all files."""
        place = ""
        network: Any = None
        for file, config in self.cloud_configs:
            if "network" in config:
                found = config["network"]
                place = file if found else place
                both = isinstance(network, dict) and isinstance(found, dict)
                network = {**network, **found} if both else found
        return place, network

    def last(self, key: str) -> Tuple[str, Any]:
        """Return the last place where `key` is set, and its value."""
        found = [(place, config[key]) for place, config in self.cloud_configs if key in config]
        return found[-1] if found else ("", None)

    def _load(self, place: str) -> Dict[Any, Any]:
        text = read_text(self.system.at(place))
        with suppress(ValueError, ImportError):
            value = load_yaml(text)
            return value if isinstance(value, dict) else {}
        return scan_lines(text)

    @property
    def kernel_words(self) -> List[Tuple[str, str]]:
        """Words of kernel command lines: the running kernel's, and those of boot loaders."""
        base = "/boot/loader/entries/"
        entries = [base + name for name in names_in(self.system.at(base))]
        places = [*BOOT_FILES, *entries]
        texts = [(place, COMMENT.sub("", self.system.read(place))) for place in places]
        return [(place, word) for place, text in texts for word in re.split(r"[\s\"']+", text)]


# In brackets, or one item a line; takes linear time, whatever the text.
DATASOURCES = re.compile(
    r"^datasource_list:(\s{0,99}\[[^\]]{0,4096}\]|[ \t]*(?:(?:\n[ \t]*)+- .*)+)", re.MULTILINE
)


def scan_lines(text: str) -> Dict[str, Any]:
    """Find the two keys that the check needs without PyYAML."""
    found: Dict[str, Any] = {}
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
    if not any(map(image.has, ("/usr/bin/cloud-init", "/usr/local/bin/cloud-init"))):
        yield "/usr/bin/cloud-init is missing: install cloud-init"
    if image.has("/etc/cloud/cloud-init.disabled"):
        yield "/etc/cloud/cloud-init.disabled: cloud-init is disabled: remove this file"
    for place, word in image.kernel_words:
        if word in ("cloud-init=disabled", "network-config=disabled"):
            yield f"{place}: remove {word} from the kernel command line"
    for name in ("cloud-init.target", "cloud-init-local.service", "cloud-init.service",
                 "cloud-init-main.service"):  # fmt: skip
        if image.system.is_masked(name):
            yield f"{name} is masked: {image.systemctl('unmask ' + name)}"


def check_network(image: Image) -> Iterator[str]:
    place, network = image.network
    if isinstance(network, dict) and network.get("config") == "disabled":
        yield f"{place}: network: {{config: disabled}}: no network is configured: remove it"
    elif network:
        yield f"{place}: network: cloud-init uses this and not the server's network: remove it"


def check_datasources(image: Image) -> Iterator[str]:
    place, sources = image.last("datasource_list")
    advised = "put `datasource_list: [NoCloud, None]` into /etc/cloud/cloud.cfg.d/99-nocloud.cfg"
    if not place:
        yield "no datasource_list: cloud-init finds no data source and does not start: " + advised
    elif "NoCloud" not in (sources if isinstance(sources, list) else []):
        yield f"{place}: the last datasource_list lacks NoCloud: remove it, or add NoCloud"
    policy = image.system.read("/etc/cloud/ds-identify.cfg")
    if re.search(r"^[ \t]*policy:[ \t]*[\"']?disabled", policy, re.MULTILINE):
        yield "/etc/cloud/ds-identify.cfg: policy: disabled: cloud-init does not start: remove it"


def check_disc(image: Image) -> Iterator[str]:
    for place in ("/dev/disk/by-label/cidata", "/dev/disk/by-label/CIDATA"):
        if image.has(place):
            yield f"{place}: data on this disc overrides the seed: remove the disc"


def check_port(image: Image) -> Iterator[str]:
    device = image.settings["device"]
    if device:
        yield from check_device(image, device)
    elif image.system.serial_ports:
        try:
            find_ports(image.system, None)
        except NoPort as error:
            yield str(error)
    elif image.has("/sys/class/tty"):
        yield NO_PORT


def check_device(image: Image, device: str) -> Iterator[str]:
    tty = image.system.tty(device)
    if image.has("/sys/class/tty") and not image.has("/sys/class/tty/" + tty):
        yield f"{device}: does not exist on this machine"
    elif not image.system.has_uart(tty):
        yield f"{device}: has no UART: does the VM have this serial port?"
    if image.system.has_getty(tty):
        unit = f"serial-getty@{tty}.service"
        if image.system.root == "/":
            yield f"{unit} uses the port: systemctl mask {unit}"
        else:  # a first boot may remove what systemctl has masked
            yield f"{unit} uses the port: run `guest install` again, with --free-console {tty} too"


def check_console(image: Image) -> Iterator[str]:
    tty = image.system.tty(image.settings["device"] or "")
    console = re.compile(rf"console={re.escape(tty)}(,|$)")
    places = {place for place, word in image.kernel_words if console.match(word)}
    for place in sorted(places) if tty else ():
        yield f"{place}: console={tty} uses the port: remove it, or add a second serial port"


def check_agent(image: Image) -> Iterator[str]:
    if not image.has(AGENT):
        yield f"{AGENT}: is missing: install the agent"
    units = image.units(UNIT)
    if not units:
        yield f"{UNIT} is missing: install it in /usr/lib/systemd/system"
    elif image.system.is_masked(UNIT):
        yield f"{UNIT} is masked: {image.systemctl('unmask ' + UNIT)}"
    for program in interpreters(image, units):
        if not image.has(program):
            yield f"{program}: is missing and is needed to run the agent: install Python 3"


def check_enablement(image: Image) -> Iterator[str]:
    has_unit = image.units(UNIT) and not image.system.is_masked(UNIT)
    places = [f"{at}/systemd/system/cloud-init.target.wants" for at in ("/etc", "/usr/lib")]
    if has_unit and not any(UNIT in names_in(image.system.at(place)) for place in places):
        yield f"{UNIT} is not enabled: {image.systemctl('enable ' + UNIT)}"


def interpreters(image: Image, units: Sequence[str]) -> List[str]:
    """Return the programs that the unit runs the agent with, or those of its first line."""
    if units:
        found = re.findall(
            r"^ExecStart=[-@:+!]*([^\s\0]+)", image.system.read(units[0]), re.MULTILINE
        )
        if found and found != [AGENT]:
            return found
    found = re.findall(r"\A#!\s*([^\s\0]+)(?:[ \t]+([^\s\0]+))?", image.system.read(AGENT))
    program, argument = found[0] if found else ("/usr/bin/python3", "")
    return ["/usr/bin/" + argument] if program.endswith("/env") else [program]


def check_selinux_labels(image: Image) -> Iterator[str]:
    selinux = re.search(r"^SELINUX=(\w+)", image.system.read("/etc/selinux/config"), re.MULTILINE)
    if not selinux or selinux.group(1) == "disabled" or image.has("/.autorelabel"):
        return
    for place in [AGENT, *image.units(UNIT)]:
        if image.has(place) and not has_selinux_label(image.system.at(place)):
            relabel = os.path.join(image.system.root, ".autorelabel")
            yield (
                f"{place}: has no SELinux label: touch {relabel}, or run restorecon on the file "
                "in the running system"
            )


def has_selinux_label(place: str) -> bool:
    try:
        return b":unlabeled_t:" not in os.getxattr(place, "security.selinux")
    except OSError:
        return False


def check_config(image: Image) -> Iterator[str]:
    yield from read_config(image.system.at(image.config), image.config != CONFIG)[1]


def check_seed(image: Image) -> Iterator[str]:
    memory = SeedDir(image.system.at(image.settings["seed-dir"])).memory()
    if memory and image.system.uuid and not image.system.has_uuid(memory.machine):
        yield "the seed belongs to another machine: clean a template with `cloud-init clean`"


# `guest check` has more thorough ones in place of these, and runs the others.
REPLACED = (check_cloud_init, check_network, check_datasources, check_console,
            check_enablement)  # fmt: skip
OF_THE_AGENT = (check_disc, check_port, check_agent, check_selinux_labels,
                check_seed)  # fmt: skip
CHECKS = (*REPLACED, *OF_THE_AGENT, check_config)


def run_check(image: Image) -> int:
    """Print the findings; return the exit code."""
    found = image.findings()
    for line in found or ["no problems found"]:
        put(re.sub(r"[^ -~]", "?", line).encode() + b"\n")  # file names can be anything
    return 1 if found else 0

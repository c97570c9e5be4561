"""Finds what an installer or an earlier boot left in an image and what competes with cloud-init.

Network configuration counts only where the program that reads it is in the image.
"""

from __future__ import annotations

import fnmatch
import posixpath
import re
from collections.abc import Iterable, Iterator

from vmw_cloudinit_metadata.guest.check.boundedtexts import load_yaml, read_texts
from vmw_cloudinit_metadata.guest.check.configlayers import CloudConfig
from vmw_cloudinit_metadata.guest.check.finding import ImageFinding
from vmw_cloudinit_metadata.guest.image import layout
from vmw_cloudinit_metadata.guest.image.tree import Tree

_INTERFACES = "/etc/network/interfaces"
_CLOUD_INIT_INTERFACES = "/etc/network/interfaces.d/50-cloud-init"
_MAX_INCLUDES = 20  # which are looked into
_IFUP = ("/usr/sbin/ifup", "/sbin/ifup")
_NETPLAN = ("/usr/sbin/netplan", "/usr/libexec/netplan/generate", "/usr/lib/netplan/generate")
_NETPLAN_FILES = ("/etc/netplan/*.yaml", "/usr/lib/netplan/*.yaml", "/lib/netplan/*.yaml")
_CLOUD_INIT_NETPLAN = "/etc/netplan/50-cloud-init.yaml"
_NETWORK_MANAGER = ("/usr/sbin/NetworkManager", "/usr/bin/NetworkManager", "/sbin/NetworkManager")
_CONNECTIONS = (
    "/etc/NetworkManager/system-connections/*",  # there, with any ending
    "/usr/lib/NetworkManager/system-connections/*.nmconnection",
)
_NO_CONNECTION = ("~", ".bak", ".swp", ".orig", ".rpmsave", ".rpmnew")
_WIRED = ("", "ethernet", "802-3-ethernet", "bond", "bridge", "team", "vlan")
_SCRIPTS = (*_IFUP, "/etc/init.d/network", "/etc/rc.d/init.d/network")
_MANAGER_PLUGINS = ("/usr/lib64/NetworkManager/*", "/usr/lib/*/NetworkManager/*")
_IFCFG_PLUGIN = "libnm-settings-plugin-ifcfg-rh.so"  # Fedora 41 and RHEL 10 have none
_WICKED = ("/usr/sbin/wicked", "/sbin/wicked")
_SCRIPTS_FILES = "/etc/sysconfig/network-scripts/ifcfg-*"
_WICKED_FILES = "/etc/sysconfig/network/ifcfg-*"
_IFCFG_OFF = re.compile(
    r"^[ \t]*(?:ONBOOT=[\"']?(?:no?|f|false|off|0)|STARTMODE=[\"']?(?:off|manual))\b",
    re.MULTILINE | re.IGNORECASE,
)
_IFCFG_IGNORED = (".bak", ".orig", ".rpmsave", ".rpmnew", ".template", "~")
_NETWORKD = "/usr/lib/systemd/systemd-networkd"
_NETWORKD_ENABLED = "systemd/system/*.wants/systemd-networkd.service"
_NETWORKD_FILES = ("/etc/systemd/network/*.network", "/usr/lib/systemd/network/*.network")
_CLOUD_INIT_NETWORKD = "10-cloud-init-"
_NETPLAN_NETWORKD = "10-netplan-"
_MACHINE_IDS = ("/etc/machine-id", "/var/lib/dbus/machine-id")
_REMOVE = "remove the file"


def left_over(tree: Tree, config: CloudConfig) -> Iterator[ImageFinding]:
    """Yield network configuration that competes, and an identity that clones would share."""
    yield from _of_ifupdown(tree, config)
    yield from _of_netplan(tree)
    yield from _of_network_manager(tree)
    yield from _of_ifcfg(tree)
    yield from _of_networkd(tree)
    yield from _of_machine_id(tree)


def _competes(path: str, what: str, remedy: str = _REMOVE) -> ImageFinding:
    return ImageFinding(path, f"{what} beside what cloud-init writes", remedy)


def _has(tree: Tree, programs: Iterable[str]) -> bool:
    return any(map(tree.find, programs))


def _files(tree: Tree, *patterns: str) -> list[str]:
    """Return the files that match, each once, whatever links lead to it."""
    found = (tree.find(path) for pattern in patterns for path in tree.glob(pattern))
    return list(dict.fromkeys(path for path in found if path and tree.is_file(path)))


def _of_ifupdown(tree: Tree, config: CloudConfig) -> Iterator[ImageFinding]:
    if not _has(tree, _IFUP) or not tree.is_file(_INTERFACES):
        return
    included = _included(_lines(read_texts(tree, [_INTERFACES])[_INTERFACES]))
    if _writes_interfaces(tree, config) and not any(
        fnmatch.fnmatchcase(_CLOUD_INIT_INTERFACES, pattern) for pattern in included
    ):
        yield ImageFinding(
            _INTERFACES,
            f"does not include {_CLOUD_INIT_INTERFACES}, where cloud-init writes the network",
            "add the line `source /etc/network/interfaces.d/*`",
        )
    followed = [
        pattern for pattern in included[:_MAX_INCLUDES] if "*" not in posixpath.dirname(pattern)
    ]
    paths = _files(tree, _INTERFACES, "/etc/network/interfaces.d/*", *followed)
    for path, text in read_texts(tree, paths).items():
        if posixpath.basename(path).startswith("50-cloud-init"):
            continue
        cards = [words[1] for words in _lines(text) if _is_card(words)]
        if cards:
            names = " ".join(dict.fromkeys(cards))
            yield _competes(path, f"configures {names}", f"remove the stanzas of {names}")


def _writes_interfaces(tree: Tree, config: CloudConfig) -> bool:
    """Return whether cloud-init would write for ifupdown, and not for netplan."""
    for one in config.get("system_info", "network", "renderers")[:1]:
        if isinstance(one.value, list) and _has(tree, _NETPLAN) and "netplan" in one.value:
            return "eni" in one.value[: one.value.index("netplan")]
    return True


def _lines(text: str) -> list[list[str]]:
    """Return the words of each line of a file for ifupdown."""
    return [line.split() for line in text.replace("\\\n", " ").split("\n")]


def _included(lines: Iterable[list[str]]) -> list[str]:
    """Return the patterns of the files that these lines include."""
    patterns = (
        posixpath.join("/etc/network", words[1], "" if words[0] == "source" else "*").rstrip("/")
        for words in lines
        if len(words) > 1 and words[0] in ("source", "source-directory", "source-dir")
    )
    return list(dict.fromkeys(patterns))


def _is_card(words: list[str]) -> bool:
    return len(words) > 1 and words[0] == "iface" and words[1] != "lo"


def _of_netplan(tree: Tree) -> Iterator[ImageFinding]:
    if not _has(tree, _NETPLAN):
        return
    for path, text in read_texts(tree, _files(tree, *_NETPLAN_FILES)).items():
        if path == _CLOUD_INIT_NETPLAN:
            continue
        try:
            configured = _devices(load_yaml(path, text))
        except ValueError:
            yield ImageFinding(
                path, "is not YAML: netplan applies no file at all", "correct or remove it"
            )
            continue
        if configured:
            yield _competes(path, f"configures {' '.join(configured)}")


def _devices(plan: object) -> list[str]:
    network = plan.get("network") if isinstance(plan, dict) else None
    if not isinstance(network, dict):
        return []
    kinds = [value for value in network.values() if isinstance(value, dict)]
    return [str(name) for devices in kinds for name in devices]


def _of_network_manager(tree: Tree) -> Iterator[ImageFinding]:
    if not _has(tree, _NETWORK_MANAGER):
        return
    for path in _files(tree, *_CONNECTIONS):
        name = posixpath.basename(path)
        if name.startswith((".", "cloud-init-")) or name.endswith(_NO_CONNECTION):
            continue
        keys = _section(tree.text(path), "connection")
        if keys.get("type", "") in _WIRED and keys.get("autoconnect", "") not in ("false", "0"):
            yield _competes(path, f"configures {keys.get('interface-name', 'any card')}")


def _section(text: str, name: str) -> dict[str, str]:
    """Return the keys of a section of an INI file."""
    found: dict[str, str] = {}
    section = ""
    for line in map(str.strip, text.split("\n")):
        if line.startswith("["):
            section = line.strip("[] \t").lower()
        elif section == name.lower() and "=" in line and line[0] not in "#;":
            key, _, value = line.partition("=")
            found[key.strip().lower()] = value.strip()
    return found


def _of_ifcfg(tree: Tree) -> Iterator[ImageFinding]:
    patterns = [_SCRIPTS_FILES] * _reads_scripts(tree) + [_WICKED_FILES] * _has(tree, _WICKED)
    for path in _files(tree, *patterns):
        name = posixpath.basename(path).removeprefix("ifcfg-")
        text = tree.text(path)
        is_off = name == "lo" or name.endswith(_IFCFG_IGNORED) or _IFCFG_OFF.search(text)
        if not is_off and "by cloud-init" not in text:
            yield _competes(path, f"configures {name}")


def _reads_scripts(tree: Tree) -> bool:
    """Return whether something reads network-scripts: NetworkManager needs a plugin for that."""
    if _has(tree, _SCRIPTS):
        return True
    directories = [path for pattern in _MANAGER_PLUGINS for path in tree.glob(pattern)]
    plugins = [f"{directory}/{_IFCFG_PLUGIN}" for directory in directories]
    return _has(tree, _NETWORK_MANAGER) and (not plugins or _has(tree, plugins))


def _of_networkd(tree: Tree) -> Iterator[ImageFinding]:
    """systemd-networkd takes the first file that matches a card."""
    enabled = (tree.glob(f"{at}/{_NETWORKD_ENABLED}") for at in ("/etc", "/usr/lib"))
    if not tree.find(_NETWORKD) or not any(enabled):
        return
    first = _NETPLAN_NETWORKD if _has(tree, _NETPLAN) else _CLOUD_INIT_NETWORKD
    named: dict[str, str] = {}  # a file hides those of its name in later directories
    for path in (path for pattern in _NETWORKD_FILES for path in tree.glob(pattern)):
        named.setdefault(posixpath.basename(path), path)
    for name, path in named.items():
        if name < first and tree.text(path) and not name.startswith(_CLOUD_INIT_NETWORKD):
            card = _section(tree.text(path), "Match").get("name", "cards")
            if card != "lo":
                yield ImageFinding(
                    path,
                    f"configures {card}, before cloud-init's {first}*.network",
                    "rename it to a higher number, or remove it",
                )


def _of_machine_id(tree: Tree) -> Iterator[ImageFinding]:
    if not layout.is_image(tree):
        return
    for path in _MACHINE_IDS:
        entry = tree.entry(path)
        if (
            entry
            and tree.find(path) == path
            and tree.text(path).strip() not in ("", "uninitialized")
        ):
            yield ImageFinding(
                path,
                "holds a machine-id, which all clones of this image would share",
                f"empty it: truncate -s 0 {tree.root}{path}"
                if path == _MACHINE_IDS[0]
                else _REMOVE,
            )

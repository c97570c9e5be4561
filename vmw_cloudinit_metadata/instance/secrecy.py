"""What messages may quote of instance data: known keys, and values that are not secret. Pure.

An unknown key may be content: with wrong indentation, a line of user-data or a password becomes a
key. So only known keys are named. YAML tags, anchors and aliases are never quoted, since
`password: !x` has one by accident.
"""

from __future__ import annotations

import re
from collections.abc import Collection

from vmw_cloudinit_metadata.instance.counts import characters
from vmw_cloudinit_metadata.instance.documents import FILE_KEYS, USER_DATA_KEYS

Key = tuple[str | int, ...]

# Everything below these is content.
_PARTS = frozenset({*USER_DATA_KEYS, "documents"})

NAMES = frozenset(
    {
        *(*_PARTS, "metadata", "network", "match", *FILE_KEYS),
        *("ami-id", "instance-id", "region", "availability-zone", "tags", "public-keys"),
        *("hostname", "local-hostname", "vc-uuid", "bios-uuid", "peer", "direction", "serve"),
        *("name", "mac-address", "mtu", "dhcp", "address", "netmask", "gateway", "on-link"),
        *("routes", "search", "nameservers", "to", "via", "metric"),
        # cloud-init's own network-config, and its document
        *("version", "config", "renderer", "ethernets", "bonds", "bridges", "vlans", "wifis"),
        *("type", "subnets", "params", "addresses", "macaddress", "set-name", "interfaces"),
        *("networkdata", "<<"),
        *("accept-ra", "access-points", "bond-interfaces", "bridge-interfaces", "broadcast"),
        *("control", "destination", "dhcp4", "dhcp4-overrides", "dhcp6", "dhcp6-overrides"),
        *("dns-nameservers", "dns-search", "driver", "from", "gateway4", "gateway6", "id"),
        *("interface", "ipv4", "ipv6", "keep-configuration", "link", "optional", "parameters"),
        *("routing-policy", "vlan-id", "vlan-link", "wakeonlan", "activation-mode", "critical"),
        *("dhcp-identifier", "dummy-devices", "hairpin", "ignore-carrier", "link-local"),
        *("ipv6-address-generation", "ipv6-address-token", "ipv6-mtu", "ipv6-privacy", "modems"),
        *("neigh-suppress", "networkd", "networkmanager", "nm-devices", "openvswitch"),
        *("optional-addresses", "port-mac-learning", "tunnels", "virtual-ethernets", "vrfs"),
        # names of secrets, below which nothing is shown
        *("password", "passwd", "passphrase", "hashed-passwd", "chpasswd", "plain-text-passwd"),
        *("secret", "secrets", "token", "key", "private-key", "ssh-keys", "credentials", "users"),
    }
)

_SECRET_NAME = re.compile(
    r"pass|pwd|secret|token|credential|auth|private|api.?key|key|hash|cookie"
    r"|user.?data|vendor.?data",
    re.IGNORECASE,
)
_PUBLIC_NAME = re.compile(r"public|authorized", re.IGNORECASE)
_LONGEST_NAME = 256  # characters of a name that are searched

# In cloud-init's own network-config operators name interfaces: `network.ethernets.ens192`.
# Names in the form that systems give them may be shown; no secret looks like that.
_INTERFACES = frozenset({"ethernets", "bonds", "bridges", "vlans"})
_INTERFACE = re.compile(
    r"(?=.{3,15}\Z)(?:bond|br|dummy|en|eth|ib|id|lan|net|nic|team|vlan|wl|ww)[a-z]{0,2}[0-9][a-z0-9.]{0,12}"
)

# PEM and PuTTY; the base64 of OpenSSH's own form; age; crypt(3); base64 or hexadecimal at length.
_SECRET_VALUE = re.compile(
    r"-----BEGIN|PRIVATE|PuTTY-|b3BlbnNzaC1rZXk|AGE-SECRET|\$[0-9a-z]{1,8}\$"
    r"|[A-Za-z0-9+/=_-]{40}"
)
_SEARCHED_CHARACTERS = 1000  # more than is ever quoted


def is_secret_name(name: str) -> bool:
    """Return whether the value of a key with that name is probably a secret."""
    start = name[:_LONGEST_NAME]
    return bool(_SECRET_NAME.search(start)) and not _PUBLIC_NAME.search(start)


def is_secret(key: Key) -> bool:
    """Return whether the value at `key` may be a secret.

    What stands where interfaces are named, and has no such name, may have slipped there.
    """
    has_slipped = _is_among_interfaces(key) and not _is_interface(key)
    return has_slipped or any(isinstance(part, str) and _begins_secret(part) for part in key)


def _begins_secret(part: str) -> bool:
    return part in _PARTS or is_secret_name(part)


def shown(key: Key, names: Collection[str] = NAMES, *, with_last: bool = False) -> str:
    """Return `network.1.gateway`, cut after the first part below which everything is secret.

    A part that is not in `names` is replaced by its length; with `with_last`, the last part is
    shown in any case.
    """
    parts: list[str] = []
    for index, part in enumerate(key, 1):
        is_named = isinstance(part, int) or part in names or part.replace("_", "-") in names
        if is_named or (with_last and index == len(key)) or _is_interface(key[:index]):
            parts.append(str(part))
        else:
            parts.append(f"<{characters(len(str(part)))}>")
        if isinstance(part, str) and _begins_secret(part):
            break
    return ".".join(parts)


def _is_interface(key: Key) -> bool:
    return _is_among_interfaces(key) and bool(_INTERFACE.fullmatch(str(key[-1])))


def _is_among_interfaces(key: Key) -> bool:
    match key:
        case ("network", str() as kind, str()):
            return kind in _INTERFACES
        case _:
            return False


def is_secret_text(text: str) -> bool:
    """Return whether a string looks like a secret: a private key, a hash, base64."""
    return bool(_SECRET_VALUE.search(text[:_SEARCHED_CHARACTERS]))

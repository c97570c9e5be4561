"""Recipes of images. The same recipe gives the same image."""

from __future__ import annotations

import hashlib
import os
from dataclasses import dataclass

# Package mirrors; empty: mmdebstrap's default.
MIRRORS = os.environ.get("E2E_MIRROR", "").split()
COMMON = (
    *("systemd", "systemd-sysv", "udev", "dbus", "kmod", "iproute2"),
    *("python3", "cloud-init", "openssh-server", "e2fsprogs", "linux-image-cloud-amd64"),
)
IFUPDOWN = ("ifupdown", "resolvconf")
NETPLAN = ("netplan.io", "systemd-resolved")
OPTIONS = (
    "--variant=minbase",
    "--format=tar",
    "--dpkgopt=path-exclude=/usr/share/doc/*",
    "--dpkgopt=path-exclude=/usr/share/locale/*",
    "--dpkgopt=path-exclude=/usr/share/man/*",
)
# Security updates of a release that Debian supports no more: the suite may be gone or incomplete.
WITHOUT_SECURITY = ('--setup-hook=sed -i /security/d "$1/etc/apt/sources.list"',)
# The suite is signed anew several times a day; a mirror may be older than its signature is valid.
ALSO_EXPIRED = ("--aptopt=Acquire::Check-Valid-Until false",)
# netplan 1.2 does not start systemd-networkd on a first boot if it is not enabled.
WITH_NETWORKD = ('--customize-hook=systemctl --root "$1" enable systemd-networkd',)


@dataclass(frozen=True)
class Recipe:
    name: str
    suite: str
    packages: tuple[str, ...]
    options: tuple[str, ...] = ()

    @property
    def command(self) -> list[str]:
        """The mmdebstrap command, without the output file."""
        options = (*OPTIONS, *self.options, f"--include={','.join(self.packages)}")
        return ["mmdebstrap", *options, self.suite]

    @property
    def digest(self) -> str:
        return hashlib.sha256("\0".join(self.command).encode()).hexdigest()[:16]


# cloud-init of Debian 13 uses netcat to communicate between its stages.
DEBIAN_13 = Recipe("debian-13", "trixie", (*COMMON, *IFUPDOWN, "netcat-openbsd"))
DEBIAN_12 = Recipe("debian-12", "bookworm", (*COMMON, *IFUPDOWN))
NETPLAN_13 = Recipe("debian-13-netplan", "trixie", (*COMMON, *NETPLAN, "netcat-openbsd"))
DEBIAN_11 = Recipe("debian-11", "bullseye", (*COMMON, *IFUPDOWN), WITHOUT_SECURITY)
SID = Recipe("debian-sid", "sid", NETPLAN_13.packages, (*ALSO_EXPIRED, *WITH_NETWORKD))

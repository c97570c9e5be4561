"""What an image is made of; the same recipe is the same image."""

from __future__ import annotations

import hashlib
import os
from dataclasses import dataclass

# Where packages come from; without it, from where mmdebstrap takes them by itself.
MIRRORS = os.environ.get("E2E_MIRROR", "").split()
COMMON = (
    *("systemd", "systemd-sysv", "udev", "dbus", "kmod", "iproute2"),
    *("python3", "cloud-init", "e2fsprogs", "linux-image-cloud-amd64"),
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


@dataclass(frozen=True)
class Recipe:
    name: str
    suite: str
    packages: tuple[str, ...]

    @property
    def command(self) -> list[str]:
        """mmdebstrap's, up to the file it writes."""
        return ["mmdebstrap", *OPTIONS, f"--include={','.join(self.packages)}", self.suite]

    @property
    def digest(self) -> str:
        return hashlib.sha256("\0".join(self.command).encode()).hexdigest()[:16]


# cloud-init of Debian 13 speaks to its own stages with netcat.
DEBIAN_13 = Recipe("debian-13", "trixie", (*COMMON, *IFUPDOWN, "netcat-openbsd"))
DEBIAN_12 = Recipe("debian-12", "bookworm", (*COMMON, *IFUPDOWN))
NETPLAN_13 = Recipe("debian-13-netplan", "trixie", (*COMMON, *NETPLAN, "netcat-openbsd"))

"""A distribution as a table of paths and contents, and what the packages of several have."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from tests.tree import put

PROGRAM = "#!/bin/false\n"  # nothing runs it
DIRECTORIES = ("dev", "proc", "run", "sys", "tmp", "usr/bin", "usr/lib", "usr/lib64", "var/lib")
MERGED = {name: f"usr/{name}" for name in ("bin", "sbin", "lib", "lib64")}

UNITS = "usr/lib/systemd/system"
PRESETS = "usr/lib/systemd/system-preset"
WANTED = "etc/systemd/system/multi-user.target.wants"
CLOUD = "etc/cloud/cloud.cfg.d"
GRUB = "etc/default/grub"

# The services of cloud-init: up to 24.2, and since 24.3.
SERVICES = ("cloud-init-local", "cloud-init", "cloud-config", "cloud-final")
SERVICES_OF_ONE_PROCESS = (
    *("cloud-init-main", "cloud-init-local", "cloud-init-network"),
    *("cloud-config", "cloud-final"),
)


@dataclass(frozen=True)
class Distribution:
    """The tree of an image with cloud-init, as packages and installer or image builder leave it."""

    name: str
    python: str  # the interpreter that the agent's unit has to use
    ds_identify: str  # where its cloud-init has this program
    debian: str  # whose program of a similar version can stand in for it
    files: Mapping[str, str]
    links: Mapping[str, str]
    policy: str = ""  # its ds-identify's own line that sets the default policy

    @property
    def has_selinux(self) -> bool:
        return "etc/selinux/config" in self.files

    def patched(self, program: str) -> str:
        """Return the text of a ds-identify, changed as the package changes it."""
        pattern = re.compile(r"^DI_DEFAULT_POLICY=.*$", re.MULTILINE)
        return pattern.sub(self.policy, program) if self.policy else program

    def make(self, root: Path) -> Path:
        """Make the tree in a new directory."""
        for name in DIRECTORIES:
            (root / name).mkdir(parents=True)
        for name, text in self.files.items():
            put(root, name, text)
        for name, target in self.links.items():
            (root / name).parent.mkdir(parents=True, exist_ok=True)
            (root / name).symlink_to(target)
        return root


def cloud_init(
    services: Iterable[str], python: str, ds_identify: str, config: str
) -> dict[str, str]:
    """Return the files of its package."""
    units = {f"{UNITS}/{name}.service": _wanted_by("cloud-init.target") for name in services}
    targets = {f"{UNITS}/{name}.target": "[Unit]\n" for name in ("cloud-init", "cloud-config")}
    return {
        "usr/bin/cloud-init": f"#!{python}\n",
        ds_identify: PROGRAM,
        "usr/lib/systemd/system-generators/cloud-init-generator": PROGRAM,
        **units,
        **targets,
        f"{UNITS}/cloud-init-hotplugd.service": "[Unit]\n",
        f"{UNITS}/cloud-init-hotplugd.socket": _wanted_by("cloud-config.target"),
        "etc/cloud/cloud.cfg": config,
        f"{CLOUD}/05_logging.cfg": "_log: []\noutput: {all: '| tee -a /var/log/cloud-init.out'}\n",
        f"{CLOUD}/README": "All files here that end in .cfg are read by cloud-init.\n",
    }


def cloud_cfg(distro: str, user: str, renderers: Iterable[str] = (), further: str = "") -> str:
    """Return cloud.cfg with the defaults of a distribution."""
    network = f"  network: {{renderers: [{', '.join(renderers)}]}}\n" if renderers else ""
    return f"""\
users: [default]
disable_root: true
preserve_hostname: false
{further}cloud_init_modules: [bootcmd, write_files, growpart, resizefs, set_hostname, users_groups]
cloud_config_modules: [locale, set_passwords, timezone, runcmd]
cloud_final_modules: [package_update_upgrade_install, scripts_user, final_message]
system_info:
  distro: {distro}
  default_user: {{name: {user}, lock_passwd: true, shell: /bin/bash}}
{network}  paths: {{cloud_dir: /var/lib/cloud/, templates_dir: /etc/cloud/templates/}}
"""


def enabled(services: Iterable[str], below: str = f"/{UNITS}") -> dict[str, str]:
    """Return the links by which they are enabled."""
    wants = "etc/systemd/system/cloud-init.target.wants"
    return {f"{wants}/{name}.service": f"{below}/{name}.service" for name in services}


def systemd(*network: str) -> dict[str, str]:
    """Return what counts of systemd and of the services of the network."""
    units = {f"{UNITS}/{name}.service": _wanted_by("multi-user.target") for name in network}
    return {
        "usr/lib/systemd/systemd": PROGRAM,
        f"{UNITS}/basic.target": "[Unit]\n",
        f"{UNITS}/serial-getty@.service": _wanted_by("getty.target"),
        **units,
    }


def wanted(*services: str) -> dict[str, str]:
    return {f"{WANTED}/{name}.service": f"/{UNITS}/{name}.service" for name in services}


def grubenv(**variables: str) -> str:
    """Return an environment of GRUB, of the size that GRUB needs."""
    lines = "".join(f"{name}={value}\n" for name, value in variables.items())
    return f"# GRUB Environment Block\n{lines}".ljust(1024, "#")


def _wanted_by(target: str) -> str:
    return f"[Unit]\n[Install]\nWantedBy={target}\n"

"""Ubuntu's cloud images: netplan over systemd-networkd, GRUB, everything below /usr."""

from __future__ import annotations

from tests.distributions.distribution import (
    CLOUD,
    GRUB,
    MERGED,
    PRESETS,
    PROGRAM,
    SERVICES,
    WANTED,
    Distribution,
    cloud_cfg,
    cloud_init,
    enabled,
    systemd,
    wanted,
)

DS_IDENTIFY = "usr/lib/cloud-init/ds-identify"
NETWORKD = "systemd-networkd"
RENDERERS = ("netplan", "eni", "sysconfig")
SOURCES = (
    *("NoCloud", "ConfigDrive", "OpenNebula", "DigitalOcean", "Azure", "AltCloud", "OVF", "MAAS"),
    *("GCE", "OpenStack", "CloudSigma", "SmartOS", "Bigstep", "Scaleway", "AliYun", "Ec2"),
    *("CloudStack", "Hetzner", "IBMCloud", "Oracle", "Exoscale", "RbxCloud", "UpCloud", "VMware"),
    *("Vultr", "LXD", "NWCS", "Akamai", "None"),
)
FILES = {
    **cloud_init(
        SERVICES, "/usr/bin/python3", DS_IDENTIFY, cloud_cfg("ubuntu", "ubuntu", RENDERERS)
    ),
    **systemd(NETWORKD),
    f"{CLOUD}/90_dpkg.cfg": f"# set by debconf\ndatasource_list: [ {', '.join(SOURCES)} ]\n",
    "usr/bin/dpkg": PROGRAM,
    "usr/lib/systemd/systemd-networkd": PROGRAM,
    "usr/lib/systemd/network/80-container-host0.network": "[Match]\nName=host0\n",
    "usr/share/initramfs-tools/init": PROGRAM,
    f"{PRESETS}/90-systemd.preset": "enable systemd-networkd.service\n",
    "etc/machine-id": "uninitialized\n",
    GRUB: 'GRUB_TIMEOUT=0\nGRUB_CMDLINE_LINUX_DEFAULT="quiet splash"\nGRUB_CMDLINE_LINUX=""\n',
    f"{GRUB}.d/50-cloudimg-settings.cfg": (
        'GRUB_TIMEOUT=0\nGRUB_CMDLINE_LINUX_DEFAULT="console=tty1 console=ttyS0"\n'
    ),
    "boot/grub/grub.cfg": "set timeout=0\nmenuentry 'Ubuntu' {\n"
    "\tlinux\t/vmlinuz root=LABEL=cloudimg-rootfs ro  console=tty1 console=ttyS0\n"
    "\tinitrd\t/initrd.img\n}\n",
    "boot/grub/grubenv": "# GRUB Environment Block\n".ljust(1024, "#"),
    "boot/efi/EFI/ubuntu/grub.cfg": "search.fs_uuid 1 root\nconfigfile $prefix/grub.cfg\n",
}
LINKS = {
    **MERGED,
    **enabled(SERVICES),
    **wanted(NETWORKD),
    f"{WANTED}/open-vm-tools.service": "/usr/lib/systemd/system/open-vm-tools.service",
    "usr/sbin/init": "../lib/systemd/systemd",
    "usr/sbin/netplan": "../share/netplan/netplan.script",
    "var/lib/dbus/machine-id": "/etc/machine-id",
}


def ubuntu(release: str, python: str, generator: str) -> Distribution:
    """Return a release with its Python and the place of netplan's generator."""
    programs = {
        f"usr/bin/{python}": PROGRAM,
        generator: PROGRAM,
        "usr/share/netplan/netplan.script": PROGRAM,
    }
    links = {
        "usr/bin/python3": python,
        "usr/lib/systemd/system-generators/netplan": f"/{generator}",
    }
    return Distribution(
        f"ubuntu-{release}",
        "/usr/bin/python3",
        DS_IDENTIFY,
        "debian-13",
        {**FILES, **programs},
        {**LINKS, **links},
    )


UBUNTU_22 = ubuntu("22.04", "python3.10", "usr/lib/netplan/generate")
UBUNTU_24 = ubuntu("24.04", "python3.12", "usr/libexec/netplan/generate")

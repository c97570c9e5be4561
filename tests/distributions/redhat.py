"""The Red Hat family: NetworkManager, SELinux, presets, and boot loader entries."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from tests.distributions.distribution import (
    GRUB,
    MERGED,
    PRESETS,
    PROGRAM,
    SERVICES,
    SERVICES_OF_ONE_PROCESS,
    Distribution,
    cloud_cfg,
    cloud_init,
    enabled,
    grubenv,
    systemd,
    wanted,
)

DS_IDENTIFY = "usr/libexec/cloud-init/ds-identify"
NETWORK = ("NetworkManager",)
PLUGINS = "usr/lib64/NetworkManager/1.40.16"
IFCFG = {f"{PLUGINS}/libnm-settings-plugin-ifcfg-rh.so": ""}  # Fedora 41 and RHEL 10 have none
RHEL_RENDERERS = ("sysconfig", "eni", "netplan", "network-manager", "networkd")
FEDORA_RENDERERS = ("netplan", "network-manager", "networkd", "sysconfig", "eni")
# The last line leaves a customization specification of vSphere to cloud-init.
RHEL_DEFAULTS = """\
mount_default_fields: [~, ~, auto, 'nofail,x-systemd.requires=cloud-init.service', '0', '2']
resize_rootfs_tmp: /dev
ssh_pwauth: false
ssh_deletekeys: true
ssh_genkeytypes: [rsa, ecdsa, ed25519]
syslog_fix_perms: ~
disable_vmware_customization: false
"""
FEDORA_DEFAULTS = """\
mount_default_fields: [~, ~, auto, 'defaults,nofail', '0', '2']
resize_rootfs_tmp: /dev
ssh_pwauth: false
"""
CONSOLE = "console=tty0 console=ttyS0,115200n8"
MACHINE = "0123456789abcdef0123456789abcdef"  # of the machine that built the image: in names only
COMMON = {
    **systemd(*NETWORK),
    f"{PLUGINS}/libnm-device-plugin-team.so": "",
    "usr/lib/dracut/dracut-functions.sh": PROGRAM,
    "etc/selinux/config": "SELINUX=enforcing\nSELINUXTYPE=targeted\n",
    "etc/selinux/targeted/contexts/files/file_contexts": "/.*\tsystem_u:object_r:default_t:s0\n",
    "etc/NetworkManager/NetworkManager.conf": "[main]\n",
    "etc/machine-id": "",
    f"{PRESETS}/99-default-disable.preset": "disable *\n",
    GRUB: f'GRUB_TIMEOUT=1\nGRUB_CMDLINE_LINUX="{CONSOLE} no_timer_check crashkernel=auto"\n'
    "GRUB_ENABLE_BLSCFG=true\n",
}


def entry(kernel: str, options: str) -> dict[str, str]:
    """Return a boot loader entry."""
    lines = f"title Linux\nversion {kernel}\nlinux /vmlinuz-{kernel}\noptions {options}\n"
    return {f"boot/loader/entries/{MACHINE}-{kernel}.conf": lines}


def presets(*services: str) -> dict[str, str]:
    """Return the distribution's presets; RHEL's cloud-init enables its services itself."""
    lines = (f"enable {name}.service\n" for name in (*NETWORK, "sshd", "vmtoolsd", *services))
    return {f"{PRESETS}/90-default.preset": "".join(lines)}


def red_hat(
    name: str,
    python: str,
    debian: str,
    services: Iterable[str],
    config: str,
    files: Mapping[str, str],
    links: Mapping[str, str],
    sbin: str = "usr/sbin",
) -> Distribution:
    package = cloud_init(services, f"{python} -s", DS_IDENTIFY, config)
    return Distribution(
        name,
        python,
        DS_IDENTIFY,
        debian,
        {**COMMON, **package, f"{sbin}/NetworkManager": PROGRAM, **files},
        {
            **MERGED,
            **enabled(services),
            **wanted(*NETWORK),
            f"{sbin}/init": "../lib/systemd/systemd",
            **links,
        },
    )


def rhel_9(distro: str, name: str, user: str) -> Distribution:
    """Return version 9 of RHEL, or of a clone."""
    words = f"root=UUID=1 ro {CONSOLE} no_timer_check crashkernel=1G-4G:192M"
    return red_hat(
        name,
        "/usr/bin/python3",
        "debian-13",
        SERVICES,
        cloud_cfg(distro, user, RHEL_RENDERERS, RHEL_DEFAULTS),
        {
            "usr/bin/python3.9": PROGRAM,
            **IFCFG,
            **presets(),
            **entry("5.14.0-503.el9.x86_64", words),
            "etc/kernel/cmdline": f"{words}\n",
            "boot/grub2/grub.cfg": "insmod increment\nblscfg\n",
            "boot/grub2/grubenv": grubenv(saved_entry=f"{MACHINE}-5.14.0-503.el9.x86_64"),
            f"boot/efi/EFI/{'redhat' if distro == 'rhel' else distro}/grub.cfg": "configfile x\n",
        },
        {"usr/bin/python3": "python3.9", "usr/libexec/platform-python": "/usr/bin/python3.9"},
    )


# A minimal installation has no /usr/bin/python3. The entries have their options in grubenv.
RHEL_8 = red_hat(
    "rhel-8",
    "/usr/libexec/platform-python",
    "debian-12",
    SERVICES,
    cloud_cfg("rhel", "cloud-user", RHEL_RENDERERS, RHEL_DEFAULTS),
    {
        "usr/libexec/platform-python3.6": PROGRAM,
        **IFCFG,
        **presets(),
        **entry("4.18.0-553.el8.x86_64", "$kernelopts $tuned_params"),
        "boot/grub2/grub.cfg": 'if [ -z "${kernelopts}" ]; then\n'
        f'  set kernelopts="root=UUID=1 ro {CONSOLE} crashkernel=auto "\nfi\nblscfg\n',
        "boot/efi/EFI/redhat/grub.cfg": "blscfg\n",
        "boot/efi/EFI/redhat/grubenv": grubenv(
            saved_entry=f"{MACHINE}-4.18.0-553.el8.x86_64",
            kernelopts=f"root=UUID=1 ro {CONSOLE} crashkernel=auto ",
        ),
        "etc/sysconfig/network": "NETWORKING=yes\n",
    },
    {
        "usr/libexec/platform-python": "/usr/libexec/platform-python3.6",
        "boot/grub2/grubenv": "../efi/EFI/redhat/grubenv",
    },
)
RHEL_9 = rhel_9("rhel", "rhel-9", "cloud-user")
ROCKY_9 = rhel_9("rocky", "rocky-9", "rocky")
# /usr/sbin is /usr/bin. On a first boot all presets are applied.
FEDORA_42 = red_hat(
    "fedora-42",
    "/usr/bin/python3",
    "debian-13",
    SERVICES_OF_ONE_PROCESS,
    cloud_cfg("fedora", "fedora", FEDORA_RENDERERS, FEDORA_DEFAULTS),
    {
        "usr/bin/python3.13": PROGRAM,
        **presets("systemd-resolved", *SERVICES_OF_ONE_PROCESS),
        **entry("6.14.0-63.fc42.x86_64", f"root=UUID=1 ro {CONSOLE} no_timer_check"),
        "etc/kernel/cmdline": f"root=UUID=1 ro {CONSOLE} no_timer_check\n",
        "boot/grub2/grub.cfg": "blscfg\n",
        "boot/grub2/grubenv": grubenv(saved_entry=f"{MACHINE}-6.14.0-63.fc42.x86_64"),
        "boot/efi/EFI/fedora/grub.cfg": "search --fs-uuid 1\nconfigfile $prefix/grub.cfg\n",
        "etc/machine-id": "uninitialized\n",
    },
    {"usr/bin/python3": "python3.13", "usr/sbin": "bin"},
    sbin="usr/bin",
)

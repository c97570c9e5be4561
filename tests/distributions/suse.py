"""SLES 15: wicked, btrfs with GRUB, and /bin, /sbin and /lib beside /usr."""

from __future__ import annotations

from tests.distributions.distribution import (
    GRUB,
    PRESETS,
    PROGRAM,
    SERVICES,
    Distribution,
    cloud_cfg,
    cloud_init,
    enabled,
    grubenv,
    systemd,
    wanted,
)

DS_IDENTIFY = "usr/lib/cloud-init/ds-identify"
WORDS = "splash=silent mitigations=auto quiet security=apparmor"
SLES_15 = Distribution(
    "sles-15",
    "/usr/bin/python3",
    DS_IDENTIFY,
    "debian-12",
    {
        **cloud_init(SERVICES, "/usr/bin/python3", DS_IDENTIFY, cloud_cfg("suse", "sles")),
        **systemd("wicked"),
        "usr/bin/python3.6": PROGRAM,
        "usr/sbin/wicked": PROGRAM,
        "usr/lib/dracut/dracut-functions.sh": PROGRAM,
        "bin/bash": PROGRAM,
        "sbin/ip": PROGRAM,
        "lib/modules/placeholder": "",
        f"{PRESETS}/95-default-SUSE.preset": "enable wicked.service\nenable sshd.service\n",
        f"{PRESETS}/99-default.preset": "disable *\n",
        "etc/sysconfig/network/config": 'NETCONFIG_DNS_POLICY="auto"\n',
        "etc/sysconfig/network/ifcfg-lo": "IPADDR=127.0.0.1/8\nSTARTMODE=nfsroot\n",
        "etc/sysconfig/network/ifcfg.template": "BOOTPROTO=static\n",
        "etc/machine-id": "",
        GRUB: f'GRUB_CMDLINE_LINUX_DEFAULT="{WORDS}"\nGRUB_CMDLINE_LINUX=""\n',
        "boot/grub2/grub.cfg": "menuentry 'SLES 15' {\n"
        f"\tlinux\t/boot/vmlinuz-6.4.0 root=UUID=1 ${{extra_cmdline}} {WORDS}\n}}\n",
        "boot/grub2/grubenv": grubenv(env_block="512+1"),
        "boot/efi/EFI/sles/grub.cfg": "search --fs-uuid 1\nset prefix=(${root})/boot/grub2\n",
    },
    {
        **enabled(SERVICES),
        **wanted("wicked"),
        "usr/bin/python3": "python3.6",
        "sbin/init": "../usr/lib/systemd/systemd",
    },
)

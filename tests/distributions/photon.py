"""Photon OS 5: systemd-networkd with DHCP for all cards, kernel command lines in /boot/*.cfg."""

from __future__ import annotations

from tests.distributions.distribution import (
    MERGED,
    PRESETS,
    PROGRAM,
    SERVICES,
    Distribution,
    cloud_cfg,
    cloud_init,
    enabled,
    systemd,
    wanted,
)

DS_IDENTIFY = "usr/lib/cloud-init/ds-identify"
NETWORKD = "systemd-networkd"
KERNEL = "boot/linux-6.1.83-2.ph5.cfg"
WORDS = "init=/lib/systemd/systemd ro loglevel=3 quiet no-vmw-sta nvme_core.io_timeout=4294967295"
# Its own list of data sources, and no address by DHCP without network data: systemd-networkd asks.
DEFAULTS = """\
disable_vmware_customization: true
manage_etc_hosts: false
datasource_list: ['NoCloud', 'ConfigDrive', 'OpenStack', 'VMware', None]
datasource: {VMware: {allow_raw_data: false}}
disable_fallback_netcfg: true
"""
# The one line of ds-identify that its package changes: without any data, cloud-init starts too.
POLICY = 'DI_DEFAULT_POLICY="search,found=all,maybe=all,notfound=${DI_ENABLED}"'
PHOTON_5 = Distribution(
    "photon-5",
    "/usr/bin/python3",
    DS_IDENTIFY,
    "debian-13",
    {
        **cloud_init(
            SERVICES,
            "/usr/bin/python3",
            DS_IDENTIFY,
            cloud_cfg("photon", "photon", ["networkd"], DEFAULTS),
        ),
        **systemd(NETWORKD),
        DS_IDENTIFY: f'{PROGRAM}{POLICY}\ngrep "$key\n',
        "usr/bin/python3.11": PROGRAM,
        "usr/bin/vmtoolsd": PROGRAM,
        "usr/lib/systemd/systemd-networkd": PROGRAM,
        f"{PRESETS}/50-photon.preset": "enable systemd-networkd.service\ndisable sshd.service\n",
        "etc/systemd/network/99-dhcp-en.network": (
            "[Match]\nName=e*\n\n[Network]\nDHCP=yes\nIPv6AcceptRA=no\n"
        ),
        "etc/machine-id": "",
        KERNEL: f"# GRUB Environment Block\nphoton_cmdline={WORDS}\n"
        "photon_linux=vmlinuz-6.1.83-2.ph5\nphoton_initrd=initrd.img-6.1.83-2.ph5\n",
        "boot/systemd.cfg": "# GRUB Environment Block\nsystemd_cmdline=net.ifnames=0\n",
        "boot/grub2/grub.cfg": "load_env -f /photon.cfg\nload_env -f /systemd.cfg\n"
        "menuentry 'Photon' {\n"
        "\tlinux /$photon_linux root=$rootpartition $photon_cmdline $systemd_cmdline\n}\n",
    },
    {
        **MERGED,
        **enabled(SERVICES),
        **wanted(NETWORKD),
        "usr/bin/python3": "python3.11",
        "usr/sbin/init": "../lib/systemd/systemd",
        "boot/photon.cfg": KERNEL.rpartition("/")[2],
    },
    POLICY,
)

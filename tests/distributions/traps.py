"""What installers, image builders and people leave in images of a distribution."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from tests.distributions.distribution import CLOUD
from tests.distributions.photon import KERNEL
from tests.imagecases import DS_IDENTIFY, NM, sample

UBUNTU = ("ubuntu-22.04", "ubuntu-24.04")
RHEL = ("rhel-8", "rhel-9", "rocky-9")
SCRIPTS = "etc/sysconfig/network-scripts"


@dataclass(frozen=True)
class Trap:
    """Files, and what the check says of the first one: nothing if `says` is ""."""

    images: tuple[str, ...]
    files: Mapping[str, str]
    says: str
    is_risk: bool = False
    device: str = "/dev/ttyS1"


TRAPS = {
    # Ubuntu's installer, since 23.10: the network of the build, for cloud-init.
    "installer-network": Trap(
        UBUNTU,
        {f"{CLOUD}/90-installer-network.cfg": sample("docs/90-installer-network.cfg")},
        "not the server's network",
    ),
    # ... and before: for netplan, and none for cloud-init.
    "installer-netplan": Trap(
        UBUNTU,
        {"etc/netplan/00-installer-config.yaml": sample("net/00-installer-config.yaml")},
        "configures ens192",
    ),
    "subiquity": Trap(
        UBUNTU,
        {f"{CLOUD}/subiquity-disable-cloudinit-networking.cfg": "network: {config: disabled}\n"},
        "no network is configured",
    ),
    "curtin": Trap(
        UBUNTU,
        {
            f"{CLOUD}/50-curtin-networking.cfg": "network:\n  version: 1\n  config:\n"
            "  - {type: physical, name: ens192, subnets: [{type: dhcp4}]}\n"
        },
        "not the server's network",
    ),
    "disabled-after-installation": Trap(
        UBUNTU, {"etc/cloud/cloud-init.disabled": ""}, "cloud-init is disabled"
    ),
    # The installer's own data: our list comes later, and its data source is not tried.
    "installer-data": Trap(
        UBUNTU,
        {
            f"{CLOUD}/99-installer.cfg": "datasource:\n  None:\n"
            "    metadata: {instance-id: 1b7c}\n    userdata_raw: |\n      #cloud-config\n"
            "datasource_list: [None]\n",
            DS_IDENTIFY: "policy: enabled\n",
        },
        "",
    ),
    "guestinfo": Trap(
        (*UBUNTU, *RHEL, "sles-15"),
        {f"{CLOUD}/99-DataSourceVMwareGuestInfo.cfg": "datasource_list: [VMwareGuestInfo]\n"},
        "",
    ),
    "guestinfo-later": Trap(
        (*RHEL, "photon-5"),
        {f"{CLOUD}/99_guestinfo.cfg": "datasource_list: [VMware, None]\n"},
        "the datasource_list lacks NoCloud",
    ),
    # Red Hat's cloud.cfg leaves vSphere's customization to cloud-init.
    "customization": Trap(RHEL, {}, "/etc/cloud/cloud.cfg: disable_vmware_customization", True),
    "anaconda-ifcfg": Trap(
        RHEL, {f"{SCRIPTS}/ifcfg-ens192": sample("net/ifcfg-ens192")}, "configures ens192"
    ),
    "anaconda-connection": Trap(
        ("rhel-9", "rocky-9", "fedora-42"),
        {f"{NM}/ens192.nmconnection": sample("net/ens192.nmconnection")},
        "configures ens192",
    ),
    # Nothing in Fedora 42 reads these files.
    "old-ifcfg": Trap(("fedora-42",), {f"{SCRIPTS}/ifcfg-ens192": sample("net/ifcfg-ens192")}, ""),
    "wicked": Trap(
        ("sles-15",),
        {"etc/sysconfig/network/ifcfg-eth0": "BOOTPROTO='dhcp'\nSTARTMODE='auto'\n"},
        "configures eth0",
    ),
    "wicked-off": Trap(
        ("sles-15",),
        {"etc/sysconfig/network/ifcfg-eth1": "BOOTPROTO='none'\nSTARTMODE='off'\n"},
        "",
    ),
    # Photon's ds-identify starts cloud-init anyway, which then tries the whole list.
    "photon-list": Trap(
        ("photon-5",), {f"{CLOUD}/99_vmware.cfg": "datasource_list: [NoCloud, VMware, None]\n"}, ""
    ),
    # In old releases of Photon, and by hand.
    "photon-without-network": Trap(
        ("photon-5",),
        {f"{CLOUD}/99-disable-networking-config.cfg": "network:\n  config: disabled\n"},
        "no network is configured",
    ),
    # GRUB reads the file through the link /boot/photon.cfg.
    "photon-console": Trap(
        ("photon-5",),
        {KERNEL: f"# GRUB Environment Block\n{sample('console/linux-6.1.1.cfg.photon')}"},
        "console=ttyS0 uses the agent's port",
        device="/dev/ttyS0",
    ),
    "networkd-first": Trap(
        ("photon-5",),
        {"etc/systemd/network/05-static-en.network": "[Match]\nName=eth0\n\n[Network]\n"},
        "configures eth0, before cloud-init's",
    ),
    # The installer of Ubuntu sets /etc/machine-id, as all do.
    "machine-id": Trap(
        (*UBUNTU, *RHEL, "fedora-42", "sles-15", "photon-5"),
        {"etc/machine-id": "0123456789abcdef0123456789abcdef\n"},
        "holds a machine-id",
    ),
}

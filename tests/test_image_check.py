"""`guest check`: each thing that people leave in images is reported, in one line with a remedy."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.commandline import in_process
from tests.imagecases import CAUSES, CLOUD, GRUB, NM, config, sample
from tests.tree import make_tree, put
from vmw_cloudinit_metadata.guest.check.commandlines import places
from vmw_cloudinit_metadata.guest.check.finding import ImageFinding
from vmw_cloudinit_metadata.guest.check.imagecheck import findings
from vmw_cloudinit_metadata.guest.check.imageprograms import ImageAnswer
from vmw_cloudinit_metadata.guest.image.kernel import without_console
from vmw_cloudinit_metadata.guest.image.tree import Tree

UNITS = "usr/lib/systemd/system"
WANTS = "etc/systemd/system/cloud-init.target.wants"
NEEDED = (
    "cloud-config",
    "cloud-final",
    "cloud-init-local",
    "cloud-init-main",
    "cloud-init-network",
)
GENERATOR = "usr/lib/systemd/system-generators/cloud-init-generator"
LINE = "GRUB_CMDLINE_LINUX"


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = make_tree(tmp_path_factory.mktemp("image") / "root", "debian")
    in_process("guest", "install", "--root", str(root), "--device", "/dev/ttyS1")
    return root


@pytest.fixture
def image(installed: Path, tmp_path: Path) -> Path:
    """Debian with the agent, in which everything is right."""
    return shutil.copytree(installed, tmp_path / "root", symlinks=True)


def found(root: Path) -> list[ImageFinding]:
    return findings(Tree(root))


def lines(root: Path) -> list[str]:
    return [str(finding) for finding in found(root)]


def with_units(root: Path) -> None:
    """cloud-init's units of Debian 13, enabled."""
    for name in NEEDED:
        put(root, f"{UNITS}/{name}.service", "[Install]\nWantedBy=cloud-init.target\n")
        put(root, f"{WANTS}/{name}.service", "")
    put(root, f"{UNITS}/cloud-init-hotplugd.socket", "[Install]\nWantedBy=cloud-init.target\n")
    put(root, f"{UNITS}/cloud-init.target", "[Unit]\n")
    put(root, GENERATOR, "#!/bin/sh\n")


def mask(root: Path, path: str) -> None:
    (root / path).parent.mkdir(parents=True, exist_ok=True)
    (root / path).unlink(missing_ok=True)
    (root / path).symlink_to("/dev/null")


def test_good_image_has_no_finding(image: Path) -> None:
    with_units(image)
    assert lines(image) == []


# What cloud-init decides: cause -> file, part of the line

DECIDED = {
    "list-as-block": (f"/{CLOUD}/99-zz.cfg", "must be in brackets on one line"),
    "list-over-lines": (f"/{CLOUD}/99-zz.cfg", "must be in brackets on one line"),
    "list-of-two": (f"/{CLOUD}/99-zz.cfg", "[NoCloud, ConfigDrive] has more than NoCloud"),
    "one-source": ("/etc/cloud/ds-identify.cfg", "`datasource: VMware` limits cloud-init"),
    "disabled-in-quotes": ("/etc/cloud/ds-identify.cfg", "disables cloud-init"),
    "ds": (f"/{GRUB}", "ds=VMware limits cloud-init"),
    "kernel-policy": (f"/{GRUB}", "ci.di.policy=disabled disables cloud-init"),
    "ci-ds": (f"/{GRUB}", "ci.ds=VMware limits cloud-init"),
    "cc-other-list": (f"/{GRUB}", "lacks NoCloud"),
    "disabled": (f"/{GRUB}", "cloud-init=disabled disables cloud-init"),
    "no-network": (f"/{CLOUD}/50-disable.cfg", "no network is configured"),
    "installer-network": (f"/{CLOUD}/90-installer-network.cfg", "not the server's network"),
    "inline-data": (f"/{CLOUD}/50-inline.cfg", "user-data and meta-data override the seed"),
    "seedfrom": (f"/{CLOUD}/50-seedfrom.cfg", "seedfrom: overrides the seed"),
    "ds-nocloud-id": (f"/{GRUB}", "overrides the server's meta-data"),
    "network-off": (f"/{GRUB}", "replaces the server's network"),
    "cc-network": (f"/{GRUB}", "not the server's network"),
    "latin-1": (f"/{CLOUD}/60-latin.cfg", "is not UTF-8: cloud-init fails"),
    "template": (f"/{CLOUD}/99-zz.cfg", "not the server's network"),
    "empty-datasource": (f"/{CLOUD}/60-ds.cfg", "datasource: is not a mapping"),
    "label-of-a-number": (f"/{CLOUD}/60-label.cfg", "fs_label: is not a text"),
    "empty-system-info": (f"/{CLOUD}/60-info.cfg", "system_info: is not a mapping"),
    "other-directory": (f"/{CLOUD}/60-paths.cfg", "looks for the seed in /srv/cloud"),
}
RISKS = {
    "manual-clean": (f"/{CLOUD}/50-manual.cfg", "manual_cache_clean"),
    "keep-hostname": (f"/{CLOUD}/50-preserve.cfg", "preserve_hostname"),
    "not-yaml": (f"/{CLOUD}/99-zz.cfg", "cloud-init ignores it"),
}


@pytest.mark.parametrize("name", [*DECIDED, *RISKS])
def test_what_cloud_init_decides_is_reported(image: Path, name: str) -> None:
    for path, text in CAUSES[name].all_files.items():
        (image / path).write_bytes(text.encode("utf-8", "surrogateescape"))
    place, part = (DECIDED | RISKS)[name]
    (finding,) = found(image)
    assert finding.file == place
    assert part in finding.problem
    assert finding.remedy
    assert finding.is_warning is (name in RISKS)


@pytest.mark.parametrize("value", ["ip=dhcp", "ip6=auto"])
def test_network_of_the_initramfs_is_reported(image: Path, value: str) -> None:
    put(image, GRUB, f'{LINE}="{value}"\n')
    assert "the initramfs configures the network" in lines(image)[0]
    put(image, "usr/bin/dracut", "#!/bin/sh\n")
    assert lines(image)[0].startswith("warning: ")


@pytest.mark.parametrize(
    "word",
    [
        '"ds=nocloud;i=golden"',
        "ds='nocloud;i=golden'",
        "ds=nocloud\\;i=golden",
        "ds=nocloud\\\\;i=golden",
    ],
)
def test_word_that_grub_unquotes_is_read(image: Path, word: str) -> None:
    put(image, "boot/grub/grub.cfg", f"\tlinux /vmlinuz root=/dev/sda1 {word} ro\n")
    assert "ds=nocloud;i=golden overrides the server's meta-data" in lines(image)[0]


def test_instance_that_would_be_kept_is_a_fault(image: Path) -> None:
    put(image, f"{CLOUD}/50-manual.cfg", sample("docs/50-manual.cfg"))
    put(image, "var/lib/cloud/instance/obj.pkl", "")
    assert not found(image)[0].is_warning


def test_guest_customization_by_cloud_init_is_a_warning(image: Path) -> None:
    put(image, f"{CLOUD}/50-vmware.cfg", "disable_vmware_customization: false\n")
    (line,) = lines(image)
    assert line.startswith(f"warning: /{CLOUD}/50-vmware.cfg: disable_vmware_customization: false")


def test_user_data_that_is_not_allowed_is_reported(image: Path) -> None:
    put(image, f"{CLOUD}/50-a.cfg", "allow_userdata: no\n")
    assert "user-data is ignored" in lines(image)[0]


def test_distribution_that_cloud_init_does_not_know_is_reported(image: Path) -> None:
    put(image, f"{CLOUD}/60-distro.cfg", "system_info: {distro: debian}\n")
    package = "usr/lib/python3/dist-packages/cloudinit"
    put(image, f"{package}/importer.py", "def match_case_insensitive_module_name(): ...\n")
    put(image, f"{package}/distros/__init__.py", "")
    assert "this cloud-init does not know 'debian'" in lines(image)[0]
    put(image, f"{package}/distros/debian.py", "")
    assert lines(image) == []


def test_configuration_from_elsewhere_is_a_warning(image: Path) -> None:
    put(image, GRUB, f'{LINE}="cloud-config-url=http://192.0.2.1/x"\n')
    put(image, f"{CLOUD}/60-packages.cfg", "datasource_pkg_list: [ours]\n")
    (first, second) = lines(image)
    assert first.startswith(f"warning: /{GRUB}: cloud-config-url=")
    assert second.startswith(f"warning: /{CLOUD}/60-packages.cfg: datasource_pkg_list")


@pytest.mark.parametrize(
    "name",
    ["list-of-one", "null-network", "ds-plain", "ds-last-wins", "always", "report", "two-sources"],
)
def test_what_does_not_matter_is_not_reported(image: Path, name: str) -> None:
    for path, text in CAUSES[name].all_files.items():
        put(image, path, text)
    assert lines(image) == []


def test_list_is_read_as_the_image_s_own_program_does(image: Path) -> None:
    put(
        image,
        f"{CLOUD}/99-zz.cfg",
        config("datasource_list: [NoCloud, None]").files[f"{CLOUD}/99-zz.cfg"],
    )
    put(image, f"{CLOUD}/99-nocloud.cfg", "")
    assert lines(image) == []
    put(image, "usr/lib/cloud-init/ds-identify", "#!/bin/sh\nwhile read line; do\n")
    assert "no datasource_list that ds-identify can read" in lines(image)[0]


# What competes: sample, place, the program that reads it

COMPETING = {
    "net/00-installer-config.yaml": ("etc/netplan/00-installer-config.yaml", "usr/sbin/netplan"),
    "net/ens192.nmconnection": (f"{NM}/ens192.nmconnection", "usr/sbin/NetworkManager"),
    "net/ifcfg-ens192": (
        "etc/sysconfig/network-scripts/ifcfg-ens192",
        "usr/sbin/NetworkManager",
    ),
    "net/interfaces-of-the-installer": ("etc/network/interfaces", "usr/sbin/ifup"),
    "net/interfaces-without-source": ("etc/network/interfaces", "usr/sbin/ifup"),
}


@pytest.mark.parametrize("name", COMPETING)
def test_network_left_in_the_image_is_reported(image: Path, name: str) -> None:
    place, program = COMPETING[name]
    put(image, place, sample(name))
    assert lines(image) == []  # nothing reads it
    put(image, program, "#!/bin/sh\n")
    (finding,) = found(image)
    assert (finding.file, finding.is_warning) == (f"/{place}", False)
    expected = "does not include" if name.endswith("without-source") else "configures ens192"
    assert expected in finding.problem


@pytest.mark.parametrize(
    ("place", "text", "program"),
    [
        ("etc/netplan/50-cloud-init.yaml", sample("net/00-installer-config.yaml"), "netplan"),
        ("etc/netplan/01-nm.yaml", "network: {version: 2, renderer: NetworkManager}\n", "netplan"),
        (f"{NM}/cloud-init-ens192.nmconnection", "[connection]\ntype=ethernet\n", "NetworkManager"),
        (f"{NM}/vpn.nmconnection", "[connection]\ntype=vpn\n", "NetworkManager"),
        (f"{NM}/x.nmconnection", "[connection]\nautoconnect=false\n", "NetworkManager"),
        (f"{NM}/ens192.nmconnection.bak", "[connection]\ntype=ethernet\n", "NetworkManager"),
        ("etc/sysconfig/network-scripts/ifcfg-lo", "ONBOOT=yes\n", "NetworkManager"),
        ("etc/sysconfig/network-scripts/ifcfg-a", "ONBOOT=no\n", "NetworkManager"),
        (
            "etc/network/interfaces",
            "source-directory interfaces.d\niface lo inet loopback\n",
            "ifup",
        ),
    ],
)
def test_network_that_does_not_compete_is_not_reported(
    image: Path, place: str, text: str, program: str
) -> None:
    put(image, f"usr/sbin/{program}", "#!/bin/sh\n")
    put(image, place, text)
    assert lines(image) == []


def test_network_manager_reads_scripts_with_its_plugin_only(image: Path) -> None:
    put(image, "etc/sysconfig/network-scripts/ifcfg-ens192", sample("net/ifcfg-ens192"))
    put(image, "usr/sbin/NetworkManager", "#!/bin/sh\n")
    put(image, "usr/lib64/NetworkManager/1.52.0/libnm-device-plugin-team.so", "")
    assert lines(image) == []
    put(image, "usr/lib64/NetworkManager/1.52.0/libnm-settings-plugin-ifcfg-rh.so", "")
    assert "configures ens192" in lines(image)[0]


def test_networkd_takes_the_first_file(image: Path) -> None:
    put(image, "usr/lib/systemd/systemd-networkd", "#!ELF\n")
    put(image, "etc/systemd/network/05-dhcp.network", "[Match]\nName=en*\n")
    put(image, "etc/systemd/network/99-dhcp.network", "[Match]\nName=en*\n")
    assert lines(image) == []
    put(image, "etc/systemd/system/multi-user.target.wants/systemd-networkd.service", "")
    (finding,) = found(image)
    assert finding.file == "/etc/systemd/network/05-dhcp.network"


def test_networkd_that_netplan_does_not_start_is_reported(image: Path) -> None:
    put(image, "usr/libexec/netplan/configure", "#!ELF\n")
    assert lines(image) == []  # a first boot, which enables all units
    put(image, "etc/machine-id", "")
    (finding,) = found(image)
    assert finding.file == f"/{UNITS}/systemd-networkd.service"
    assert finding.remedy == f"systemctl --root={image} enable systemd-networkd.service"
    put(image, "usr/sbin/ifup", "#!ELF\n")
    assert lines(image) == []
    (image / "usr/sbin/ifup").unlink()
    put(image, "etc/netplan/50-cloud-init.yaml", "network: {version: 2}\n")  # of an earlier boot
    assert lines(image) == []
    (image / "etc/netplan/50-cloud-init.yaml").unlink()
    assert len(lines(image)) == 1
    put(image, "etc/systemd/system/multi-user.target.wants/systemd-networkd.service", "")
    assert lines(image) == []


def test_file_that_networkd_does_not_read_is_not_reported(image: Path) -> None:
    put(image, "usr/lib/systemd/systemd-networkd", "#!ELF\n")
    put(image, f"{UNITS}/multi-user.target.wants/systemd-networkd.service", "")
    put(image, "usr/lib/systemd/network/05-a.network", "[Match]\nName=en*\n")
    put(image, "usr/lib/systemd/network/06-b.network", "[Match]\nName=en*\n")
    assert len(lines(image)) == 2
    put(image, "etc/systemd/network/05-a.network", "")
    (image / "etc/systemd/network/06-b.network").symlink_to("/dev/null")
    assert lines(image) == []


@pytest.mark.parametrize("include", ["source ours", "source-directory /etc/network/more/"])
def test_stanza_in_a_file_that_is_included_is_reported(image: Path, include: str) -> None:
    put(image, "usr/sbin/ifup", "#!ELF\n")
    put(image, "etc/network/interfaces", f"source interfaces.d/*\n{include}\n")
    put(image, "etc/network/ours", "iface \\\n ens192 inet dhcp\n")
    put(image, "etc/network/more/a", "iface ens192 inet dhcp\n")
    (line,) = lines(image)
    assert "configures ens192 beside" in line
    assert line.startswith(("/etc/network/ours", "/etc/network/more/a"))


def test_netplan_s_files_for_networkd_come_later(image: Path) -> None:
    put(image, "usr/lib/systemd/systemd-networkd", "#!ELF\n")
    put(image, "etc/systemd/system/multi-user.target.wants/systemd-networkd.service", "")
    put(image, "etc/systemd/network/10-dhcp.network", "[Match]\nName=en*\n")
    assert lines(image) == []
    put(image, "usr/sbin/netplan", "#!/bin/sh\n")
    assert "before cloud-init's 10-netplan-*.network" in lines(image)[0]


def test_connection_without_an_ending_is_reported(image: Path) -> None:
    put(image, "usr/sbin/NetworkManager", "#!ELF\n")
    put(image, f"{NM}/Wired connection 1", sample("net/ens192.nmconnection"))
    (finding,) = found(image)
    assert finding.file == f"/{NM}/Wired connection 1"


def test_filled_machine_id_is_reported(image: Path) -> None:
    put(image, "etc/machine-id", sample("preset/machine-id"))
    assert lines(image) == []
    put(image, "etc/machine-id", "0123456789abcdef0123456789abcdef\n")
    (finding,) = found(image)
    assert (finding.file, finding.is_warning) == ("/etc/machine-id", False)
    assert f"truncate -s 0 {image}/etc/machine-id" in finding.remedy


# Units


def test_masked_and_disabled_units_are_reported(image: Path) -> None:
    """The commands of units/commands."""
    with_units(image)
    put(image, "etc/machine-id", "")
    for name in ("main", "local", "network"):
        (image / WANTS / f"cloud-init-{name}.service").unlink()
    mask(image, "etc/systemd/system/cloud-init-network.service")
    mask(image, "etc/systemd/system-generators/cloud-init-generator")
    text = "\n".join(lines(image))
    assert (
        "/etc/systemd/system/cloud-init-network.service: cloud-init-network.service is masked"
        in text
    )
    assert "cloud-init-main.service is wanted by nothing: systemctl --root=" in text
    assert "cloud-init-local.service is wanted by nothing" in text
    assert "/etc/systemd/system-generators/cloud-init-generator: cloud-init's generator" in text
    assert len(text.splitlines()) == 4


PRESETS = "usr/lib/systemd/system-preset"


@pytest.fixture
def first_boot(image: Path) -> Path:
    """With units and presets as Fedora's, and without a machine-id."""
    with_units(image)
    for name in ("90-default.preset", "99-default-disable.preset"):
        put(image, f"{PRESETS}/{name}", sample(f"preset/{name}"))
    put(image, "etc/machine-id", sample("preset/machine-id"))
    assert lines(image) == []
    return image


def test_presets_that_disable_units_of_cloud_init_are_reported(first_boot: Path) -> None:
    enabled = sample("preset/90-default.preset")
    put(first_boot, f"{PRESETS}/90-default.preset", enabled.replace("enable cloud-init*", "# "))
    reported = found(first_boot)
    assert {finding.file for finding in reported} == {f"/{PRESETS}/99-default-disable.preset"}
    assert [finding.remedy for finding in reported] == [
        f"put `enable cloud-init-{name}.service` before this line"
        for name in ("local", "main", "network")
    ]
    for name in ("local", "main", "network"):  # as a package's own link, which no preset removes
        put(first_boot, f"{UNITS}/cloud-init.target.wants/cloud-init-{name}.service", "")
    assert lines(first_boot) == []


def test_preset_that_disables_the_agent_is_reported(first_boot: Path) -> None:
    put(first_boot, "etc/systemd/system-preset/00-ours.preset", "# ours\ndisable vmw-*agent*\n")
    (finding,) = found(first_boot)
    assert finding.file == "/etc/systemd/system-preset/00-ours.preset"
    assert finding.problem.startswith("line 2, `disable vmw-*agent*`: a first boot that applies")
    assert finding.remedy == "put `enable vmw-metadata-agent.service` before this line"
    put(first_boot, f"{UNITS}/cloud-init.target.wants/vmw-metadata-agent.service", "")
    assert lines(first_boot) == []


@pytest.mark.parametrize("rest", ["", "ignore cloud-init-main.service\n"])
def test_unit_that_presets_enable_needs_no_link(first_boot: Path, rest: str) -> None:
    put(first_boot, "etc/systemd/system-preset/00-ours.preset", rest)
    (first_boot / WANTS / "cloud-init-main.service").unlink()
    expected = ["cloud-init-main.service is wanted by nothing"] if rest else []
    assert [finding.problem for finding in found(first_boot)] == expected


def test_agent_that_presets_enable_needs_no_link(first_boot: Path) -> None:
    (first_boot / WANTS / "vmw-metadata-agent.service").unlink()
    assert lines(first_boot) == []
    put(first_boot, "etc/systemd/system-preset/00-ours.preset", "disable vmw-*agent*\n")
    (finding,) = found(first_boot)
    assert finding.problem.startswith("line 1, `disable vmw-*agent*`: a first boot that applies")
    put(first_boot, "etc/machine-id", "")
    (finding,) = found(first_boot)
    assert finding.problem == "vmw-metadata-agent.service is not enabled"
    assert finding.remedy == f"systemctl --root={first_boot} enable vmw-metadata-agent.service"


def test_report_that_presets_disable_is_a_warning(first_boot: Path) -> None:
    put(first_boot, "etc/systemd/system-preset/00-ours.preset", "disable *report*\n")
    (finding,) = found(first_boot)
    assert finding.is_warning
    assert finding.remedy == "put `enable vmw-metadata-report.service` before this line"
    put(first_boot, "etc/machine-id", "")
    assert lines(first_boot) == []
    (first_boot / WANTS / "vmw-metadata-report.service").unlink()
    (finding,) = found(first_boot)
    assert finding.is_warning
    assert finding.problem.startswith("vmw-metadata-report.service is not enabled")
    assert finding.remedy == f"systemctl --root={first_boot} enable vmw-metadata-report.service"


def test_image_without_the_report_is_no_finding(image: Path) -> None:
    with_units(image)
    in_process("guest", "install", "--root", str(image), "--no-report", "--device", "/dev/ttyS1")
    assert lines(image) == []


def test_presets_do_not_count_after_the_first_boot(first_boot: Path) -> None:
    put(first_boot, "etc/systemd/system-preset/00-ours.preset", "disable *\n")
    assert len(lines(first_boot)) == len(NEEDED) + 2
    put(first_boot, "etc/machine-id", "")
    assert lines(first_boot) == []


def test_target_that_nothing_starts_is_reported(image: Path) -> None:
    with_units(image)
    (image / GENERATOR).unlink()
    assert "nothing else starts cloud-init.target" in lines(image)[0]
    put(image, "etc/systemd/system/multi-user.target.wants/cloud-init.target", "")
    assert lines(image) == []


def test_command_line_of_the_building_machine_does_not_count(image: Path) -> None:
    running = Path("/proc/cmdline").read_text()
    put(image, "proc/cmdline", f"{running.rstrip()} ds=VMware\n")
    assert [finding.file for finding in found(image)] == ["/proc/cmdline"]
    put(image, "proc/cmdline", running)
    assert "/proc/cmdline" not in places(Tree(image))


# What each place of command lines may look like, around one word.
FORMS = {
    "etc/default/grub": "GRUB_CMDLINE_LINUX+=' {} '\n",
    "etc/default/grub.d/50-x.cfg": 'GRUB_CMDLINE_LINUX_DEFAULT="$GRUB_CMDLINE_LINUX_DEFAULT {}"\n',
    "boot/grub2/grubenv": "# GRUB Environment Block\nkernelopts=root=/dev/sda1 {}\n",
    "boot/loader/entries/a.conf": "title A\noptions\troot=/dev/sda1 \\\n {}\n",
    "boot/syslinux/syslinux.cfg": "label l0\n APPEND root=/dev/sda1 {}\n",
    "etc/kernel/cmdline": "root=/dev/sda1 {}",
    "boot/linux-6.1.cfg": "photon_cmdline=init=/lib/systemd/systemd {}\nphoton_linux=vmlinuz\n",
    "usr/lib/bootc/kargs.d/10-x.toml": 'kargs = [\n  "quiet",\n  "{}",\n]\n',
    "usr/lib/bootc/kargs.d/10-y.toml": "kargs = ['{}']\n",
    "etc/dracut.conf.d/y.conf": 'kernel_cmdline+=" {} "\n',
    "boot/grub/grub.cfg": 'set default_kernelopts="root=/dev/sda1 {}"\n',
    "boot/grub/menu.lst": "kernel /vmlinuz root=/dev/sda1 {}\n",
    "etc/default/extlinux": 'EXTLINUX_PARAMETERS="{}"\n',
    "etc/update-extlinux.conf": 'default_kernel_opts="{}"\n',
}


@pytest.mark.parametrize(
    "word",
    [
        *("ds=VMware", "ci.ds=VMware", "ci.di.policy=disabled", "ds=nocloud;i=x", "ip=dhcp"),
        *("cloud-init=disabled", "network-config=disabled", "cc:{datasource_list: [Ec2]}"),
        *("systemd.mask=cloud-init-local.service", "console=ttyS1,115200"),
    ],
)
def test_word_is_found_in_every_form_of_a_command_line(image: Path, word: str) -> None:
    for place, form in FORMS.items():
        put(image, place, form.format(word))
    assert {finding.file for finding in found(image)} == {f"/{place}" for place in FORMS}


def test_unit_masked_by_a_relative_link_is_reported(image: Path) -> None:
    with_units(image)
    link = image / "etc/systemd/system/cloud-init-local.service"
    link.symlink_to("../../../dev/null")
    (line,) = lines(image)
    assert "cloud-init-local.service is masked" in line
    link.unlink()
    (image / "etc/systemd/system/vmw-metadata-agent.service").symlink_to("../../../dev/null")
    (line,) = lines(image)
    assert line.startswith("vmw-metadata-agent.service is masked: systemctl --root=")


def test_unit_masked_by_the_kernel_is_reported(image: Path) -> None:
    put(image, GRUB, f'{LINE}="systemd.mask=cloud-init-local.service"\n')
    assert "masks a unit" in lines(image)[0]


# Consoles: place, sample, what remains without ttyS0

CONSOLES = {
    "etc/default/grub.d/50-cloudimg-settings.cfg": (
        "console/50-cloudimg-settings.cfg",
        'GRUB_CMDLINE_LINUX_DEFAULT="console=tty1"\n',
    ),
    "etc/default/grub": ("console/grub.uart8250", 'GRUB_CMDLINE_LINUX=""\n'),
    "boot/linux-6.1.1.cfg": (
        "console/linux-6.1.1.cfg.photon",
        "photon_cmdline=init=/lib/systemd/systemd loglevel=3 ro console=tty0\n"
        "photon_linux=vmlinuz-6.1.1\n",
    ),
    "usr/lib/bootc/kargs.d/10-console.toml": (
        "console/10-console.toml.bootc",
        'kargs = ["console=tty0"]\n',
    ),
}
PLACES = [
    *("boot/grub2/custom.cfg", "boot/efi/EFI/debian/grub.cfg", "boot/efi/EFI/redhat/grubenv"),
    *("efi/loader/entries/a.conf", "boot/extlinux/extlinux.conf", "boot/syslinux/syslinux.cfg"),
    *("usr/lib/kernel/cmdline", "etc/cmdline.d/console.conf", "etc/dracut.conf.d/a.conf"),
    *("boot/efi/EFI/redhat/custom.cfg", "etc/grub.d/40_custom", "etc/tuned/bootcmdline"),
]


@pytest.fixture
def on_console(image: Path) -> Path:
    """The agent's port is ttyS0, and no file has a console on it."""
    for place in (GRUB, "boot/grub/grub.cfg"):
        (image / place).unlink()
    in_process("guest", "install", "--root", str(image), "--device", "/dev/ttyS0")
    assert lines(image) == []
    return image


@pytest.mark.parametrize("place", CONSOLES)
def test_console_of_a_report_is_found_and_freed(on_console: Path, place: str) -> None:
    name, expected = CONSOLES[place]
    put(on_console, place, sample(name))
    (finding,) = found(on_console)
    assert finding.file == f"/{place}"
    assert "console=ttyS0" in finding.problem
    in_process("guest", "install", "--root", str(on_console), "--free-console", "ttyS0")
    assert (on_console / place).read_text() == expected
    assert lines(on_console) == []


@pytest.mark.parametrize("place", PLACES)
def test_console_is_found_where_install_removes_it(on_console: Path, place: str) -> None:
    put(on_console, place, "options root=/dev/sda1 console=ttyS0,115200\n")
    assert [finding.file for finding in found(on_console)] == [f"/{place}"]
    in_process("guest", "install", "--root", str(on_console), "--free-console", "ttyS0")
    assert (on_console / place).read_text() == "options root=/dev/sda1\n"


def test_unified_kernel_image_is_reported(on_console: Path) -> None:
    put(on_console, "boot/efi/EFI/Linux/a.efi", "MZ console=ttyS0")
    (finding,) = found(on_console)
    assert finding.is_warning
    options = ("--free-console", "ttyS0", "--device", "/dev/ttyS0")
    (warning,) = in_process("guest", "install", "--root", str(on_console), *options)[2]
    assert "a.efi: the command line inside a unified kernel image is not changed" in warning


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("console=uart8250,io,0x2f8,9600 a", None),
        ("console=uart,io,0x03F8 a", "a"),
        ("earlyprintk=serial,0x3f8,115200 a", "a"),
        ("earlycon=uart8250,io,0x3f8,115200n8", ""),
        ("console=uart8250,mmio32,0x3f8 a", None),
        ('kargs = ["console=ttyS0"]', "kargs = []"),
        ('kargs = ["quiet", "console=ttyS0"]', 'kargs = ["quiet"]'),
        ('  "console=ttyS0,9600",', "  "),
        ('kargs = ["a", ]', None),
    ],
)
def test_console_by_address_or_in_a_list_is_removed(before: str, after: str | None) -> None:
    wanted = before if after is None else after
    assert without_console(before.encode(), "ttyS0").decode() == wanted


# The command


def test_json_has_each_finding(image: Path) -> None:
    put(image, f"{CLOUD}/50-preserve.cfg", sample("docs/50-preserve.cfg"))
    put(image, "etc/cloud/cloud-init.disabled", "")
    code, out, err = in_process("guest", "check", "--root", str(image), "--format", "json")
    assert (code, err) == (1, ["problems: 1"])
    told = json.loads("\n".join(out))
    assert (told["problems"], told["warnings"]) == (1, 1)
    assert told["findings"][0] == {
        "severity": "fault",
        "file": "/etc/cloud/cloud-init.disabled",
        "problem": "cloud-init is disabled",
        "remedy": "remove this file",
    }


def test_finding_of_the_agent_s_check_names_its_file(image: Path) -> None:
    put(image, "etc/selinux/config", "SELINUX=enforcing\n")
    put(image, "etc/vmw-metadata-agent.conf", "[agent]\ndevice = /dev/ttyS1\nretyr = 1\n")
    (image / "usr/bin/python3").unlink()
    told = {finding.file: finding for finding in found(image)}
    files = (
        "/usr/libexec/vmw-metadata-agent",
        "/usr/lib/systemd/system/vmw-metadata-agent.service",
        "/etc/vmw-metadata-agent.conf",
        "/usr/bin/python3",
    )
    assert set(told) == set(files)
    assert told[files[0]].problem == "has no SELinux label"
    assert told[files[0]].remedy.startswith(f"touch {image}/.autorelabel")
    assert told[files[2]].problem.startswith("line 3: unknown key retyr")


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("[other]\na = 1\n", "line 1: found [other], expected [agent]"),
        ("[agent]\ntimeout = 3: 4\n", "line 2: timeout: found '3: 4', expected a number"),
        ("#" * 9000, "file ignored: a line has 9000 characters"),
        ("nonsense\n", "file ignored: File contains no section headers"),
    ],
)
def test_fault_of_the_settings_is_whole(image: Path, text: str, problem: str) -> None:
    put(image, "etc/vmw-metadata-agent.conf", text)
    (finding,) = found(image)
    assert (finding.file, finding.remedy) == ("/etc/vmw-metadata-agent.conf", "correct the file")
    assert finding.problem.startswith(problem)
    assert str(image) not in finding.problem


def test_text_of_an_image_is_bounded_and_printable(image: Path) -> None:
    put(
        image, "etc/cloud/ds-identify.cfg", "policy: \x1b[2Jdisabled," + "disabled," * 10_000 + "\n"
    )
    name = os.fsdecode(b"60-\xff\n.cfg")
    put(image, f"{CLOUD}/{name}", "network: {config: disabled}\n")
    options = ("guest", "check", "--root", str(image))
    text, told = in_process(*options)[1], in_process(*options, "--format", "json")[1]
    assert len(text) == 2
    assert max(map(len, text)) < 3000
    assert all(finding.isprintable() for finding in text)
    names = [finding["file"] for finding in json.loads("\n".join(told))["findings"]]
    assert f"/{CLOUD}/60-\\udcff\\n.cfg" in names


def test_warning_does_not_fail(image: Path) -> None:
    put(image, f"{CLOUD}/50-preserve.cfg", sample("docs/50-preserve.cfg"))
    code, (line,), err = in_process("guest", "check", "--root", str(image))
    assert (code, err) == (0, ["problems: 0"])
    assert line.startswith("warning: /etc/cloud/cloud.cfg.d/50-preserve.cfg: preserve_hostname")


def test_own_programs_need_real_directories(image: Path) -> None:
    options = ("guest", "check", "--root", str(image), "--run-image-programs")
    code, _, (line,) = in_process(*options)
    assert code == 2
    assert "--run-image-programs" in line


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root")
def test_image_whose_programs_cannot_run_is_a_finding_beside_the_others(image: Path) -> None:
    for name in ("run", "tmp", "proc", "dev", "var/lib"):
        (image / name).mkdir(parents=True, exist_ok=True)
    put(image, f"{CLOUD}/50-preserve.cfg", sample("docs/50-preserve.cfg"))
    options = ("guest", "check", "--root", str(image), "--run-image-programs")
    code, found_lines, err = in_process(*options)
    assert (code, err) == (1, ["problems: 1"])
    assert found_lines[0].startswith("warning: /etc/cloud/cloud.cfg.d/50-preserve.cfg")
    assert found_lines[1].startswith("the image's programs cannot be run: ")


@pytest.mark.parametrize(
    ("output", "problems"),
    [
        ('exit 0\n\n{"instance-id": "i-check"}\n', 2),
        ("exit 1\n{}", 1),
        ("exit 99999999999\n", 1),
        ("exit 0\n" + "[" * 100_000, 1),
        ("\0", 1),
        ("exit 0\n[]", 1),
    ],
)
def test_any_output_of_image_programs_is_read(output: str, problems: int) -> None:
    assert len(list(ImageAnswer.parse(output).problems)) == problems


def test_file_on_a_merged_usr_is_reported_once(image: Path) -> None:
    put(image, "etc/selinux/config", "SELINUX=enforcing\n")
    named = [finding.file for finding in found(image)]
    assert len(named) == len(set(named)) == 2


def test_cloud_init_in_usr_local_is_found(image: Path) -> None:
    (image / "usr/bin/cloud-init").unlink()
    assert any("cloud-init is not installed" in line for line in lines(image))
    put(image, "usr/local/bin/cloud-init", "#!/usr/bin/python3\n")
    assert lines(image) == []


def test_system_without_systemd_is_not_told_to_install_debian_s(image: Path) -> None:
    (image / "sbin/init").unlink()
    put(image, "bin/busybox", "#!ELF\n")
    (image / "usr/sbin/init").symlink_to("/bin/busybox")
    assert "such systems are not supported" in lines(image)[0]
    put(image, "usr/bin/dpkg", "#!ELF\n")
    assert "install systemd-sysv" in lines(image)[0]


# Hostile images

HOSTILE: dict[str, Callable[[Path], object]] = {
    "deep": lambda root: put(root, f"{CLOUD}/60-a.cfg", "[" * 20_000),
    "cycle": lambda root: put(root, f"{CLOUD}/60-a.cfg", "datasource: &a {NoCloud: *a}\n"),
    "many": lambda root: put(root, GRUB, f'{LINE}="ds=a"\n' * 5_000),
    "odd-keys": lambda root: put(root, f"{CLOUD}/60-a.cfg", "1: 2\n? [a]\n: b\n"),
    "odd-types": lambda root: put(
        root, f"{CLOUD}/60-a.cfg", "datasource: 5\nsystem_info: [1]\nnetwork: x\nconf_d: [1]\n"
    ),
    "bytes": lambda root: (root / CLOUD / "60-a.cfg").write_bytes(
        b"\xff\xfe\x00datasource_list:\n"
    ),
    "long": lambda root: put(root, "etc/cloud/ds-identify.cfg", "policy:" + "," * 100_000),
    "dangling": lambda root: (root / CLOUD / "60-a.cfg").symlink_to("/nowhere"),
    "outside": lambda root: (root / CLOUD / "60-a.cfg").symlink_to("../" * 30 + "etc/passwd"),
    "includes": lambda root: (
        put(root, "usr/sbin/ifup", "#!ELF\n"),
        put(root, "etc/network/interfaces", "source /*/*/*/*/*\nsource /usr/lib/../*\n" * 9_000),
    ),
    "directory": lambda root: (root / CLOUD / "60-a.cfg").mkdir(),
    "unit-directory": lambda root: (root / UNITS / "cloud-init.service").mkdir(),
    "pipe": lambda root: os.mkfifo(root / CLOUD / "60-a.cfg"),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_image_is_checked_to_the_end(image: Path, name: str) -> None:
    HOSTILE[name](image)
    code, _, err = in_process("guest", "check", "--root", str(image))
    assert code in (0, 1)
    assert err[0].startswith("problems: ")


# Each list holds the one before it ten times, so the last one has 10**12 items.
ALIASES = "a0: &a0 [x,x]\n" + "".join(
    f"a{number}: &a{number} [{','.join([f'*a{number - 1}'] * 10)}]\n" for number in range(1, 12)
)
UNREADABLE: dict[str, Callable[[Path], object]] = {
    "large": lambda path: os.truncate(put(path.parent, path.name, ""), 1 << 40),
    "much YAML": lambda path: path.write_text("# a\n" * 300_000),
    "loop": lambda path: path.symlink_to(path.name),
    "aliases": lambda path: path.write_text(f"{ALIASES}system_info: {{distro: *a11}}\n"),
    "long number": lambda path: path.write_text(f"preserve_hostname: 0x{'f' * 10_000}\n"),
}


@pytest.mark.parametrize("name", UNREADABLE)
def test_file_that_cannot_be_checked_is_a_fault(image: Path, name: str) -> None:
    """The other checks go on."""
    UNREADABLE[name](image / CLOUD / "60-a.cfg")
    put(image, "etc/machine-id", "")
    put(image, "usr/lib/systemd/system/cloud-init.service", "[Install]\n")
    (first, second) = found(image)
    assert (first.file, first.is_warning) == (f"/{CLOUD}/60-a.cfg", False)
    assert first.remedy == "correct or remove it, and check again"
    assert "is wanted by nothing" in second.problem


@pytest.mark.parametrize(
    "text",
    [
        "".join(f"linux /x ip=dhcp{number}\n" for number in range(100)),
        f"linux /x cc:{'a' * 40_000}\n",
    ],
)
def test_too_many_command_lines_are_a_fault(image: Path, text: str) -> None:
    for number in range(3):
        put(image, f"boot/loader/entries/{number}.conf", f"# {number}\n{text}")
    (finding,) = found(image)
    assert finding.file == f"/boot/loader/entries/{2 if 'ip=' in text else 1}.conf"
    assert finding.problem.startswith("not checked, since the kernel command lines are more than")


def test_too_many_units_are_a_fault(image: Path) -> None:
    for number in range(51):
        put(image, f"{UNITS}/cloud-init{number}.service", "")
    assert [finding.problem for finding in found(image)] == [
        "not checked, since there are more than 50 units of cloud-init"
    ]


def test_other_name_of_a_unit_need_not_be_enabled(image: Path) -> None:
    with_units(image)
    (image / UNITS / "cloud-init.service").symlink_to("cloud-init-network.service")
    assert lines(image) == []

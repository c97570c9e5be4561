"""The keys of a #cloud-config, from cloud-init's "Module reference" and "Base config". Pure."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from itertools import islice
from typing import Any

# Keys of modules, and of the document itself.
_OF_MODULES = (
    "allow_public_ssh_keys ansible apk_repos apt apt_pipelining apt_reboot_if_required "
    "apt_update apt_upgrade authkey_hash autoinstall bootcmd byobu_by_default ca-certs "
    "ca_certs chef chpasswd cloud_config_modules cloud_final_modules cloud_init_modules "
    "create_hostname_file device_aliases disable_ec2_metadata disable_root disable_root_opts "
    "disk_setup drivers fan final_message fqdn fs_setup groups growpart grub-dpkg grub_dpkg "
    "hostname keyboard landscape launch-index locale locale_configfile lxd manage_etc_hosts "
    "manage_resolv_conf mcollective merge_how merge_type migrate mount_default_fields mounts "
    "no_ssh_fingerprints ntp output package_reboot_if_required package_update package_upgrade "
    "packages password phone_home power_state prefer_fqdn_over_hostname preserve_hostname "
    "puppet random_seed reporting resize_rootfs resolv_conf rh_subscription rpi rsyslog "
    "runcmd salt_minion snap spacewalk ssh ssh_authorized_keys ssh_deletekeys "
    "ssh_fp_console_blacklist ssh_genkeytypes ssh_import_id ssh_key_console_blacklist "
    "ssh_keys ssh_publish_hostkeys ssh_pwauth ssh_quiet_keygen swap system_info timezone "
    "ubuntu_advantage ubuntu_pro updates user users vendor_data version wireguard write_files "
    "yum_repo_dir yum_repos zypper"
)
# Keys of the configuration in the image, which user-data may contain too.
_OF_THE_BASE = (
    "apt_mirror apt_sources cloud_dir datasource datasource_list debug def_log_file "
    "def_log_level disable_network_activation disable_vmware_customization features log_cfgs "
    "logcfg manage-resolv-conf network seed_random ssh_svcname syslog_fix_perms "
    "unverified_modules vendor_data2"
)
KEYS = frozenset(f"{_OF_MODULES} {_OF_THE_BASE}".split())

# Keys that cloud-init reads elsewhere.
_MISPLACED = {
    "network": "network at the top of the instance file: cloud-init ignores it in user-data",
    "instance-id": "instance-id below metadata: cloud-init ignores it in user-data",
    "local-hostname": "hostname, or local-hostname below metadata",
    "metadata": "metadata at the top of the instance file",
    "userdata": "the keys below userdata, one level up",
    "user-data": "the keys below user-data, one level up",
}

# A document with more unknown keys is not a #cloud-config.
_MAX_UNKNOWN = 100
_SHORTEST = 4  # shorter names resemble too many others
_SHORT = 8  # shorter names may differ in one letter, others in two
_LONGEST = 40


def advice_on(value: Mapping[Any, Any]) -> Iterator[tuple[str, str]]:
    """Yield each top-level key that is probably a mistake, and what to write instead."""
    names = (name for name in value if isinstance(name, str))
    unknown = (name for name in names if name not in KEYS or name in _MISPLACED)
    for name in islice(unknown, _MAX_UNKNOWN):
        if name in _MISPLACED:
            yield name, _MISPLACED[name]
        elif near := nearest(name, KEYS):
            yield name, f"{near!r}, if that is meant"


def nearest(name: str, known: Iterable[str]) -> str | None:
    """Return the known name that is one or two edits away; `-` and `_` are equal."""
    plain = name.lower().replace("-", "_")
    if not _SHORTEST <= len(plain) <= _LONGEST:
        return None
    most = 1 if len(plain) < _SHORT else 2
    close = ((edits(plain, other.replace("-", "_"), most), other) for other in known)
    found = min((pair for pair in close if pair[0] <= most), default=None)
    return found[1] if found else None


def edits(one: str, other: str, most: int) -> int:
    """Return how many letters must be added, removed, changed or swapped to get the other.

    Return `most` + 1 if there are more than `most`.
    """
    if abs(len(one) - len(other)) > most:
        return most + 1
    above: list[int] = []
    row = list(range(len(other) + 1))
    for i, letter in enumerate(one, 1):
        before, above, row = above, row, [i]
        for j, theirs in enumerate(other, 1):
            cost = min(above[j] + 1, row[-1] + 1, above[j - 1] + (letter != theirs))
            if i > 1 and j > 1 and (letter, one[i - 2]) == (other[j - 2], theirs):
                cost = min(cost, before[j - 2] + 1)
            row.append(cost)
        if min(row) > most:
            return most + 1
    return min(row[-1], most + 1)

"""cloud-init's configuration: the texts that make it use the agent's seed. Pure."""

from __future__ import annotations

import re

FILE = "/etc/cloud/cloud.cfg.d/99-nocloud.cfg"
DIRECTORY = "/etc/cloud/cloud.cfg.d"
DS_IDENTIFY = "/etc/cloud/ds-identify.cfg"
_UPDATES = """\
# Apply the network as served at every boot, even if the instance-id is the same.
updates: {network: {when: [boot-new-instance, boot]}}
"""

_LIST = re.compile(r"^[ \t]*datasource_list[ \t]*:", re.M)
_POLICY = re.compile(r"^[ \t]*policy[ \t]*:.*$", re.M)


def text(packaged: str, *, with_guestinfo: bool = False, network_every_boot: bool = False) -> str:
    """Return cloud-init's configuration file, made from the packaged one.

    The list stays on one line, as cloud-init's generator reads no other form.
    """
    sources = packaged.replace("[NoCloud, None]", "[NoCloud, VMware, None]")
    return (sources if with_guestinfo else packaged) + (_UPDATES if network_every_boot else "")


def with_policy(ds_identify: str) -> str:
    """Return ds-identify's configuration with `policy: enabled`: cloud-init always runs."""
    if _POLICY.search(ds_identify):
        return _POLICY.sub("policy: enabled", ds_identify)
    end = "" if not ds_identify or ds_identify.endswith("\n") else "\n"
    return f"{ds_identify}{end}policy: enabled\n"


def has_list(configuration: str) -> bool:
    return bool(_LIST.search(configuration))

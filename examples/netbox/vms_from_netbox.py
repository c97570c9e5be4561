"""Turn NetBox's list of virtual machines into an inventory, vms.yaml.

    curl -fH "Authorization: Bearer $TOKEN" \\
        'https://netbox.example.com/api/virtualization/virtual-machines/?status=active&limit=0' |
        python3 vms_from_netbox.py /srv/instances/vms.yaml

A token of version 1, which does not begin with `nbt_`, needs `Token` instead of `Bearer`.

A VM is known by its serial number if that is a UUID: netbox-sync writes vCenter's instanceUuid
there; else by its name. Without a primary address it uses DHCP. The file is replaced as a whole, so
that no VM gets half of it. If anything is wrong, it stays as it is.
"""

import json
import os
import sys
import tempfile
from pathlib import Path
from uuid import UUID

import yaml

GATEWAYS = ("gateway", "gateway6")  # custom fields; all others become meta-data


def key_of(vm):
    try:
        return str(UUID(vm["serial"]))
    except (KeyError, ValueError):
        return vm["name"]


def entry_of(vm):
    fields = {key: value for key, value in vm["custom_fields"].items() if value is not None}
    addresses = [vm[key]["address"] for key in ("primary_ip4", "primary_ip6") if vm.get(key)]
    gateways = [fields[key] for key in GATEWAYS if key in fields]
    metadata = {key: value for key, value in fields.items() if key not in GATEWAYS}
    for key in ("site", "role"):
        if vm.get(key):
            metadata[key] = vm[key]["slug"]
    if vm.get("tags"):
        metadata["tags"] = [tag["slug"] for tag in vm["tags"]]
    network = {"address": addresses}
    if not addresses:
        network = {"dhcp": True, "nameservers": None}  # none of a layer: DHCP has its own
    elif gateways:
        network["gateway"] = gateways
    return {"metadata": metadata, "network": network}


def inventory_of(export):
    if export["next"]:
        sys.exit("this is only a part of the VMs: ask for all, with limit=0")
    inventory = {}
    for vm in export["results"]:
        if key_of(vm) in inventory:
            sys.exit(f"two VMs are called {key_of(vm)}: give them serial numbers")
        inventory[key_of(vm)] = entry_of(vm)
    return inventory


def replace(path, text):
    with tempfile.NamedTemporaryFile("w", dir=path.parent, prefix=".", delete=False) as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    Path(file.name).chmod(0o640)
    Path(file.name).rename(path)


if __name__ == "__main__":
    text = yaml.safe_dump(inventory_of(json.load(sys.stdin)), sort_keys=False)
    replace(Path(sys.argv[1]), "# Written by vms_from_netbox.py\n" + text)

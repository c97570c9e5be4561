"""Fills the database of a NetBox: run by NetBox's own Python, which alone has its models.

`tokens` prints the tokens of an administrator and of a reader, in JSON. `vms` reads what virtual
machines have, by their names, and prints their ids. Both once for a database.
"""

import json
import sys

import django

django.setup()

from core.models import ObjectType  # noqa: E402 - after setup
from dcim.models import DeviceRole, MACAddress, Platform, Site  # noqa: E402
from django.contrib.contenttypes.models import ContentType  # noqa: E402
from extras.models import CustomField  # noqa: E402
from ipam.models import IPAddress  # noqa: E402
from tenancy.models import Tenant  # noqa: E402
from users.constants import TOKEN_PREFIX  # noqa: E402
from users.models import ObjectPermission, Token, User  # noqa: E402
from virtualization.models import (  # noqa: E402
    Cluster,
    ClusterType,
    VirtualMachine,
    VMInterface,
)

BATCH = 500
SEEN = (
    *("virtualmachine", "vminterface", "ipaddress", "macaddress", "cluster", "site"),
    *("tenant", "platform", "devicerole", "tag"),
)


def token_of(user, **options):
    token = Token(user=user, version=2, **options)
    token.save()
    return f"{TOKEN_PREFIX}{token.key}.{token.token}"


def tokens():
    admin = User.objects.create(username="admin", is_superuser=True)
    reader = User.objects.create(username="reader")
    permission = ObjectPermission.objects.create(name="read", actions=["view"])
    permission.object_types.set(ObjectType.objects.filter(model__in=SEEN))
    permission.users.add(reader)
    return {"admin": token_of(admin), "reader": token_of(reader, write_enabled=False)}


def machines(given):
    """Create virtual machines with one interface each, without any of NetBox's events."""
    parts = {
        "cluster": Cluster.objects.create(
            name="vcenter-1", type=ClusterType.objects.create(name="VMware", slug="vmware")
        ),
        "site": Site.objects.create(name="BER", slug="ber"),
        "tenant": Tenant.objects.create(name="Shop", slug="shop"),
        "platform": Platform.objects.create(name="Debian 13", slug="debian-13"),
        "role": DeviceRole.objects.create(name="Web", slug="web"),
    }
    for name in ("gateway", "gateway6", "rack"):
        field = CustomField.objects.create(name=name, type="text")
        field.object_types.set([ObjectType.objects.get_for_model(VirtualMachine)])
    vms = [
        VirtualMachine(
            name=name,
            serial=one["serial"],
            status="active",
            custom_field_data={"gateway": one["gateway"]},
            local_context_data=one["context"],
            interface_count=1,
            **parts,
        )
        for name, one in given.items()
    ]
    VirtualMachine.objects.bulk_create(vms, batch_size=BATCH)
    interfaces = [VMInterface(virtual_machine=vm, name="eth0") for vm in vms]
    VMInterface.objects.bulk_create(interfaces, batch_size=BATCH)
    kind = ContentType.objects.get_for_model(VMInterface)
    owned = [{"assigned_object_type": kind, "assigned_object_id": one.pk} for one in interfaces]
    macs = [
        MACAddress(
            mac_address=f"00:50:56:{n >> 16 & 63:02x}:{n >> 8 & 255:02x}:{n & 255:02x}", **to
        )
        for n, to in enumerate(owned)
    ]
    MACAddress.objects.bulk_create(macs, batch_size=BATCH)
    addresses = [
        IPAddress(address=one["address"], **to)
        for one, to in zip(given.values(), owned, strict=True)
    ]
    IPAddress.objects.bulk_create(addresses, batch_size=BATCH)
    for vm, interface, mac, address in zip(vms, interfaces, macs, addresses, strict=True):
        vm.primary_ip4 = address
        interface.primary_mac_address = mac
    VMInterface.objects.bulk_update(interfaces, ["primary_mac_address"], batch_size=BATCH)
    VirtualMachine.objects.bulk_update(vms, ["primary_ip4"], batch_size=BATCH)
    return {vm.name: vm.pk for vm in vms}


what = {"tokens": lambda _: tokens(), "vms": machines}[sys.argv[1]]
json.dump(what(json.load(sys.stdin)), sys.stdout)

"""The options that name a server and a VM, and the objects made from them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import click

from vmw_cloudinit_metadata.client.played import Manner, with_token
from vmw_cloudinit_metadata.client.wire import Destination, TlsMode
from vmw_cloudinit_metadata.protocol.vmware import DIRECTIONS, Machine
from vmw_cloudinit_metadata.settings import identitykeys
from vmw_cloudinit_metadata.settings.parameters import (
    ADDRESS,
    FILE,
    THUMBPRINT,
    UUID,
    FiniteRange,
    WholeRange,
    identity_key_option,
    together,
)
from vmw_cloudinit_metadata.settings.values import DEFAULT_LISTEN, Address

# Of all commands of `client`.
SECTIONS = {
    "Virtual machine": ("vc_uuid", "bios_uuid", "direction", "identity_key_file"),
    "Virtual machines": (
        *("directory", "defaults", "pattern", "vms", "identity_key_file", "sources"),
        *("pace_ms", "redial_s"),
    ),
    "Server": ("server", "uri", "tls", "ca", "thumbprint", "limit_s"),
    "Load": ("boots", "at_once", "rate", "seconds", "seed", "processes"),
    "Result": ("server_pids", "json_file", "report_file"),
}

COUNT = WholeRange(min=1)
POSITIVE = FiniteRange(min=0, min_open=True)

SERVER = together(
    click.option(
        "--server",
        type=ADDRESS,
        default=Address("127.0.0.1", DEFAULT_LISTEN.port),
        show_default=f"127.0.0.1:{DEFAULT_LISTEN.port}",
        help="Connect to this server.",
    ),
    click.option("--uri", required=True, metavar="URI", help="Request this service URI."),
    identity_key_option,
    click.option(
        "--tls",
        type=click.Choice([tls.value for tls in TlsMode]),
        default=TlsMode.NONE.value,
        show_default=True,
        help="Use TLS from the first byte (telnets), or negotiate it in telnet (authentication).",
    ),
    click.option(
        "--ca",
        type=FILE,
        metavar="FILE",
        help="Verify the server's certificate and name with these CA certificates.",
    ),
    click.option(
        "--thumbprint",
        type=THUMBPRINT,
        help="Verify the server's certificate by its SHA-1 or SHA-256, as ESXi does.",
    ),
    click.option(
        "--limit",
        "limit_s",
        type=POSITIVE,
        default=60.0,
        show_default=True,
        metavar="SECONDS",
        help="Fail a VM that takes longer in all.",
    ),
)
VM = together(
    click.argument("name", metavar="VM", required=False),
    click.option("--vc-uuid", type=UUID, help="Play the VM with this vCenter instanceUuid."),
    click.option("--bios-uuid", type=UUID, help="Send this BIOS UUID."),
    click.option(
        "--direction",
        type=click.Choice([*DIRECTIONS.values()]),
        default="client",
        show_default=True,
        help="Direction of the serial port, as set in vSphere.",
    ),
    SERVER,
)


def manner_of(options: Mapping[str, Any]) -> Manner:
    tls = TlsMode(options["tls"])
    if tls is TlsMode.NONE and (options["ca"] or options["thumbprint"]):
        raise click.UsageError("--ca and --thumbprint need --tls telnets or authentication")
    route = Destination(options["server"], tls, options["ca"], options["thumbprint"])
    return Manner(route, limit_s=options["limit_s"])


def machine_of(options: Mapping[str, Any]) -> Machine:
    machine = Machine(
        name=options["name"],
        vc_uuid=options["vc_uuid"],
        bios_uuid=options["bios_uuid"],
        service_uri=options["uri"],
        direction=options["direction"],
    )
    if machine.is_anonymous:
        raise click.UsageError("give the name of a VM, --vc-uuid or --bios-uuid")
    if options["identity_key_file"]:
        if not machine.vc_uuid:
            raise click.UsageError(f"{identitykeys.OPTION} needs --vc-uuid, which a token proves")
        machine = with_token(machine, identitykeys.read_one(options["identity_key_file"]))
    return machine

"""The options of `run`, which are the settings of the server, without what it does.

Other commands have some of these settings too, and read them from the same file.
"""

from __future__ import annotations

import click

from vmw_cloudinit_metadata.admin.remembered import default_ledger, default_state_file
from vmw_cloudinit_metadata.protocol.policy import TlsPolicy
from vmw_cloudinit_metadata.protocol.rate import BURST_S
from vmw_cloudinit_metadata.protocol.vmotion import MAX_MOVE_RATE, MIN_KEY_BYTES
from vmw_cloudinit_metadata.serving.admission import (
    MAX_CONNECTION_RATE,
    MAX_HANDSHAKE_RATE,
    MAX_PER_HOST,
)
from vmw_cloudinit_metadata.settings.layers import SettingsCommand, config_option
from vmw_cloudinit_metadata.settings.parameters import (
    DIRECTORY,
    FILE,
    NETWORK,
    OPTIONAL_ADDRESS,
    SIZE,
    URI,
    FiniteRange,
    WholeRange,
    driver_options,
    fleet_options,
    forget_failed_option,
    identity_document_options,
    identity_keys_option,
    key_pair_options,
    listen_option,
    outcome_options,
    vcenter_options,
)
from vmw_cloudinit_metadata.settings.values import DEFAULT_ADMIN_LISTEN

LOG_LEVELS = ("debug", "info", "warning", "error")
LOG_FORMATS = ("text", "json")

SECTIONS = {
    "Data": (
        *("uris", "driver_spec", "driver_opts", "catalogue", "prepared_bytes", "last_good_dir"),
        *("ledger", "userdata_window_s", "lookup_pool", "lookup_timeout_s"),
    ),
    "Network": ("listen", "allow", "proxy_protocol"),
    "TLS": ("tls_cert", "tls_key", "tls"),
    "Limits": (
        *("max_connections", "max_per_host", "max_connection_rate", "max_handshake_rate"),
        *("max_move_rate", "max_pending_moves", "memory_budget"),
    ),
    "Identity and moves": (
        *("identity_key_files", "identity_token", "identity_signing_keys", "identity_issuer"),
        "vmotion_key_file",
    ),
    "vCenter": (
        *("vcenter", "vcenter_user", "vcenter_password_file", "vcenter_ca_file"),
        *("vcenter_thumbprint", "vcenter_check", "vcenter_wait_s"),
    ),
    "Fleet": ("fleet_url", "server_name", "fleet_retention_days"),
    "Monitoring": (
        *("admin_listen", "admin_token_file", "state_file", "forget_failed_hours"),
        *("log_level", "log_format", "audit_log"),
        *("expect_outcomes", "outcome_hook", "outcome_hook_key_file"),
    ),
    "Processes": ("workers", "drain_s"),
}


@click.command("run", cls=SettingsCommand)
@config_option
@click.option(
    "--uri",
    "uris",
    type=URI,
    multiple=True,
    required=True,
    help="Serve VMs with this service URI; may be repeated.",
)
@driver_options
@listen_option("Listen on this address; may be repeated. IPv6: [::]:13370. Port 0: any free port.")
@click.option(
    "--allow",
    type=NETWORK,
    multiple=True,
    help="Accept ESXi hosts of this network only; may be repeated. Default: accept all hosts.",
)
@click.option(
    "--max-connections",
    type=WholeRange(min=1),
    metavar="N",
    help="Limit connections. Default: as many as the limit of file descriptors allows.",
)
@click.option(
    "--max-per-host",
    type=WholeRange(min=1),
    default=MAX_PER_HOST,
    show_default=True,
    metavar="N",
    help="Limit connections per ESXi host.",
)
@click.option(
    "--memory-budget",
    type=SIZE,
    metavar="SIZE",
    help="Limit the memory of all server processes together: 512M, 2G. At the limit, the oldest "
    "cached data is dropped. Default: three quarters of the cgroup's limit, else half of the "
    "machine's memory.",
)
@click.option(
    "--max-connection-rate",
    type=WholeRange(min=0),
    default=MAX_CONNECTION_RATE,
    show_default=True,
    metavar="N",
    help="Limit new connections per second and ESXi host; a burst may be "
    f"{BURST_S:g} times as large. 0: no limit.",
)
@click.option(
    "--max-handshake-rate",
    type=WholeRange(min=0),
    default=MAX_HANDSHAKE_RATE,
    show_default=True,
    metavar="N",
    help="Limit TLS handshakes per second and ESXi host, with the same burst. 0: no limit.",
)
@click.option(
    "--max-move-rate",
    type=WholeRange(min=0),
    default=MAX_MOVE_RATE,
    show_default=True,
    metavar="N",
    help="Limit vMotions per second and ESXi host, with the same burst. 0: no limit.",
)
@click.option(
    "--proxy-protocol",
    type=NETWORK,
    multiple=True,
    help="Expect a PROXY protocol header (version 1 or 2) on connections from this network of load "
    "balancers; may be repeated.",
)
@key_pair_options(is_required=False)
@click.option(
    "--tls",
    type=click.Choice([policy.value for policy in TlsPolicy], case_sensitive=False),
    help="Allow or require TLS. Default: allow with --tls-cert, else off.",
)
@click.option(
    "--vmotion-key-file",
    type=FILE,
    metavar="FILE",
    help=f"Share this key of at least {MIN_KEY_BYTES} bytes with the other servers behind a load "
    "balancer, so that a VM can move between them. Default: a VM can move within one server only.",
)
@identity_keys_option
@click.option(
    "--identity-token",
    type=click.Choice(["off", "warn", "require"]),
    default="off",
    show_default=True,
    help="Check the identity token in the service URI of each VM (`t=`, which `vm-port add` sets): "
    "report VMs without a right one, or refuse them.",
)
@identity_document_options
@vcenter_options
@click.option(
    "--max-pending-moves",
    type=WholeRange(min=0),
    metavar="N",
    help="Limit vMotions under way; further ones are declined. Default: --max-connections.",
)
@click.option(
    "--workers",
    type=WholeRange(1, 64),
    default=1,
    show_default=True,
    metavar="N",
    help="Start this many serving processes; with more than 1, a parent process watches them.",
)
@click.option(
    "--admin-listen",
    type=OPTIONAL_ADDRESS,
    default=DEFAULT_ADMIN_LISTEN,
    show_default=str(DEFAULT_ADMIN_LISTEN),
    help="Serve health, metrics and the status page by HTTP on this address, or `off`.",
)
@click.option(
    "--admin-token-file",
    type=FILE,
    metavar="FILE",
    help="Require the token in this file on the admin port. Without it, loopback only.",
)
@click.option(
    "--state-file",
    type=FILE,
    metavar="FILE",
    default=default_state_file,
    help="Save the VC UUIDs of connected VMs in this file, so that the admin port can list those "
    "that have not reconnected after a restart. Default: a file in systemd's StateDirectory=, or "
    "none.",
)
@forget_failed_option
@outcome_options
@click.option(
    "--catalogue/--no-catalogue",
    default=True,
    show_default=True,
    help="Read all data in the background, in a process of its own, and report its faults before "
    "VMs boot.",
)
@click.option(
    "--prepared-memory",
    "prepared_bytes",
    type=SIZE,
    default="64M",
    show_default=True,
    metavar="SIZE",
    help="Let the catalogue prepare answers in this much memory, so that the first boot of a VM "
    "needs no look-up; for files whose changes the system notifies, and the stores sql and etcd. "
    "0: none.",
)
@click.option(
    "--last-good-dir",
    type=DIRECTORY,
    metavar="DIRECTORY",
    help="Keep the last good answer of each VM in this directory, so that VMs boot while the data "
    "source is down, also after a restart. Answers with probable secrets are not written.",
)
@click.option(
    "--ledger",
    type=FILE,
    metavar="FILE",
    default=default_ledger,
    help="Record in this file which documents with `once` VMs have had. Default: a file in "
    "systemd's StateDirectory=, or none: then such documents are served in a --fleet only.",
)
@click.option(
    "--userdata-window",
    "userdata_window_s",
    type=FiniteRange(min=0, min_open=True),
    metavar="SECONDS",
    help="Serve user-data, vendor-data and further documents for so long after the first request "
    "of each instance of a VM only. Needs --ledger or --fleet. Default: always.",
)
@fleet_options
@click.option(
    "--log-level",
    type=click.Choice(LOG_LEVELS, case_sensitive=False),
    default="info",
    show_default=True,
    help="Log messages of this level and above.",
)
@click.option(
    "--log-format",
    type=click.Choice(LOG_FORMATS, case_sensitive=False),
    default="text",
    show_default=True,
    help="Log lines of text, or one JSON object per line.",
)
@click.option(
    "--audit-log",
    type=FILE,
    metavar="FILE",
    help="Append one JSON object to this file for each boot served and each request that failed or "
    "was refused. HUP reopens the file.",
)
@click.option(
    "--drain",
    "drain_s",
    type=FiniteRange(min=0),
    default=30.0,
    show_default=True,
    metavar="SECONDS",
    help="Wait this long for answers under way when the server stops.",
)
@click.option(
    "--lookup-pool",
    type=WholeRange(1, 1000),
    default=32,
    show_default=True,
    metavar="N",
    help="Limit concurrent look-ups.",
)
@click.option(
    "--lookup-timeout",
    "lookup_timeout_s",
    type=FiniteRange(min=0, min_open=True),
    default=3.0,
    show_default=True,
    metavar="SECONDS",
    help="Limit the time of one look-up.",
)
def server_options() -> None:
    """All settings of the server."""

"""`run`: serve VMs in the foreground; its options are the server's settings."""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import click

from vmw_cloudinit_metadata.admin.adminport import AdminPort
from vmw_cloudinit_metadata.admin.remembered import default_state_file
from vmw_cloudinit_metadata.cli.serve import Service, serve
from vmw_cloudinit_metadata.cli.serversettings import (
    admin_settings,
    is_prepared_memory_chosen,
    server_settings,
    warnings_of,
)
from vmw_cloudinit_metadata.drivers.drivererror import DriverError
from vmw_cloudinit_metadata.drivers.loading import load
from vmw_cloudinit_metadata.drivers.preparedanswers import PreparedKeeper
from vmw_cloudinit_metadata.monitoring import formatters, logs, uncaught
from vmw_cloudinit_metadata.process import notify
from vmw_cloudinit_metadata.process.budget import return_large_blocks
from vmw_cloudinit_metadata.protocol.rate import BURST_S
from vmw_cloudinit_metadata.protocol.session import TlsPolicy
from vmw_cloudinit_metadata.protocol.vmotion import MAX_MOVE_RATE, MIN_KEY_BYTES
from vmw_cloudinit_metadata.serving.admission import (
    MAX_CONNECTION_RATE,
    MAX_HANDSHAKE_RATE,
    MAX_PER_HOST,
    raise_descriptor_limit,
)
from vmw_cloudinit_metadata.serving.catalogue import Catalogue
from vmw_cloudinit_metadata.serving.server import MetadataServer
from vmw_cloudinit_metadata.serving.surveyprocess import SurveyProcess
from vmw_cloudinit_metadata.settings.errors import ConfigError
from vmw_cloudinit_metadata.settings.layers import (
    SettingsCommand,
    config_option,
    unknown_variables,
)
from vmw_cloudinit_metadata.settings.parameters import (
    ADDRESS,
    DIRECTORY,
    FILE,
    NETWORK,
    OPTIONAL_ADDRESS,
    SIZE,
    URI,
    driver_options,
    identity_keys_option,
    key_pair_options,
)
from vmw_cloudinit_metadata.settings.reload import Configuration
from vmw_cloudinit_metadata.settings.values import (
    DEFAULT_ADMIN_LISTEN,
    DEFAULT_LISTEN,
    Address,
    is_loopback,
)

log = logging.getLogger(__name__)
start_log = logging.getLogger(f"{__name__}.start")  # logged at every --log-level

LOG_LEVELS = ("debug", "info", "warning", "error")


@click.command(cls=SettingsCommand)
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
@click.option(
    "--listen",
    type=ADDRESS,
    multiple=True,
    default=[DEFAULT_LISTEN],
    show_default=str(DEFAULT_LISTEN),
    help="Listen on this address; may be repeated. IPv6: [::]:13370. Port 0: any free port.",
)
@click.option(
    "--allow",
    type=NETWORK,
    multiple=True,
    help="Accept ESXi hosts of this network only; may be repeated. Default: accept all hosts.",
)
@click.option(
    "--max-connections",
    type=click.IntRange(min=1),
    metavar="N",
    help="Limit connections. Default: as many as the limit of file descriptors allows.",
)
@click.option(
    "--max-per-host",
    type=click.IntRange(min=1),
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
    type=click.IntRange(min=0),
    default=MAX_CONNECTION_RATE,
    show_default=True,
    metavar="N",
    help="Limit new connections per second and ESXi host; a burst may be "
    f"{BURST_S:g} times as large. 0: no limit.",
)
@click.option(
    "--max-handshake-rate",
    type=click.IntRange(min=0),
    default=MAX_HANDSHAKE_RATE,
    show_default=True,
    metavar="N",
    help="Limit TLS handshakes per second and ESXi host, with the same burst. 0: no limit.",
)
@click.option(
    "--max-move-rate",
    type=click.IntRange(min=0),
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
@click.option(
    "--max-pending-moves",
    type=click.IntRange(min=0),
    metavar="N",
    help="Limit vMotions under way; further ones are declined. Default: --max-connections.",
)
@click.option(
    "--workers",
    type=click.IntRange(1, 64),
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
    "--log-level",
    type=click.Choice(LOG_LEVELS, case_sensitive=False),
    default="info",
    show_default=True,
    help="Log messages of this level and above.",
)
@click.option(
    "--log-format",
    type=click.Choice(formatters.FORMATS, case_sensitive=False),
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
    type=click.FloatRange(min=0),
    default=30.0,
    show_default=True,
    metavar="SECONDS",
    help="Wait this long for answers under way when the server stops.",
)
@click.option(
    "--lookup-pool",
    type=click.IntRange(1, 1000),
    default=32,
    show_default=True,
    metavar="N",
    help="Limit concurrent look-ups.",
)
@click.option(
    "--lookup-timeout",
    "lookup_timeout_s",
    type=click.FloatRange(min=0, min_open=True),
    default=3.0,
    show_default=True,
    metavar="SECONDS",
    help="Limit the time of one look-up.",
)
@click.pass_context
def run(
    ctx: click.Context,
    /,
    listen: tuple[Address, ...],
    workers: int,
    driver_spec: str,
    audit_log: Path | None,
    catalogue: bool,
    prepared_bytes: int,
    **options: Any,
) -> None:
    """Serve VMs in the foreground until TERM or INT.

    Requests under way are answered before the server stops. HUP reads the settings and the
    certificate again.
    """
    logs.set_up(options["log_level"], options["log_format"], with_process=workers > 1)
    uncaught.catch_all()
    start_log.setLevel(logging.INFO)
    for warning in unknown_variables(ctx.command, os.environ):
        log.warning("%s", warning)
    return_large_blocks()
    soft_limit, descriptors = raise_descriptor_limit()
    configuration = Configuration(ctx, server_settings)
    warnings = list(warnings_of(ctx, options))  # reads files: before VMs are served
    admin = admin_settings(options, ctx.get_parameter_source("admin_listen"))
    if options["state_file"] and not admin:
        log.warning("--state-file is not used: --admin-listen is off")

    def make(addresses: Sequence[Address], **further: Any) -> MetadataServer:
        driver = load(
            driver_spec, options["driver_opts"], may_be_absent=bool(options["last_good_dir"])
        )
        if catalogue and not driver.prepared and is_prepared_memory_chosen(ctx):
            name = type(driver).__name__
            start_log.warning("--prepared-memory has no effect: %s prepares no answers", name)
        try:
            return MetadataServer(driver, listen=addresses, **further)
        except DriverError as error:
            raise ConfigError(f"--driver {driver_spec}: {error}") from error

    def announce(addresses: Sequence[Address]) -> None:
        for address in addresses:
            start_log.info("listening on %s", address)
        limits = configuration.settings
        log.info(
            "limits: %d connections, %d per host; descriptors: %d (soft limit was %d)",
            *(limits["max_connections"], limits["max_per_host"], descriptors, soft_limit),
        )
        if limits["max_connections"] >= workers * descriptors:
            start_log.warning("--max-connections is higher than the limit of descriptors")
        for warning in warnings:
            start_log.warning("%s", warning)
        _warn_if_open_to_everyone(addresses, limits)
        notify.ready(f"listening on {', '.join(map(str, addresses))}")

    def survey(
        memory_bytes: int, known: Catalogue, prepared: PreparedKeeper | None
    ) -> SurveyProcess:
        work = driver_spec, options["driver_opts"], memory_bytes
        return SurveyProcess(*work, known.take, known.fail, prepared)

    service = Service(
        make,
        listen,
        announce,
        AdminPort(admin) if admin else None,
        configuration,
        audit_log,
        survey if catalogue else None,
        prepared_bytes,
    )
    counters = serve(service, workers)
    counted = ", ".join(f"{name}: {count}" for name, count in sorted(counters.items()))
    log.info("stopped; %s", counted or "no requests were served")


def _warn_if_open_to_everyone(addresses: Sequence[Address], settings: Mapping[str, Any]) -> None:
    if not settings["allow"] and not all(is_loopback(address.host) for address in addresses):
        start_log.warning(
            "EVERYONE who can reach %s can request the data of any VM: "
            "list the networks of your ESXi hosts with --allow",
            ", ".join(map(str, addresses)),
        )

"""`run`: serve VMs in the foreground; its options are the server's settings."""

from __future__ import annotations

import logging
import os
import platform
import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import click
import ujson

from vmw_cloudinit_metadata import __version__
from vmw_cloudinit_metadata.admin.remembered import default_ledger, default_state_file
from vmw_cloudinit_metadata.cli.serve import Service, serve
from vmw_cloudinit_metadata.cli.serversettings import (
    admin_settings,
    fleet_settings,
    is_prepared_memory_chosen,
    server_settings,
    vcenter_settings,
    warnings_of,
)
from vmw_cloudinit_metadata.cli.shownsettings import shown_settings
from vmw_cloudinit_metadata.drivers.drivererror import DriverError
from vmw_cloudinit_metadata.drivers.loading import load
from vmw_cloudinit_metadata.drivers.preparedanswers import PreparedKeeper
from vmw_cloudinit_metadata.instance.counts import counted
from vmw_cloudinit_metadata.monitoring import formatters, logs, uncaught
from vmw_cloudinit_metadata.process import notify, upgradecheck, upgradefile
from vmw_cloudinit_metadata.process.budget import return_large_blocks
from vmw_cloudinit_metadata.process.listener import listen_on
from vmw_cloudinit_metadata.process.upgradefile import Before
from vmw_cloudinit_metadata.protocol.printable import one_line, shortened
from vmw_cloudinit_metadata.protocol.rate import BURST_S
from vmw_cloudinit_metadata.protocol.session import TlsPolicy
from vmw_cloudinit_metadata.protocol.state import InvalidState
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
    config_file,
    config_option,
    unknown_variables,
)
from vmw_cloudinit_metadata.settings.masking import masked
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
from vmw_cloudinit_metadata.settings.reload import Configuration
from vmw_cloudinit_metadata.settings.values import (
    DEFAULT_ADMIN_LISTEN,
    Address,
    is_loopback,
)

log = logging.getLogger(__name__)
start_log = logging.getLogger(f"{__name__}.start")  # logged at every --log-level

LOG_LEVELS = ("debug", "info", "warning", "error")


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


@click.command(cls=SettingsCommand, sections=SECTIONS)
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
    certificate again. USR2 replaces the program by the one on disk (see `upgrade`).
    """
    logs.set_up(options["log_level"], options["log_format"], with_process=workers > 1)
    uncaught.catch_all()
    start_log.setLevel(logging.INFO)
    before = _before()
    for warning in unknown_variables(ctx.command, os.environ):
        log.warning("%s", warning)
    return_large_blocks()
    soft_limit, descriptors = raise_descriptor_limit()
    configuration = Configuration(ctx, server_settings)
    warnings = list(warnings_of(ctx, options))  # reads files: before VMs are served
    admin = admin_settings(options, ctx.get_parameter_source("admin_listen"))
    fleet = fleet_settings(options)
    vcenter = vcenter_settings(options)
    if admin:
        found = config_file(ctx)
        file = str(found[0]) if found else None
        admin = replace(
            admin,
            issuer=lambda: configuration.settings["identity_issuer"],
            shown=lambda: shown_settings(configuration.options, file),
        )

    def make(
        addresses: Sequence[Address], *, is_first: bool = True, **further: Any
    ) -> MetadataServer:
        driver = load(
            driver_spec, options["driver_opts"], may_be_absent=bool(options["last_good_dir"])
        )
        is_useless = catalogue and not driver.prepared and is_prepared_memory_chosen(ctx)
        if is_useless and is_first:
            name = type(driver).__name__
            reason = driver.why_not_prepared and f": {driver.why_not_prepared}"
            text = "--prepared-memory has no effect: %s prepares no answers%s"
            start_log.warning(text, name, reason)
        try:
            return MetadataServer(driver, listen=addresses, **further)
        except DriverError as error:
            raise ConfigError(f"--driver {driver_spec}: {error}") from error

    processes = counted(workers, "serving process", "serving processes")

    def announce(addresses: Sequence[Address]) -> None:
        start_log.info(
            "version %s, Python %s, %s; URIs: %s; driver: %s %s",
            *(__version__, platform.python_version(), processes),
            *(", ".join(map(one_line, configuration.settings["uris"])), driver_spec),
            shortened(one_line(_options_text(options["driver_opts"]))),
        )
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
        records_uses = bool(options["ledger"] or options["fleet_url"])
        return SurveyProcess(*work, known.take, known.fail, prepared, records_uses=records_uses)

    if before.checked_format is not None:
        make(listen, **configuration.settings)
        for listener in listen_on([one for one in listen if str(one) not in before.listening]):
            listener.close()
        logs.flush()
        upgradecheck.say_can(before.checked_format, has_fleet=fleet is not None)
        return
    state = before.state
    service = Service(
        make,
        listen,
        announce,
        admin,
        configuration,
        audit_log,
        survey if catalogue else None,
        prepared_bytes,
        fleet,
        vcenter,
        state,
    )
    counters = serve(service, workers)
    totals = ", ".join(f"{name}: {count}" for name, count in sorted(counters.items()))
    log.info("stopped; %s", totals or "no requests were served")


def _options_text(driver_opts: Mapping[str, Any]) -> str:
    """Return driver options for the log, with their secrets hidden."""
    return ujson.dumps(masked(driver_opts), escape_forward_slashes=False)


def _before() -> Before:
    """Return what the program before an upgrade has left."""
    try:
        return upgradefile.before()
    except (InvalidState, OSError) as error:
        log.critical("upgrade: %s", error)
        sys.exit(1)  # the supervisor starts the server anew


def _warn_if_open_to_everyone(addresses: Sequence[Address], settings: Mapping[str, Any]) -> None:
    if not settings["allow"] and not all(is_loopback(address.host) for address in addresses):
        start_log.warning(
            "EVERYONE who can reach %s can request the data of any VM: "
            "list the networks of your ESXi hosts with --allow",
            ", ".join(map(str, addresses)),
        )

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
from vmw_cloudinit_metadata.cli.failure import FAILURES, text_of
from vmw_cloudinit_metadata.cli.runoptions import SECTIONS, server_options
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
from vmw_cloudinit_metadata.monitoring import logs, uncaught
from vmw_cloudinit_metadata.process import notify, upgradecheck, upgradefile
from vmw_cloudinit_metadata.process.budget import return_large_blocks
from vmw_cloudinit_metadata.process.listener import listen_on
from vmw_cloudinit_metadata.process.upgradefile import Before
from vmw_cloudinit_metadata.protocol.printable import one_line, shortened
from vmw_cloudinit_metadata.protocol.state import InvalidState
from vmw_cloudinit_metadata.serving.admission import raise_descriptor_limit
from vmw_cloudinit_metadata.serving.catalogue import Catalogue
from vmw_cloudinit_metadata.serving.server import MetadataServer
from vmw_cloudinit_metadata.serving.surveyprocess import SurveyProcess
from vmw_cloudinit_metadata.settings.errors import ConfigError
from vmw_cloudinit_metadata.settings.layers import SettingsCommand, config_file, unknown_variables
from vmw_cloudinit_metadata.settings.masking import masked
from vmw_cloudinit_metadata.settings.reload import Configuration
from vmw_cloudinit_metadata.settings.values import Address, is_loopback

log = logging.getLogger(__name__)
start_log = logging.getLogger(f"{__name__}.start")  # logged at every --log-level


class _ServerCommand(SettingsCommand):
    """Once there is a log, an operator's error is the last line of it."""

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except FAILURES as error:
            text = text_of(error)
            if logs.is_for_machines():
                log.critical("%s", text)
            elif not logs.put(f"{ctx.find_root().info_name}: error: {text}"):
                raise
            sys.exit(2)


@click.command(cls=_ServerCommand, params=[*server_options.params], sections=SECTIONS)
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

"""`run`: the server, in the foreground."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import click
from click.core import ParameterSource

from vmw_cloudinit_metadata.admin.access import check_address, read_token
from vmw_cloudinit_metadata.admin.adminport import AdminPort, AdminSettings
from vmw_cloudinit_metadata.admin.remembered import default_state_file
from vmw_cloudinit_metadata.cli.serve import (
    serve_alone,
    serve_by_workers,
    start_log,
    tell_who_may_connect,
)
from vmw_cloudinit_metadata.drivers.driver import load
from vmw_cloudinit_metadata.monitoring import formatters, logs, uncaught
from vmw_cloudinit_metadata.process import notify
from vmw_cloudinit_metadata.process.budget import (
    MIN_PROCESS_BYTES,
    default_bytes,
    return_large_blocks,
)
from vmw_cloudinit_metadata.protocol.rate import BURST_S
from vmw_cloudinit_metadata.protocol.session import TlsPolicy
from vmw_cloudinit_metadata.protocol.vmotion import MAX_MOVE_RATE, MIN_KEY_BYTES
from vmw_cloudinit_metadata.serving.admission import (
    MAX_CONNECTION_RATE,
    MAX_HANDSHAKE_RATE,
    MAX_PER_HOST,
    connections_by_descriptors,
    raise_descriptor_limit,
)
from vmw_cloudinit_metadata.serving.server import MetadataServer
from vmw_cloudinit_metadata.serving.tls import KeyPair
from vmw_cloudinit_metadata.settings import permissions
from vmw_cloudinit_metadata.settings.errors import ConfigError
from vmw_cloudinit_metadata.settings.layers import (
    SettingsCommand,
    config_file,
    config_option,
    strange_variables,
)
from vmw_cloudinit_metadata.settings.options import (
    ADDRESS,
    FILE,
    NETWORK,
    OPTIONAL_ADDRESS,
    SIZE,
    URI,
    driver_options,
    key_pair_options,
)
from vmw_cloudinit_metadata.settings.running import Configuration
from vmw_cloudinit_metadata.settings.values import (
    DEFAULT_ADMIN_LISTEN,
    DEFAULT_LISTEN,
    Address,
    network_warnings,
)

log = logging.getLogger(__name__)

# Options that MetadataServer takes by the same name.
_AS_THEY_ARE = (
    *("uris", "allow", "proxy_protocol", "max_per_host", "drain_s", "lookup_pool"),
    *("lookup_timeout_s", "max_connection_rate", "max_handshake_rate", "max_move_rate"),
)

MAX_KEY_BYTES = 64 * 1024  # of --vmotion-key-file

LOG_LEVELS = ("debug", "info", "warning", "error")


@click.command(cls=SettingsCommand)
@config_option
@click.option(
    "--uri",
    "uris",
    type=URI,
    multiple=True,
    required=True,
    help="The service URI that VMs ask for; may be repeated.",
)
@driver_options
@click.option(
    "--listen",
    type=ADDRESS,
    multiple=True,
    default=[DEFAULT_LISTEN],
    show_default=str(DEFAULT_LISTEN),
    help="Where to listen; may be repeated. IPv6 as [::]:13370; port 0 takes a free one.",
)
@click.option(
    "--allow",
    type=NETWORK,
    multiple=True,
    help="A network of ESXi hosts; may be repeated. Others are closed at once. Default: everyone.",
)
@click.option(
    "--max-connections",
    type=click.IntRange(min=1),
    metavar="N",
    help="Default: what the limit of file descriptors leaves room for.",
)
@click.option(
    "--max-per-host",
    type=click.IntRange(min=1),
    default=MAX_PER_HOST,
    show_default=True,
    metavar="N",
    help="How many connections one ESXi host may have.",
)
@click.option(
    "--memory-budget",
    type=SIZE,
    metavar="SIZE",
    help="How much memory all processes of the server may use together: 512M, 2G. Beyond it, what "
    "was kept longest is dropped. Default: three quarters of the cgroup's limit, else half of the "
    "machine's memory.",
)
@click.option(
    "--max-connection-rate",
    type=click.IntRange(min=0),
    default=MAX_CONNECTION_RATE,
    show_default=True,
    metavar="N",
    help=f"How many times a second one ESXi host may connect; {BURST_S:g} times as often at once. "
    "0: no limit.",
)
@click.option(
    "--max-handshake-rate",
    type=click.IntRange(min=0),
    default=MAX_HANDSHAKE_RATE,
    show_default=True,
    metavar="N",
    help="Likewise: how many TLS handshakes one ESXi host may begin a second.",
)
@click.option(
    "--max-move-rate",
    type=click.IntRange(min=0),
    default=MAX_MOVE_RATE,
    show_default=True,
    metavar="N",
    help="Likewise: how many vMotions may begin a second from one ESXi host.",
)
@click.option(
    "--proxy-protocol",
    type=NETWORK,
    multiple=True,
    help="A network of load balancers, whose connections begin with a PROXY protocol header, "
    "version 1 or 2; may be repeated.",
)
@key_pair_options(is_required=False)
@click.option(
    "--tls",
    type=click.Choice([policy.value for policy in TlsPolicy], case_sensitive=False),
    help="Whether VMs may, or must, connect with TLS. Default: allow with --tls-cert, else off.",
)
@click.option(
    "--vmotion-key-file",
    type=FILE,
    metavar="FILE",
    help=f"A key, at least {MIN_KEY_BYTES} bytes, that all servers behind a load balancer share: "
    "then a VM may move from one to another. Default: each knows only its own moves.",
)
@click.option(
    "--max-pending-moves",
    type=click.IntRange(min=0),
    metavar="N",
    help="How many vMotions may be under way; further ones are declined. "
    "Default: --max-connections.",
)
@click.option(
    "--workers",
    type=click.IntRange(1, 64),
    default=1,
    show_default=True,
    metavar="N",
    help="How many processes serve, under a parent that starts and watches them.",
)
@click.option(
    "--admin-listen",
    type=OPTIONAL_ADDRESS,
    default=DEFAULT_ADMIN_LISTEN,
    show_default=str(DEFAULT_ADMIN_LISTEN),
    help="Where health, metrics and the status page are served, by HTTP; `off`: nowhere.",
)
@click.option(
    "--admin-token-file",
    type=FILE,
    metavar="FILE",
    help="A token that those need who read the admin port. Without one it is for loopback alone.",
)
@click.option(
    "--state-file",
    type=FILE,
    metavar="FILE",
    default=default_state_file,
    help="Keeps the VC UUIDs of the connected VMs, so that the admin port can tell which are not "
    "back after a restart. Default: in the StateDirectory= of systemd, or they are forgotten.",
)
@click.option(
    "--log-level",
    type=click.Choice(LOG_LEVELS, case_sensitive=False),
    default="info",
    show_default=True,
)
@click.option(
    "--log-format",
    type=click.Choice(formatters.FORMATS, case_sensitive=False),
    default="text",
    show_default=True,
    help="Lines for people, or one JSON object a line.",
)
@click.option(
    "--audit-log",
    type=FILE,
    metavar="FILE",
    help="A file to append to: one JSON object for each boot that was served, and each request "
    "that failed or was refused. HUP opens it again.",
)
@click.option(
    "--drain",
    "drain_s",
    type=click.FloatRange(min=0),
    default=30.0,
    show_default=True,
    metavar="SECONDS",
    help="How long answers under way may take when the server is stopped.",
)
@click.option(
    "--lookup-pool",
    type=click.IntRange(1, 1000),
    default=32,
    show_default=True,
    metavar="N",
    help="How many look-ups run at the same time.",
)
@click.option(
    "--lookup-timeout",
    "lookup_timeout_s",
    type=click.FloatRange(min=0, min_open=True),
    default=3.0,
    show_default=True,
    metavar="SECONDS",
    help="How long one look-up of the driver may take.",
)
@click.pass_context
def run(
    ctx: click.Context,
    /,
    listen: tuple[Address, ...],
    workers: int,
    driver_spec: str,
    audit_log: Path | None,
    **options: Any,
) -> None:
    """Serves VMs in the foreground until TERM or INT, which finish the answers under way.

    HUP reads the settings again, and the certificate.
    """
    logs.set_up(options["log_level"], options["log_format"], with_process=workers > 1)
    uncaught.catch_all()
    start_log.setLevel(logging.INFO)
    for warning in strange_variables(ctx.command, os.environ):
        log.warning("%s", warning)
    return_large_blocks()
    was, descriptors = raise_descriptor_limit()
    configuration = Configuration(ctx, checked)
    warnings = list(warnings_of(ctx, options))  # before VMs are served: it looks at files
    settings = admin_settings(options, ctx.get_parameter_source("admin_listen"))
    admin = AdminPort(settings) if settings else None
    if options["state_file"] and not admin:
        log.warning("--state-file is not used: --admin-listen is off")

    def make(addresses: Sequence[Address], **further: Any) -> MetadataServer:
        driver = load(driver_spec, options["driver_opts"])
        return MetadataServer(driver, listen=addresses, **further)

    def announce(addresses: Sequence[Address]) -> None:
        for address in addresses:
            start_log.info("listening on %s", address)
        limits = configuration.settings
        log.info(
            "at most %d connections, %d of one host; descriptors: %d (soft limit was %d)",
            *(limits["max_connections"], limits["max_per_host"], descriptors, was),
        )
        if limits["max_connections"] >= workers * descriptors:
            start_log.warning("--max-connections is more than there are descriptors")
        for warning in warnings:
            start_log.warning("%s", warning)
        tell_who_may_connect(addresses, has_allow=bool(limits["allow"]))
        notify.ready(f"listening on {', '.join(map(str, addresses))}")

    if workers == 1:
        counters = serve_alone(make, listen, announce, admin, configuration, audit_log)
    else:
        counters = serve_by_workers(
            make, listen, announce, admin, workers, configuration, audit_log
        )
    counted = ", ".join(f"{name}: {count}" for name, count in sorted(counters.items()))
    log.info("stopped; %s", counted or "nothing was asked")


def checked(options: Mapping[str, Any]) -> dict[str, Any]:
    """What MetadataServer takes, beside driver and addresses, of the options of `run`.

    Raises ConfigError for what cannot be used, or not together.
    """
    admin_settings(options)
    key_pair = _key_pair(options["tls_cert"], options["tls_key"])
    connections = options["max_connections"] or options["workers"] * connections_by_descriptors()
    moves = options["max_pending_moves"]
    return {
        "max_connections": connections,
        "max_pending_moves": connections if moves is None else moves,
        "memory_budget": _memory_budget(options["memory_budget"], options["workers"]),
        "key_pair": key_pair,
        "tls": _tls_policy(options["tls"], key_pair),
        "vmotion_key": _key(options["vmotion_key_file"]),
        **{name: options[name] for name in _AS_THEY_ARE},
    }


def warnings_of(ctx: click.Context, options: Mapping[str, Any]) -> Iterator[str]:
    """What can be used and probably should not: too little memory, networks, and files that others
    read or change."""
    least = _least_memory(ctx.params["workers"])
    if options["memory_budget"] is None and default_bytes() < least:
        yield (
            f"the memory limit leaves {default_bytes() // 1024**2} MiB to the server, which needs "
            f"{least // 1024**2} MiB: raise the limit, or have fewer --workers"
        )
    yield from network_warnings("--allow", options["allow"])
    yield from network_warnings("--proxy-protocol", options["proxy_protocol"])
    secrets = {
        "--admin-token-file": options["admin_token_file"],
        "--tls-key": options["tls_key"] or options["tls_cert"],
        "--vmotion-key-file": options["vmotion_key_file"],
    }
    for option, path in secrets.items():
        if path:
            yield from permissions.secret_warnings(option, path)
    driver_opts = options["driver_opts"]
    if found := config_file(ctx):
        file, has_secret = found
        warnings = permissions.secret_warnings if has_secret else permissions.trust_warnings
        yield from warnings("--config", file)
    if isinstance(directory := driver_opts.get("directory"), str):
        yield from permissions.trust_warnings("directory", Path(directory))
        if isinstance(defaults := driver_opts.get("defaults"), str):
            yield from permissions.trust_warnings("defaults", Path(directory, defaults))


def admin_settings(
    options: Mapping[str, Any], source: ParameterSource | None = None
) -> AdminSettings | None:
    """Those of the admin port, if there is to be one; raises ConfigError."""
    listen, token_file = options["admin_listen"], options["admin_token_file"]
    if not isinstance(listen, Address):
        return None
    token = read_token(token_file) if token_file else None
    check_address(listen, token)
    is_chosen = source is not ParameterSource.DEFAULT
    return AdminSettings(listen, is_chosen, token, options["state_file"])


def _memory_budget(chosen: int | None, workers: int) -> int:
    """The share of each process: of a server, or of workers and their parent."""
    processes, least = _processes(workers), _least_memory(workers)
    if chosen is None:
        return max(default_bytes(), least) // processes
    if chosen < least:
        needs = f"{workers} workers and their parent need" if processes > 1 else "the server needs"
        raise ConfigError(f"--memory-budget: {needs} at least {least // 1024**2}M")
    return chosen // processes


def _processes(workers: int) -> int:
    return workers + 1 if workers > 1 else 1


def _least_memory(workers: int) -> int:
    return _processes(workers) * MIN_PROCESS_BYTES


def _key_pair(certificate: Path | None, key: Path | None) -> KeyPair | None:
    if certificate is None:
        if key:
            raise ConfigError("--tls-key needs --tls-cert")
        return None
    return KeyPair(certificate, key or certificate)


def _tls_policy(wish: str | None, key_pair: KeyPair | None) -> TlsPolicy:
    policy = TlsPolicy(wish) if wish else TlsPolicy.ALLOW if key_pair else TlsPolicy.OFF
    if policy is not TlsPolicy.OFF and not key_pair:
        raise ConfigError(f"--tls {policy.value} needs --tls-cert")
    return policy


def _key(path: Path | None) -> bytes | None:
    if path is None:
        return None
    key = permissions.read("--vmotion-key-file", path, MAX_KEY_BYTES)
    if len(key) < MIN_KEY_BYTES:
        raise ConfigError(
            f"--vmotion-key-file: {path} has {len(key)} bytes, expected at least {MIN_KEY_BYTES}: "
            f"make one with: (umask 077; head -c 32 /dev/urandom > {path})"
        )
    return key

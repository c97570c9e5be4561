"""Make the server's settings from the options of `run`, check them, and warn about unsafe ones."""

from __future__ import annotations

import socket
from collections.abc import Iterator, Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import click
from click.core import ParameterSource

from vmw_cloudinit_metadata.admin.access import check_address, read_token
from vmw_cloudinit_metadata.admin.adminport import AdminSettings
from vmw_cloudinit_metadata.drivers import optionvalues
from vmw_cloudinit_metadata.drivers.driveroptions import field_of
from vmw_cloudinit_metadata.process.budget import MIN_PROCESS_BYTES, default_bytes
from vmw_cloudinit_metadata.process.fleet import urlcheck
from vmw_cloudinit_metadata.process.fleet.fleetprocess import FleetSettings
from vmw_cloudinit_metadata.process.outcomes.outcomehooks import OutcomeHookSettings
from vmw_cloudinit_metadata.process.vcenter.vcenterprocess import VcenterSettings
from vmw_cloudinit_metadata.protocol.policy import TlsPolicy
from vmw_cloudinit_metadata.protocol.vmotion import MIN_KEY_BYTES
from vmw_cloudinit_metadata.serving.admission import connections_by_descriptors
from vmw_cloudinit_metadata.serving.crosscheck import VcenterCheck
from vmw_cloudinit_metadata.serving.ondisk import answerdirectory
from vmw_cloudinit_metadata.serving.tls import KeyPair
from vmw_cloudinit_metadata.settings import (
    certificatefile,
    hookkey,
    identitykeys,
    permissions,
    signingkeys,
    vcenterpassword,
)
from vmw_cloudinit_metadata.settings.errors import ConfigError
from vmw_cloudinit_metadata.settings.layers import (
    config_file,
    is_chosen,
    name_of,
    settings_of,
)
from vmw_cloudinit_metadata.settings.values import (
    DEFAULT_DRIVER,
    Address,
    network_warnings,
    parse_server_name,
)

# Options that MetadataServer takes by the same name.
_SAME_NAME = (
    "vcenter_wait_s",
    *("uris", "allow", "proxy_protocol", "max_per_host", "drain_s", "lookup_pool"),
    *("last_good_dir", "ledger", "userdata_window_s"),
    *("lookup_timeout_s", "max_connection_rate", "max_handshake_rate", "max_move_rate"),
)


# Options that have no effect without another one.
_OF_FLEET = ("server_name", "fleet_retention_days")
_OF_ADMIN_PORT = ("admin_token_file", "state_file", "expect_outcomes")
_OF_TLS = ("tls_cert", "tls_key", "max_handshake_rate")
_OF_VCENTER = (
    *("vcenter_user", "vcenter_password_file", "vcenter_ca_file", "vcenter_thumbprint"),
    *("vcenter_check", "vcenter_wait_s"),
)


def server_settings(options: Mapping[str, Any]) -> dict[str, Any]:
    """Return MetadataServer's arguments, except driver and addresses, from the options of `run`.

    Raise ConfigError for options that are invalid, or invalid together.
    """
    admin_settings(options)
    vcenter_settings(options)  # at HUP too: the next login needs the password
    if options["last_good_dir"]:
        answerdirectory.check(options["last_good_dir"])
    check_userdata_window(options)
    optionvalues.resolved(options["driver_opts"])  # at HUP too: the next start needs them
    pair = key_pair(options["tls_cert"], options["tls_key"])
    connections = options["max_connections"] or options["workers"] * connections_by_descriptors()
    moves = options["max_pending_moves"]
    return {
        "max_connections": connections,
        "max_pending_moves": connections if moves is None else moves,
        "memory_budget": memory_budget(options["memory_budget"], options["workers"]),
        "key_pair": pair,
        "tls": tls_policy(options["tls"], pair),
        "vmotion_key": vmotion_key(options["vmotion_key_file"]),
        "vcenter_check": VcenterCheck(options["vcenter_check"]),
        **identity(options),
        **{name: options[name] for name in _SAME_NAME},
    }


def check_userdata_window(options: Mapping[str, Any]) -> None:
    """Raise ConfigError for windows that are recorded nowhere."""
    if options["userdata_window_s"] and not (options["ledger"] or options["fleet_url"]):
        raise ConfigError("--userdata-window needs --ledger FILE or --fleet, to record windows")


def admin_settings(
    options: Mapping[str, Any], source: ParameterSource | None = None
) -> AdminSettings | None:
    """Return the settings of the admin port; None if it is off and there is no fleet to tell of the
    machines. Raise ConfigError."""
    listen, token_file = options["admin_listen"], options["admin_token_file"]
    forget_failed_s = 3600 * options["forget_failed_hours"]
    hook = outcome_hook_settings(options)
    if not isinstance(listen, Address):
        alone = AdminSettings(listen=None, forget_failed_s=forget_failed_s, outcome_hook=hook)
        return alone if options["fleet_url"] or hook else None
    token = read_token(token_file) if token_file else None
    check_address(listen, token)
    is_chosen = source is not ParameterSource.DEFAULT
    return AdminSettings(
        listen,
        is_chosen,
        token,
        options["state_file"],
        forget_failed_s=forget_failed_s,
        outcome_hook=hook,
        expects_outcomes=options["expect_outcomes"],
    )


def outcome_hook_settings(options: Mapping[str, Any]) -> OutcomeHookSettings | None:
    """Return where outcomes of boots are told by webhook; None: nowhere. Raise ConfigError."""
    url, key_file = options["outcome_hook"], options["outcome_hook_key_file"]
    if url is None:
        return None
    if key_file is None:
        raise ConfigError(f"--outcome-hook needs {hookkey.OPTION}")
    hookkey.read(key_file)
    return OutcomeHookSettings(url, key_file)


def fleet_settings(options: Mapping[str, Any]) -> FleetSettings | None:
    """Return the settings of the fleet; None: the server is alone. Raise ConfigError.

    Starts a program, which takes a moment: only when the server starts.
    """
    if options["fleet_url"] is None:
        return None
    name = options["server_name"]
    if name is None:
        name = parse_server_name(socket.gethostname())
    if problem := urlcheck.problem_of(options["fleet_url"]):
        raise ConfigError(f"--fleet: {problem}")
    forget_failed_s = 3600 * options["forget_failed_hours"]
    retention_days = options["fleet_retention_days"]
    return FleetSettings(options["fleet_url"], name, retention_days, forget_failed_s)


def vcenter_settings(options: Mapping[str, Any]) -> VcenterSettings | None:
    """Return how vCenter is reached; None: it is not. Raise ConfigError."""
    address, user, file = (options[f"vcenter{name}"] for name in ("", "_user", "_password_file"))
    if address is None:
        return None
    if user is None:
        raise ConfigError("--vcenter needs --vcenter-user")
    if not vcenterpassword.read("--vcenter-password-file", file):
        variable = vcenterpassword.VARIABLE
        raise ConfigError(f"--vcenter needs --vcenter-password-file, or a password in {variable}")
    if find_spec("pyVmomi") is None:
        raise ConfigError("--vcenter needs pyVmomi: pip install 'vmw-cloudinit-metadata[vsphere]'")
    trust = options["vcenter_ca_file"], options["vcenter_thumbprint"]
    return VcenterSettings(address, user, file, *trust)


def warnings_of(ctx: click.Context, options: Mapping[str, Any]) -> Iterator[str]:
    """Warn about valid but unsafe options: little memory, networks, files open to other users."""
    least = _least_memory(ctx.params["workers"])
    if options["memory_budget"] is None and default_bytes() < least:
        yield (
            f"the memory limit leaves {default_bytes() // 1024**2} MiB to the server, which needs "
            f"{least // 1024**2} MiB: raise the limit, or use fewer --workers"
        )
    if is_prepared_memory_chosen(ctx) and not ctx.params["catalogue"]:
        yield "--prepared-memory has no effect with --no-catalogue: the catalogue prepares answers"
    if options["identity_key_files"] and options["identity_token"] == "off":
        yield "--identity-key-file has no effect: --identity-token is off"
    if options["identity_signing_keys"] and not _proves_vms(options):
        yield (
            "--identity-signing-key has no effect: no VM is proved without --identity-token or "
            "--vcenter-check"
        )
    is_default = ctx.get_parameter_source("ledger") is ParameterSource.DEFAULT
    if options["fleet_url"] and options["ledger"] and not is_default:
        yield "--ledger has no effect: --fleet records in its database what VMs have had"
    yield from _needing_another(ctx, options)
    yield from _unproved_names(ctx.params["driver_spec"], options)
    if options["vcenter_ca_file"] and options["vcenter_thumbprint"]:
        yield "--vcenter-ca-file has no effect: --vcenter-thumbprint names the certificate"
    yield from network_warnings("--allow", options["allow"])
    yield from network_warnings("--proxy-protocol", options["proxy_protocol"])
    yield from _file_warnings(ctx, options)


def _needing_another(ctx: click.Context, options: Mapping[str, Any]) -> Iterator[str]:
    """Warn of what is set, and has no effect without another option."""
    is_alone = options["fleet_url"] is None
    is_hidden = not isinstance(options["admin_listen"], Address)
    has_tls = options["tls_cert"] and options["tls"] != TlsPolicy.OFF.value
    waits = options["vcenter"] is None or options["vcenter_check"] == "require"
    rows = (
        (is_alone, "without --fleet", _OF_FLEET),
        (not has_tls, "without TLS", _OF_TLS),
        (not waits, "without --vcenter-check require", ("vcenter_wait_s",)),
        (options["vcenter"] is None, "without --vcenter", _OF_VCENTER),
        (options["outcome_hook"] is None, "without --outcome-hook", ("outcome_hook_key_file",)),
        (is_hidden, "with --admin-listen off", _OF_ADMIN_PORT),
        (is_hidden and is_alone, "with --admin-listen off", ("forget_failed_hours",)),
    )
    for is_missing, reason, names in rows:
        for option in settings_of(ctx.command):
            if is_missing and option.name in names and is_chosen(ctx, option):
                yield f"--{name_of(option)} has no effect {reason}"
    if is_hidden and "webhook_key_file" in map(field_of, options["driver_opts"]):
        yield "the driver option webhook-key-file has no effect with --admin-listen off"


def _proves_vms(options: Mapping[str, Any]) -> bool:
    """Return whether a VM can be proved: by token, by vCenter, or by a move from another server."""
    by_vcenter = options["vcenter"] is not None and options["vcenter_check"] != "off"
    return options["identity_token"] != "off" or by_vcenter or bool(options["vmotion_key_file"])


def _unproved_names(driver_spec: str, options: Mapping[str, Any]) -> Iterator[str]:
    """Warn if proof is required, and data is found by what nothing proves."""
    is_required = options["identity_token"] == "require" or (
        options["vcenter"] is not None and options["vcenter_check"] == "require"
    )
    has_match = driver_spec == DEFAULT_DRIVER or ":" not in driver_spec  # not a driver by others
    match = options["driver_opts"].get("match")
    counts_names = match is None or (isinstance(match, list) and "name" in match)
    if is_required and has_match and counts_names:
        yield (
            "a VM proves its VC UUID, and data is found by its name too, which nothing proves: "
            'set the driver option "match": ["vc-uuid"]'
        )


def is_prepared_memory_chosen(ctx: click.Context) -> bool:
    """Return whether memory for prepared answers was given, and not by default."""
    is_default = ctx.get_parameter_source("prepared_bytes") is ParameterSource.DEFAULT
    return not is_default and bool(ctx.params["prepared_bytes"])


def _file_warnings(ctx: click.Context, options: Mapping[str, Any]) -> Iterator[str]:
    secrets = {
        "--admin-token-file": options["admin_token_file"],
        "--tls-key": options["tls_key"] or options["tls_cert"],
        "--vmotion-key-file": options["vmotion_key_file"],
        "--vcenter-password-file": options["vcenter_password_file"],
        hookkey.OPTION: options["outcome_hook_key_file"],
    }
    for option, path in secrets.items():
        if path:
            yield from permissions.secret_warnings(option, path)
    if options["tls_cert"]:
        yield from certificatefile.expiry_warnings(options["tls_cert"])
    for _, path in options["identity_key_files"]:
        yield from permissions.secret_warnings("--identity-key-file", path)
    for path in options["identity_signing_keys"]:
        yield from permissions.secret_warnings(signingkeys.OPTION, path)
    if found := config_file(ctx):
        file, has_secret = found
        warnings = permissions.secret_warnings if has_secret else permissions.trust_warnings
        yield from warnings("--config", file)
    driver_opts = optionvalues.resolved(options["driver_opts"])
    yield from optionvalues.file_warnings(driver_opts)
    if isinstance(directory := driver_opts.get("directory"), str):
        yield from permissions.trust_warnings("directory", Path(directory))
        if isinstance(defaults := driver_opts.get("defaults"), str):
            yield from permissions.trust_warnings("defaults", Path(directory, defaults))


def memory_budget(chosen: int | None, workers: int) -> int:
    """Return the share of each process; raise ConfigError."""
    processes, least = _processes(workers), _least_memory(workers)
    if chosen is None:
        return max(default_bytes(), least) // processes
    if chosen < least:
        needs = f"{workers} workers and their parent need" if processes > 1 else "the server needs"
        raise ConfigError(f"--memory-budget: {needs} at least {least // 1024**2}M")
    return chosen // processes


def _processes(workers: int) -> int:
    """Return the number of processes: several workers have a parent."""
    return workers + 1 if workers > 1 else 1


def _least_memory(workers: int) -> int:
    return _processes(workers) * MIN_PROCESS_BYTES


def key_pair(certificate: Path | None, key: Path | None) -> KeyPair | None:
    """Return the files of the certificate; raise ConfigError."""
    if certificate is None:
        if key:
            raise ConfigError("--tls-key needs --tls-cert")
        return None
    return KeyPair(certificate, key or certificate)


def tls_policy(chosen: str | None, pair: KeyPair | None) -> TlsPolicy:
    """Return whether TLS is spoken; raise ConfigError."""
    policy = TlsPolicy(chosen) if chosen else TlsPolicy.ALLOW if pair else TlsPolicy.OFF
    if policy is not TlsPolicy.OFF and not pair:
        raise ConfigError(f"--tls {policy.value} needs --tls-cert")
    return policy


def identity(options: Mapping[str, Any]) -> dict[str, Any]:
    """Return how VMs prove who they are, and the server says it; raise ConfigError."""
    mode, keys = options["identity_token"], identitykeys.read(options["identity_key_files"])
    if mode != "off" and not keys:
        raise ConfigError(f"--identity-token {mode} needs --identity-key-file")
    issuer = signingkeys.issuer_of(options["identity_issuer"], options["identity_signing_keys"])
    return {
        "identity_keys": {} if mode == "off" else keys,
        "requires_proof": mode == "require",
        "identity_issuer": issuer,
    }


def vmotion_key(path: Path | None) -> bytes | None:
    """Return the key of moves between servers; raise ConfigError."""
    if path is None:
        return None
    return permissions.read_key("--vmotion-key-file", path, MIN_KEY_BYTES)

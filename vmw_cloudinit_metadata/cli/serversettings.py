"""Make the server's settings from the options of `run`, check them, and warn about unsafe ones."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import click
from click.core import ParameterSource

from vmw_cloudinit_metadata.admin.access import check_address, read_token
from vmw_cloudinit_metadata.admin.adminport import AdminSettings
from vmw_cloudinit_metadata.drivers import optionvalues
from vmw_cloudinit_metadata.process.budget import MIN_PROCESS_BYTES, default_bytes
from vmw_cloudinit_metadata.protocol.session import TlsPolicy
from vmw_cloudinit_metadata.protocol.vmotion import MIN_KEY_BYTES
from vmw_cloudinit_metadata.serving.admission import connections_by_descriptors
from vmw_cloudinit_metadata.serving.ondisk import answerdirectory
from vmw_cloudinit_metadata.serving.tls import KeyPair
from vmw_cloudinit_metadata.settings import identitykeys, permissions
from vmw_cloudinit_metadata.settings.errors import ConfigError
from vmw_cloudinit_metadata.settings.identitykeys import NumberedFile
from vmw_cloudinit_metadata.settings.layers import config_file
from vmw_cloudinit_metadata.settings.values import Address, network_warnings

# Options that MetadataServer takes by the same name.
_SAME_NAME = (
    *("uris", "allow", "proxy_protocol", "max_per_host", "drain_s", "lookup_pool"),
    "last_good_dir",
    *("lookup_timeout_s", "max_connection_rate", "max_handshake_rate", "max_move_rate"),
)


def server_settings(options: Mapping[str, Any]) -> dict[str, Any]:
    """Return MetadataServer's arguments, except driver and addresses, from the options of `run`.

    Raise ConfigError for options that are invalid, or invalid together.
    """
    admin_settings(options)
    if options["last_good_dir"]:
        answerdirectory.check(options["last_good_dir"])
    optionvalues.resolved(options["driver_opts"])  # at HUP too: the next start needs them
    key_pair = _key_pair(options["tls_cert"], options["tls_key"])
    connections = options["max_connections"] or options["workers"] * connections_by_descriptors()
    moves = options["max_pending_moves"]
    return {
        "max_connections": connections,
        "max_pending_moves": connections if moves is None else moves,
        "memory_budget": _memory_budget(options["memory_budget"], options["workers"]),
        "key_pair": key_pair,
        "tls": _tls_policy(options["tls"], key_pair),
        "vmotion_key": _vmotion_key(options["vmotion_key_file"]),
        **_identity(options["identity_token"], options["identity_key_files"]),
        **{name: options[name] for name in _SAME_NAME},
    }


def admin_settings(
    options: Mapping[str, Any], source: ParameterSource | None = None
) -> AdminSettings | None:
    """Return the settings of the admin port; None if it is off. Raise ConfigError."""
    listen, token_file = options["admin_listen"], options["admin_token_file"]
    if not isinstance(listen, Address):
        return None
    token = read_token(token_file) if token_file else None
    check_address(listen, token)
    is_chosen = source is not ParameterSource.DEFAULT
    return AdminSettings(listen, is_chosen, token, options["state_file"])


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
    yield from network_warnings("--allow", options["allow"])
    yield from network_warnings("--proxy-protocol", options["proxy_protocol"])
    yield from _file_warnings(ctx, options)


def is_prepared_memory_chosen(ctx: click.Context) -> bool:
    """Return whether memory for prepared answers was given, and not by default."""
    is_default = ctx.get_parameter_source("prepared_bytes") is ParameterSource.DEFAULT
    return not is_default and bool(ctx.params["prepared_bytes"])


def _file_warnings(ctx: click.Context, options: Mapping[str, Any]) -> Iterator[str]:
    secrets = {
        "--admin-token-file": options["admin_token_file"],
        "--tls-key": options["tls_key"] or options["tls_cert"],
        "--vmotion-key-file": options["vmotion_key_file"],
    }
    for option, path in secrets.items():
        if path:
            yield from permissions.secret_warnings(option, path)
    for _, path in options["identity_key_files"]:
        yield from permissions.secret_warnings("--identity-key-file", path)
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


def _memory_budget(chosen: int | None, workers: int) -> int:
    """Return the share of each process."""
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


def _key_pair(certificate: Path | None, key: Path | None) -> KeyPair | None:
    if certificate is None:
        if key:
            raise ConfigError("--tls-key needs --tls-cert")
        return None
    return KeyPair(certificate, key or certificate)


def _tls_policy(chosen: str | None, key_pair: KeyPair | None) -> TlsPolicy:
    policy = TlsPolicy(chosen) if chosen else TlsPolicy.ALLOW if key_pair else TlsPolicy.OFF
    if policy is not TlsPolicy.OFF and not key_pair:
        raise ConfigError(f"--tls {policy.value} needs --tls-cert")
    return policy


def _identity(mode: str, files: Sequence[NumberedFile]) -> dict[str, Any]:
    keys = identitykeys.read(files)
    if mode == "off":
        return {"identity_keys": {}, "requires_proof": False}
    if not keys:
        raise ConfigError(f"--identity-token {mode} needs --identity-key-file")
    return {"identity_keys": keys, "requires_proof": mode == "require"}


def _vmotion_key(path: Path | None) -> bytes | None:
    if path is None:
        return None
    return permissions.read_key("--vmotion-key-file", path, MIN_KEY_BYTES)

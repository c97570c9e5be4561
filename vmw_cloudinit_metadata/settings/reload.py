"""The settings in force of a running server, and which of them HUP can change."""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Any

import click

from vmw_cloudinit_metadata.settings.errors import ConfigError
from vmw_cloudinit_metadata.settings.layers import name_of, origin_of, reread, settings_of

log = logging.getLogger(__name__)

# Options that HUP can change, and the arguments of MetadataServer.change that each affects.
CHANGEABLE: Mapping[str, tuple[str, ...]] = {
    "uris": ("uris",),
    "identity_key_files": ("identity_keys",),
    "identity_token": ("identity_keys", "requires_proof"),
    "identity_signing_keys": ("identity_issuer",),
    "identity_issuer": ("identity_issuer",),
    "vcenter_check": ("vcenter_check",),
    "vcenter_wait_s": ("vcenter_wait_s",),
    "allow": ("allow",),
    "proxy_protocol": ("proxy_protocol",),
    "max_connections": ("max_connections", "max_pending_moves"),
    "max_per_host": ("max_per_host",),
    "memory_budget": ("memory_budget",),
    "max_pending_moves": ("max_pending_moves",),
    **{key: (key,) for key in ("max_connection_rate", "max_handshake_rate", "max_move_rate")},
    "lookup_timeout_s": ("lookup_timeout_s",),
    "userdata_window_s": ("userdata_window_s",),
    "drain_s": ("drain_s",),
    "tls_cert": ("key_pair",),
    "tls_key": ("key_pair",),
    "log_level": (),
}

# Also if only what they name has changed: a key is replaced in its place.
_READ_AGAIN = {"identity_key_files": "identity_keys", "identity_signing_keys": "identity_issuer"}

# If they switch TLS on or off, they wait for the next start, as --tls does.
_CERTIFICATE = frozenset({"tls_cert", "tls_key"})


@dataclass(frozen=True, slots=True)
class SettingsChange:
    """The result of reading the settings again."""

    ctx: click.Context
    taken: frozenset[str]  # changed options that take effect now
    kept: frozenset[str]  # changed options that wait for the next start
    options: Mapping[str, Any]  # in force from now on
    settings: dict[str, Any]  # the result of `check` for them

    @property
    def changes(self) -> dict[str, Any]:
        """Return the arguments for MetadataServer.change."""
        return {name: self.settings[name] for key in self.taken for name in CHANGEABLE[key]}


class Configuration:
    """The options in force, and the server settings that `check` makes of them."""

    def __init__(
        self, ctx: click.Context, check: Callable[[Mapping[str, Any]], dict[str, Any]]
    ) -> None:
        self._ctx = ctx
        self._check = check
        self._options: Mapping[str, Any] = dict(ctx.params)
        self.settings = check(self._options)

    @property
    def options(self) -> Mapping[str, Any]:
        """The options in force."""
        return self._options

    def read(self) -> SettingsChange:
        """Read file and environment again, without changing anything; raise ConfigError.

        Blocks on files: call it in a thread, one call at a time.
        """
        ctx = reread(self._ctx)
        wanted = self._check(ctx.params)
        changed = {key for key, value in ctx.params.items() if value != self._options[key]}
        changed |= {
            option
            for option, setting in _READ_AGAIN.items()
            if wanted[setting] != self.settings[setting]
            and not any(setting in CHANGEABLE.get(key, ()) for key in changed)
        }
        taken = frozenset(key for key in changed if self._can_change(key, wanted))
        kept = frozenset(changed - taken)
        options = {**self._options, **{key: ctx.params[key] for key in taken}}
        try:
            settings = self._check(options)
        except ConfigError as error:  # what is changed needs what waits
            raise ConfigError(f"{error}: {_waiting(ctx, kept)}") from error
        return SettingsChange(ctx, taken, kept, options, settings)

    def take(self, change: SettingsChange, *, is_logged: bool = True) -> None:
        """Put the changed options in force, and log them."""
        if is_logged:
            _log_change(change.ctx, change.taken, change.kept)
        self._options = change.options
        self.settings = change.settings
        logging.getLogger().setLevel(self._options["log_level"].upper())

    def _can_change(self, key: str, wanted: Mapping[str, Any]) -> bool:
        if key in _CERTIFICATE and wanted["tls"] is not self.settings["tls"]:
            return False
        return key in CHANGEABLE


def _log_change(ctx: click.Context, taken: Collection[str], kept: Collection[str]) -> None:
    options = _options_of(ctx)
    for option in (options[key] for key in sorted(taken)):
        log.info("reload: %s has changed (%s)", name_of(option), origin_of(ctx, option))
    if kept:
        log.warning("reload: %s", _waiting(ctx, kept))
    if not taken and not kept:
        log.info("reload: no setting has changed")


def _waiting(ctx: click.Context, kept: Collection[str]) -> str:
    options = _options_of(ctx)
    names = ", ".join(sorted(name_of(options[key]) for key in kept))
    return f"changes to {names} take effect at the next start"


def _options_of(ctx: click.Context) -> dict[str, click.Option]:
    return {str(option.name): option for option in settings_of(ctx.command)}

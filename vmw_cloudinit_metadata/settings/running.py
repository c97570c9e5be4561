"""The settings of a server that runs, and what of them can be changed meanwhile."""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Any

import click

from vmw_cloudinit_metadata.settings.layers import name, origin, read_again, settings

log = logging.getLogger(__name__)

# Options, and what MetadataServer.change takes of each.
CHANGEABLE: Mapping[str, tuple[str, ...]] = {
    "uris": ("uris",),
    "allow": ("allow",),
    "proxy_protocol": ("proxy_protocol",),
    "max_connections": ("max_connections", "max_pending_moves"),
    "max_per_host": ("max_per_host",),
    "memory_budget": ("memory_budget",),
    "max_pending_moves": ("max_pending_moves",),
    **{name: (name,) for name in ("max_connection_rate", "max_handshake_rate", "max_move_rate")},
    "lookup_timeout_s": ("lookup_timeout_s",),
    "drain_s": ("drain_s",),
    "tls_cert": ("key_pair",),
    "tls_key": ("key_pair",),
    "log_level": (),
}

# Where TLS begins or ends with them they wait for the next start, as --tls does.
_CERTIFICATE = frozenset({"tls_cert", "tls_key"})


@dataclass(frozen=True, slots=True)
class Change:
    """What a reading has found."""

    ctx: click.Context
    taken: frozenset[str]  # options that have changed
    kept: frozenset[str]  # those that have, and wait for the next start
    options: Mapping[str, Any]  # in force from then on
    settings: dict[str, Any]  # what `check` makes of them

    @property
    def changes(self) -> dict[str, Any]:
        """For MetadataServer.change."""
        return {name: self.settings[name] for key in self.taken for name in CHANGEABLE[key]}


class Configuration:
    """The options in force, and the settings of MetadataServer that `check` makes of them."""

    def __init__(
        self, ctx: click.Context, check: Callable[[Mapping[str, Any]], dict[str, Any]]
    ) -> None:
        self._ctx = ctx
        self._check = check
        self._options: Mapping[str, Any] = dict(ctx.params)
        self.settings = check(self._options)

    def read(self) -> Change:
        """Reads file and environment again, and changes nothing; raises ConfigError if they cannot
        be used. Blocks, as files do: to be called in a thread, one at a time."""
        ctx = read_again(self._ctx)
        wanted = self._check(ctx.params)
        changed = {key for key, value in ctx.params.items() if value != self._options[key]}
        taken = frozenset(key for key in changed if self._can_change(key, wanted))
        options = {**self._options, **{key: ctx.params[key] for key in taken}}
        return Change(ctx, taken, frozenset(changed - taken), options, self._check(options))

    def take(self, change: Change, *, is_told: bool = True) -> None:
        """Has in force what can be changed; the log hears of it."""
        if is_told:
            _tell(change.ctx, change.taken, change.kept)
        self._options = change.options
        self.settings = change.settings
        logging.getLogger().setLevel(self._options["log_level"].upper())

    def _can_change(self, key: str, wanted: Mapping[str, Any]) -> bool:
        if key in _CERTIFICATE and wanted["tls"] is not self.settings["tls"]:
            return False
        return key in CHANGEABLE


def _tell(ctx: click.Context, taken: Collection[str], kept: Collection[str]) -> None:
    options = {str(option.name): option for option in settings(ctx.command)}
    for option in (options[key] for key in sorted(taken)):
        log.info("reload: %s has changed (%s)", name(option), origin(ctx, option))
    if kept:
        names = ", ".join(sorted(name(options[key]) for key in kept))
        log.warning("reload: %s: changed, which takes effect at the next start", names)
    if not taken and not kept:
        log.info("reload: no setting has changed")

"""`tls-info`: print the proxy URI with which ESXi hosts connect by TLS to this server only."""

from __future__ import annotations

import hashlib
import socket
from pathlib import Path

import click

from vmw_cloudinit_metadata.cli.runoptions import server_options
from vmw_cloudinit_metadata.serving.tls import KeyPair
from vmw_cloudinit_metadata.settings.certificatefile import certificate_in, expiry_warnings
from vmw_cloudinit_metadata.settings.certificatenames import host_of, names_in
from vmw_cloudinit_metadata.settings.command import refuse_useless
from vmw_cloudinit_metadata.settings.errors import ConfigError
from vmw_cloudinit_metadata.settings.layers import SettingsCommand, config_option
from vmw_cloudinit_metadata.settings.parameters import (
    WholeRange,
    key_pair_options,
    listen_option,
)
from vmw_cloudinit_metadata.settings.values import Address


@click.command("tls-info", cls=SettingsCommand, whole=server_options)
@config_option
@key_pair_options(is_required=True)
@click.option(
    "--host",
    metavar="HOST",
    help="Use this name or address of the server in the URI. Default: a name "
    "in the certificate, this host's if it is one.",
)
@click.option(
    "--port",
    type=WholeRange(1, 65535),
    metavar="PORT",
    help="Use this port in the URI. Default: that of the first --listen.",
)
@listen_option("An address of the server, as in `run`.")
def tls_info(
    tls_cert: Path,
    tls_key: Path | None,
    host: str | None,
    port: int | None,
    listen: tuple[Address, ...],
) -> None:
    """Show the proxy URI with the certificate's thumbprint.

    The thumbprint that ESXi verifies is the certificate's SHA-1, in hexadecimal pairs. With
    --tls-key, check that key and certificate match.
    """
    if port:
        refuse_useless("with --port", "listen")
    port = port or listen[0].port
    if not port:
        raise ConfigError(f"--listen {listen[0]}: give the server's port with --port")
    if tls_key:
        KeyPair(tls_cert, tls_key).load()
    certificate = certificate_in(tls_cert)
    host = host or host_of(_names_in(tls_cert, certificate), socket.getfqdn())
    authority = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
    thumbprint = _pairs(hashlib.sha1(certificate, usedforsecurity=False).hexdigest())
    click.echo(f"proxy URI            telnets://{authority}#thumbprint={thumbprint}")
    click.echo(f"or, TLS in telnet    telnet://{authority}#thumbprint={thumbprint}")
    click.echo(f"thumbprint (SHA-1)   {thumbprint}")
    click.echo(f"SHA-256              {_pairs(hashlib.sha256(certificate).hexdigest())}")
    for warning in expiry_warnings(tls_cert):
        click.echo(f"warning: {warning}", err=True)


def _names_in(path: Path, certificate: bytes) -> list[str]:
    try:
        return names_in(certificate)
    except ValueError as error:
        raise ConfigError(f"--tls-cert: {path}: invalid certificate ({error})") from error


def _pairs(digits: str) -> str:
    """Return `AB:CD:EF`."""
    return ":".join(digits[place : place + 2] for place in range(0, len(digits), 2)).upper()

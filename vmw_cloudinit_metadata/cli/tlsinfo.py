"""`tls-info`: print the proxy URI with which ESXi hosts connect by TLS to this server only."""

from __future__ import annotations

import hashlib
import socket
import ssl
from pathlib import Path

import click

from vmw_cloudinit_metadata.cli.run import run
from vmw_cloudinit_metadata.serving.tls import MAX_FILE_BYTES, KeyPair
from vmw_cloudinit_metadata.settings import permissions
from vmw_cloudinit_metadata.settings.errors import ConfigError
from vmw_cloudinit_metadata.settings.layers import SettingsCommand, config_option
from vmw_cloudinit_metadata.settings.parameters import key_pair_options
from vmw_cloudinit_metadata.settings.values import DEFAULT_LISTEN

_BEGIN, _END = "-----BEGIN CERTIFICATE-----", "-----END CERTIFICATE-----"


@click.command("tls-info", cls=SettingsCommand, whole=run)
@config_option
@key_pair_options(is_required=True)
@click.option(
    "--host", help="Use this name or address of the server in the URI. Default: this host's name."
)
@click.option(
    "--port",
    type=click.IntRange(1, 65535),
    default=DEFAULT_LISTEN.port,
    show_default=True,
    help="Use this port in the URI.",
)
def tls_info(tls_cert: Path, tls_key: Path | None, host: str | None, port: int) -> None:
    """Show the proxy URI with the certificate's thumbprint.

    The thumbprint that ESXi verifies is the certificate's SHA-1, in hexadecimal pairs. With
    --tls-key, check that key and certificate match.
    """
    if tls_key:
        KeyPair(tls_cert, tls_key).load()
    certificate = _certificate(tls_cert)
    host = host or socket.getfqdn()
    authority = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
    thumbprint = _pairs(hashlib.sha1(certificate, usedforsecurity=False).hexdigest())
    click.echo(f"proxy URI            telnets://{authority}#thumbprint={thumbprint}")
    click.echo(f"or, TLS in telnet    telnet://{authority}#thumbprint={thumbprint}")
    click.echo(f"thumbprint (SHA-1)   {thumbprint}")
    click.echo(f"SHA-256              {_pairs(hashlib.sha256(certificate).hexdigest())}")


def _certificate(path: Path) -> bytes:
    """Return the first certificate of a PEM file, as DER: the server's own, before its chain."""
    text = permissions.read("--tls-cert", path, MAX_FILE_BYTES).decode("ascii", "replace")
    begin = text.find(_BEGIN)
    end = text.find(_END, begin)
    if begin < 0 or end < 0:
        raise ConfigError(f"--tls-cert: {path}: no PEM certificate found")
    try:
        return ssl.PEM_cert_to_DER_cert(text[begin : end + len(_END)])
    except ValueError as error:
        raise ConfigError(f"--tls-cert: {path}: invalid certificate ({error})") from error


def _pairs(digits: str) -> str:
    """Return `AB:CD:EF`."""
    return ":".join(digits[place : place + 2] for place in range(0, len(digits), 2)).upper()

"""`client bridge`: play the ESXi host of a real guest, with vMotions on command."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterable
from typing import Any

import click
import gevent
from gevent.socket import wait_read

from vmw_cloudinit_metadata.cli.client.playoptions import SECTIONS, VM, machine_of, manner_of
from vmw_cloudinit_metadata.client import stream
from vmw_cloudinit_metadata.client.serialbridge import Bridge
from vmw_cloudinit_metadata.client.stream import GuestAddress, Stream
from vmw_cloudinit_metadata.settings.command import Command
from vmw_cloudinit_metadata.settings.parameters import Parsed

_ADDRESS = Parsed("PLACE", GuestAddress.parse)


@click.command(cls=Command, sections=SECTIONS)
@VM
@click.option(
    "--connect",
    type=_ADDRESS,
    help="Connect to a guest that listens at unix:PATH or tcp:HOST:PORT.",
)
@click.option("--listen", type=_ADDRESS, help="Listen for the guest: unix:PATH or tcp:HOST:PORT.")
@click.option("--pty", is_flag=True, help="Create a pseudo-terminal for the guest to open.")
def bridge(
    connect: GuestAddress | None, listen: GuestAddress | None, pty: bool, **options: Any
) -> int:
    """Connect a real guest to the server, as its ESXi host does.

    A line `move` on standard input, or the signal USR1, starts a vMotion.
    """
    if sum((connect is not None, listen is not None, pty)) != 1:
        raise click.UsageError("give one of --connect, --listen and --pty")
    played = Bridge(manner_of(options), machine_of(options), _print)
    gevent.signal_handler(signal.SIGUSR1, played.move)
    gevent.spawn(_read_commands, played)
    running = gevent.spawn(played.run, _guests(connect, listen))
    gevent.signal_handler(signal.SIGTERM, running.kill)
    running.get()
    return 0


def _guests(connect: GuestAddress | None, listen: GuestAddress | None) -> Iterable[Stream]:
    if connect:
        return stream.connected(connect, _print)
    return stream.accepted(listen, _print) if listen else stream.pty(_print)


def _print(text: str) -> None:
    click.echo(text, err=True)


def _read_commands(played: Bridge) -> None:
    """Read commands from standard input; not from a terminal in the background."""
    if os.isatty(0) and os.tcgetpgrp(0) != os.getpgrp():
        return
    pending = b""
    while True:
        wait_read(0)
        data = os.read(0, 4096)
        if not data:
            return
        *lines, pending = (pending + data).split(b"\n")
        for line in lines:
            if line.strip() == b"move":
                played.move()
            elif line.strip():
                _print(f"found {line.decode('utf-8', 'replace')!r}, expected: move")

"""`client bridge`: the host of a real guest, with vMotions on command."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterable
from typing import Any

import click
import gevent
from gevent.socket import wait_read

from vmw_cloudinit_metadata.cli.client.playoptions import VM, machine_of, manner_of
from vmw_cloudinit_metadata.client import stream
from vmw_cloudinit_metadata.client.serialbridge import Bridge
from vmw_cloudinit_metadata.client.stream import GuestAddress, Stream
from vmw_cloudinit_metadata.settings.parameters import Parsed

_PLACE = Parsed("PLACE", GuestAddress.parse)


@click.command()
@VM
@click.option("--connect", type=_PLACE, help="The guest listens at unix:PATH or tcp:HOST:PORT.")
@click.option("--listen", type=_PLACE, help="The guest connects to unix:PATH or tcp:HOST:PORT.")
@click.option("--pty", is_flag=True, help="The guest opens a terminal of this machine.")
def bridge(
    connect: GuestAddress | None, listen: GuestAddress | None, pty: bool, **options: Any
) -> int:
    """Puts a real guest's serial port behind the server, as its ESXi host would.

    A line `move` on standard input, or the signal USR1, makes a vMotion while the stream runs.
    """
    if sum((connect is not None, listen is not None, pty)) != 1:
        raise click.UsageError("give one of --connect, --listen and --pty")
    played = Bridge(manner_of(options), machine_of(options), _tell)
    gevent.signal_handler(signal.SIGUSR1, played.move)
    gevent.spawn(_hear_orders, played)
    running = gevent.spawn(played.run, _guests(connect, listen))
    gevent.signal_handler(signal.SIGTERM, running.kill)
    running.get()
    return 0


def _guests(connect: GuestAddress | None, listen: GuestAddress | None) -> Iterable[Stream]:
    if connect:
        return stream.connected(connect, _tell)
    return stream.accepted(listen, _tell) if listen else stream.pty(_tell)


def _tell(text: str) -> None:
    click.echo(text, err=True)


def _hear_orders(played: Bridge) -> None:
    """Reads standard input; of a terminal only while it is ours."""
    if os.isatty(0) and os.tcgetpgrp(0) != os.getpgrp():
        return
    heard = b""
    while True:
        wait_read(0)
        data = os.read(0, 4096)
        if not data:
            return
        *lines, heard = (heard + data).split(b"\n")
        for line in lines:
            if line.strip() == b"move":
                played.move()
            elif line.strip():
                _tell(f"found {line.decode('utf-8', 'replace')!r}, expected: move")

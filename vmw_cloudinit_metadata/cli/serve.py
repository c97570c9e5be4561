"""How `run` serves: in this process, or in several under a parent."""

from __future__ import annotations

import gc
import ipaddress
import logging
import secrets
import signal
import socket
from collections import Counter
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import gevent

from vmw_cloudinit_metadata.config import Address
from vmw_cloudinit_metadata.reporter import Reporter
from vmw_cloudinit_metadata.server import MetadataServer
from vmw_cloudinit_metadata.workers import Parent

log = logging.getLogger(__name__)
start_log = logging.getLogger(f"{__name__}.start")  # shown at every log level

# Makes a server for these addresses, with these settings beside those that were given.
Make = Callable[..., MetadataServer]
Announce = Callable[[Sequence[Address]], None]

_DIVIDED = ("max_connections", "max_per_host", "max_pending_moves")


def serve_alone(make: Make, listen: Sequence[Address], announce: Announce) -> Counter[str]:
    """Serves until TERM or INT; returns what was counted."""
    server = make(listen)
    _obey_signals(server)
    _settle_heap()
    server.start()
    announce(server.addresses)
    server.serve_until_stopped()
    return server.counters


def serve_by_workers(
    make: Make, listen: Sequence[Address], announce: Announce, count: int, limits: dict[str, Any]
) -> Counter[str]:
    """The same, with `count` processes, each of which has its share of the limits."""
    share = {name: limits[name] and -(-limits[name] // count) for name in _DIVIDED}
    key = limits["vmotion_key"] or secrets.token_bytes(32)
    make = partial(make, reuse_port=True, vmotion_key=key, **share)
    parent = Parent(count, listen, partial(_work, make))
    parent.start()
    announce(parent.addresses)
    parent.watch()
    return parent.counters


def _work(make: Make, pair: socket.socket, addresses: Sequence[Address]) -> int:
    """What a worker does; returns its exit code."""
    server = make(addresses)
    reporter = Reporter(pair, server.counters, server.ask_to_stop)
    _obey_signals(server)
    _settle_heap()
    server.start()
    reporter.start()
    server.serve_until_stopped()
    reporter.stop()
    return 0


def _settle_heap() -> None:
    """What is there at the start stays: the collector, which holds up everybody, need not look
    at it again. Measured: half the p99 of a storm."""
    gc.collect()
    gc.freeze()


def _obey_signals(server: MetadataServer) -> None:
    for number in (signal.SIGTERM, signal.SIGINT):
        gevent.signal_handler(number, server.ask_to_stop)
    gevent.signal_handler(signal.SIGHUP, server.reload)


def tell_who_may_connect(addresses: Sequence[Address], has_allow: bool) -> None:
    if not has_allow and not all(map(_is_loopback, addresses)):
        start_log.warning(
            "EVERYONE who can reach %s may ask for the data of any VM: "
            "name the networks of your ESXi hosts with --allow",
            ", ".join(map(str, addresses)),
        )


def _is_loopback(address: Address) -> bool:
    try:
        return ipaddress.ip_address(address.host).is_loopback
    except ValueError:
        return address.host == "localhost"

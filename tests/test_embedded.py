"""A server inside another program: it is let go of when it has stopped."""

from __future__ import annotations

import gc
import socket
import weakref
from pathlib import Path

import gevent

from vmw_cloudinit_metadata import MetadataServer
from vmw_cloudinit_metadata.drivers.file import FileDriver

CONNECTIONS = 5


def serve_some(directory: Path) -> weakref.ref[MetadataServer]:
    """A server that has served connections one after the other and at the same time, stopped."""
    server = MetadataServer(
        FileDriver({"directory": str(directory)}), ["my-metadata"], [("127.0.0.1", 0)], drain_s=1
    )
    server.start()
    address = ("127.0.0.1", server.addresses[0].port)
    for _ in range(2):
        peers = [socket.create_connection(address) for _ in range(CONNECTIONS)]
        with gevent.Timeout(60):
            while server.figures.gauges["connections"] < CONNECTIONS:
                gevent.sleep(0.001)
        for peer in peers:
            peer.close()
    server.stop()
    gevent.sleep(0)
    return weakref.ref(server)


def test_stopped_server_is_freed(tmp_path: Path) -> None:
    there = serve_some(tmp_path)
    gc.collect()
    assert there() is None

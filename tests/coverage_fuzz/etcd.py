"""Target: what etcd's JSON gateway answers."""

from __future__ import annotations

from contextlib import suppress

from vmw_cloudinit_metadata import LAYERS, DriverError
from vmw_cloudinit_metadata.drivers.stores.etcd import gateway
from vmw_cloudinit_metadata.drivers.stores.etcd.keyspace import Keyspace

_SPACE = Keyspace("/vms")


def etcd_answers(data: bytes) -> None:
    """What is no answer raises DriverError, and nothing else; each text is fit for a log."""
    for parse in (gateway.key_values, gateway.token, lambda text: list(gateway.parts(text))):
        with suppress(DriverError):
            parse(data)
    with suppress(DriverError):
        for event in gateway.watch_message(data, "etcd").events:
            for key in _SPACE.keys_at(event.key):
                assert key == LAYERS or _SPACE.range_of(key).start == event.key
    assert str(gateway.error(data, "etcd")).isprintable()

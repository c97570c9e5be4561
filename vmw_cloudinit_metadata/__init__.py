"""Serves cloud-init metadata to VMware virtual machines over their virtual serial ports.

The public names are imported when first used, so that parts that do without gevent never load it.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from vmw_cloudinit_metadata.drivers.driver import Driver
    from vmw_cloudinit_metadata.drivers.drivererror import DriverError
    from vmw_cloudinit_metadata.drivers.driveroptions import DriverOptions
    from vmw_cloudinit_metadata.drivers.store import LAYERS, Changes, Key, Record, Store
    from vmw_cloudinit_metadata.drivers.storedriver import StoreDriver
    from vmw_cloudinit_metadata.instance.model import InstanceData
    from vmw_cloudinit_metadata.protocol.vmware import Machine
    from vmw_cloudinit_metadata.serving.server import MetadataServer

__version__ = "0.1.0"

__all__ = [
    "LAYERS",
    "Changes",
    "Driver",
    "DriverError",
    "DriverOptions",
    "InstanceData",
    "Key",
    "Machine",
    "MetadataServer",
    "Record",
    "Store",
    "StoreDriver",
    "__version__",
]

_HOMES = {
    "LAYERS": "drivers.store",
    "Changes": "drivers.store",
    "Driver": "drivers.driver",
    "DriverError": "drivers.drivererror",
    "DriverOptions": "drivers.driveroptions",
    "InstanceData": "instance.model",
    "Key": "drivers.store",
    "Machine": "protocol.vmware",
    "MetadataServer": "serving.server",
    "Record": "drivers.store",
    "Store": "drivers.store",
    "StoreDriver": "drivers.storedriver",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)

"""Makes the client of a store that is reached by HTTP, if its library is installed."""

from __future__ import annotations

from typing import TYPE_CHECKING

from vmw_cloudinit_metadata.drivers.drivererror import DriverError
from vmw_cloudinit_metadata.drivers.stores.httpoptions import HttpOptions

if TYPE_CHECKING:
    from vmw_cloudinit_metadata.drivers.stores.httpclient import HttpClient


def http_client(driver: str, options: HttpOptions, scheme: str = "Bearer") -> HttpClient:
    """Return the client of a driver; raise DriverError if its files cannot be used either."""
    try:
        from vmw_cloudinit_metadata.drivers.stores.httpclient import HttpClient
    except ImportError as error:
        raise DriverError(
            f"the driver {driver} needs the extra `http`: pip install "
            f"'vmw-cloudinit-metadata[http]' ({error.name} is missing)"
        ) from None
    return HttpClient(options, scheme)

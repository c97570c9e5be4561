"""What is said of an exception of foreign code: a bounded text without known secrets. Pure."""

from __future__ import annotations

from vmw_cloudinit_metadata.drivers.driver import Driver
from vmw_cloudinit_metadata.drivers.drivererror import DriverError


def text_of(error: BaseException) -> str:
    """Return the type and the text of an exception; its own `str` may fail."""
    name = type(error).__name__
    try:
        return f"{name}: {error}"
    except Exception:  # of foreign code, as the error itself is
        return name


def reason_of(driver: Driver, error: BaseException) -> str:
    """Return why a method of a driver failed, for the operator."""
    return hidden(driver, str(error) if isinstance(error, DriverError) else text_of(error))


def hidden(driver: Driver, text: str) -> str:
    """Return a driver's text without the secrets of its options."""
    return driver.known_secrets.hide(text)

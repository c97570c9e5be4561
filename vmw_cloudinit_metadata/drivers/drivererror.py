"""DriverError: what a driver raises when it cannot work. Pure."""

from __future__ import annotations


class DriverError(Exception):
    """The driver cannot use its options, or cannot answer now; the text is for the operator."""

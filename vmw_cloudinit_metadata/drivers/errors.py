"""The error that a driver raises."""

from __future__ import annotations


class DriverError(Exception):
    """A driver cannot use its options, or cannot answer now (which is not "no such VM"). The text
    is for the operator."""

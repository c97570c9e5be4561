"""The errors of this package that are told to people.

    Exception
    |-- ConfigError           an operator's: wrong options, an address in use
    |-- DriverError           a driver's: it cannot answer (which is not "no such VM")
    `-- ValueError
        `-- InvalidInstanceData   instance data that cannot be served (instance/fault.py)

A peer's faults are no exceptions: they are events, and counted.
"""

from __future__ import annotations


class ConfigError(Exception):
    """What an operator gave cannot be used. The text says what, where, and what was expected."""


class DriverError(Exception):
    """A driver cannot use its options, or cannot tell now. The text is for the operator."""

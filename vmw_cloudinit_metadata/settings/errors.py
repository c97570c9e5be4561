"""The errors of this package, for people.

    Exception
    |-- ConfigError           an operator's: wrong options, an address in use
    |-- DriverError           a driver's: it cannot answer (drivers/errors.py)
    `-- ValueError
        `-- InvalidInstanceData   instance data that cannot be served (instance/fault.py)

A peer's violations are no exceptions: they are events, and counted.
"""

from __future__ import annotations


class ConfigError(Exception):
    """What an operator gave is invalid. The text says what, where, and what was expected."""

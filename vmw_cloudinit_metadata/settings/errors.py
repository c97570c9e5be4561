"""The exceptions of this package whose text is for operators.

    Exception
    |-- ConfigError           an operator's mistake: an invalid option, an address in use
    |-- DriverError           a driver cannot answer (drivers/errors.py)
    `-- ValueError
        `-- InvalidInstanceData   instance data that cannot be served (instance/fault.py)

A peer's violations are not exceptions: they are events, and counted.
"""

from __future__ import annotations


class ConfigError(Exception):
    """A setting is invalid. The text says what is wrong, where, and what was expected."""

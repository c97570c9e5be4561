"""The command of another process of this Python, which imports what this one does. No I/O."""

from __future__ import annotations

import os
import sys

# PYTHONPATH would not do: its directories come before the standard library while Python starts, and
# a `types.py` of the working directory would take its place.
_RUN = (
    "import runpy, sys; _, module, path, *sys.argv[1:] = sys.argv; "
    f"sys.path[:] = path.split({os.pathsep!r}); "
    "runpy.run_module(module, run_name='__main__', alter_sys=True)"
)


def command_of(module: str, *arguments: str) -> list[str]:
    """Return the command that runs a module with the import path of this process."""
    path = os.pathsep.join(one or os.getcwd() for one in sys.path)
    return [sys.executable, "-P", "-c", _RUN, module, path, *arguments]

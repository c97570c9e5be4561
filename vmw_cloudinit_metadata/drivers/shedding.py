"""Shedding: how a cache gives up memory, one entry at a time."""

from __future__ import annotations

import threading
from collections.abc import MutableMapping
from typing import Any


def shed_one(kept: MutableMapping[Any, Any], lock: threading.Lock) -> bool:
    """Drop the entry that `popitem` takes; return False if there is none."""
    with lock:
        if not kept:
            return False
        kept.popitem()
        return True

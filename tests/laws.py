"""How many cases the laws of hypothesis have. Each run has other ones, so quick runs have fewer."""

import os

LAW_CASES = int(os.environ.get("LAW_CASES", "40"))  # `make laws`: 100


def cases(number: int) -> int:
    """Those of a law that needs so many in `make laws`."""
    return max(number * LAW_CASES // 100, 1)

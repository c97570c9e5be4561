"""Read numbers from a result, and format numbers and options as text."""

from __future__ import annotations

import math

_MAX_TEXT = 400  # characters of one message
_LARGEST = 1e18  # larger numbers are errors, and sums must stay finite
_SMALLEST = 1e-18  # smaller ones are nothing, and quotients must stay finite too
_NOTHING = "—"


def number(value: object) -> float | None:
    """Return `value` if it is a number, else None."""
    if not isinstance(value, int | float):
        return None
    within = float(min(max(value, -_LARGEST), _LARGEST))
    if math.isnan(within):
        return None
    return within if abs(within) >= _SMALLEST else 0.0


def amount(value: object) -> float:
    """Return `value` if it is a positive number, else 0."""
    return max(number(value) or 0.0, 0.0)


def whole(value: float | None) -> str:
    return _NOTHING if value is None else f"{value:,.0f}" if abs(value) < 1e9 else f"{value:.3g}"


def plain(value: float | None) -> str:
    """Format a number with at least two digits."""
    if value is None or value == 0 or abs(value) >= 100:
        return whole(value)
    if abs(value) < 0.1:
        return f"{value:.2g}"
    return f"{value:.1f}" if abs(value) >= 10 else f"{value:.2f}"


def with_unit(value: float | None, unit: str) -> str:
    return _NOTHING if value is None else f"{plain(value)} {unit}"


def duration(ms: float | None) -> str:
    """Format a time with a suitable unit."""
    if ms is None or ms < 1000:
        return with_unit(ms, "ms")
    return with_unit(ms / 1000, "s") if ms < 120_000 else with_unit(ms / 60_000, "min")


def brief(value: float) -> str:
    """Format a round number for an axis."""
    if value == 0 or 1e-3 <= abs(value) < 1e6:
        return f"{value:,.3f}".rstrip("0").rstrip(".")
    return f"{value:.0e}"


def brief_duration(ms: float) -> str:
    return f"{brief(ms)} ms" if ms < 1000 else f"{brief(ms / 1000)} s"


def clock(seconds: float, span_s: float) -> str:
    if span_s <= 120:
        return f"{brief(seconds)} s"
    if span_s <= 7200:
        return f"{int(seconds) // 60}:{int(seconds) % 60:02}"
    return f"{brief(seconds / 3600)} h"


def plural(n: float, one: str) -> str:
    """Return `1 boot`, `2,000 boots`; unlike instance.counts.counted, takes numbers of a result."""
    return f"{whole(n)} {one}" if n == 1 else f"{whole(n)} {one}s"


def clipped(text: object) -> str:
    shown = str(text)
    return shown if len(shown) <= _MAX_TEXT else f"{shown[:_MAX_TEXT]} …"


def chosen(value: object) -> str:
    """Format an option's value."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, list | tuple):
        return clipped(", ".join(map(str, value))) or _NOTHING
    return clipped(_NOTHING if value is None or value == "" else value)

"""JSON (RFC 8259) -> YAML of the same values, since YAML 1.1 is not quite a superset. Pure.

So files in JSON are read like all others, with lines, duplicate keys and limits.
"""

from __future__ import annotations

import json
import re
from typing import NoReturn

from vmw_cloudinit_metadata.instance.fault import Fault

# A string; else a number with its exponent; else blanks with the colon after them. Each is greedy,
# so that a long one is not searched again from its middle.
_PART = re.compile(
    r'(?P<text>"[^"\\]*(?:\\.[^"\\]*)*")'
    r"|(?P<number>-?\d+)(?P<fraction>\.\d+)?(?:[eE](?P<sign>[+-]?)(?P<exponent>\d+))?"
    r"|(?P<blanks>[ \t\r\n]+)(?P<colon>:?)",
    re.ASCII,
)
_HIGH, _LOW = "[dD][89abAB][0-9a-fA-F]{2}", "[dD][c-fC-F][0-9a-fA-F]{2}"
# An escaped backslash; a surrogate pair; a character that YAML requires to be escaped.
_IN_TEXT = re.compile(rf"\\\\|\\u({_HIGH})\\u({_LOW})|[\x7f-\x9f\u2028\u2029\ufeff\ufffe\uffff]")

_WHOLE = re.compile(rf"\\\\|\\u{_HIGH}\\u{_LOW}")
_HALF = re.compile(r"\\u[dD][89a-fA-F][0-9a-fA-F]{2}")


def fault_of(text: str) -> Fault | None:
    """Return why `text` is not JSON, with line and column; None if it is."""
    try:
        json.loads(text, parse_int=len, parse_float=len, parse_constant=_refuse)
    except json.JSONDecodeError as error:
        found = f"invalid JSON ({error.msg})"
        return Fault((), found, "JSON", line=error.lineno, column=error.colno)
    except ValueError as error:
        return Fault((), f"invalid JSON ({error})", "JSON", line=1)
    except RecursionError:
        pass  # seed reports the limit on nesting
    else:
        return _half_of_a_pair(text)
    return None


def _half_of_a_pair(text: str) -> Fault | None:
    """Return the fault of a lone surrogate, which Python's reader accepts."""
    for part in _PART.finditer(text):
        if part["text"] and (half := _HALF.search(_WHOLE.sub(_blank, part["text"]))):
            index = part.start() + half.start()
            start = text.rfind("\n", 0, index) + 1
            found = "half of a surrogate pair, which is not a character"
            expected = "both halves (\\ud83d\\ude80), or the character itself"
            line = text.count("\n", 0, index) + 1
            return Fault((), found, expected, line=line, column=index - start + 1)
    return None


def _blank(found: re.Match[str]) -> str:
    return " " * len(found[0])


def as_yaml(text: str) -> str:
    """Convert valid JSON to YAML; each value stays on its line."""
    return _PART.sub(_part, text)


def _refuse(name: str) -> NoReturn:
    raise ValueError(f"{name} is not a JSON number")


def _part(found: re.Match[str]) -> str:
    if found["text"]:
        return _IN_TEXT.sub(_in_text, found[0])
    if found["exponent"]:  # YAML 1.1 requires a fraction and a sign
        sign = found["sign"] or "+"
        return f"{found['number']}{found['fraction'] or '.0'}e{sign}{found['exponent']}"
    if found["colon"]:  # YAML requires it on the line of the key
        return f":{found['blanks']}"
    return found[0]


def _in_text(found: re.Match[str]) -> str:
    if found[1]:
        high, low = int(found[1], 16), int(found[2], 16)
        return f"\\U{0x10000 + ((high - 0xD800) << 10) + (low - 0xDC00):08x}"
    return found[0] if found[0] == "\\\\" else f"\\u{ord(found[0]):04x}"

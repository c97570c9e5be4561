"""Unrendered placeholders of templates in a text, such as `{{ name }}` and `@@NAME@@`. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

from vmw_cloudinit_metadata.instance.fault import Fault, Key

# Jinja, Go and Mustache; ERB; Terraform and shells; autoconf; cmd.exe; Go's text for an unknown
# value. Messages quote only the group: the rest may be content.
_FORM = re.compile(
    r"(\{\{)[^{}\n]{0,200}(?:\}\})?|(\{%)[^%\n]{0,200}|(<%)[^%\n]{0,200}%>|(\$\{)[^{}\n]{0,200}\}"
    r"|(@@)[^@\n]{1,200}@@|(@)[A-Za-z_][\w.-]{1,60}@|(%)[A-Za-z_]\w{2,60}%|(__)[A-Z][A-Z0-9_]{0,60}__"
    r"|(<no value>)",
    re.ASCII,
)

_WHAT = "an unrendered template placeholder"
EXPECTED = "its value: render the template"
HINT = f"it contains {_WHAT}"


def found_in(text: str) -> str | None:
    """Return how the first placeholder in `text` begins: `{{`."""
    form = _FORM.search(text)
    return form[form.lastindex or 0] if form else None


def found_at(text: str, index: int) -> tuple[int, str] | None:
    """Return where the placeholder at `text[index]` begins, and how; searches that line only."""
    start = text.rfind("\n", 0, index) + 1
    end = text.find("\n", index)
    for form in _FORM.finditer(text, start, len(text) if end < 0 else end):
        if form.start() <= index <= form.end():
            return form.start(), form[form.lastindex or 0]
    return None


def described(start: str) -> str:
    """Return the text of a fault's `found`."""
    return f"{start!r}, {_WHAT}"


def warnings_in(value: Any, key: Key) -> Iterator[Fault]:
    """Yield a warning for each string below `key` that contains a placeholder."""
    match value:
        case str():
            if start := found_in(value):
                yield Fault(key, described(start), EXPECTED, is_warning=True)
        case Mapping():
            for name, item in value.items():
                place = (*key, str(name))
                if isinstance(name, str) and (start := found_in(name)):
                    yield Fault(place, described(start), EXPECTED, is_warning=True)
                yield from warnings_in(item, place)
        case list() | tuple():
            for index, item in enumerate(value):
                yield from warnings_in(item, (*key, index))

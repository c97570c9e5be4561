"""Why a text is not YAML, in terms of what its writer did. Pure.

libyaml says where it gave up, which is often after the mistake, and why, in terms of its grammar.
Messages quote nothing of the text but YAML's own signs: the text may be secret.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass

from vmw_cloudinit_metadata.instance.counts import amount
from vmw_cloudinit_metadata.instance.values import placeholder

_CLOSING = {"[": "]", "{": "}"}
_OPENING = {"]": "[", "}": "{"}
_GIT_CONFLICT = re.compile(r"<{7} |={7}$|>{7} |\|{7} ")
_COLON = re.compile(r":(?:\s|$)")
_LINES_SEARCHED = 100  # upwards, for the line that a key belongs to
_QUOTES = "quotes around the value"


@dataclass(frozen=True, slots=True)
class Mistake:
    """A syntax error at `text[index]`."""

    index: int
    found: str
    expected: str


def place_at(text: str, index: int) -> tuple[int, int]:
    """Return line and column of `text[index]`, from 1, as editors count them."""
    before = text[:index]
    line = before.count("\n") + before.count("\r") - before.count("\r\n") + 1
    return line, index - max(before.rfind("\n"), before.rfind("\r"))


def mistake(text: str, error: Exception, bracket: int | None, scalar: int | None) -> Mistake:
    """Return why `text` is not YAML, after libyaml has raised `error`.

    `bracket` is where the innermost open [ or { is, `scalar` where the last value began.
    """
    problem_mark = getattr(error, "problem_mark", None)
    if problem_mark is None:
        return _no_character(text, error)
    context_mark = getattr(error, "context_mark", None)
    index = min(problem_mark.index, len(text))
    start = min(context_mark.index, len(text)) if context_mark else index
    place = _FailedAt(text, index, start, bracket, scalar)
    in_directive = "directive" in str(getattr(error, "context", ""))
    explained = _EXPLAINED.get(str(getattr(error, "problem", "")), _unknown)
    return (
        _conflict(place)
        or _left_placeholder(place)
        or _tab(place)
        or (_directive(place) if in_directive else explained(place))
    )


def _no_character(text: str, error: Exception) -> Mistake:
    """Return the mistake of a character that YAML does not allow, or UTF-8 does not have."""
    if isinstance(error, UnicodeEncodeError):
        return Mistake(error.start, "half of a surrogate pair", "a whole character")
    position = getattr(error, "position", 0)
    index = len(text.encode("utf-8", "replace")[:position].decode("utf-8", "ignore"))
    code = ord(text[index]) if index < len(text) else 0
    if code == 0:
        return Mistake(index, "a NUL character (U+0000)", "a text file in UTF-8")
    return Mistake(index, f"the control character U+{code:04X}", "a file without it")


@dataclass(frozen=True, slots=True)
class _FailedAt:
    """Where libyaml gave up (`index`), and where what it was reading began (`start`)."""

    text: str
    index: int
    start: int
    bracket: int | None  # where the innermost open [ or { is
    scalar: int | None  # where the last value began

    @property
    def character(self) -> str:
        return self.text[self.index : self.index + 1]

    @property
    def line_start(self) -> int:
        return _line_start(self.text, self.index)

    @property
    def before(self) -> str:
        """The text before `index` on the same line."""
        return self.text[self.line_start : self.index]


def _conflict(at: _FailedAt) -> Mistake | None:
    for index in (at.start, at.index):
        start = _line_start(at.text, index)
        if _GIT_CONFLICT.match(_line(at.text, start)):
            return Mistake(start, "a git conflict marker", "the merged text")
    return None


def _left_placeholder(at: _FailedAt) -> Mistake | None:
    for index in (at.index, at.start):
        form = placeholder.found_at(at.text, index)
        if form:
            return Mistake(form[0], placeholder.described(form[1]), placeholder.EXPECTED)
    return None


def _tab(at: _FailedAt) -> Mistake | None:
    if at.character != "\t":
        return None
    return Mistake(at.index, "a tab", "spaces: YAML does not allow tabs for indentation")


def _beginning(at: _FailedAt) -> Mistake:
    found = f"a value that begins with {at.character!r}, which YAML does not allow"
    return Mistake(at.index, found, _QUOTES)


def _anchor(at: _FailedAt) -> Mistake:
    sign = at.text[at.start : at.start + 1]
    what = "an alias" if sign == "*" else "an anchor"
    found = f"a value that begins with {sign!r}, which marks {what} in YAML"
    return Mistake(at.start, found, f"{_QUOTES} if it is a string")


def _tag(at: _FailedAt) -> Mistake:
    found = "a value that begins with '!', which marks a tag in YAML"
    return Mistake(at.start, found, f"{_QUOTES} if it is a string")


def _directive(at: _FailedAt) -> Mistake:
    found = "a line that begins with '%', which marks a directive in YAML"
    return Mistake(at.line_start, found, "quotes around a key that begins with '%'")


def _colon(at: _FailedAt) -> Mistake:
    """Explain a colon where no key can be."""
    if _COLON.search(at.before):
        expected = f"{_QUOTES} if ': ' is part of it, or each key on its own line"
        return Mistake(at.index, "a second ': ' on one line", expected)
    key = at.line_start + len(at.before) - len(at.before.lstrip())
    above = _line_above(at.text, at.line_start)
    if above is None:
        return _unknown(at)
    start, line = above
    indentation = len(line) - len(line.lstrip())
    if not _COLON.search(line) and not line.lstrip().startswith("- "):
        return _no_colon_at(start + indentation)
    if key - at.line_start > indentation:
        found = "a key indented more than the line above, which already has a value"
        return Mistake(key, found, "the same indentation as the line above")
    return _unknown(at)


def _no_colon(at: _FailedAt) -> Mistake:
    return _no_colon_at(at.start)


def _no_colon_at(index: int) -> Mistake:
    expected = "KEY: VALUE, with a space after the colon; or more indentation if the line"
    expected += " belongs to the text above it"
    return Mistake(index, "a line without ': '", expected)


def _dash(at: _FailedAt) -> Mistake:
    if _COLON.search(at.before):
        expected = f"the list on the lines below its key, or {_QUOTES}"
        return Mistake(at.index, "'- ' on the same line as its key", expected)
    return _indentation(at)


def _question(at: _FailedAt) -> Mistake:
    return Mistake(at.index, "'? ' inside a value", _QUOTES)


def _quote(at: _FailedAt) -> Mistake:
    return _open_quote_at(at, at.start)


def _open_quote_at(at: _FailedAt, index: int) -> Mistake:
    sign = at.text[index : index + 1]
    return Mistake(index, f"a {sign} that is not closed", f"a closing {sign}")


def _escape(at: _FailedAt) -> Mistake:
    expected = r"\\ for a backslash, or single quotes around the value"
    return Mistake(at.index, "a backslash that does not begin a YAML escape", expected)


def _block(at: _FailedAt) -> Mistake:
    expected = "the text on the lines below, indented"
    return Mistake(at.index, "text after the | or > that begins a block of text", expected)


def _zero(at: _FailedAt) -> Mistake:
    return Mistake(at.index, "0 after | or >", "a number from 1 to 9, or none")


def _key(at: _FailedAt) -> Mistake:
    """Explain text after a complete value, or a line whose indentation matches nothing."""
    before = at.before.rstrip()
    if at.character and at.character in "]}":
        expected = f"a {_OPENING[at.character]} for each {at.character}, or {_QUOTES}"
        return Mistake(at.index, f"an extra {at.character}", expected)
    if at.character == ":":
        return _no_key(at)
    if at.character == ",":
        expected = f"no comma, or {_QUOTES}"
        return Mistake(at.index, "a ',' outside brackets", expected)
    if not before:
        return _indentation(at)
    if before[-1] in "'\"":
        if at.scalar is not None and at.scalar < at.line_start:
            return _open_quote_at(at, at.scalar)  # what closes it was to open the next one
        expected = "quotes around the whole value (inside single quotes, '' is an apostrophe)"
        return Mistake(at.index, "text after a closing quote", expected)
    if before[-1] in "]}":
        expected = "nothing after it, or quotes around the whole value"
        return Mistake(at.index, f"text after a closing {before[-1]}", expected)
    return _unknown(at)


def _no_key(at: _FailedAt) -> Mistake:
    return Mistake(at.index, "a ':' without a key before it", "KEY: VALUE")


def _no_space(at: _FailedAt) -> Mistake:
    expected = "KEY: VALUE, with a space after the colon; or quotes around a string"
    return Mistake(at.index, "a ':' without a space after it, inside brackets", expected)


def _indentation(at: _FailedAt) -> Mistake:
    if at.text[at.index : at.index + 2] in ("- ", "-\n", "-\r", "-"):
        expected = "the indentation of its list"
        return Mistake(at.index, "a list item where a key should be", expected)
    number = len(at.before)
    found = f"a line indented by {amount(number, 'space')}"
    if not number:
        found = "a line without indentation"
    expected = "the same indentation as the other keys of its mapping"
    return Mistake(at.index, found, expected)


def _item(at: _FailedAt) -> Mistake:
    if at.before.strip():
        return _key(at)
    expected = "'- ' before it, or the indentation of the mapping it belongs to"
    return Mistake(at.index, "a line without '- ' in a list", expected)


def _outside(at: _FailedAt) -> Mistake:
    """Explain text after the end of the document."""
    if at.before.strip():
        return _key(at)
    above = _line_above(at.text, at.line_start)
    if above and above[1].startswith("..."):
        return Mistake(at.index, "text after '...', which ends a document", "one document")
    return _indentation(at)


def _comma(at: _FailedAt) -> Mistake:
    """Explain a missing comma inside [ ] or { }."""
    sign = at.text[at.start : at.start + 1]
    closing = _CLOSING.get(sign, "]")
    if not at.text[at.index :].strip() or "\n" in at.text[at.start : at.index]:
        return Mistake(at.start, f"a {sign} that is not closed", f"a closing {closing}")
    if at.character and at.character in "]}":
        found = f"a {at.character} that closes a {sign}"
        return Mistake(at.index, found, f"a closing {closing}")
    expected = f"', ' between them, or {closing} after the last one"
    return Mistake(at.index, "two values without a comma between them", expected)


def _value(at: _FailedAt) -> Mistake:
    """Explain a missing value."""
    if not at.text[at.index :].strip() and at.bracket is not None:
        sign = at.text[at.bracket]
        expected = f"a closing {_CLOSING.get(sign, ']')}"
        return Mistake(at.bracket, f"a {sign} that is not closed", expected)
    if at.character == "-" and at.bracket is not None:
        expected = "commas between the values, without '- '"
        return Mistake(at.index, "'- ' inside brackets", expected)
    if at.character == ":":
        return _no_key(at)
    if at.character and at.character in "]},":
        expected = f"a value, or {_QUOTES} if it is a string"
        return Mistake(at.index, f"{at.character!r} where a value should be", expected)
    return _unknown(at)


def _unknown(at: _FailedAt) -> Mistake:
    expected = "valid YAML: check that quotes and brackets are closed and the indentation is right"
    return Mistake(at.index, "invalid YAML", expected)


# By libyaml's own messages (scanner.c, parser.c).
_EXPLAINED: dict[str, Callable[[_FailedAt], Mistake]] = {
    "found character that cannot start any token": _beginning,
    "did not find expected alphabetic or numeric character": _anchor,
    **dict.fromkeys(
        (
            "did not find expected tag URI",
            "did not find expected '!'",
            "did not find the expected '>'",
            "did not find expected whitespace or line break",
            "found undefined tag handle",
            "did not find URI escaped octet",
            "found an incorrect leading UTF-8 octet",
            "found an incorrect trailing UTF-8 octet",
        ),
        _tag,
    ),
    "found incompatible YAML document": _directive,
    "found duplicate %YAML directive": _directive,
    "found duplicate %TAG directive": _directive,
    "mapping values are not allowed in this context": _colon,
    "could not find expected ':'": _no_colon,
    "found unexpected ':'": _no_space,
    "block sequence entries are not allowed in this context": _dash,
    "mapping keys are not allowed in this context": _question,
    "found unexpected end of stream": _quote,
    "found unexpected document indicator": _quote,
    "found unknown escape character": _escape,
    "did not find expected hexdecimal number": _escape,
    "found invalid Unicode character escape code": _escape,
    "did not find expected comment or line break": _block,
    "found an indentation indicator equal to 0": _zero,
    "did not find expected key": _key,
    "did not find expected '-' indicator": _item,
    "did not find expected <document start>": _outside,
    "did not find expected ',' or ']'": _comma,
    "did not find expected ',' or '}'": _comma,
    "did not find expected node content": _value,
}


def _line_start(text: str, index: int) -> int:
    return max(text.rfind("\n", 0, index), text.rfind("\r", 0, index)) + 1


def _line(text: str, start: int) -> str:
    end = text.find("\n", start)
    return text[start : len(text) if end < 0 else end].rstrip("\r")


def _line_above(text: str, start: int) -> tuple[int, str] | None:
    """Return the nearest line above that is neither blank nor a comment, and where it begins."""
    for _ in range(_LINES_SEARCHED):
        if start == 0:
            return None
        start = text.rfind("\n", 0, start - 1) + 1
        line = _line(text, start)
        if line.strip() and not line.lstrip().startswith("#"):
            return start, line
    return None

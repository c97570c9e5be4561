"""Why a text is no YAML, in the words of the person who wrote it. Pure.

libyaml tells where it gave up, which is often behind the mistake, and why, in words of its grammar.
What is told here quotes nothing of the text but marks of YAML's own: the text may be a secret.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass

from vmw_cloudinit_metadata.instance.values import placeholder

_CLOSING = {"[": "]", "{": "}"}
_OPENING = {"]": "[", "}": "{"}
_GIT_CONFLICT = re.compile(r"<{7} |={7}$|>{7} |\|{7} ")
_COLON = re.compile(r":(?:\s|$)")
_LINES_LOOKED_AT = 100  # for the line that a key belongs to
_QUOTES = "quotes around the value"


@dataclass(frozen=True, slots=True)
class Mistake:
    """What is wrong at `text[index]`."""

    index: int
    found: str
    expected: str


def place_at(text: str, index: int) -> tuple[int, int]:
    """Line and column of `text[index]`, from 1, as editors count them."""
    before = text[:index]
    line = before.count("\n") + before.count("\r") - before.count("\r\n") + 1
    return line, index - max(before.rfind("\n"), before.rfind("\r"))


def mistake(text: str, error: Exception, bracket: int | None, scalar: int | None) -> Mistake:
    """Why `text` is no YAML; libyaml has raised `error`.

    The [ or { at `bracket` was open then, and the last value began at `scalar`.
    """
    problem_mark = getattr(error, "problem_mark", None)
    if problem_mark is None:
        return _no_character(text, error)
    context_mark = getattr(error, "context_mark", None)
    index = min(problem_mark.index, len(text))
    start = min(context_mark.index, len(text)) if context_mark else index
    where = _Where(text, index, start, bracket, scalar)
    in_directive = "directive" in str(getattr(error, "context", ""))
    explained = _EXPLAINED.get(str(getattr(error, "problem", "")), _Where.unknown)
    return (
        where.conflict()
        or where.placeholder()
        or where.tab()
        or (where.directive() if in_directive else explained(where))
    )


def _no_character(text: str, error: Exception) -> Mistake:
    """A character that YAML does not allow, or that UTF-8 does not have."""
    if isinstance(error, UnicodeEncodeError):
        return Mistake(error.start, "half of a surrogate pair", "a whole character")
    position = getattr(error, "position", 0)
    index = len(text.encode("utf-8", "replace")[:position].decode("utf-8", "ignore"))
    code = ord(text[index]) if index < len(text) else 0
    if code == 0:
        return Mistake(index, "a NUL character (U+0000)", "a text file in UTF-8")
    return Mistake(index, f"the control character U+{code:04X}", "a file without it")


class _Where:
    """The place at which libyaml gave up, and at which what it was reading began."""

    def __init__(
        self, text: str, index: int, start: int, bracket: int | None, scalar: int | None
    ) -> None:
        self.text = text
        self.index = index
        self.start = start
        self.bracket = bracket
        self.scalar = scalar
        self.character = text[index : index + 1]
        self.line_start = _line_start(text, index)
        self.before = text[self.line_start : index]  # in the same line

    def conflict(self) -> Mistake | None:
        for index in (self.start, self.index):
            start = _line_start(self.text, index)
            if _GIT_CONFLICT.match(_line(self.text, start)):
                return Mistake(start, "a git conflict marker", "the merged text")
        return None

    def placeholder(self) -> Mistake | None:
        for index in (self.index, self.start):
            form = placeholder.found_at(self.text, index)
            if form:
                return Mistake(form[0], placeholder.described(form[1]), placeholder.EXPECTED)
        return None

    def tab(self) -> Mistake | None:
        if self.character != "\t":
            return None
        return Mistake(self.index, "a tab", "spaces: YAML does not allow tabs for indentation")

    def beginning(self) -> Mistake:
        found = f"a value that begins with {self.character!r}, which YAML does not allow"
        return Mistake(self.index, found, _QUOTES)

    def anchor(self) -> Mistake:
        sign = self.text[self.start : self.start + 1]
        what = "an alias" if sign == "*" else "an anchor"
        found = f"a value that begins with {sign!r}, which marks {what} in YAML"
        return Mistake(self.start, found, f"{_QUOTES} if it is a string")

    def tag(self) -> Mistake:
        found = "a value that begins with '!', which marks a tag in YAML"
        return Mistake(self.start, found, f"{_QUOTES} if it is a string")

    def directive(self) -> Mistake:
        found = "a line that begins with '%', which marks a directive in YAML"
        return Mistake(self.line_start, found, "quotes around a key that begins with '%'")

    def colon(self) -> Mistake:
        """A colon in a place where no key can be."""
        if _COLON.search(self.before):
            expected = f"{_QUOTES} if ': ' is part of it, or each key on its own line"
            return Mistake(self.index, "a second ': ' on one line", expected)
        key = self.line_start + len(self.before) - len(self.before.lstrip())
        above = _line_above(self.text, self.line_start)
        if above is None:
            return self.unknown()
        start, line = above
        indentation = len(line) - len(line.lstrip())
        if not _COLON.search(line) and not line.lstrip().startswith("- "):
            return self._no_colon(start + indentation)
        if key - self.line_start > indentation:
            found = "a key indented more than the line above, which already has a value"
            return Mistake(key, found, "the same indentation as the line above")
        return self.unknown()

    def no_colon(self) -> Mistake:
        return self._no_colon(self.start)

    def _no_colon(self, index: int) -> Mistake:
        expected = "KEY: VALUE, with a space after the colon; or more indentation if the line"
        expected += " belongs to the text above it"
        return Mistake(index, "a line without ': '", expected)

    def dash(self) -> Mistake:
        if _COLON.search(self.before):
            expected = f"the list on the lines below its key, or {_QUOTES}"
            return Mistake(self.index, "'- ' on the same line as its key", expected)
        return self.indentation()

    def question(self) -> Mistake:
        return Mistake(self.index, "'? ' inside a value", _QUOTES)

    def quote(self) -> Mistake:
        return self._open_quote(self.start)

    def _open_quote(self, index: int) -> Mistake:
        sign = self.text[index : index + 1]
        return Mistake(index, f"a {sign} that is not closed", f"a closing {sign}")

    def escape(self) -> Mistake:
        expected = r"\\ for a backslash, or single quotes around the value"
        return Mistake(self.index, "a backslash that does not begin a YAML escape", expected)

    def block(self) -> Mistake:
        expected = "the text on the lines below, indented"
        return Mistake(self.index, "text after the | or > that begins a block of text", expected)

    def zero(self) -> Mistake:
        return Mistake(self.index, "0 after | or >", "a number from 1 to 9, or none")

    def key(self) -> Mistake:
        """Something behind a whole value, or a line whose indentation fits nothing."""
        before = self.before.rstrip()
        if self.character and self.character in "]}":
            expected = f"a {_OPENING[self.character]} for each {self.character}, or {_QUOTES}"
            return Mistake(self.index, f"an extra {self.character}", expected)
        if self.character == ":":
            return self.no_key()
        if self.character == ",":
            expected = f"no comma, or {_QUOTES}"
            return Mistake(self.index, "a ',' outside brackets", expected)
        if not before:
            return self.indentation()
        if before[-1] in "'\"":
            if self.scalar is not None and self.scalar < self.line_start:
                return self._open_quote(self.scalar)  # what closes it was to open the next one
            expected = "quotes around the whole value (inside single quotes, '' is an apostrophe)"
            return Mistake(self.index, "text after a closing quote", expected)
        if before[-1] in "]}":
            expected = "nothing after it, or quotes around the whole value"
            return Mistake(self.index, f"text after a closing {before[-1]}", expected)
        return self.unknown()

    def no_key(self) -> Mistake:
        return Mistake(self.index, "a ':' without a key before it", "KEY: VALUE")

    def no_space(self) -> Mistake:
        expected = "KEY: VALUE, with a space after the colon; or quotes around a string"
        return Mistake(self.index, "a ':' without a space after it, inside brackets", expected)

    def indentation(self) -> Mistake:
        if self.text[self.index : self.index + 2] in ("- ", "-\n", "-\r", "-"):
            expected = "the indentation of its list"
            return Mistake(self.index, "a list item where a key should be", expected)
        number = len(self.before)
        found = f"a line indented by {number} {'space' if number == 1 else 'spaces'}"
        if not number:
            found = "a line without indentation"
        expected = "the same indentation as the other keys of its mapping"
        return Mistake(self.index, found, expected)

    def item(self) -> Mistake:
        if self.before.strip():
            return self.key()
        expected = "'- ' before it, or the indentation of the mapping it belongs to"
        return Mistake(self.index, "a line without '- ' in a list", expected)

    def outside(self) -> Mistake:
        """Something behind the end of the document."""
        if self.before.strip():
            return self.key()
        above = _line_above(self.text, self.line_start)
        if above and above[1].startswith("..."):
            return Mistake(self.index, "text after '...', which ends a document", "one document")
        return self.indentation()

    def comma(self) -> Mistake:
        """Something else than a comma between [ ] or { }."""
        sign = self.text[self.start : self.start + 1]
        closing = _CLOSING.get(sign, "]")
        if not self.text[self.index :].strip() or "\n" in self.text[self.start : self.index]:
            return Mistake(self.start, f"a {sign} that is not closed", f"a closing {closing}")
        if self.character and self.character in "]}":
            found = f"a {self.character} that closes a {sign}"
            return Mistake(self.index, found, f"a closing {closing}")
        expected = f"', ' between them, or {closing} after the last one"
        return Mistake(self.index, "two values without a comma between them", expected)

    def value(self) -> Mistake:
        """No value where one should be."""
        if not self.text[self.index :].strip() and self.bracket is not None:
            sign = self.text[self.bracket]
            expected = f"a closing {_CLOSING.get(sign, ']')}"
            return Mistake(self.bracket, f"a {sign} that is not closed", expected)
        if self.character == "-" and self.bracket is not None:
            expected = "commas between the values, without '- '"
            return Mistake(self.index, "'- ' inside brackets", expected)
        if self.character == ":":
            return self.no_key()
        if self.character and self.character in "]},":
            expected = f"a value, or {_QUOTES} if it is a string"
            return Mistake(self.index, f"{self.character!r} where a value should be", expected)
        return self.unknown()

    def unknown(self) -> Mistake:
        expected = (
            "valid YAML: check that quotes and brackets are closed and the indentation is right"
        )
        return Mistake(self.index, "invalid YAML", expected)


# By what libyaml says of them (scanner.c, parser.c).
_EXPLAINED: dict[str, Callable[[_Where], Mistake]] = {
    "found character that cannot start any token": _Where.beginning,
    "did not find expected alphabetic or numeric character": _Where.anchor,
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
        _Where.tag,
    ),
    "found incompatible YAML document": _Where.directive,
    "found duplicate %YAML directive": _Where.directive,
    "found duplicate %TAG directive": _Where.directive,
    "mapping values are not allowed in this context": _Where.colon,
    "could not find expected ':'": _Where.no_colon,
    "found unexpected ':'": _Where.no_space,
    "block sequence entries are not allowed in this context": _Where.dash,
    "mapping keys are not allowed in this context": _Where.question,
    "found unexpected end of stream": _Where.quote,
    "found unexpected document indicator": _Where.quote,
    "found unknown escape character": _Where.escape,
    "did not find expected hexdecimal number": _Where.escape,
    "found invalid Unicode character escape code": _Where.escape,
    "did not find expected comment or line break": _Where.block,
    "found an indentation indicator equal to 0": _Where.zero,
    "did not find expected key": _Where.key,
    "did not find expected '-' indicator": _Where.item,
    "did not find expected <document start>": _Where.outside,
    "did not find expected ',' or ']'": _Where.comma,
    "did not find expected ',' or '}'": _Where.comma,
    "did not find expected node content": _Where.value,
}


def _line_start(text: str, index: int) -> int:
    return max(text.rfind("\n", 0, index), text.rfind("\r", 0, index)) + 1


def _line(text: str, start: int) -> str:
    end = text.find("\n", start)
    return text[start : len(text) if end < 0 else end].rstrip("\r")


def _line_above(text: str, start: int) -> tuple[int, str] | None:
    """The nearest line above that is neither blank nor a comment, and where it begins."""
    for _ in range(_LINES_LOOKED_AT):
        if start == 0:
            return None
        start = text.rfind("\n", 0, start - 1) + 1
        line = _line(text, start)
        if line.strip() and not line.lstrip().startswith("#"):
            return start, line
    return None

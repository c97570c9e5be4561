"""The bytes of an instance file -> its text, or a fault. Pure."""

from __future__ import annotations

import codecs

from vmw_cloudinit_metadata.instance.fault import Fault

_EXPECTED = "UTF-8: save the file as UTF-8, or convert it (iconv -f {} -t UTF-8)"

# Longest first: the little-endian mark of UTF-32 begins like that of UTF-16.
_MARKS = (
    (codecs.BOM_UTF32_LE, "UTF-32"),
    (codecs.BOM_UTF32_BE, "UTF-32"),
    (codecs.BOM_UTF16_LE, "UTF-16"),
    (codecs.BOM_UTF16_BE, "UTF-16"),
)
# Without a mark: the positions of NULs if the file begins with two ASCII characters.
_NULS = (
    ((False, True, True, True), "UTF-32LE"),
    ((True, True, True, False), "UTF-32BE"),
    ((False, True, False, True), "UTF-16LE"),
    ((True, False, True, False), "UTF-16BE"),
)


def text_of(content: bytes) -> str | Fault:
    """Return the text without a byte order mark, or a fault with line and column but no file."""
    wide = _wide(content)
    if wide:
        return Fault((), f"a file in {wide}", _EXPECTED.format(wide), line=1, column=1)
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        return _undecodable(content.removeprefix(codecs.BOM_UTF8), error.start)


def _wide(content: bytes) -> str | None:
    start = content[:4]
    if start.isascii() and 0 not in start:  # as nearly always
        return None
    for mark, name in _MARKS:
        if content.startswith(mark):
            return name
    nuls = tuple(byte == 0 for byte in start)
    return next((name for pattern, name in _NULS if nuls == pattern), None)


def _undecodable(content: bytes, index: int) -> Fault:
    before = content[:index]
    line = before.count(b"\n") + before.count(b"\r") - before.count(b"\r\n") + 1
    start = max(before.rfind(b"\n"), before.rfind(b"\r")) + 1
    column = len(before[start:].decode()) + 1
    found = f"the byte 0x{content[index]:02x}"
    return Fault((), found, _EXPECTED.format("LATIN1"), line=line, column=column)

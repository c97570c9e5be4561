"""Whether a document may hold a secret, as far as its text tells. Pure.

For documents that would be written to disk: what is in doubt counts as a secret. A secret in free
text, such as a word in a script, cannot be recognized.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping

from vmw_cloudinit_metadata.instance.secrecy import is_secret_name, is_secret_text

MAX_TEXT_BYTES = 256 * 1024
MAX_LINE_CHARACTERS = 1000  # as many as `is_secret_text` searches

# Switches that are named like secrets and are none.
_SWITCH = re.compile(
    r"\b(?:lock[-_]passwd|ssh[-_]pwauth|disable[-_]root|ssh[-_]deletekeys|expire)"
    r"[\"']?\s*:\s*[\"']?(?:true|false|yes|no|on|off|unchanged)\b",
    re.IGNORECASE,
)
_WORD = re.compile(
    r"passw|passphrase|\bpwd\b|secret|token|credential|bearer|ssh[-_]keys\b"
    r"|private[-_ ]?key|api[-_]?key|authorization|://[^/\s:@]*:[^/\s@]*@",
    re.IGNORECASE,
)
# `name: value`, `"name": value`, `NAME=value`, also within a line.
_NAMED = re.compile(r"(?<![\w.-])[.-]*(\w[\w.-]*)[\"']?\s*[:=](?!//)")
_PUBLIC_NAMES = frozenset(
    {"keyboard", "keymap", "keyid", "keyserver", "ssh_genkeytypes", "ssh-genkeytypes"}
)
_PUBLIC_VALUE = re.compile(
    r"(?:sk-)?(?:ssh|ecdsa)-[a-z0-9@.-]+ AAAA[A-Za-z0-9+/]+={0,3}"
    r"|-----BEGIN (?:CERTIFICATE|PUBLIC KEY|PGP PUBLIC KEY BLOCK)-----"
)
_SECRET_DOCUMENT = re.compile(r"secur", re.IGNORECASE)  # SECURITYDATA


def secret_in(documents: Mapping[str, bytes]) -> str:
    """Return where the first probable secret is, without quoting it: `USERDATA, line 3`; or ""."""
    for name, content in documents.items():
        if content and (place := _place(name, content)):
            return place
    return ""


def _place(name: str, content: bytes) -> str:
    if is_secret_name(name.removesuffix("DATA")) or _SECRET_DOCUMENT.search(name):
        return f"the document {name}"
    if len(content) > MAX_TEXT_BYTES:
        return f"{name}, which is too long to be searched"
    try:
        text = content.decode()
    except UnicodeDecodeError:
        return f"{name}, which is not text"
    is_line = "\n" not in text
    if is_line and text.startswith("{"):  # JSON
        text = text.replace(",", "\n")
    number = 1
    for lines in _chunks(text.splitlines()):
        if _has_sign("\n".join(lines)):
            for place, line in enumerate(lines, number):
                if _is_secret_line(line):
                    return name if is_line else f"{name}, line {place}"
        number += len(lines)
    return ""


def _chunks(lines: Iterable[str]) -> Iterator[list[str]]:
    """Yield lines in groups, which are searched faster than line by line."""
    chunk: list[str] = []
    left = MAX_LINE_CHARACTERS
    for line in lines:
        left -= len(line) + 1
        if left < 0 and chunk:
            yield chunk
            chunk, left = [], MAX_LINE_CHARACTERS - len(line) - 1
        chunk.append(line)
    if chunk:
        yield chunk


def _has_sign(text: str) -> bool:
    """Return whether a line of the text may be one with a secret; False is certain."""
    if len(text) > MAX_LINE_CHARACTERS or _WORD.search(text) or is_secret_text(text):
        return True
    return _has_secret_name(text)


def _is_secret_line(line: str) -> bool:
    if len(line) > MAX_LINE_CHARACTERS:
        return True
    rest = _SWITCH.sub("", _PUBLIC_VALUE.sub("", line))
    if _WORD.search(rest) or is_secret_text(rest):
        return True
    return _has_secret_name(rest)


def _has_secret_name(text: str) -> bool:
    names = set(_NAMED.findall(text))
    return any(is_secret_name(name) and name.lower() not in _PUBLIC_NAMES for name in names)

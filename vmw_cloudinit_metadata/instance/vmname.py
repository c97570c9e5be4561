"""A VM's name: it can be spelled in several ways, and is compared in one. Pure."""

from __future__ import annotations

import re
import unicodedata

# vCenter writes these three in a name as %2f %5c %25; in another program's lists they stand raw.
_SPECIAL = {"%2f": "/", "%5c": "\\", "%25": "%"}
_ESCAPED = {character: escape for escape, character in _SPECIAL.items()}
_ESCAPE = re.compile("%(?:2f|5c|25)", re.IGNORECASE)
_RAW = re.compile(r"[/\\%]")


def normal(vm_name: str) -> str:
    """The usual spelling: `/ \\ %` as vCenter writes them, and letters composed (NFC).

    `ci/build-1`, `ci%2Fbuild-1` and `ci%2fbuild-1` are one name; so are NFC and NFD of `Büro`, as
    macOS and some archives change one to the other. An escape that vCenter does not write is text.
    """
    raw = _ESCAPE.sub(lambda found: _SPECIAL[found[0].lower()], vm_name)
    return _RAW.sub(lambda found: _ESCAPED[found[0]], unicodedata.normalize("NFC", raw))

"""VM names: several spellings of a name, and the one in which names are compared. Pure."""

from __future__ import annotations

import re
import unicodedata

# vCenter writes these three in a name as %2f %5c %25; lists from other programs have them raw.
_SPECIAL = {"%2f": "/", "%5c": "\\", "%25": "%"}
_ESCAPED = {character: escape for escape, character in _SPECIAL.items()}
_ESCAPE = re.compile("%(?:2f|5c|25)", re.IGNORECASE)
_RAW = re.compile(r"[/\\%]")


def normal(vm_name: str) -> str:
    """Return the usual spelling: `/ \\ %` as vCenter writes them, and letters composed (NFC).

    `ci/build-1`, `ci%2Fbuild-1` and `ci%2fbuild-1` are one name; so are NFC and NFD of `Büro`,
    which macOS and some archives convert. Escapes that vCenter does not write stay as they are.
    """
    raw = _ESCAPE.sub(lambda found: _SPECIAL[found[0].lower()], vm_name)
    return _RAW.sub(lambda found: _ESCAPED[found[0]], unicodedata.normalize("NFC", raw))

"""Host names, RFC 952 and RFC 1123: which text is one, and which one a VM name gives. Pure."""

from __future__ import annotations

import re
import unicodedata

MAX_CHARACTERS = 253
_LABEL = r"[A-Za-z0-9](?:[A-Za-z0-9-]{0,61}[A-Za-z0-9])?"
_NAME = re.compile(rf"{_LABEL}(?:\.{_LABEL})*", re.ASCII)
_VCENTER_ESCAPE = re.compile(r"%(?:2f|5c|25)", re.IGNORECASE)


def is_hostname(text: str) -> bool:
    """Whether `text` is a host name or an FQDN."""
    return len(text) <= MAX_CHARACTERS and _NAME.fullmatch(text) is not None


def hostname_of(vm_name: str) -> str | None:
    """A legal host name for a VM name, with hyphens for what is not allowed, or None.

    `web1.example.com` stays, `Web Server_1` is `Web-Server-1`, `Bücher` is `Bucher`.
    """
    plain = unicodedata.normalize("NFKD", _VCENTER_ESCAPE.sub("-", vm_name))
    plain = "".join(character for character in plain if not unicodedata.combining(character))
    labels = (_label(part) for part in plain.split("."))
    name = ".".join(label for label in labels if label)[:MAX_CHARACTERS].rstrip("-.")
    return name or None


def _label(text: str) -> str:
    return re.sub("[^A-Za-z0-9]+", "-", text).strip("-")[:63].rstrip("-")

"""Host names (RFC 952, RFC 1123): which strings are valid, and the default for a VM name. Pure."""

from __future__ import annotations

import re
import unicodedata
from ipaddress import IPv4Address

MAX_CHARACTERS = 253
MAX_LINUX_HOSTNAME = 64  # of sethostname(2)
_LABEL = r"[A-Za-z0-9](?:[A-Za-z0-9-]{0,61}[A-Za-z0-9])?"
_NAME = re.compile(rf"{_LABEL}(?:\.{_LABEL})*", re.ASCII)
_BETWEEN = re.compile("[^A-Za-z0-9]+")  # letters and digits
_VCENTER_ESCAPE = re.compile(r"%(?:2f|5c|25)", re.IGNORECASE)


def is_hostname(text: str) -> bool:
    """Return whether `text` is a host name or an FQDN."""
    return len(text) <= MAX_CHARACTERS and _NAME.fullmatch(text) is not None


def hostname_of(vm_name: str) -> str | None:
    """Return a valid host name for a VM name, with hyphens for invalid characters, or None.

    `web1.example.com` stays, `Web Server_1` is `Web-Server-1`, `Bücher` is `Bucher`. A name keeps
    its dots only if it can be an FQDN, because cloud-init cuts a host name at the first dot:
    `web-10.0.0.5` is `web-10-0-0-5`, `Ubuntu 22.04 LTS` is `Ubuntu-22-04-LTS`.
    """
    plain = _plain(vm_name)
    labels = [part for part in plain.split(".") if _label(part)]
    if not labels:
        return None
    name = ".".join(map(_label, labels))[:MAX_CHARACTERS].rstrip("-.")
    is_legal = _label(labels[-1]) == labels[-1].strip()  # not so in `web1.example.com (copy)`
    is_fqdn = is_legal and not name.rpartition(".")[2].isdigit()
    return name if is_fqdn else _label(plain)


def is_whole(vm_name: str) -> bool:
    """Return whether the host name keeps all letters and digits of the VM name."""
    return _letters(_plain(vm_name)) == _letters(hostname_of(vm_name) or "")


def set_by_cloud_init(local_hostname: str) -> str:
    """Return the host name that cloud-init sets."""
    try:
        return f"ip-{IPv4Address(local_hostname)}".replace(".", "-")
    except ValueError:
        return local_hostname.partition(".")[0]


def _letters(text: str) -> str:
    return "".join(filter(str.isalnum, text))


def _plain(vm_name: str) -> str:
    """Return the name without accents."""
    plain = unicodedata.normalize("NFKD", _VCENTER_ESCAPE.sub("-", vm_name))
    return "".join(character for character in plain if not unicodedata.combining(character))


def _label(text: str) -> str:
    return _BETWEEN.sub(_hyphens, text).strip("-")[:63].rstrip("-")


def _hyphens(found: re.Match[str]) -> str:
    """Return a hyphen; hyphens alone stay as they are, since `xn--bcher-kva` has two."""
    return "-" if found[0].strip("-") else found[0]

"""The mark of an administrator's test, in the query of the service URI. Pure.

`my-metadata?vmw-test=1`: whoever plays a VM (`client fetch`, a raw socket) says so, and the server
gives the VM's data as ever, and counts the machine neither as one in trouble nor as one that was
served. Drivers, layers and the comparison of service URIs do not see the mark.
"""

from __future__ import annotations

MARK = "vmw-test=1"


def marked(uri: str) -> str:
    """Return a service URI with the mark, before the rest of its query."""
    plain = without_mark(uri)
    before, _, query = plain.partition("?")
    return f"{before}?{MARK}&{query}" if query else f"{before}?{MARK}"


def is_marked(uri: str) -> bool:
    return MARK in uri and MARK in uri.partition("?")[2].split("&")


def without_mark(uri: str) -> str:
    if not is_marked(uri):
        return uri
    before, _, query = uri.partition("?")
    rest = [part for part in query.split("&") if part != MARK]
    return f"{before}?{'&'.join(rest)}" if rest else before

"""What a correct response is: the right code, strict base64, and the document of this VM. Pure."""

from __future__ import annotations

import base64
import binascii
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from vmw_cloudinit_metadata.instance.metadata.hostname import hostname_of
from vmw_cloudinit_metadata.protocol.printable import one_line, quoted

DOCUMENTS = ("METADATA", "NETWORKDATA", "USERDATA")

# Nothing may precede the `!!`: the usual guest client skips such a line.
_PACKET = re.compile(rb"!!([A-Z_]{1,64})#([^#]*)", re.DOTALL)

_MAX_KIND_CHARACTERS = 40


class VmFailure(Exception):  # noqa: N818 - a result of the test, counted
    """What failed for one VM: a `kind` to count by, and a message to read."""

    def __init__(self, kind: str, message: str) -> None:
        super().__init__(message)
        self.kind = kind
        self.message = message

    @property
    def text(self) -> str:
        """The kind and the message, which may begin with the kind."""
        is_told = self.message.startswith(f"{self.kind.partition(':')[0]}: ")
        return self.message if is_told else f"{self.kind}: {self.message}"


# How other servers begin, or answer telnet.
_BEGINNINGS = {
    b"HTTP/": "an HTTP server, such as the admin port",
    b"SSH-": "an SSH server",
    b"\x15\x03": "a TLS server: use --tls telnets if it is a metadata server",  # an alert
}


def server_like(beginning: bytes) -> str:
    """Return what a server is that begins like this, or ""."""
    return next((kind for known, kind in _BEGINNINGS.items() if beginning.startswith(known)), "")


class LineCut(VmFailure):
    """The connection was cut: the host may dial again."""


class DialRefused(LineCut):
    """No connection was made."""


class Expectation(Protocol):
    def check(self, document: str, body: bytes) -> None:
        """Raise VmFailure if `body` is not the VM's document."""


@dataclass(frozen=True, slots=True)
class Anything:
    """Accepts any document."""

    def check(self, document: str, body: bytes) -> None:
        """Accept it."""


@dataclass(frozen=True, slots=True)
class Exactly:
    """Accepts documents that match byte for byte."""

    documents: Mapping[str, bytes]

    def check(self, document: str, body: bytes) -> None:
        expected = self.documents.get(document, b"")
        if body != expected:
            found = f"{_shown(body)}, expected {_shown(expected)}"
            raise VmFailure("another document", f"{document}: found {found}")


@dataclass(frozen=True, slots=True)
class Named:
    """Accepts meta-data with the VM's name or VC UUID, and any other documents."""

    name: str
    vc_uuid: str | None

    def check(self, document: str, body: bytes) -> None:
        if document != "METADATA":
            return
        metadata = _json_object(document, body)
        found = {str(metadata.get(key)) for key in ("instance-id", "local-hostname", "hostname")}
        if not found & {self.name, hostname_of(self.name), self.vc_uuid}:
            raise VmFailure("another VM's document", f"{document}: found {_shown(body)}")


def body_of(document: str, line: bytes) -> bytes:
    """Return the body of the response to REQUEST_<document>; raise VmFailure."""
    found = _PACKET.fullmatch(line)
    if not found:
        raise VmFailure("no packet", f"{document}: found the line {_shown(line)}")
    code = found[1].decode()
    try:
        body = base64.b64decode(found[2], validate=True)
    except binascii.Error as error:
        raise VmFailure("bad base64", f"{document}: {error}") from None
    if code == "RESPONSE_ERROR":
        raise _server_error(document, body)
    if code != f"RESPONSE_{document}":
        raise VmFailure("wrong code", f"{document}: found {code}")
    return body


def _server_error(document: str, body: bytes) -> VmFailure:
    response = _json_object("RESPONSE_ERROR", body)
    error = one_line(str(response.get("error")))[:_MAX_KIND_CHARACTERS]
    message = one_line(str(response.get("message")))
    return VmFailure(f"error: {error}", f"{document}: {message}")


def _json_object(document: str, body: bytes) -> dict[str, Any]:
    try:
        value = json.loads(body)
    except ValueError:
        value = None
    if not isinstance(value, dict):
        raise VmFailure("no JSON", f"{document}: found {_shown(body)}, expected a JSON object")
    return value


def _shown(data: bytes) -> str:
    return quoted(data.decode("utf-8", "replace"), 120)

"""HttpOptions: the options of each store that is reached by HTTP, and the address that they name.

No I/O, but for the files with secrets that DriverOptions reads.
"""

from __future__ import annotations

import re
from base64 import b64encode
from dataclasses import dataclass
from typing import Annotated
from urllib.parse import SplitResult, unquote, urlsplit

from pydantic import AfterValidator, Field, SecretStr, field_validator, model_validator

from vmw_cloudinit_metadata.drivers.driveroptions import DriverOptions

REQUEST_S = 2.5  # for all of a request; a look-up has 3 s

MAX_URL_CHARACTERS = 2000
MAX_HEADERS = 50
MAX_HEADER_CHARACTERS = 8192

_URL = re.compile(r"https?://[!-~]+")  # printable ASCII, without a blank
_HOST = re.compile(r"[A-Za-z0-9_.-]+|[0-9A-Fa-f:.]+")
_HEADER_NAME = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]+")  # RFC 9110: token
_HEADER_VALUE = re.compile(r"[!-~](?:[ -~]*[!-~])?")

# The client sets these by itself.
_OURS = frozenset(
    {"accept-encoding", "connection", "content-length", "host", "te", "trailer", "upgrade"}
    | {"if-match", "if-modified-since", "if-none-match", "range", "transfer-encoding"}
)


def _file(path: str) -> str:
    if not path.startswith("/") or not path.isprintable():
        raise ValueError("the absolute path of a file")
    return path


File = Annotated[str, Field(max_length=4096), AfterValidator(_file)]


@dataclass(frozen=True, slots=True)
class HttpOrigin:
    """Where a server is, and what stands for a user and a password in its address."""

    scheme: str
    host: str
    port: int
    authorization: str = ""

    def __str__(self) -> str:
        """Return it without user and password."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        is_usual = self.port == {"http": 80, "https": 443}[self.scheme]
        return f"{self.scheme}://{host}" + ("" if is_usual else f":{self.port}")


def parsed(url: str) -> tuple[HttpOrigin, str]:
    """Return the origin of an address, and its path with the query; raise ValueError."""
    if len(url) > MAX_URL_CHARACTERS:
        raise ValueError(f"at most {MAX_URL_CHARACTERS} characters")
    if not _URL.fullmatch(url):
        raise ValueError("http://HOST/PATH or https://HOST/PATH, in ASCII without blanks")
    parts = _split(url)
    if parts.fragment or url.endswith("#"):
        raise ValueError("no # in the address: %23 in a path")
    host = parts.hostname or ""
    if not _HOST.fullmatch(host):
        raise ValueError("the name or the IP address of a host after ://")
    port = parts.port or {"http": 80, "https": 443}[parts.scheme]
    target = parts.path or "/"
    if parts.query:
        target += f"?{parts.query}"
    return HttpOrigin(parts.scheme, host, port, _authorization(parts)), target


def _split(url: str) -> SplitResult:
    try:
        parts = urlsplit(url)
        _ = parts.port
    except ValueError:  # its text quotes the address
        raise ValueError("a valid host and port after ://") from None
    return parts


def _authorization(parts: SplitResult) -> str:
    if parts.username is None and parts.password is None:
        return ""
    user = f"{unquote(parts.username or '')}:{unquote(parts.password or '')}"
    return "Basic " + b64encode(user.encode()).decode()


class HttpOptions(DriverOptions):
    url: str = Field(description="the address, http:// or https://")
    headers: dict[str, SecretStr] = Field(
        default={}, max_length=MAX_HEADERS, description="header fields of each request"
    )
    token_file: File | None = Field(
        default=None, description="a file with the token of each request; read when it changes"
    )
    ca_file: File | None = Field(
        default=None,
        description="a file with the certificates to trust, in PEM; by default the system's",
    )
    client_certificate_file: File | None = Field(
        default=None, description="a file with our own certificate for the server, in PEM"
    )
    client_key_file: File | None = Field(
        default=None, description="a file with its key; by default that of the certificate"
    )

    @field_validator("url")
    @classmethod
    def _has_host(cls, url: str) -> str:
        parsed(url)
        return url

    @field_validator("headers")
    @classmethod
    def _are_headers(cls, headers: dict[str, SecretStr]) -> dict[str, SecretStr]:
        for name, secret in headers.items():
            if not _HEADER_NAME.fullmatch(name):
                raise ValueError("names of header fields, such as X-Team")
            if name.lower() in _OURS:
                raise ValueError(f"no {name}, which the client itself sends")
            value = secret.get_secret_value()
            if not _HEADER_VALUE.fullmatch(value) or len(value) > MAX_HEADER_CHARACTERS:
                limit = f"at most {MAX_HEADER_CHARACTERS} characters of printable ASCII"
                raise ValueError(f"{limit} as the value of each header field")
        names = [name.lower() for name in headers]
        if len(set(names)) < len(names):
            raise ValueError("each header field once")
        return headers

    @model_validator(mode="after")
    def _agree(self) -> HttpOptions:
        origin, _ = parsed(self.url)
        has_header = any(name.lower() == "authorization" for name in self.headers)
        if sum((bool(self.token_file), bool(origin.authorization), has_header)) > 1:
            raise ValueError(
                "one of these only: token-file, a password in url, an Authorization in headers"
            )
        is_tls = origin.scheme == "https"
        if not is_tls and (self.ca_file or self.client_certificate_file):
            raise ValueError("https:// in url, since ca-file or client-certificate-file is set")
        if self.client_key_file and not self.client_certificate_file:
            raise ValueError("client-certificate-file with client-key-file")
        return self

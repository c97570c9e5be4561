"""TLS between a connection's bytes and its session, without a socket."""

from __future__ import annotations

import ssl
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from vmw_cloudinit_metadata.settings import permissions
from vmw_cloudinit_metadata.settings.certificatefile import MAX_FILE_BYTES
from vmw_cloudinit_metadata.settings.errors import ConfigError

HANDSHAKE = 0x16  # the first byte of a TLS connection: a record of this type, the ClientHello


@dataclass(frozen=True, slots=True)
class KeyPair:
    """The files of a certificate (PEM, with its chain) and its key."""

    certificate: Path
    key: Path

    def load(self) -> ssl.SSLContext:
        """Read both; raise ConfigError if they cannot be used, or not together."""
        for option, path in (("--tls-cert", self.certificate), ("--tls-key", self.key)):
            permissions.read(option, path, MAX_FILE_BYTES)
        context = _new_context()
        try:
            context.load_cert_chain(self.certificate, self.key, _no_passphrase)
        except ssl.SSLError as error:
            reason = _REASONS.get(error.reason or "PEM_LIB", f"cannot be used: {error}")
            raise ConfigError(f"--tls-cert, --tls-key: {self._files} {reason}") from error
        except OSError as error:  # removed meanwhile
            raise ConfigError(f"--tls-cert, --tls-key: {self._files}: {error.strerror}") from error
        return context

    @property
    def _files(self) -> str:
        if self.key == self.certificate:
            return str(self.certificate)
        return f"{self.certificate} and {self.key}"


_REASONS = {
    "KEY_VALUES_MISMATCH": "do not match: the key is not the certificate's",
    "PEM_LIB": "are not a certificate and its key in PEM",
    "NO_START_LINE": "contain no certificate in PEM",
}


def _no_passphrase() -> str:
    raise ConfigError("--tls-key: the key is encrypted; the server needs one without a passphrase")


# Sessions are not resumed: a line is opened once in months. Python cannot disable the cache where
# a context keeps the sessions of TLS 1.2, so each handshake has a context without any: a new one,
# which gets its certificate from the server's context when it is needed. TLS 1.3 without tickets
# caches no session, so that its context is used again.
_unused: list[ssl.SSLContext] = []
_MAX_UNUSED = 64


def _new_context() -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.options |= ssl.OP_NO_RENEGOTIATION | ssl.OP_NO_COMPRESSION | ssl.OP_NO_TICKET
    context.num_tickets = 0
    return context


def _own_context(certified: ssl.SSLContext) -> ssl.SSLContext:
    """Return a context for one handshake, with the certificate of `certified`."""

    def certify(connection: ssl.SSLObject, _name: str | None, _context: ssl.SSLContext) -> None:
        connection.context = certified

    context = _unused.pop() if _unused else _new_context()
    context.sni_callback = certify  # called whether the peer names a server or not
    return context


def _give_back(context: ssl.SSLContext) -> None:
    context.sni_callback = None
    if not context.session_stats()["number"] and len(_unused) < _MAX_UNUSED:
        _unused.append(context)


class Tls:
    """The server's end of one TLS connection. Errors of the peer are ssl.SSLError."""

    def __init__(self, context: ssl.SSLContext) -> None:
        self._incoming, self._outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._own_context = _own_context(context)
        self._ssl = self._own_context.wrap_bio(self._incoming, self._outgoing, server_side=True)
        self.is_up = False
        self.is_closed = False  # by the peer

    def feed(self, data: bytes) -> None:
        """Receive bytes of the peer, and continue the handshake."""
        self._incoming.write(data)
        if not self.is_up:
            with suppress(ssl.SSLWantReadError):
                self._shake_hands()

    def _shake_hands(self) -> None:
        try:
            self._ssl.do_handshake()
            self.is_up = True
        except ssl.SSLWantReadError:
            raise
        except ssl.SSLError:
            _give_back(self._own_context)
            raise
        _give_back(self._own_context)

    def read(self, limit: int) -> bytes:
        """Return the next plain bytes; fewer than `limit` only if there are no more now."""
        plain = b""
        try:
            while len(plain) < limit and (piece := self._ssl.read(limit - len(plain))):
                plain += piece
            self.is_closed = len(plain) < limit
        except ssl.SSLWantReadError:
            pass
        except ssl.SSLZeroReturnError:
            self.is_closed = True
        return plain

    def send(self, data: bytes) -> None:
        self._ssl.write(data)

    def say_goodbye(self) -> None:
        """Send close_notify: no more data follows."""
        with suppress(ssl.SSLError):  # the peer has not sent its own
            self._ssl.unwrap()

    def data_to_send(self) -> bytes:
        """Return, once, the bytes to write to the peer."""
        return self._outgoing.read()

    @property
    def version(self) -> str:
        return self._ssl.version() or ""

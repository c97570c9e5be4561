"""The certificate of a server: read again at HUP, and used for new connections."""

from __future__ import annotations

import logging
import ssl

from vmw_cloudinit_metadata.serving.services import Services
from vmw_cloudinit_metadata.serving.tls import KeyPair
from vmw_cloudinit_metadata.settings.certificatefile import expiry_warnings
from vmw_cloudinit_metadata.settings.errors import ConfigError

log = logging.getLogger(__name__)

# A certificate that was read; ConfigError: it cannot be used. None: there is none.
Certificate = ssl.SSLContext | ConfigError | None


class ServerCertificate:
    """`key_pair` is where the certificate is read from; None: TLS is off, until the next start."""

    def __init__(self, services: Services, key_pair: KeyPair | None) -> None:
        self._services = services
        self.key_pair = key_pair

    def change(self, key_pair: KeyPair) -> None:
        """Read later certificates from there, unless TLS is off."""
        self.key_pair = key_pair if self.key_pair else None

    def read(self, key_pair: KeyPair | None = None) -> Certificate:
        """Read the certificate and its key again, or those of `key_pair`, for `take`.

        Blocks while it reads files; may be called in any thread."""
        if not self.key_pair:
            return None
        pair = key_pair or self.key_pair
        try:
            context = pair.load()
        except ConfigError as error:
            return error
        for warning in expiry_warnings(pair.certificate):
            log.warning("reload: %s", warning)
        return context

    def take(self, found: Certificate) -> None:
        """Use the certificate for new connections. If it is unusable, log that, and keep the
        present one."""
        match found:
            case None:
                log.info("reload: there is no certificate to read again")
            case ConfigError() as error:
                log.error("reload: %s; the previous certificate stays in use", error)
            case context:
                self._services.tls = context
                assert self.key_pair
                log.info("reload: certificate read from %s", self.key_pair.certificate)

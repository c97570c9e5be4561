"""Self-signed certificates, made by the real openssl program."""

from __future__ import annotations

import ssl
import subprocess
from dataclasses import dataclass
from pathlib import Path

from vmw_cloudinit_metadata.settings.certificatefile import certificate_in
from vmw_cloudinit_metadata.settings.certificatenames import valid_until


@dataclass(frozen=True)
class Pair:
    """The files of a certificate and its key, PEM."""

    certificate: Path
    key: Path

    @property
    def options(self) -> tuple[str, ...]:
        return "--tls-cert", str(self.certificate), "--tls-key", str(self.key)

    @property
    def der(self) -> bytes:
        """The certificate as it travels."""
        return ssl.PEM_cert_to_DER_cert(self.certificate.read_text())


def make_pair(openssl: str, directory: Path, name: str, passphrase: str | None = None) -> Pair:
    """A new key and its certificate for `name`; with a passphrase the key is encrypted."""
    pair = Pair(directory / f"{name}.crt", directory / f"{name}.key")
    subprocess.run(
        [
            *(openssl, "req", "-x509", "-days", "2", "-subj", f"/CN={name}"),
            *("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1"),  # quicker than RSA
            *(("-passout", f"pass:{passphrase}") if passphrase else ("-nodes",)),
            *("-keyout", str(pair.key), "-out", str(pair.certificate)),
        ],
        check=True,
        capture_output=True,
    )
    return pair


def expired(certificate: Path) -> str:
    """The first certificate of a PEM file as if it had ended in 2020, without a valid signature."""
    encoded = certificate_in(certificate)
    end = valid_until(encoded).strftime("%y%m%d%H%M%SZ").encode()
    return ssl.DER_cert_to_PEM_cert(encoded.replace(end, b"200102030405Z"))

"""VaultOptions: where the values of `${secret:…}` come from; the option `vault` of each driver.

It is not called `secrets`, because everything below such a name is hidden in messages.
"""

from __future__ import annotations

import re
from typing import Literal
from urllib.parse import urlsplit

from pydantic import ConfigDict, Field, field_validator, model_validator

from vmw_cloudinit_metadata.drivers.driveroptions import DriverOptions

MAX_AGE_S = 86_400.0

_MOUNT = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9._-]*(?:/[A-Za-z0-9_-][A-Za-z0-9._-]*)*")
_OF_SERVER = frozenset(
    {"mount", "kv_version", "namespace", "token_file", "role_id", "secret_id_file"}
    | {"approle_mount", "ca_file", "client_certificate_file", "client_key_file"}
)


class VaultOptions(DriverOptions):
    model_config = ConfigDict(strict=True)

    directory: str | None = Field(
        default=None, min_length=1, description="a directory with a file for each secret"
    )
    url: str | None = Field(
        default=None, description="the address of an OpenBao or Vault server, http:// or https://"
    )
    mount: str = Field(default="secret", description="the mount of the KV secrets engine")
    kv_version: Literal[1, 2] = Field(default=2, description="the version of that engine")
    namespace: str | None = Field(default=None, description="the namespace of both mounts")
    token_file: str | None = Field(
        default=None, description="a file with the server's token; read when it changes"
    )
    role_id: str | None = Field(
        default=None, min_length=1, max_length=256, description="the role-id of an AppRole"
    )
    secret_id_file: str | None = Field(
        default=None, description="a file with its secret-id; read at each login"
    )
    approle_mount: str = Field(default="approle", description="the mount of the AppRole method")
    ca_file: str | None = Field(
        default=None,
        description="a file with the certificates to trust, in PEM; by default the system's",
    )
    client_certificate_file: str | None = Field(
        default=None, description="a file with our own certificate for the server, in PEM"
    )
    client_key_file: str | None = Field(
        default=None, description="a file with its key; by default that of the certificate"
    )
    max_age_s: float = Field(
        default=60.0,
        ge=0,
        le=MAX_AGE_S,
        allow_inf_nan=False,
        description="for how long a secret is kept in memory; 0: it is read for each request",
    )

    @field_validator("mount", "approle_mount", "namespace")
    @classmethod
    def _is_mount(cls, mount: str | None) -> str | None:
        if mount is not None and not (len(mount) <= 256 and _MOUNT.fullmatch(mount)):
            raise ValueError("names with / between them, such as team/kv")
        return mount

    @field_validator("url")
    @classmethod
    def _is_plain(cls, url: str | None) -> str | None:
        if url is not None and ("?" in url or "@" in url):
            raise ValueError("an address without a query, user and password")
        return url

    @model_validator(mode="after")
    def _agree(self) -> VaultOptions:
        if (self.directory is None) == (self.url is None):
            raise ValueError("either directory or url")
        others = sorted(_OF_SERVER & self.model_fields_set)
        if self.directory is not None and others:
            raise ValueError(f"no {others[0]} with directory: it is an option of a server")
        if self.directory is not None:
            return self
        if (self.role_id is None) != (self.secret_id_file is None):
            raise ValueError("role_id and secret_id_file together")
        if (self.token_file is None) == (self.role_id is None):
            raise ValueError("either token_file, or role_id and secret_id_file")
        if self.token_file and "approle_mount" in self.model_fields_set:
            raise ValueError("no approle_mount with token_file: it is an option of an AppRole")
        return self

    @property
    def base(self) -> str:
        """The path of the address, to which /v1/… is added."""
        return urlsplit(self.url or "").path.rstrip("/")

"""SecretFiles: a directory with a file for each secret. No path or link leads out of it."""

from __future__ import annotations

import os
import stat

from vmw_cloudinit_metadata.drivers.content.layer import as_yaml
from vmw_cloudinit_metadata.drivers.drivererror import DriverError, SecretUnavailableError
from vmw_cloudinit_metadata.drivers.filesystem.root import LeadsOut, Root
from vmw_cloudinit_metadata.drivers.vault.secretsource import MAX_BYTES, Content, SecretSource
from vmw_cloudinit_metadata.instance.fault import Fault
from vmw_cloudinit_metadata.instance.parsing import seed


class SecretFiles(SecretSource):
    """`vms/web1` is the whole of a file, without line feeds at its end; `vms/web1#password` is a
    key of the YAML or JSON in it."""

    needs_key = False

    def __init__(self, directory: str) -> None:
        """Raise DriverError if there is no such directory."""
        self._directory = directory
        try:
            Root(directory).close()
        except OSError as error:
            raise DriverError(f"vault.directory: {directory}: {error.strerror}") from error

    def read(self, path: str, _end_s: float) -> str:
        place = f"{self._directory}/{path}"
        try:
            content = self._bytes_of(path, place)
        except LeadsOut:
            raise SecretUnavailableError(
                "denied", f"{place} is a link that leads out of {self._directory}: put a file there"
            ) from None
        except FileNotFoundError:
            raise SecretUnavailableError("absent", f"there is no file {place}: add it") from None
        except PermissionError as error:
            raise SecretUnavailableError(
                "denied", f"{place}: {error.strerror}: let the server's user read it"
            ) from None
        except OSError as error:
            raise SecretUnavailableError("unreachable", f"{place}: {error.strerror}") from None
        if len(content) > MAX_BYTES:
            raise SecretUnavailableError("unusable", f"{place} has more than {MAX_BYTES:,} bytes")
        try:
            return content.decode()
        except UnicodeDecodeError:
            raise SecretUnavailableError("unusable", f"{place} is not UTF-8 text") from None

    def value_in(self, content: Content, key: str) -> str:
        if not isinstance(content, str):
            return super().value_in(content, key)
        return super().value_in(_mapping_in(content), key) if key else content.rstrip("\r\n")

    def _bytes_of(self, path: str, place: str) -> bytes:
        root = Root(self._directory)
        try:
            descriptor = root.open(root.prefix + path)
        finally:
            root.close()
        try:
            mode = os.fstat(descriptor).st_mode
            if not stat.S_ISREG(mode):
                raise SecretUnavailableError("unusable", f"{place} is not a regular file")
            if mode & stat.S_IWOTH:
                raise SecretUnavailableError(
                    "denied", f"{place} is world-writable, so any user can change it: chmod o-w it"
                )
            return _whole(descriptor)
        finally:
            os.close(descriptor)


def _whole(descriptor: int) -> bytes:
    """Return what a file has, but for what is beyond the limit and one byte more."""
    content = bytearray()
    while len(content) <= MAX_BYTES and (piece := os.read(descriptor, MAX_BYTES + 1)):
        content += piece
    return bytes(content)


def _mapping_in(text: str) -> dict[str, str | None]:
    found = as_yaml("", text)
    parsed = None if isinstance(found, Fault) else seed.read(found)
    if parsed is None or parsed.faults or not isinstance(parsed.value, dict):
        raise SecretUnavailableError(
            "unusable", "its file is no mapping in YAML or JSON: write one, or leave out the #KEY"
        )
    items = parsed.value.items()
    return {str(name): value if isinstance(value, str) else None for name, value in items}

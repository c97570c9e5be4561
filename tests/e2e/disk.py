"""The ext4 disk of a machine that is powered off, read and written without mounting it."""

from __future__ import annotations

import json
import subprocess
import tempfile
from pathlib import Path
from typing import Any

LIMIT_S = 30.0


class Disk:
    def __init__(self, path: Path) -> None:
        self.path = path

    def copy(self, path: Path) -> Disk:
        command = ["cp", "--sparse=always", "--reflink=auto", str(self.path), str(path)]
        subprocess.run(command, check=True, timeout=LIMIT_S)
        return Disk(path)

    def read(self, path: str) -> bytes:
        """Return the content of a file, or nothing if it does not exist. Follows links."""
        with tempfile.NamedTemporaryFile() as copy:
            self._debugfs(f"dump {path} {copy.name}")
            return copy.read()

    def text(self, path: str) -> str:
        return self.read(path).decode()

    def json(self, path: str) -> Any:
        return json.loads(self.read(path))

    def exists(self, path: str) -> bool:
        return "Inode:" in self._debugfs(f"stat {path}")

    def mode(self, path: str) -> int:
        """Return the permission bits of a file."""
        _, _, after = self._debugfs(f"stat {path}").partition("Mode:")
        return int(after.split()[0], 8)

    def write(self, path: str, data: bytes) -> None:
        """Write or replace a file in an existing directory."""
        with tempfile.NamedTemporaryFile() as source:
            source.write(data)
            source.flush()
            self._debugfs(f"rm {path}", f"write {source.name} {path}")

    def remove(self, *paths: str) -> None:
        """Remove files or links."""
        self._debugfs(*(f"rm {path}" for path in paths))

    def _debugfs(self, *commands: str) -> str:
        ended = subprocess.run(
            ["debugfs", "-w", "-f", "-", str(self.path)],
            input="\n".join(commands),
            capture_output=True,
            text=True,
            check=True,
            timeout=LIMIT_S,
        )
        return ended.stdout

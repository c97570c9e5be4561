"""A directory of instance files: what stores are compared with."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tests.servers import Data, PlaceBackend, written


class FileBackend(PlaceBackend):
    """Without a server: while the directory is away, none can be reached."""

    name = "file"
    driver = "file"
    prepares = True
    place_name = "instances"

    @property
    def options(self) -> Mapping[str, Any]:
        return {"directory": str(self.place)}

    def make(self) -> None:
        (self.place / "layers").mkdir(parents=True)

    def put(self, vms: Mapping[str, Data]) -> None:
        for name, data in vms.items():
            self._write(self.place / f"{name}.yaml", data)

    def delete(self, name: str) -> None:
        (self.place / f"{name}.yaml").unlink()

    def put_layer(self, name: str, data: Data) -> None:
        self._write(self.place / "layers" / f"{name}.yaml", data)

    def stop(self) -> None:
        self.kill()  # a file system that hangs is another test's (tests/fuse.py)

    def cont(self) -> None:
        self.start()

    def _write(self, place: Path, data: Data) -> None:
        new = self.directory / "new"
        new.write_text(written(data))
        new.rename(place)

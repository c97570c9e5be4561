"""FileDriver: a directory with one YAML file per VM, inventories of many VMs, and layers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from vmw_cloudinit_metadata.drivers.fileoptions import FileOptions
from vmw_cloudinit_metadata.drivers.files.filesource import FileSource
from vmw_cloudinit_metadata.drivers.filesystem.snapshot import Snapshot
from vmw_cloudinit_metadata.drivers.sourcedriver import SourceDriver


class FileDriver(SourceDriver[Snapshot]):
    """Answers from the files of a directory."""

    Options = FileOptions

    def __init__(self, options: Mapping[str, Any]) -> None:
        super().__init__(options, _source_of)

    def source_name(self) -> str:
        return "the instance files"  # /readyz says it to everybody: not where they are


def _source_of(options: FileOptions) -> FileSource:
    return FileSource(
        options.directory,
        options.defaults,
        links_outside=options.links_outside,
        may_be_absent=options.may_be_absent,
    )

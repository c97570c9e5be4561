"""FileDriver: a directory with one YAML file per VM, inventories of many VMs, and layers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from vmw_cloudinit_metadata.drivers import fileoptions
from vmw_cloudinit_metadata.drivers.files.filesource import FileSource
from vmw_cloudinit_metadata.drivers.filesystem.snapshot import Snapshot
from vmw_cloudinit_metadata.drivers.sourcedriver import SourceDriver


class FileDriver(SourceDriver[Snapshot]):
    """Answers from the files of a directory."""

    def __init__(self, options: Mapping[str, Any]) -> None:
        checked = fileoptions.checked(options)
        source = FileSource(
            checked.directory, checked.defaults, links_outside=checked.links_outside
        )
        super().__init__(options, source, checked.match, checked.last_good_max_age_s)

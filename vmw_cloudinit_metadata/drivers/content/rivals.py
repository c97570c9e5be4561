"""Several files of one VM: a fault, since nothing says which of them applies."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Sequence

from vmw_cloudinit_metadata.drivers.content.owndata import path_of_label
from vmw_cloudinit_metadata.instance.fault import Fault

ONE_OF_THEM = "one of them"

Short = Callable[[str], str]  # a label without its directory


def two_files(labels: Sequence[str], short: Short = os.path.basename) -> Fault:
    """The fault of files, of entries of inventories, or of records that are one VM's."""
    path = path_of_label(labels[0])
    line = 1 if path == labels[0] else int(labels[0][len(path) + 1 :])
    return Fault((), joined_names(labels, short), ONE_OF_THEM, path, line)


def joined_names(labels: Iterable[str], short: Short = os.path.basename) -> str:
    """Return `both web1.yaml and web1.yml`."""
    *names, last = map(short, labels)
    return f"{'both ' if len(names) == 1 else ''}{', '.join(names)} and {last}"

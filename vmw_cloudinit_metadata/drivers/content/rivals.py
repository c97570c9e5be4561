"""Several files of one VM: a fault, since nothing says which of them applies."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence

from vmw_cloudinit_metadata.instance.fault import Fault, InvalidInstanceData

ONE_OF_THEM = "one of them"


def only(paths: Sequence[str]) -> str | None:
    """Return the only path, or None; raise InvalidInstanceData if there are several."""
    if len(paths) > 1:
        raise InvalidInstanceData([two_files(paths)])
    return paths[0] if paths else None


def two_files(paths: Sequence[str]) -> Fault:
    return Fault((), joined_names(paths), ONE_OF_THEM, paths[0], 1)


def joined_names(paths: Iterable[str]) -> str:
    """Return `both web1.yaml and web1.yml`."""
    *names, last = (os.path.basename(path) for path in paths)
    return f"{'both ' if len(names) == 1 else ''}{', '.join(names)} and {last}"

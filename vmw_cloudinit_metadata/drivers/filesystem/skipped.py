"""Files that are not instance files but were probably meant as such."""

from __future__ import annotations

import os
from collections.abc import Callable, Collection, Iterator
from itertools import islice

from vmw_cloudinit_metadata.drivers.filesystem.filename import (
    INVENTORY,
    LAYERS,
    is_instance_file,
    is_nearly_table,
    nearly_stem,
)
from vmw_cloudinit_metadata.instance.counts import counted, first_of
from vmw_cloudinit_metadata.instance.fault import Fault

_MAX_LOOKED_AT = 10_000  # entries of subdirectories
_SUFFIXES = "NAME.yaml, NAME.yml or NAME.json"


def nearly_instance_files(directory: str) -> Iterator[Fault]:
    """Yield a warning that names files with a nearly right suffix: `web1.YAML`, `web1.yaml.txt`."""
    every = os.listdir(directory)
    names = sorted(name for name in every if nearly_stem(name) or is_nearly_table(name))
    if names:
        found = f"{counted(len(names), 'file')} that no VM gets ({first_of(names)}) in {directory}"
        expected = f"names such as {_SUFFIXES}, in lower case"
        if any(map(is_nearly_table, names)):
            expected = f"{INVENTORY}.csv, or {expected}"
        yield Fault((), found, expected, is_warning=True)


def tables_among(layers: str) -> Iterator[Fault]:
    """Yield a warning that names files in CSV, which no layer is."""
    names = sorted(name for name in os.listdir(layers) if name.lower().endswith(".csv"))
    if names:
        found = f"{counted(len(names), 'file')} that no VM gets ({first_of(names)}) in {layers}"
        expected = f"layers in YAML or JSON; {INVENTORY}.csv belongs in {os.path.dirname(layers)}"
        yield Fault((), found, expected, is_warning=True)


def nothing_in(directory: str) -> str:
    return f"{directory} has no {_SUFFIXES}, and no entry in an inventory (vms.yaml, vms.csv)"


def below(directory: str, user_data: Callable[[], Collection[str]]) -> str:
    """Return which subdirectories have files that would be instance files one level up; or "".

    Ignores `user_data`, hidden files, and what is behind links.
    """
    top = os.path.realpath(directory)
    found = {path for path in islice(_below(top), _MAX_LOOKED_AT) if path}
    found -= set(user_data()) if found else set()
    places = sorted({os.path.relpath(os.path.dirname(path), top) for path in found})
    if not places:
        return ""
    return (
        f"the files of {counted(len(places), 'subdirectory', 'subdirectories')} are ignored: "
        f"{first_of(places)}; instance files belong in {directory} itself, layers in its "
        f"subdirectory {LAYERS}"
    )


def _below(top: str) -> Iterator[str]:
    """Yield for each entry its path, or "" if it would not be an instance file one level up."""
    for place, directories, names in os.walk(top):
        directories[:] = sorted(name for name in directories if not name.startswith("."))
        if place == top:
            directories[:] = [name for name in directories if name != LAYERS]
            continue
        yield ""
        for name in names:
            is_one = is_instance_file(name) or nearly_stem(name)
            yield os.path.join(place, name) if is_one else ""

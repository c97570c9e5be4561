"""Base: the layers that count together, merged once for all VMs for which they count."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

from vmw_cloudinit_metadata.drivers.content.layer import FileLayer
from vmw_cloudinit_metadata.drivers.layers.sharedlayer import NO_LAYERS, LayerSet
from vmw_cloudinit_metadata.instance.fault import Fault
from vmw_cloudinit_metadata.instance.layering import patch

KEPT_BYTES = 16 * 1024 * 1024  # of all bases
_LAYER_BYTES_PER_BYTE = 35  # memory of parsed layers, for each of their bytes
_BYTES_PER_BYTE = 20  # memory of merged mappings, for each byte of the layers; they share values
_ABOUT_BYTES = 1024


@dataclass(frozen=True)
class Base:
    """What lies below a VM's own data: layers and the defaults, the highest first."""

    files: Sequence[FileLayer] = ()

    @cached_property
    def paths(self) -> list[str]:
        return [file.path for file in self.files]

    @cached_property
    def faults(self) -> list[Fault]:
        return [fault for file in self.files for fault in file.faults]

    @cached_property
    def has_references(self) -> bool:
        return any(file.has_references for file in self.files)

    @cached_property
    def is_secret(self) -> bool:
        return any(file.is_secret for file in self.files)

    @cached_property
    def patch(self) -> patch.Patch:
        """What all of them say."""
        return patch.stacked(file.patch for file in reversed(self.files))


_NO_BASE = Base()


class Bases:
    """The bases of the layers that were read last. Counts the memory of both."""

    def __init__(self) -> None:
        self._kept: tuple[LayerSet, dict[tuple[int, ...], Base]] = NO_LAYERS, {}

    @property
    def kept_bytes(self) -> int:
        layers, kept = self._kept
        return _LAYER_BYTES_PER_BYTE * layers.size_bytes + len(kept) * _size(layers)

    def shed(self) -> bool:
        """Drop the bases, to be merged again; return False if there are none.

        The layers stay: the next look-up needs them all.
        """
        layers, kept = self._kept
        self._kept = layers, {}
        return bool(kept)

    def of(self, layers: LayerSet, indices: tuple[int, ...], lowest: Sequence[FileLayer]) -> Base:
        """The base of some of the layers, and of the defaults, which are `lowest`."""
        kept_of, kept = self._kept
        if kept_of is not layers:
            kept = {}
            self._kept = layers, kept
        if not indices and not lowest:
            return _NO_BASE
        base = kept.get(indices)
        if base is None or (lowest and base.files[-1] is not lowest[-1]):
            base = Base([*(layers.layers[index].file for index in reversed(indices)), *lowest])
            if len(kept) * _size(layers) < KEPT_BYTES:
                kept[indices] = base
        return base


def _size(layers: LayerSet) -> int:
    return _ABOUT_BYTES + _BYTES_PER_BYTE * layers.size_bytes

"""The files of a directory as a source: those of VMs, inventories, layers, and what they name."""

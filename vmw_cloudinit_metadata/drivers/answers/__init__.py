"""From what a source has to the answer of a VM: search, merging, what is kept or last good."""

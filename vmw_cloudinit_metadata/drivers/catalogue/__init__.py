"""The catalogue: a process of its own reads all data, and reports its faults before a VM boots."""

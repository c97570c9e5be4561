"""Processes, threads and memory: the parent and its workers, what they share with systemd."""

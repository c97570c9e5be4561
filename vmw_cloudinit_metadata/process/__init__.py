"""Processes, threads and memory: the parent and its workers, and their reports to systemd."""

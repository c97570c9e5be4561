"""Plays ESXi hosts and their VMs: one to look at, or thousands to test a server with."""

"""Adds, changes, removes and reconnects the serial port of VMs, on a vCenter."""

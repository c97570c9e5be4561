"""The serial port of VMs, on a vCenter."""

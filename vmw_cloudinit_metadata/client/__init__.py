"""Play ESXi hosts and their VMs: one to inspect, or thousands for a load test."""

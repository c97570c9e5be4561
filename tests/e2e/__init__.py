"""Real machines: stock Debian under QEMU, a real bridge and a real server; docs/e2e.md."""

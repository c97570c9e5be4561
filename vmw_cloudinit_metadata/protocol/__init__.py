"""The wire protocol, pure: bytes in, events and bytes out. No socket, clock, thread or log."""

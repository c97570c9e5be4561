"""The wire, pure: bytes in, events and bytes out. No socket, clock, thread or log in here."""

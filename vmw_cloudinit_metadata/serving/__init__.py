"""Serving VMs: connections, lines, dialogues, look-ups. All of it runs in gevent's hub."""

"""Serving VMs: connections, their lines and dialogues, look-ups. All of it runs in gevent's hub."""

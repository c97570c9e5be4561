"""What the admin port and the commands that read it both know."""

KNOWN_HOSTS_PATH = "/api/known_hosts"

KEPT = 4096  # events; a follower that is slower misses some, and receives their number

"""What to do next about a machine: for the person who looks at it."""

from __future__ import annotations

_ASKS_AGAIN = "It is answered as soon as it asks again: at its next boot, or by its agent."

# By the state of a machine, and by what its trouble is.
NEXT = {
    "not-found": f"Add the file that is named, or name the VM like the file it is to get. "
    f"{_ASKS_AGAIN}",
    "invalid": "Mend the file at the line that is named; the command validate checks all files. "
    f"{_ASKS_AGAIN}",
    "failed": f"Look after what is named: a directory, a mount, a database. {_ASKS_AGAIN}",
    "timeout": "The driver is slow, or hangs: look at the look-up times in /metrics, and at what "
    f"the driver waits for. {_ASKS_AGAIN}",
    "stale": "It was served, but with the last good answer: mend what is named.",
    "refused: another service URI": "Correct the service URI of the VM's serial port, or add "
    "--uri to the server.",
    "refused: without TLS": "Give the VM's serial port the URI that the command tls-info prints, "
    "or use --tls allow.",
    "refused: VMOTION-PEER": "All servers behind one balancer need the same --vmotion-key-file.",
    "waiting": "Its host is connected, and its guest has not asked for anything yet. If it "
    "stays like this: does the guest have an agent, and the serial port that it expects?",
    "moving": "Nothing: it is on its way to another host.",
    "served": "Nothing: it has had its documents.",
    "left": "Its host has closed the connection: it is powered off, has moved to a host that "
    "another server serves, or its host is away. If it is running, the host dials again.",
    "missing": "It was connected before the restart, and is not back. Its host dials again by "
    "itself, how soon is not documented; the command vm-port reconnect makes it at once.",
}


def next_step(state: str, trouble: str) -> str:
    return NEXT.get(trouble) or NEXT.get(state, "Read the reason above.")

"""What an operator should do next about a machine."""

from __future__ import annotations

_ASKS_AGAIN = "The VM gets an answer at its next request: at its next boot, or from its agent."

# By the state of a machine, and by its problem.
NEXT = {
    "not-found": "Add the file named above, or rename the VM to match an existing file. "
    f"{_ASKS_AGAIN}",
    "invalid": "Fix the file at the line shown; the command validate checks all files. "
    f"{_ASKS_AGAIN}",
    "failed": f"Check the directory, mount or database named above. {_ASKS_AGAIN}",
    "timeout": "The driver is slow, or hangs: check the look-up times in /metrics, and what the "
    f"driver waits for. If vCenter is to confirm the VM first, see the reason above. {_ASKS_AGAIN}",
    "refused": "See the reason above. An identity token is set by the command vm-port add, or by "
    "token print and another tool; a clone has a new VC UUID, and needs a new token.",
    "used": "The document is served once. If its VM has lost it, or another one has had it, change "
    "what it gives access to, and set another instance-id.",
    "closed": "The VM has not had its user-data in time: run the command window reopen, or set "
    "another instance-id.",
    "stale": "The VM was served the last good answer: fix what is named above.",
    "refused: another service URI": "Correct the service URI of the VM's serial port, or add "
    "--uri to the server.",
    "refused: without TLS": "Give the VM's serial port the URI that the command tls-info prints, "
    "or use --tls allow.",
    "refused: VMOTION-PEER": "All servers behind one balancer need the same --vmotion-key-file.",
    "boot failed": "Its cloud-init reports the errors shown: look at /var/log/cloud-init.log and "
    "cloud-init-output.log in the VM, and correct its data. The next boot reports again; the "
    "command status --forget dismisses this one.",
    "booted": "Nothing: its guest has reported that it has booted.",
    "waiting": "Its host is connected, and its guest has requested nothing yet. If this does not "
    "change, check that the guest has an agent and the serial port that the agent expects.",
    "moving": "Nothing: a vMotion to another host is under way.",
    "test": "Nothing: an administrator has played this VM (client fetch, or a service URI with the "
    "mark vmw-test=1). It counts in no alert, and is forgotten a while after it has disconnected.",
    "served": "Nothing: the VM has received its documents.",
    "left": "Disconnected: the VM is powered off, has moved to a host that another server serves, "
    "or its host is down. If the VM runs, the host reconnects.",
    "gone": "Its server is gone, and it has not connected to another one yet. Its host reconnects "
    "by itself, after an undocumented time; the command vm-port reconnect makes it reconnect now.",
    "missing": "It was connected before the restart, and has not reconnected. Its host reconnects "
    "by itself, after an undocumented time; the command vm-port reconnect makes it reconnect now.",
}


def next_step(state: str, trouble: str) -> str:
    return NEXT.get(trouble) or NEXT.get(state, "See the reason above.")

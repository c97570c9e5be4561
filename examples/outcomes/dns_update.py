"""Puts a VM into the DNS when it has booted, by nsupdate (RFC 2136).

HOOK_KEY_FILE=hook.key DNS_SERVER=10.0.0.53 DNS_ZONE=example.com DNS_KEY_FILE=tsig.key \
    python3 dns_update.py

Names and addresses are those of the VM's data, never what its guest says. They are checked all the
same: each becomes a word of a command of nsupdate.
"""

from __future__ import annotations

import ipaddress
import os
import re
import subprocess
import sys

from receiver import PATIENCE_S, Outcome, serve

TTL_S = 300
NAME = re.compile(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?(\.[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?)*")


def commands(outcome: Outcome, server: str, zone: str) -> list[str]:
    """Return what nsupdate is told; [] if the VM has no name in the zone, or no address."""
    names, addresses = [], []
    for host in outcome.get("hosts", ()):
        try:
            addresses.append(ipaddress.ip_address(host))
        except ValueError:
            if NAME.fullmatch(host) and host.endswith(f".{zone}"):
                names.append(host)
    if not names or not addresses:
        return []
    lines = [f"server {server}", f"zone {zone}"]
    for name in names:
        kinds = {4: "A", 6: "AAAA"}
        lines += [f"update delete {name} {kind}" for kind in kinds.values()]
        for address in addresses:
            lines.append(f"update add {name} {TTL_S} {kinds[address.version]} {address}")
    return [*lines, "send"]


def take(outcome: Outcome) -> None:
    if outcome["status"] == "error":
        return
    text = "\n".join(commands(outcome, os.environ["DNS_SERVER"], os.environ["DNS_ZONE"]))
    if not text:
        return
    command = ["nsupdate", "-k", os.environ["DNS_KEY_FILE"]]
    done = subprocess.run(
        command, input=f"{text}\n", text=True, capture_output=True, timeout=PATIENCE_S, check=False
    )
    if done.returncode:
        raise ValueError(f"nsupdate: {done.stderr.strip()}")
    print(f"updated: {outcome.get('machine_name')}", file=sys.stderr)


if __name__ == "__main__":
    serve(take)

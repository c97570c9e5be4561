"""Writes how each boot has ended into the journal of its VM in NetBox.

HOOK_KEY_FILE=hook.key NETBOX_URL=https://netbox.example.com NETBOX_TOKEN_FILE=token \
    python3 netbox_journal.py

The token needs to view virtual machines and to add journal entries.
"""

from __future__ import annotations

import json
import os
import sys
import urllib.request
from pathlib import Path
from typing import Any
from urllib.parse import quote

from receiver import PATIENCE_S, Outcome, serve

KINDS = {"done": "success", "degraded": "warning", "error": "danger"}


def netbox(path: str, body: Any = None) -> Any:
    token = Path(os.environ["NETBOX_TOKEN_FILE"]).read_text().strip()
    # The scheme of tokens of version 2, which NetBox has since 4.5, and of version 1.
    scheme = "Bearer" if token.startswith("nbt_") else "Token"
    headers = {"Authorization": f"{scheme} {token}", "Content-Type": "application/json"}
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(f"{os.environ['NETBOX_URL']}/api/{path}", data, headers)
    with urllib.request.urlopen(request, timeout=PATIENCE_S) as answer:
        return json.load(answer)


def take(outcome: Outcome) -> None:
    """Write a journal entry; a VM that NetBox does not know, or knows twice, has none."""
    name = outcome.get("machine_name") or ""
    found = netbox(f"virtualization/virtual-machines/?name={quote(name, safe='')}")["results"]
    if len(found) != 1:
        print(f"{name!r}: NetBox has {len(found)} such VMs: no entry", file=sys.stderr)
        return
    # What the guest says is text for people: in a block of code, NetBox's Markdown does nothing.
    lines = [f"    {error}" for error in outcome.get("errors", ())]
    text = f"boot {outcome['status']} after {outcome['seconds']:.0f} s"
    netbox(
        "extras/journal-entries/",
        {
            "assigned_object_type": "virtualization.virtualmachine",
            "assigned_object_id": found[0]["id"],
            "kind": KINDS[outcome["status"]],
            "comments": "\n".join([text, "", *lines]),
        },
    )


if __name__ == "__main__":
    serve(take)

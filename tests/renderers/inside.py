"""Runs inside a tree, with its own Python and cloud-init: renders a batch of network-configs.

It reads a list of documents from standard input, and writes for each {renderer: {path: text}}: the
files that the renderer has made, what netplan has made of them, and what ifupdown would do. One
process for all, since to import cloud-init takes longer than to render.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

from cloudinit.cmd.devel import net_convert

DISTROS = {
    "netplan": "ubuntu",
    "eni": "debian",
    "networkd": "debian",
    "sysconfig": "centos",
    "network-manager": "fedora",
}
LIMIT_S = 20


def main() -> None:
    documents = json.load(sys.stdin)
    made = [{renderer: rendered(renderer, text) for renderer in DISTROS} for text in documents]
    json.dump(made, sys.stdout)


def rendered(renderer: str, document: str) -> dict[str, str]:
    with tempfile.TemporaryDirectory() as directory:
        source, target = os.path.join(directory, "network-config"), os.path.join(directory, "root")
        os.mkdir(target)
        Path(source).write_text(document)
        words = ["-p", source, "-k", "yaml", "-d", target, "-D", DISTROS[renderer], "-O", renderer]
        told = io.StringIO()
        try:
            with contextlib.redirect_stdout(told), contextlib.redirect_stderr(told):
                net_convert.handle_args("net-convert", net_convert.get_parser().parse_args(words))
        except (Exception, SystemExit) as error:
            return {"failure": f"{error!r}\n{told.getvalue()}"}
        further = FURTHER[renderer](target) if renderer in FURTHER else {}
        return {**files_below(target), **further}


def units_of_netplan(root: str) -> dict[str, str]:
    """netplan 1.2 and later write the network's units by `configure`, older ones by `generate`."""
    for name in ("configure", "generate"):
        program = f"/usr/libexec/netplan/{name}"
        if os.path.exists(program):
            code, told = ran(program, "--root-dir", root)
            return {"failure": told} if code else {}
    return {"failure": "there is no netplan"}


def actions_of_ifupdown(root: str) -> dict[str, str]:
    (interfaces,) = (path for path in files_below(root) if path.startswith("etc/network/"))
    state = os.path.join(root, "state")
    options = ("--no-act", "--verbose", "--force", "--all", "--state-dir", state)
    code, told = ran("/sbin/ifup", *options, "--interfaces", os.path.join(root, interfaces))
    return {"failure": told} if code else {"ifup": told}


FURTHER = {"netplan": units_of_netplan, "eni": actions_of_ifupdown}


def ran(*command: str) -> tuple[int, str]:
    ended = subprocess.run(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=LIMIT_S,
    )
    return ended.returncode, ended.stdout


def files_below(root: str) -> dict[str, str]:
    found = {}
    for directory, _, names in os.walk(root):
        for name in names:
            path = os.path.join(directory, name)
            if os.path.isfile(path) and not os.path.islink(path):
                found[os.path.relpath(path, root)] = Path(path).read_text()
    return found


if __name__ == "__main__":
    main()

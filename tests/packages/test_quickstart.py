"""docs/quickstart.md: its commands, in order, in a fresh Debian that has the package.

vCenter is VMware's simulator. ESXi is played by the client's bridge, the VM by a second Debian: it
stands where the page has `image.qcow2`, and virt-customize is a script that changes a directory.
"""

from __future__ import annotations

import json
import os
import platform
import re
import shutil
import subprocess
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import pytest

from tests.bridge import BridgeProcess
from tests.e2e.recipe import DEBIAN_13
from tests.packages.conftest import ENV, entering, inside
from tests.packages.test_deb import UNIT, deb
from tests.process import CHECKOUT, LIMIT_S, run
from tests.recipes import virt_customize
from tests.simulator import PASSWORD, USER, Simulator, vms
from tests.storm import free_port
from tests.waiting import wait_until

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root: chroot"),
]

PAGE = (CHECKOUT / "docs/quickstart.md").read_text()
STEP = re.compile(r"^## \d\. (.*)$", re.MULTILINE)
BLOCK = re.compile(r"^```sh\n(.*?)^```$", re.MULTILINE | re.DOTALL)
HOME = "root"
IMAGE = f"{HOME}/image.qcow2"

# What the options of the page's command do, to a directory instead of a disk.
VIRT_CUSTOMIZE = """\
#!/bin/sh -eu
while [ $# -gt 0 ]; do
    case $1 in
    --selinux-relabel) shift; continue ;;
    -a) root=$2 ;;
    --mkdir) mkdir -p "$root$2" ;;
    --upload) cp "${2%%:*}" "$root${2#*:}" ;;
    --chmod) chmod "${2%%:*}" "$root${2#*:}" ;;
    --run-command) chroot "$root" sh -c "$2" ;;
    *) echo "no such option: $1"; exit 2 ;;
    esac
    shift 2
done
"""


def steps() -> dict[str, list[str]]:
    """The commands of each step, by its heading."""
    _, *parts = STEP.split(PAGE)
    return {title: BLOCK.findall(text) for title, text in zip(parts[::2], parts[1::2], strict=True)}


def placeholders() -> list[str]:
    """What the page says to replace."""
    return re.findall(r"^\| `(.*?)` \|", PAGE.partition("## 1.")[0], re.MULTILINE)


@dataclass
class World:
    """The machine with the server, with what stands around it."""

    root: Path
    image: Path
    simulator: Simulator
    port: int
    admin: int
    ended: ExitStack

    def shell(self, script: str) -> str:
        for here, there in self._replacements().items():
            script = script.replace(here, there)
        env = [
            f"HOME=/{HOME}",
            "SYSTEMD_OFFLINE=1",
            *(f"{name}={value}" for name, value in self._ports().items()),
        ]
        if "vm-port" in script:  # it would be asked for
            env.append(f"VMW_METADATA_VCENTER_PASSWORD={PASSWORD}")
        return inside(self.root, "env", "-C", f"/{HOME}", *env, "sh", "-euc", script)

    def _ports(self) -> dict[str, str]:
        """Settings in the environment, so that the test needs no certain port."""
        return {
            "VMW_METADATA_LISTEN": f"127.0.0.1:{self.port}",
            "VMW_METADATA_ADMIN_LISTEN": f"127.0.0.1:{self.admin}",
        }

    def _replacements(self) -> dict[str, str]:
        server, _, vcenter, user, _ = placeholders()
        return {
            server: "127.0.0.1",
            vcenter: self.simulator.address,
            user: USER,
            "13370": str(self.port),
        }

    def machine(self) -> dict[str, Any]:
        told = run("status", "web1", "--json", "--admin", f"http://127.0.0.1:{self.admin}")
        return cast(dict[str, Any], json.loads(told.stdout)) if told.stdout else {}

    def start_service(self) -> None:
        """What systemd does: run the unit's program as its user."""
        unit = (self.root / UNIT).read_text()
        (program,) = re.findall("^ExecStart=(.*)$", unit, re.MULTILINE)
        (user,) = re.findall("^User=(.*)$", unit, re.MULTILINE)
        enabled = self.root / "etc/systemd/system/multi-user.target.wants" / Path(UNIT).name
        assert enabled.is_symlink()
        server = subprocess.Popen(
            entering(
                self.root,
                *("setpriv", f"--reuid={user}", f"--regid={user}", "--clear-groups"),
                *program.split(),
            ),
            stderr=(self.root / "log").open("w"),
            env={**ENV, **self._ports()},
        )
        self.ended.callback(server.wait, LIMIT_S)
        self.ended.callback(server.terminate)
        wait_until(lambda: "listening on" in (self.root / "log").read_text())

    def power_on(self) -> None:
        """Let a host connect as the VM's port in vCenter says, and the agent boot behind it."""
        with self.simulator.session() as content:
            config = vms(content)["web1"].config
            uuid = config.instanceUuid
            backings = [device.backing for device in config.hardware.device]
        (port,) = [backing for backing in backings if hasattr(backing, "serviceURI")]
        assert (port.serviceURI, port.proxyURI) == (
            "my-metadata",
            f"telnet://127.0.0.1:{self.port}",
        )
        bridge = BridgeProcess(self.port, "--pty", "--vc-uuid", uuid)
        self.ended.callback(bridge.end)
        device = bridge.wait_for(r"/dev/pts/\d+")[0]
        inside(self.image, "/usr/libexec/vmw-metadata-agent", "--device", device)
        wait_until(lambda: self.machine().get("state") == "served")


PLAYED: dict[str, Callable[[World], None]] = {
    "Start the server": World.start_service,
    "Power on": World.power_on,
}


@pytest.fixture
def world(
    simulate: Callable[..., Simulator],
    fresh_tree: Callable[..., Path],
    dist: Path,
) -> Iterator[World]:
    simulator = simulate("-vms", "1")
    with simulator.session() as content:
        (vm,) = vms(content).values()
        for change in (vm.PowerOff, lambda: vm.Rename("web1")):
            task = change()
            wait_until(lambda task=task: task.info.state == "success")
    root = fresh_tree(DEBIAN_13)
    image = fresh_tree(DEBIAN_13, IMAGE)
    shutil.copy(deb(dist, "debian-13"), root / HOME)
    shutil.copy(simulator.certificate, root / HOME / "vcenter-ca.pem")
    program = root / "usr/bin/virt-customize"
    program.write_text(VIRT_CUSTOMIZE)
    program.chmod(0o755)
    with ExitStack() as ended:
        yield World(root, image, simulator, free_port(), free_port(), ended)


def test_commands_of_the_quickstart_serve_a_vm(world: World) -> None:
    printed = {}
    for title, blocks in steps().items():
        play = PLAYED.get(title)
        for block in blocks:
            printed[title] = printed.get(title, "") + world.shell(block)
            if play and "systemctl start" in block:  # which systemd ignores offline
                play(world)
        if play and not blocks:
            play(world)

    assert "web1.example.com" in printed["Start the server"]
    assert "10.0.1.21" in printed["Start the server"]
    checked = run("guest", "check", "--root", str(world.image))
    assert checked.returncode == 0, checked.stdout
    assert (world.image / "etc/vmw-metadata-agent.conf").exists()
    seed = world.image / "var/lib/cloud/seed/nocloud"
    assert json.loads((seed / "meta-data").read_text())["local-hostname"] == "web1.example.com"
    assert "10.0.1.21" in (seed / "network-config").read_text()
    assert "timezone: Europe/Berlin" in (seed / "user-data").read_text()
    assert "served" in printed["Look at it"]


def test_quickstart_names_the_package_that_is_built(dist: Path) -> None:
    named = re.findall(r"apt install \./(\S+)", PAGE)
    if platform.machine() == "x86_64":
        assert named == [deb(dist, "debian-13").name]


def test_quickstart_has_all_that_the_recipe_of_the_guest_document_has() -> None:
    """That recipe is run on a real disk, by tests/e2e/test_recipes.py."""
    (recipe,) = [block for block in steps()["Put the agent into an image"] if "virt-c" in block]
    assert set(virt_customize().splitlines()) <= set(recipe.splitlines())

"""The unit of the package under a real systemd: Debian 13 under QEMU, booted once for all tests."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import pytest

from tests.e2e.disk import Disk
from tests.e2e.image import tarball
from tests.e2e.machine import Hardware, Machine
from tests.e2e.recipe import DEBIAN_13
from tests.e2e.tree import MASKED
from tests.packages.test_deb import SETTINGS, deb, install, newer

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root: chroot"),
]
BOOT_LIMIT_S = 1800.0
DISK_SIZE = "1000M"
PROOF = "/var/lib/unit"
SERVICE = "vmw-metadata-server"
SHOW = f"systemctl show {SERVICE} --property"
PID = f"$({SHOW} MainPID --value)"
FETCH = "vmw-metadata-client fetch web1 --document METADATA --uri"
AS_ROOT_IN_ITS_PLACE = f"nsenter --target {PID} --mount --root"
# For a minute or longer: the watchdog takes 30 s, and a fast machine tries often.
UNTIL = "for _ in $(seq 60); do {} && break; sleep 1; done; {}"
# What is run in the machine, one after the other; each output is read from the disk.
STEPS: Mapping[str, str] = {
    "start": f"systemctl enable --now {SERVICE}",
    "started": f"{SHOW} ActiveState,SubState,NRestarts,NotifyAccess,WatchdogUSec,MemoryMax",
    "notified": f"{SHOW} StatusText,ExecMainStartTimestampMonotonic,ActiveEnterTimestampMonotonic",
    "fetch": f"{FETCH} my-metadata",
    "user": f"stat --format %U /proc/{PID}",
    "sandbox": f"systemd-analyze security --threshold=15 --no-pager {SERVICE}",
    "status": f"grep -E '^(CapEff|CapBnd|NoNewPrivs|Seccomp):' /proc/{PID}/status",
    "limits": f"cat /proc/{PID}/limits",
    "write-usr": f"{AS_ROOT_IN_ITS_PLACE} touch /usr/x",
    "write-etc": f"{AS_ROOT_IN_ITS_PLACE} touch /etc/vmw-metadata-server/x",
    "write-state": f"{AS_ROOT_IN_ITS_PLACE} touch /var/lib/vmw-metadata-server/x",
    "home": f"{AS_ROOT_IN_ITS_PLACE} ls /root",
    "devices": f"{AS_ROOT_IN_ITS_PLACE} ls /dev/nvme0n1",
    "tmp": f"touch /tmp/outside; {AS_ROOT_IN_ITS_PLACE} ls /tmp/outside",
    "reload": f"sed -i 's/my-metadata/other-uri/' /{SETTINGS} && systemctl reload {SERVICE}",
    "fetch-reloaded": UNTIL.format(f"{FETCH} other-uri >/dev/null 2>&1", f"{FETCH} other-uri"),
    # In an emulated machine, Python may need more than the watchdog's 30 s to start.
    "upgrade": f"echo {PID}; dpkg -i /newer.deb; echo {PID}",
    "upgraded": f"{SHOW} ActiveState,SubState,NRestarts,WatchdogUSec",
    "kill": f"kill -KILL {PID}; sleep 3; systemctl start {SERVICE}; {SHOW} ActiveState,NRestarts",
    "hang": f"kill -STOP {PID}; "
    + UNTIL.format(f'[ "$({SHOW} NRestarts --value)" -ge 2 ]', f"{SHOW} NRestarts"),
    "fetch-restarted": UNTIL.format(f"{FETCH} other-uri >/dev/null 2>&1", f"{FETCH} other-uri"),
    "stop": f"systemctl stop {SERVICE}; {SHOW} ActiveState,Result,ExecMainStatus",
    "invalid": f"echo nonsense: 1 >>/{SETTINGS}; systemctl start {SERVICE}; sleep 5; "
    f"{SHOW} ActiveState,ExecMainStatus,NRestarts",
    "purge": f"dpkg --purge vmw-cloudinit-metadata; systemctl cat {SERVICE}; "
    f"ls -d /etc/vmw-metadata-server /usr/lib/vmw-cloudinit-metadata /var/l*/{SERVICE}",
    "journal": "journalctl --boot --output short-monotonic --no-hostname",
}
CHECK = """\
[Unit]
Description=Check the server's unit, and power off
After=basic.target

[Service]
Type=oneshot
TimeoutStartSec=infinity
Environment=HOME=/root
ExecStart=/bin/sh /usr/libexec/check-unit
"""


def script() -> str:
    steps = [f"({line}) >{PROOF}/{name} 2>&1\n" for name, line in STEPS.items()]
    return f"mkdir -p {PROOF}\n{''.join(steps)}sync\nsystemctl poweroff\n"


def make_disk(root: Path, dist: Path, directory: Path) -> tuple[Disk, Path]:
    """Return a disk of Debian 13 with the package, which checks it when it boots."""
    kernel = Path(shutil.copy(next(root.glob("boot/vmlinuz-*")), directory / "kernel"))
    shutil.rmtree(root / "boot")
    shutil.copy(newer(deb(dist, "debian-13"), directory, changed=False), root / "newer.deb")
    install(root, deb(dist, "debian-13"))
    (root / "srv/instances").mkdir()
    (root / "srv/instances/web1.yaml").write_text("metadata: {instance-id: from-the-unit}\n")
    (root / "etc/cloud/cloud-init.disabled").touch()
    (root / "etc/fstab").write_text("/dev/nvme0n1 / ext4 defaults 0 0\n")
    (root / "usr/libexec/check-unit").write_text(script())
    units = root / "etc/systemd/system"
    (units / "check-unit.service").write_text(CHECK)
    wanted = units / "multi-user.target.wants/check-unit.service"
    wanted.symlink_to("../check-unit.service")
    for unit in MASKED:
        (units / unit).unlink(missing_ok=True)
        (units / unit).symlink_to("/dev/null")
    kind = ("-q", "-t", "ext4", "-O", "^has_journal", "-d", root)
    disk = Disk(directory / "disk")
    subprocess.run(["mke2fs", *kind, disk.path, DISK_SIZE], check=True, timeout=300)
    return disk, kernel


@pytest.fixture(scope="module")
def seen(dist: Path, program: Callable[[str, str], str]) -> Iterator[Mapping[str, str]]:
    """What each step printed."""
    for name, package in (("qemu-system-x86_64", "qemu-system-x86"), ("mke2fs", "e2fsprogs")):
        program(name, package)
    with tempfile.TemporaryDirectory(prefix="unit-") as directory:
        place = Path(directory)
        root = place / "root"
        root.mkdir()
        archive = tarball(DEBIAN_13)
        subprocess.run(["tar", "-x", "--exclude=./dev/*", "-f", archive, "-C", root], check=True)
        disk, kernel = make_disk(root, dist, place)
        shutil.rmtree(root)
        hardware = Hardware("42130a5c-1f2e-9d3b-5c77-0e1f2a3b4c5d", ())
        machine = Machine(hardware, disk, kernel, place)
        try:
            machine.wait_for_power_off(BOOT_LIMIT_S)
        finally:
            machine.end()
        yield {name: disk.text(f"{PROOF}/{name}") for name in STEPS}


def settings(text: str) -> dict[str, str]:
    return dict(line.split("=", 1) for line in text.splitlines())


def test_unit_starts_and_is_ready_when_the_server_says_so(seen: Mapping[str, str]) -> None:
    found = settings(seen["started"])
    assert (found["ActiveState"], found["SubState"]) == ("active", "running")
    assert (found["NRestarts"], found["WatchdogUSec"]) == ("0", "30s")
    assert int(found["MemoryMax"]) > 0
    times = settings(seen["notified"])
    began, ready = (
        int(times[f"{name}TimestampMonotonic"]) for name in ("ExecMainStart", "ActiveEnter")
    )
    assert ready - began > 100_000  # of µs, in which Python starts
    assert "from-the-unit" in seen["fetch"]
    assert "listening on 0.0.0.0:13370" in seen["journal"]


def test_sandbox_is_as_tight_as_the_unit_says(seen: Mapping[str, str]) -> None:
    assert seen["user"] == "vmw-metadata\n"
    assert re.search(r"Overall exposure level.*: 1\.[0-5] OK", seen["sandbox"]), seen["sandbox"]
    status = dict(re.findall(r"^(\w+):\s+(\S+)$", seen["status"], re.MULTILINE))
    nothing = "0" * 16
    assert status == {"CapEff": nothing, "CapBnd": nothing, "NoNewPrivs": "1", "Seccomp": "2"}
    assert re.search(r"^Max open files +65536 +65536 ", seen["limits"], re.MULTILINE)
    assert re.search(r"^Max core file size +0 +0 ", seen["limits"], re.MULTILINE)
    for place in ("usr", "etc"):
        assert "Read-only file system" in seen[f"write-{place}"]
    assert seen["write-state"] == ""
    assert "from-the" not in seen["home"]
    assert re.search(r"Permission denied|^$", seen["home"])
    for hidden in ("devices", "tmp"):
        assert "No such file or directory" in seen[hidden]


def test_reload_reads_the_settings_again(seen: Mapping[str, str]) -> None:
    assert seen["reload"] == ""
    assert "from-the-unit" in seen["fetch-reloaded"]


def test_package_of_a_newer_version_upgrades_the_server_in_place(seen: Mapping[str, str]) -> None:
    before, *_, after = seen["upgrade"].split()
    assert before == after, seen["upgrade"]
    assert "upgraded from version" in seen["upgrade"]
    found = settings(seen["upgraded"])
    assert (found["ActiveState"], found["NRestarts"]) == ("active", "0")
    assert found["WatchdogUSec"] == "30s"  # again


def test_server_that_ends_or_hangs_is_restarted(seen: Mapping[str, str]) -> None:
    assert settings(seen["kill"]) == {"ActiveState": "active", "NRestarts": "1"}
    assert settings(seen["hang"]) == {"NRestarts": "2"}
    assert "Watchdog timeout (limit 30s)!" in seen["journal"]
    assert "from-the-unit" in seen["fetch-restarted"]
    assert "Core was generated" not in seen["journal"]


def test_stop_is_clean_and_invalid_settings_are_not_tried_again(seen: Mapping[str, str]) -> None:
    found = settings(seen["stop"])
    assert (found["ActiveState"], found["Result"], found["ExecMainStatus"]) == (
        *("inactive", "success"),
        "0",
    )
    invalid = dict(re.findall(r"^(\w+)=(\w+)$", seen["invalid"], re.MULTILINE))
    assert invalid == {"ActiveState": "failed", "ExecMainStatus": "2", "NRestarts": "0"}
    assert "found an unknown key" in seen["journal"]


def test_purge_leaves_nothing(seen: Mapping[str, str]) -> None:
    assert "No files found" in seen["purge"]
    assert seen["purge"].count("No such file or directory") == 3, seen["purge"]

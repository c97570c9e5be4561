"""Make a bootable disk from a tree in a tar file. A program, for root or a user namespace.

tree.py TARBALL DISK KERNEL [bare]

`bare`: without the agent, and with an empty machine-id.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

DISK_SIZE = "640M"
OVERLAY = Path(__file__).parent / "overlay"
GUEST = [sys.executable, "-m", "vmw_cloudinit_metadata", "guest"]
PROOF = "e2e-proof.path"
# Units that take up to 20 s each under emulation and are irrelevant to the tests.
MASKED = (
    *("e2scrub_reap.service", "apt-daily.timer", "apt-daily-upgrade.timer", "fstrim.timer"),
    *("dpkg-db-backup.timer", "ldconfig.service", "systemd-hwdb-update.service"),
    *("systemd-journal-catalog-update.service", "systemd-binfmt.service"),
    *("proc-sys-fs-binfmt_misc.automount", "systemd-pstore.service", "getty@tty1.service"),
)


def main(tarball: str, disk: str, kernel: str, kind: str = "") -> None:
    with tempfile.TemporaryDirectory() as directory:
        tree = Path(directory)
        _unpack(tarball, tree)
        _furnish(tree)
        if kind == "bare":
            (tree / "etc/machine-id").write_text("")
            (tree / "etc/fstab").write_text("")  # libguestfs gives the disk another name
        else:
            for command in ("install", "check"):
                subprocess.run([*GUEST, command, "--root", directory], check=True)
        shutil.copy(next(tree.glob("boot/vmlinuz-*")), kernel)
        shutil.rmtree(tree / "boot")
        _make_disk(tree, disk)


def _unpack(tarball: str, tree: Path) -> None:
    """Unpack without device nodes: user namespaces cannot create them; systemd has its own."""
    names = ["--exclude=./dev/*", "--numeric-owner"]
    subprocess.run(["tar", "-x", *names, "-f", tarball, "-C", str(tree)], check=True)


def _furnish(tree: Path) -> None:
    for source in filter(Path.is_file, OVERLAY.rglob("*")):
        place = tree / source.relative_to(OVERLAY)
        place.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source, place)
        place.chmod(0o755 if place.parent.name == "libexec" else 0o644)
    (tree / "etc/fstab").write_text("/dev/nvme0n1 / ext4 defaults 0 0\n")
    units = tree / "etc/systemd/system"
    wanted = units / "multi-user.target.wants" / PROOF
    wanted.symlink_to(f"/usr/lib/systemd/system/{PROOF}")
    for unit in MASKED:
        (units / unit).unlink(missing_ok=True)
        (units / unit).symlink_to("/dev/null")


def _make_disk(tree: Path, disk: str) -> None:
    kind = ["-q", "-t", "ext4", "-O", "^has_journal"]
    subprocess.run(["mke2fs", *kind, "-d", str(tree), disk, DISK_SIZE], check=True)


if __name__ == "__main__":
    main(*sys.argv[1:])

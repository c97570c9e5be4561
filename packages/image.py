"""Build the OCI image, and add it to the sums: Debian's Python, and the environment of the deb.

    python -m packages.image [DIRECTORY]

Needs buildah as well as what build.py needs, and fetches no other image.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from packages import source
from packages.build import (
    NAME,
    PLACE,
    PROGRAMS,
    TRIXIE,
    Workshop,
    put,
    run,
    sum_up,
)
from vmw_cloudinit_metadata import __version__

USER = 65532
SYSTEM = f"python{TRIXIE.python},libstdc++6,ca-certificates"
SETTINGS = "/etc/vmw-metadata-server/server.yaml"
CONFIG = (
    f"--user={USER}:{USER}",
    '--entrypoint=["vmw-metadata-server"]',
    f"--cmd=--config {SETTINGS}",
    "--port=13370/tcp",
    "--stop-signal=TERM",
    f"--label=org.opencontainers.image.title={NAME}",
    f"--label=org.opencontainers.image.version={__version__}",
    "--label=org.opencontainers.image.licenses=MIT",
)
# What only installs, documents or translates.
LEFT_OUT = (
    *("/usr/share/doc/*", "/usr/share/man/*", "/usr/share/locale/*", "/usr/share/info/*"),
    *("/usr/share/i18n/*", "/usr/lib/*/gconv/*"),
)


def build_image(output: Path, workshop: Workshop) -> Path:
    os.umask(0o022)
    output.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="image-") as directory:
        tree = Path(directory) / "tree"
        shutil.copytree(workshop.environment(TRIXIE), tree, symlinks=True)
        (tree / "usr/bin").mkdir()
        for program in PROGRAMS:
            (tree / "usr/bin" / program).symlink_to(f"/{PLACE}/bin/{program}")
        settings = (workshop.source / "conf/vmw-metadata-server.yaml").read_text()
        put(tree / SETTINGS[1:], settings)
        rootfs = Path(directory) / "rootfs.tar"
        _make_root(tree, rootfs)
        made = output / f"{NAME}-{__version__}.oci.tar"
        _pack(rootfs, made)
    sum_up(output)
    return made


def _make_root(tree: Path, rootfs: Path) -> None:
    """Write a tar file of a Debian with the files of a tree, and with the user that runs them."""
    line = f"vmw-metadata:x:{USER}:{USER}::/nonexistent:/usr/sbin/nologin"
    run(
        *("mmdebstrap", "--quiet", "--variant=essential", f"--include={SYSTEM}"),
        *(f"--dpkgopt=path-exclude={pattern}" for pattern in LEFT_OUT),
        f'--customize-hook=cp -a {tree}/. "$1"',
        f'--customize-hook=chown -R 0:0 "$1/{PLACE}" "$1{SETTINGS}"',
        f'--customize-hook=echo "{line}" >>"$1/etc/passwd"',
        f'--customize-hook=echo "vmw-metadata:x:{USER}:" >>"$1/etc/group"',
        '--customize-hook=rm -rf "$1"/var/lib/dpkg/info "$1"/var/cache/* "$1"/var/log/*',
        *(TRIXIE.suite, str(rootfs)),
    )


def _pack(rootfs: Path, made: Path) -> None:
    with tempfile.TemporaryDirectory(prefix="storage-") as storage:
        places = (f"--root={storage}/root", f"--runroot={storage}/run")
        command = ("buildah", *places, "--storage-driver=vfs")
        working = subprocess.run(
            [*command, "from", "scratch"], check=True, capture_output=True, text=True
        ).stdout.strip()
        run(*command, "add", "--quiet", working, str(rootfs), "/")
        run(*command, "config", *CONFIG, working)
        made.unlink(missing_ok=True)
        timestamp = f"--timestamp={source.epoch()}"
        options = ("--quiet", "--rm", "--omit-history", timestamp, "--disable-compression=false")
        run(*command, "commit", *options, working, f"oci-archive:{made}:{__version__}")


def build(output: Path) -> Path:
    """Build the image with an environment of its own."""
    with tempfile.TemporaryDirectory(prefix="workshop-") as directory:
        return build_image(output, Workshop(Path(directory), Path(directory)))


if __name__ == "__main__":
    print(build(Path(*sys.argv[1:] or ["dist"]).absolute()))

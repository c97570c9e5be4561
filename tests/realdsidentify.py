"""The real ds-identify of a tree, on a copy of what it reads, in a VM of VMware without discs."""

from __future__ import annotations

import re
import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import NamedTuple

from vmw_cloudinit_metadata.guest.check.imageprograms import STUBS


class Decided(NamedTuple):
    exit_code: int
    written: str | None  # the list, without the None that it may end with; None: there is none

    @classmethod
    def of(cls, exit_code: int, text: str | None) -> Decided:
        return cls(exit_code, None if text is None else re.sub(r"(, None)? \]$", " ]", text))


def decide(program: Path, cloud: Path, command_line: str) -> Decided:
    """Run the program on a directory /etc/cloud and a kernel command line."""
    with tempfile.TemporaryDirectory() as directory:
        copy = Path(directory)
        shutil.copytree(cloud, copy / "etc/cloud")
        for name in ("proc", "bin", "run/systemd"):
            (copy / name).mkdir(parents=True)
        (copy / "proc/cmdline").write_text(f"{command_line}\n")
        for name, text in STUBS.items():
            (copy / "bin" / name).write_text(text)
            (copy / "bin" / name).chmod(0o755)
        ended = subprocess.run(
            ["/bin/sh", str(program), "--force"],
            env={"PATH": f"{copy}/bin:/usr/bin:/bin", "PATH_ROOT": str(copy), "LC_ALL": "C"},
            capture_output=True,
            timeout=60,
            check=False,
        )
        written = copy / "run/cloud-init/cloud.cfg"
        text = written.read_bytes().decode("utf-8", "surrogateescape") if written.exists() else ""
    found = re.match(r"datasource_list: (\[ .* \])$", text, re.MULTILINE)
    return Decided.of(ended.returncode, found[1] if found else None)


def program_of(root: Path) -> Path:
    return root / "usr/lib/cloud-init/ds-identify"

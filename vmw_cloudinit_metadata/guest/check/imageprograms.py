"""Asks the image's own programs: its ds-identify, and its cloud-init with a seed.

The image is not trusted. Its programs run as nobody, in namespaces of their own without a network,
with the image mounted read-only, without set-user-ID and devices, and within limits of time, output
and the memory of each process. /run, /tmp and /var/lib/cloud are empty, so no state of it is read.
Runs programs of this machine: unshare, mount, prlimit, setpriv, chroot; needs root.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vmw_cloudinit_metadata.guest.check.commandlines import CommandLine, command_lines
from vmw_cloudinit_metadata.guest.check.finding import ImageFinding
from vmw_cloudinit_metadata.guest.check.firstboot import DS_IDENTIFY
from vmw_cloudinit_metadata.guest.image import layout
from vmw_cloudinit_metadata.guest.image.tree import Tree
from vmw_cloudinit_metadata.settings.errors import ConfigError

LIMIT_S = 60
MAX_OUTPUT_BYTES = 64 * 1024
MAX_COMMAND_LINES = 20
_NEEDED = ("unshare", "mount", "prlimit", "setpriv", "chroot")
_DIRECTORIES = ("/run", "/tmp", "/proc", "/dev", "/var/lib")  # nosec B108 # in the image
_STATE = "/var/lib/cloud"  # its parent is hidden where it does not exist yet

SEED = {
    "meta-data": '{"instance-id": "i-check", "local-hostname": "check"}\n',
    "user-data": "#cloud-config\nruncmd: [check]\n",
    "network-config": '{"version": 2, "ethernets": {"check0": {"dhcp4": true}}}\n',
}
# What cloud-init makes of the seed: one line of JSON.
TAKE_SEED = """\
import json
from cloudinit import sources, stages
found = {}
try:
    init = stages.Init(ds_deps=[sources.DEP_FILESYSTEM])
    init.read_cfg()
    source = init.fetch(existing="check")
    network, origin = init._find_networking_config()
    user_data = source.get_userdata_raw()
    found = {
        "instance-id": source.get_instance_id(),
        "user-data": user_data.decode() if isinstance(user_data, bytes) else user_data,
        "network": network,
        "network from": getattr(origin, "value", origin),
    }
except Exception as error:
    found = {"error": "%s: %s" % (type(error).__name__, error)}
print("\\n" + json.dumps(found, default=str))
"""
# Stand-ins for what depends on the machine: a VM of VMware without discs.
STUBS = {
    "systemd-detect-virt": '#!/bin/sh\ncase "$*" in *container*) exit 1;; esac\necho vmware\n',
    "blkid": "#!/bin/sh\nexit 0\n",
}
# Run in the image, as nobody.
_STEPS = """\
export PATH=/run/check/bin:/usr/sbin:/usr/bin:/sbin:/bin LC_ALL=C PYTHONDONTWRITEBYTECODE=1
export PATH_PROC_CMDLINE=/run/check/cmdline DEBUG_PROC_CMDLINE="$(cat /run/check/cmdline)"
{ds_identify} --force >/dev/null 2>&1
echo "exit $?"
cat /run/cloud-init/cloud.cfg 2>/dev/null
mkdir -p /var/lib/cloud/seed
cp -r /run/check/seed /var/lib/cloud/seed/nocloud
exec {python} /run/check/take-seed.py 2>/dev/null
"""
# Run on this machine, as root, in the new namespaces: $1 is the image, $2 what goes into /run, and
# $3 where cloud-init's state is.
_PREPARE = """\
set -e
mount --make-rprivate /
mount --bind "$1" "$1"
mount -o remount,bind,ro,nosuid,nodev "$1"
for directory in /run /tmp /dev "$3"; do
    mount -t tmpfs -o mode=1777,size=16m,nosuid tmpfs "$1$directory"
done
[ -d "$1/var/lib/cloud" ] || mkdir -m 1777 "$1/var/lib/cloud"
mount -t proc -o nosuid,nodev,noexec proc "$1/proc"
for device in null urandom; do
    : >"$1/dev/$device"
    mount --bind "/dev/$device" "$1/dev/$device"
done
cp -r "$2" "$1/run/check"
exec prlimit --as=2147483648 --cpu=60 --nproc=512 --core=0 --fsize=16777216 \\
    setpriv --no-new-privs chroot --userspec=65534:65534 --groups=65534 "$1" \\
    /bin/sh /run/check/steps
"""


@dataclass(frozen=True, slots=True)
class ImageAnswer:
    """What the image's programs said."""

    exit_code: int | None  # of ds-identify; None: it did not run
    cloud_init: Mapping[str, Any]

    @classmethod
    def parse(cls, output: str) -> ImageAnswer:
        """Read the output of the steps, which may be anything."""
        first, _, rest = output.partition("\n")
        word, _, number = first.partition(" ")
        code = int(number) if word == "exit" and number.isdecimal() and len(number) < 4 else None
        try:
            found = json.loads(rest.strip().rpartition("\n")[2])
        except (ValueError, RecursionError):
            found = {}
        return cls(code, found if isinstance(found, dict) else {})

    @property
    def problems(self) -> Iterator[str]:
        """Yield how the image differs from one that takes the seed."""
        if self.exit_code != 0:
            yield f"ds-identify disables cloud-init on a first boot (exit code {self.exit_code})"
            return
        if "error" in self.cloud_init or not self.cloud_init:
            yield f"cloud-init finds no data: {self.cloud_init.get('error', 'it did not run')}"
            return
        if self.cloud_init.get("instance-id") != "i-check":
            yield f"cloud-init has the instance-id {self.cloud_init.get('instance-id')!r:.100}"
        if self.cloud_init.get("user-data") != SEED["user-data"]:
            yield "cloud-init has other user-data"
        if self.cloud_init.get("network from") != "ds":
            yield f"cloud-init has its network from {self.cloud_init.get('network from')!r:.100}"


def of_own_programs(tree: Tree) -> Iterator[ImageFinding]:
    """Yield what the image's own programs do with a seed; raise ConfigError if this machine cannot
    run any."""
    _refuse(tree)
    lines = command_lines(tree)
    for line in lines[:MAX_COMMAND_LINES]:
        with_line = f", with the command line of {line.place}" if line.place else ""
        try:
            problems = list(ask(tree, line).problems)
        except UnrunnableError as error:
            yield ImageFinding("", str(error), "check without --run-image-programs")
            return
        for problem in problems:
            yield ImageFinding(
                "", f"by the image's own programs{with_line}: {problem}", "see the other findings"
            )
    if len(lines) > MAX_COMMAND_LINES:
        text = f"{len(lines)} kernel command lines, the programs ran with {MAX_COMMAND_LINES}"
        yield ImageFinding("", text, "see the other findings", is_warning=True)


class UnrunnableError(Exception):
    """The image's programs cannot be run; the text says why."""


def ask(tree: Tree, line: CommandLine) -> ImageAnswer:
    """Run the image's programs with a kernel command line; raise UnrunnableError."""
    program = next(filter(tree.is_file, DS_IDENTIFY), "/bin/false")
    steps = _STEPS.format(
        ds_identify=program, python=layout.python_of(tree) or layout.DEFAULT_PYTHON
    )
    with tempfile.TemporaryDirectory() as directory:
        room = Path(directory)
        _furnish(room, steps, line.text)
        state = _STATE if _is_real(tree, _STATE) else _STATE.rpartition("/")[0]
        return ImageAnswer.parse(_run(os.path.abspath(tree.root), directory, state))


def _refuse(tree: Tree) -> None:
    missing = [name for name in _NEEDED if not shutil.which(name)]
    if os.geteuid() != 0 or missing:
        needs = " ".join(missing) or "root"
        raise ConfigError(f"--run-image-programs needs {needs}: run it as root on Linux")
    for path in _DIRECTORIES:
        if not _is_real(tree, path):
            raise ConfigError(
                f"--run-image-programs: {tree.root}{path} is not a directory: create it in the"
                " image, or run the check without this option"
            )


def _is_real(tree: Tree, path: str) -> bool:
    """Return whether it is a directory to which no link leads."""
    return tree.find(path) == path and tree.is_directory(path)


def _furnish(room: Path, steps: str, command_line: str) -> None:
    """Write what the programs in the image read."""
    room.chmod(0o755)
    texts = {"steps": steps, "cmdline": f"{command_line}\n", "take-seed.py": TAKE_SEED}
    texts |= {f"seed/{name}": text for name, text in SEED.items()}
    texts |= {f"bin/{name}": text for name, text in STUBS.items()}
    for name, text in texts.items():
        place = room / name
        place.parent.mkdir(exist_ok=True)
        place.write_text(text, "utf-8", "surrogateescape")
        place.chmod(0o755)


def _run(*arguments: str) -> str:
    """Return the bounded output; raise UnrunnableError if there is none."""
    names = ("--mount", "--net", "--pid", "--ipc", "--uts", "--fork", "--kill-child")
    with tempfile.TemporaryFile() as output, tempfile.TemporaryFile() as errors:
        started = subprocess.Popen(  # nosec B603 B607
            ["unshare", *names, "/bin/sh", "-c", _PREPARE, "sh", *arguments],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=errors,
            env={"PATH": "/usr/sbin:/usr/bin:/sbin:/bin"},
            cwd="/",
            start_new_session=True,
        )
        try:
            started.wait(LIMIT_S)
        except subprocess.TimeoutExpired as error:
            raise UnrunnableError(f"the image's programs timed out after {LIMIT_S} s") from error
        finally:
            if started.poll() is None:
                os.killpg(started.pid, signal.SIGKILL)
                started.wait()
        text = _start_of(output)
        if not text.startswith("exit "):
            reason = _start_of(errors).strip().rpartition("\n")[2]
            raise UnrunnableError(f"the image's programs cannot be run: {reason or 'no output'}")
        return text


def _start_of(file: Any) -> str:
    file.seek(0)
    content: bytes = file.read(MAX_OUTPUT_BYTES)
    return content.decode("utf-8", "replace")

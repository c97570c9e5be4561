"""Trees of images, made: what counts of Debian, Ubuntu and Red Hat's."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator, Mapping
from pathlib import Path

PYTHON = "#!ELF, at heart\n"
SYSTEMD = {"usr/lib/systemd/systemd": PYTHON, "usr/lib/systemd/system/basic.target": ""}
MERGED = {
    "bin": "usr/bin",
    "sbin": "usr/sbin",
    "lib": "usr/lib",
    "usr/sbin/init": "/lib/systemd/systemd",
}
GRUB_CFG = """\
menuentry 'Debian' {
\tlinux\t/vmlinuz root=UUID=1 ro console=tty0 console=ttyS0,115200 earlyprintk=ttyS0 quiet
}
"""
DEBIAN = {
    **SYSTEMD,
    "usr/bin/python3.11": PYTHON,
    "usr/bin/cloud-init": "#!/usr/bin/python3\n",
    "etc/cloud/cloud.cfg.d/05_logging.cfg": "_log: []\n",
    "etc/default/grub": 'GRUB_CMDLINE_LINUX="console=tty0 console=ttyS0,115200"\n'
    "# console=ttyS0 is said above\n"
    'GRUB_TERMINAL="console serial"\n',
    "boot/grub/grub.cfg": GRUB_CFG,
}
UBUNTU = {
    **DEBIAN,
    "etc/cloud/cloud.cfg.d/90_dpkg.cfg": "datasource_list: [ NoCloud, VMware, None ]\n",
    "etc/default/grub": 'GRUB_CMDLINE_LINUX=""\n',
    "etc/default/grub.d/50-cloudimg-settings.cfg": (
        'GRUB_CMDLINE_LINUX_DEFAULT="console=tty1 console=ttyS0"\n'
    ),
}
GRUBENV = (
    "# GRUB Environment Block\nsaved_entry=abc-4.18\n"
    "kernelopts=root=/dev/sda1 ro console=ttyS0,115200n8 no_timer_check crashkernel=auto\n"
).ljust(1024, "#")
RHEL_8 = {
    **SYSTEMD,
    "usr/libexec/platform-python3.6": PYTHON,
    "usr/bin/cloud-init": "#!/usr/libexec/platform-python\n",
    "etc/selinux/config": "SELINUX=enforcing\nSELINUXTYPE=targeted\n",
    "etc/default/grub": 'GRUB_CMDLINE_LINUX="console=ttyS0,115200n8 crashkernel=auto"\n',
    "boot/loader/entries/abc-4.18.conf": "options $kernelopts $tuned_params\n",
    "boot/efi/EFI/redhat/grubenv": GRUBENV,
}
RHEL_9 = {
    **SYSTEMD,
    "usr/bin/python3.9": PYTHON,
    "usr/bin/cloud-init": "#!/usr/bin/python3 -s\n",
    "etc/kernel/cmdline": "root=UUID=1 ro console=ttyS0,115200n8\n",
    "boot/loader/entries/abc-5.14.conf": "title RHEL\noptions root=UUID=1 console=ttyS0 ro\n",
}
LINKS: Mapping[str, Mapping[str, str]] = {
    "debian": {**MERGED, "usr/bin/python3": "python3.11"},
    "ubuntu": {**MERGED, "usr/bin/python3": "/usr/bin/python3.11"},
    "rhel8": {
        **MERGED,
        "usr/libexec/platform-python": "/usr/libexec/platform-python3.6",
        "boot/grub2/grubenv": "../efi/EFI/redhat/grubenv",
    },
    "rhel9": {**MERGED, "usr/bin/python3": "python3.9"},
}
FILES = {"debian": DEBIAN, "ubuntu": UBUNTU, "rhel8": RHEL_8, "rhel9": RHEL_9}


def make_tree(root: Path, kind: str) -> Path:
    """The tree of a kind, below a new directory."""
    for name, text in FILES[kind].items():
        put(root, name, text)
    for name, target in LINKS[kind].items():
        place = root / name
        place.parent.mkdir(parents=True, exist_ok=True)
        place.symlink_to(target)
    return root


def put(root: Path, name: str, text: str) -> Path:
    """A file; programs can be executed."""
    file = root / name
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text)
    file.chmod(0o755 if text.startswith("#!") else 0o644)
    return file


def picture(root: Path) -> dict[str, str]:
    """Everything in a tree: mode, and content or target."""
    return dict(_seen(root))


def _content(path: Path) -> str:
    content = path.read_bytes()
    return hashlib.sha256(content).hexdigest() if len(content) > 10_000 else repr(content)


def _seen(root: Path) -> Iterator[tuple[str, str]]:
    for directory, names, files in os.walk(root):
        for name in [*names, *files]:
            path = Path(directory, name)
            mode = f"{path.lstat().st_mode:o}"
            if path.is_symlink():
                yield str(path.relative_to(root)), f"{mode} -> {path.readlink()}"
            elif path.is_file():
                yield str(path.relative_to(root)), f"{mode} {_content(path)}"
            else:
                yield str(path.relative_to(root)), mode

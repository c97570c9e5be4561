"""Where a tree has Python, cloud-init, systemd and SELinux: distributions differ."""

from __future__ import annotations

import re
from pathlib import Path

from vmw_cloudinit_metadata.guest.image.tree import Tree

DEFAULT_PYTHON = "/usr/bin/python3"
_PYTHONS = (DEFAULT_PYTHON, "/usr/libexec/platform-python")  # RHEL 8 may have only the second
_VERSIONED = "/usr/bin/python3.*"
_CLOUD_INIT = ("/usr/bin/cloud-init", "/usr/local/bin/cloud-init")
_INIT = "/sbin/init"
_DPKG = "/usr/bin/dpkg"
_SHEBANG_CHARACTERS = 256  # kernels read no more
_SHEBANG = re.compile(r"#![ \t]*(/[\w./-]*python[\w.-]*)(?=\s|\Z)", re.ASCII)
_SELINUX = re.compile(r"^[ \t]*SELINUX[ \t]*=[ \t]*(enforcing|permissive)[ \t\r]*$", re.M)
_SELINUX_TYPE = re.compile(r"^[ \t]*SELINUXTYPE[ \t]*=[ \t]*([\w-]+)[ \t\r]*$", re.M)


def python_of(tree: Tree) -> str | None:
    """Return the interpreter, preferably cloud-init's, which has PyYAML."""
    candidates = [*_PYTHONS, *sorted(tree.glob(_VERSIONED), key=_version, reverse=True)]
    shebang = _SHEBANG.match(tree.text(cloud_init_of(tree) or "")[:_SHEBANG_CHARACTERS])
    if shebang:
        candidates.insert(0, shebang[1])
    return next(filter(tree.is_program, candidates), None)


def cloud_init_of(tree: Tree) -> str | None:
    return next(filter(tree.is_program, _CLOUD_INIT), None)


def other_init(tree: Tree) -> str | None:
    """Return the init program if it is not systemd."""
    init = tree.find(_INIT)
    return init if init and not init.endswith("/systemd") else None


def without_systemd(tree: Tree) -> str | None:
    """Return what to do if the init program is not systemd."""
    init = other_init(tree)
    if init is None:
        return None
    remedy = "install systemd-sysv" if tree.find(_DPKG) else "such systems are not supported"
    return f"{_INIT} is {init}: the agent needs systemd: {remedy}"


def is_image(tree: Tree) -> bool:
    """Return whether the tree is not that of this machine."""
    return tree.root.resolve() != Path("/")


def systemctl(tree: Tree, words: str) -> str:
    """Return the command for this tree."""
    return f"systemctl --root={tree.root} {words}" if is_image(tree) else f"systemctl {words}"


def selinux_type(tree: Tree) -> str | None:
    """Return the name of the policy, such as `targeted`, or None if SELinux is off."""
    configuration = tree.text("/etc/selinux/config")
    if not _SELINUX.search(configuration):
        return None
    found = _SELINUX_TYPE.search(configuration)
    return found[1] if found else "targeted"


def _version(path: str) -> tuple[int, ...]:
    """Return (3, 11) for /usr/bin/python3.11, () for /usr/bin/python3.11-config."""
    found = re.search(r"/python(3)\.(\d+)$", path)
    return tuple(map(int, found.groups())) if found else ()

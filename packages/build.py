"""Build the packages: a wheel, a deb for each Debian, an rpm, an SBOM and the sums of all of them.

    python -m packages.build [DIRECTORY]

Needs mmdebstrap, root or a user namespace, and the Internet: Debian's archive and the Python index.
The same commit gives the same bytes, as long as Debian has the same Python.
"""

from __future__ import annotations

import gzip
import hashlib
import os
import platform
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from email.utils import format_datetime
from functools import cached_property
from pathlib import Path
from string import Template

from packages import completion, documents, manual, source
from vmw_cloudinit_metadata import __version__

NAME = "vmw-cloudinit-metadata"
PLACE = f"usr/lib/{NAME}"
PROGRAMS = (NAME, "vmw-metadata-server", "vmw-metadata-client")
MAINTAINER = os.environ.get("MAINTAINER", f"The {NAME} authors <{NAME}@packages.example.com>")
HOME_OF_MANUAL_INSTALLS = "/opt/vmw-cloudinit-metadata"
NOTHING: Mapping[str, str] = {}
TAGS = ("manylinux_2_28", "manylinux2014", "manylinux_2_17", "manylinux1", "manylinux2010")


@dataclass(frozen=True)
class Environment:
    """A virtual environment: it runs with one Python of one system only."""

    suite: str
    python: str


@dataclass(frozen=True)
class Package:
    kind: str
    release: str
    distribution: str
    environment: Environment
    depends: tuple[str, ...]

    @property
    def file(self) -> str:
        machine = platform.machine()
        if self.kind == "deb":
            return f"{NAME}_{__version__}-{self.release}_{ARCHITECTURES[machine]}.deb"
        return f"{NAME}-{__version__}-{self.release}.{machine}.rpm"


ARCHITECTURES = {"x86_64": "amd64", "aarch64": "arm64"}
BOOKWORM = Environment("bookworm", "3.11")
TRIXIE = Environment("trixie", "3.13")
LIBRARIES = ("libc6 (>= 2.28)", "libgcc-s1", "libstdc++6")
SYSUSERS = "systemd | systemd-standalone-sysusers | systemd-sysusers"
PACKAGES = (
    Package("deb", "1~deb12", "Debian 12", BOOKWORM, ("python3.11", SYSUSERS, *LIBRARIES)),
    Package("deb", "1~deb13", "Debian 13", TRIXIE, ("python3.13", SYSUSERS, *LIBRARIES)),
    Package(
        "rpm",
        "1.el9",
        "Enterprise Linux 9 (python3.11)",
        BOOKWORM,
        ("/usr/bin/python3.11", "/usr/bin/systemd-sysusers", "libstdc++"),
    ),
)


class Workshop:
    """A temporary directory in which all is made; what is finished goes to `output`."""

    def __init__(self, directory: Path, output: Path) -> None:
        self._directory = directory
        self._output = output
        self._made: dict[Environment, Path] = {}
        self.source = source.copy(directory / "source")

    @cached_property
    def wheel(self) -> Path:
        """The wheel of the checkout."""
        place = self._directory / "wheel"
        constraints = str(self.source / "packages/build-constraints.txt")
        names = ("PIP_CONSTRAINT", "PIP_BUILD_CONSTRAINT")  # older versions of pip, newer ones
        options = ("--no-deps", "--wheel-dir", str(place))
        pip("wheel", *options, str(self.source), env=dict.fromkeys(names, constraints))
        (made,) = place.iterdir()
        return Path(shutil.copy(made, self._output))

    def environment(self, wanted: Environment) -> Path:
        """Return a tree that has the virtual environment in its place."""
        if wanted not in self._made:
            self._made[wanted] = self._build_environment(wanted)
        return self._made[wanted]

    def _build_environment(self, wanted: Environment) -> Path:
        wheels = self._directory / f"wheels-{wanted.python}"
        lock = self.source / "requirements.lock"
        download(wanted, wheels, "--require-hashes", "--requirement", str(lock))
        constraints = str(self.source / "packages/build-constraints.txt")
        download(wanted, wheels, "--no-deps", "--constraint", constraints, "pip")
        for file in (self.wheel, lock, self.source / "packages/environment.sh"):
            shutil.copy(file, wheels)
        tree = self._directory / f"environment-{wanted.python}"
        (tree / PLACE).parent.mkdir(parents=True)
        inside = "env -i PATH=/usr/bin:/bin PYTHONHASHSEED=0"
        run(
            *("mmdebstrap", "--quiet", "--variant=minbase", "--format=null"),
            f"--include=python{wanted.python}",
            f'--setup-hook=mkdir "$1/wheels" && cp {wheels}/* "$1/wheels"',
            f'--customize-hook=chroot "$1" {inside} sh /wheels/environment.sh /wheels '
            f"/usr/bin/python{wanted.python}",
            f"--customize-hook=copy-out /{PLACE} {(tree / PLACE).parent}",
            *(wanted.suite, "-"),
        )
        return tree

    def package(self, wanted: Package) -> Path:
        tree = self._directory / f"{wanted.release}"
        shutil.copytree(self.environment(wanted.environment), tree, symlinks=True)
        furnish(tree, self.source, wanted)
        source.date(tree)
        return pack(wanted, tree, self._output)

    def bill_of_materials(self) -> Path:
        """Write what the environment has; the lock makes it the same in each of them."""
        python = self._directory / "python"
        (site,) = (self.environment(TRIXIE) / PLACE).glob("lib/python*/site-packages")
        python.write_text(f"#!/bin/sh\necho '[\"{site}\"]'\n")  # its answer to `sys.path`
        python.chmod(0o755)
        made = self._output / f"{NAME}-{__version__}.cdx.json"
        options = ("--output-reproducible", "--output-file", str(made))
        pyproject = ("--pyproject", str(self.source / "pyproject.toml"))
        run(
            *(sys.executable, "-m", "cyclonedx_py", "environment"),
            *(*options, *pyproject, str(python)),
        )
        return made


def pack(package: Package, tree: Path, output: Path) -> Path:
    """Let nFPM make the package of a tree; its settings are written beside the tree."""
    template = Template((source.CHECKOUT / "packages/nfpm.yaml").read_text())
    settings = template.substitute(
        arch=ARCHITECTURES[platform.machine()],
        version=__version__,
        release=f'"{package.release}"',
        maintainer=MAINTAINER,
        mtime=f"{source.released_on():%Y-%m-%dT%H:%M:%SZ}",
        distribution=package.distribution,
        depends=list(package.depends),
        tree=tree,
    )
    config = tree.with_name(f"{tree.name}.yaml")
    config.write_text(settings)
    made = output / package.file
    nfpm = Path(sys.executable).with_name("nfpm")
    options = ("--packager", package.kind, "--config", str(config), "--target", str(made))
    run(str(nfpm), "package", *options)
    return made


def furnish(tree: Path, checkout: Path, package: Package) -> None:
    """Add the files that are beside the environment."""
    share = tree / "usr/share"
    place = share / "doc" / NAME
    for directory in (tree / "usr/bin", place, share / "man/man1"):
        directory.mkdir(parents=True)
    for program in PROGRAMS:
        (tree / "usr/bin" / program).symlink_to(f"../lib/{NAME}/bin/{program}")
    completion.write(share)
    if package.kind == "rpm":
        (share / "zsh/vendor-completions").rename(share / "zsh/site-functions")
    manual.write(share / "man/man1")
    for page in (share / "man/man1").iterdir():
        compress(page)
    unit = (checkout / "conf/vmw-metadata-server.service").read_text()
    put(
        tree / "usr/lib/systemd/system/vmw-metadata-server.service",
        unit.replace(HOME_OF_MANUAL_INSTALLS, f"/{PLACE}"),
    )
    sysusers = (checkout / "packages/sysusers.conf").read_text()
    put(tree / f"usr/lib/sysusers.d/{NAME}.conf", sysusers)
    settings = (checkout / "conf/vmw-metadata-server.yaml").read_text()
    put(tree / "etc/vmw-metadata-server/server.yaml", settings)
    documents.write(place, checkout)
    shutil.copy(checkout / "CHANGELOG.md", place / "changelog")
    compress(place / "changelog")
    (place / "conf").symlink_to(f"../../../lib/{NAME}/share/{NAME}/conf")
    if package.kind == "deb":
        for_debian(tree, checkout, package)


def for_debian(tree: Path, checkout: Path, package: Package) -> None:
    place = tree / "usr/share/doc" / NAME
    licence = (checkout / "LICENSE").read_text()
    put(place / "copyright", licence)
    date = format_datetime(source.released_on())
    changelog = (
        f"{NAME} ({__version__}-{package.release}) unstable; urgency=medium\n\n"
        f"  * See /usr/share/doc/{NAME}/changelog.gz.\n\n -- {MAINTAINER}  {date}\n"
    )
    put(place / "changelog.Debian", changelog)
    compress(place / "changelog.Debian")
    overrides = (checkout / "packages/lintian-overrides").read_text()
    put(tree / "usr/share/lintian/overrides" / NAME, overrides)


def put(file: Path, text: str) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text)


def compress(file: Path) -> None:
    """Replace a file by a compressed one, which has neither name nor time."""
    packed = gzip.compress(file.read_bytes(), mtime=0)
    file.with_name(f"{file.name}.gz").write_bytes(packed)
    file.unlink()


def download(environment: Environment, place: Path, *what: str) -> None:
    """Fetch wheels for a Python that need not be installed here."""
    platforms = [f"--platform={tag}_{platform.machine()}" for tag in TAGS]
    version = f"--python-version={environment.python}"
    options = ("--only-binary=:all:", "--implementation=cp", version, *platforms)
    pip("download", *options, f"--dest={place}", *what)


def pip(*command: str, env: Mapping[str, str] = NOTHING) -> None:
    options = ("--quiet", "--disable-pip-version-check")
    run(sys.executable, "-m", "pip", *options, *command, env=env)


def run(*command: str, env: Mapping[str, str] = NOTHING) -> None:
    """Run a program in the checkout, with more variables; its failure is one of the build."""
    variables = {**os.environ, "SOURCE_DATE_EPOCH": str(source.epoch()), **env}
    subprocess.run(
        command, check=True, cwd=source.CHECKOUT, env=variables, stdin=subprocess.DEVNULL
    )


def build(output: Path) -> None:
    """Build everything into a directory."""
    os.umask(0o022)
    output.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="packages-") as directory:
        workshop = Workshop(Path(directory), output)
        for package in PACKAGES:
            workshop.package(package)
        workshop.bill_of_materials()
    sum_up(output)


def sum_up(output: Path) -> None:
    """Write the sums of all files of the directory."""
    files = sorted(file for file in output.iterdir() if not file.name.startswith("SHA256SUMS"))
    sums = [f"{hashlib.sha256(file.read_bytes()).hexdigest()}  {file.name}\n" for file in files]
    (output / "SHA256SUMS").write_text("".join(sums))


if __name__ == "__main__":
    build(Path(*sys.argv[1:] or ["dist"]).absolute())

"""requirements.lock: what a release is installed with."""

from __future__ import annotations

import subprocess
import sys
import tomllib
from email.message import Message
from importlib.metadata import Distribution
from pathlib import Path
from typing import Any

import pytest
from packaging.requirements import Requirement

from tests import lock
from tests.process import CHECKOUT

HASH = "--hash=sha256:" + "0" * 64
GOOD = (
    f"a==1.0 \\\n    {HASH} \\\n    {HASH}\n    # via project\n"
    f"b==2.0 ; python_version > '3' {HASH}\n"
)


class Installed(Distribution):
    """A package that needs others."""

    def __init__(self, version: str, *requires: str) -> None:
        self._told = Message()
        self._told["Version"] = version
        self._requires = list(requires)

    @property
    def metadata(self) -> Any:
        return self._told

    @property
    def requires(self) -> list[str]:
        return self._requires

    def read_text(self, filename: str) -> None:
        raise NotImplementedError

    def locate_file(self, path: Any) -> Any:
        raise NotImplementedError


PACKAGES = {"a": Installed("1.0", "b>=1", "c; extra == 'more'"), "b": Installed("2.0")}


def faults(text: str, *wanted: str) -> list[str]:
    return list(lock.faults_in(text, map(Requirement, wanted or ("a>=1",)), PACKAGES.get))


def test_lock_with_everything_has_no_fault() -> None:
    assert faults(GOOD) == []


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        (f"a==1.0 {HASH}\n", "b: not there, and a needs it"),
        (f"b==2.0 {HASH}\n", "a: not there, and pyproject.toml needs it"),
        (GOOD.replace("b==2.0", "b==0.5"), "b: 0.5 is not what a needs: b>=1"),
        (GOOD.replace("a==1.0", "a>=1.0"), "a: not pinned to one version: a>=1.0"),
        (GOOD.replace("a==1.0", "a==1.*"), "a: 1.* is not what pyproject.toml needs: a>=1"),
        (GOOD + "a==1.0 " + HASH, "a: twice"),
        ("a==1.0\n" + GOOD.partition("project\n")[2], "a: no hash"),
        (GOOD + "c==\n", "no requirement: 'c=='"),
        (GOOD.replace("> '3'", "< '3'"), "b: not there, and a needs it"),
    ],
)
def test_lock_that_lacks_something_is_reported(text: str, fault: str) -> None:
    assert fault in faults(text)


@pytest.mark.parametrize(
    "line",
    [
        "--index-url https://index.example/simple",
        "--find-links wheels",
        "# https://index.example",
        "a @ file:///srv/a.whl",
        "    # via -r /root/requirements.in",
    ],
)
def test_lock_with_a_place_is_reported(line: str) -> None:
    assert any("a place" in fault for fault in faults(f"{line}\n{GOOD}"))


def test_other_release_than_the_installed_one_is_reported() -> None:
    (told,) = lock.unknown(GOOD.replace("a==1.0", "a==1.1"), PACKAGES.get)
    assert told == "a: 1.1 is locked, here it is 1.0: its needs are unknown"


def test_lock_of_this_project_is_complete() -> None:
    project = tomllib.loads((CHECKOUT / "pyproject.toml").read_text())
    wanted = lock.wanted_by(project)
    assert {"gevent", "pyvmomi"} <= {requirement.name for requirement in wanted}
    assert list(lock.faults_in(lock.LOCK.read_text(), wanted, lock.installed)) == []


def test_packages_with_compiled_parts_have_files_for_several_systems() -> None:
    pins = lock.pins_in(lock.LOCK.read_text(), [])
    assert all(pins[name].hashes > 10 for name in ("gevent", "greenlet", "pydantic-core", "ujson"))


@pytest.mark.slow
def test_release_is_installed_by_its_hashes(tmp_path: Path) -> None:
    subprocess.run([sys.executable, "-m", "venv", str(tmp_path)], check=True, timeout=120)
    pip = [str(tmp_path / "bin/python"), "-m", "pip", "--quiet", "--disable-pip-version-check"]
    locked = [*pip, "install", "--only-binary", ":all:", "--require-hashes", "-r", str(lock.LOCK)]
    subprocess.run(locked, check=True, timeout=600)
    subprocess.run([*pip, "wheel", "--no-deps", "-w", str(tmp_path), "."], cwd=CHECKOUT, check=True)
    (wheel,) = tmp_path.glob("vmw_cloudinit_metadata-*.whl")
    subprocess.run([*pip, "install", "--no-deps", str(wheel)], check=True, timeout=120)
    subprocess.run([*pip, "check"], check=True, timeout=60)
    told = subprocess.run(
        [str(tmp_path / "bin/vmw-cloudinit-metadata"), "--version"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    assert told.stdout.startswith("vmw-cloudinit-metadata, version ")

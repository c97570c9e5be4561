"""What belongs to each release: the same bytes again, sums, a signature, an SBOM."""

from __future__ import annotations

import hashlib
import json
import re
import subprocess
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

from packages.build import PACKAGES, TRIXIE, Workshop
from tests.packages.conftest import OTHER_ENV
from tests.process import CHECKOUT

pytestmark = pytest.mark.slow


def test_second_build_gives_the_same_bytes(
    dist: Path, second_workshop: Workshop, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in OTHER_ENV.items():
        monkeypatch.setenv(name, value)
    made = [second_workshop.wheel, second_workshop.bill_of_materials()]
    made += [second_workshop.package(one) for one in PACKAGES if one.environment == TRIXIE]
    assert len(made) == 3
    for file in made:
        assert file.read_bytes() == (dist / file.name).read_bytes(), file.name


def test_sums_are_those_of_all_files(dist: Path) -> None:
    sums = dict(line.split("  ")[::-1] for line in (dist / "SHA256SUMS").read_text().splitlines())
    there = {file.name for file in dist.iterdir()} - {"SHA256SUMS"}
    assert sums.keys() == there
    assert len(there) == len(PACKAGES) + 2
    for name, digest in sums.items():
        assert hashlib.sha256((dist / name).read_bytes()).hexdigest() == digest


def test_bill_of_materials_has_what_is_locked(dist: Path) -> None:
    (file,) = dist.glob("*.cdx.json")
    found = {
        one["name"].lower(): one["version"] for one in json.loads(file.read_text())["components"]
    }
    lock = (CHECKOUT / "requirements.lock").read_text()
    locked = dict(re.findall(r"^([\w.-]+)==([\w.]+)", lock, re.MULTILINE))
    spelled = {name.replace("_", "-").replace(".", "-"): found[name] for name in found}
    assert {name: spelled.get(name) for name in locked} == locked


def test_wheel_has_the_examples_of_settings(dist: Path) -> None:
    (file,) = dist.glob("*.whl")
    with zipfile.ZipFile(file) as wheel:
        names = {
            name.partition("/share/vmw-cloudinit-metadata/conf/")[2] for name in wheel.namelist()
        }
    git = ["git", "-C", CHECKOUT, "ls-files", "-z", "conf"]
    told = subprocess.run(git, capture_output=True, text=True, check=True).stdout
    assert names - {""} == {name.removeprefix("conf/") for name in told.split("\0") if name}


def test_signature_of_the_sums_is_verified_as_the_document_says(
    tmp_path: Path, program: Callable[[str, str], str]
) -> None:
    ssh_keygen = program("ssh-keygen", "openssh-client")
    dist = tmp_path / "dist"
    dist.mkdir()
    (dist / "file").write_text("released\n")
    subprocess.run("sha256sum file >SHA256SUMS", shell=True, cwd=dist, check=True)
    key = tmp_path / "key"
    subprocess.run([ssh_keygen, "-q", "-N", "", "-t", "ed25519", "-f", key], check=True)
    rule = re.search(r"^\t(ssh-keygen .*)$", (CHECKOUT / "Makefile").read_text(), re.MULTILINE)
    assert rule
    sign = rule[1].replace("$(SIGNING_KEY)", str(key))
    subprocess.run(sign, shell=True, cwd=tmp_path, check=True)
    public = (tmp_path / "key.pub").read_text()
    (dist / "allowed_signers").write_text(f"vmw-cloudinit-metadata {public}")
    text = (CHECKOUT / "docs/operations.md").read_text()
    verify = re.search(
        r"^ssh-keygen -Y verify.*?\n(?=\S*sha256sum)", text, re.MULTILINE | re.DOTALL
    )
    assert verify
    assert subprocess.run(verify[0], shell=True, cwd=dist).returncode == 0
    (dist / "SHA256SUMS").write_text("0\n")
    assert subprocess.run(verify[0], shell=True, cwd=dist).returncode != 0

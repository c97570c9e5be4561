"""What users install and start: make and a wheel."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.process import CHECKOUT, ServerProcess, run
from tests.vm import Vm
from vmw_cloudinit_metadata.client.report.page import render


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Build the package as a wheel, and install it with pip into a separate directory."""
    place = tmp_path_factory.mktemp("wheel")
    source = place / "source"
    left_out = shutil.ignore_patterns(
        *(".venv", ".git", "build", "*.egg-info", ".*cache", "__pycache__", "tests")
    )
    shutil.copytree(CHECKOUT, source, ignore=left_out)
    target = place / "target"
    pip = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check"]
    installed = [*pip, "install", "--no-deps", "--target", str(target), str(source)]
    subprocess.run(installed, check=True, timeout=120)
    return target


@pytest.mark.slow
def test_wheel_serves_from_where_it_is_installed(wheel: Path, own_instances: Path) -> None:
    program = wheel / "bin/vmw-metadata-server"
    server = ServerProcess(
        own_instances, command=[str(program)], env={"PYTHONPATH": str(wheel)}, cwd=wheel
    )
    try:
        assert Vm(server.port).metadata()["instance-id"] == "my-instance"
    finally:
        server.end()


@pytest.mark.slow
def test_wheel_is_what_its_directory_imports(wheel: Path) -> None:
    ended = subprocess.run(
        [sys.executable, "-c", "import vmw_cloudinit_metadata as m; print(m.__file__)"],
        env={"PYTHONPATH": str(wheel)},
        cwd="/",
        capture_output=True,
        text=True,
        check=True,
    )
    assert ended.stdout.startswith(str(wheel))


@pytest.mark.slow
def test_wheel_holds_every_module(wheel: Path) -> None:
    modules = {
        path.relative_to(CHECKOUT) for path in CHECKOUT.glob("vmw_cloudinit_metadata/**/*.py")
    }
    assert modules
    assert all((wheel / module).exists() for module in modules)
    assert (wheel / "vmw_cloudinit_metadata/py.typed").exists()


@pytest.mark.slow
def test_wheel_holds_what_goes_into_guests(wheel: Path) -> None:
    program = (
        "import sys; from vmw_cloudinit_metadata.cli import cli\n"
        "for what in sys.argv[1:]: cli.main(['guest', 'print', what], standalone_mode=False)"
    )
    parts = ["agent", "unit", "config", "settings", "clean", "cloudbase-init"]
    ended = subprocess.run(
        [sys.executable, "-c", program, *parts],
        env={"PYTHONPATH": str(wheel)},
        cwd=wheel,
        capture_output=True,
        text=True,
        check=True,
    )
    printed = [run("guest", "print", part).stdout for part in parts]
    assert all(printed)
    assert ended.stdout == "".join(printed)


@pytest.mark.slow
def test_wheel_writes_the_same_report(wheel: Path) -> None:
    program = (
        "from vmw_cloudinit_metadata.client.report.page import render; print(render({}), end='')"
    )
    ended = subprocess.run(
        [sys.executable, "-c", program],
        env={"PYTHONPATH": str(wheel)},
        cwd=wheel,
        capture_output=True,
        text=True,
        check=True,
    )
    assert ended.stdout == render({})
    assert "color-scheme: dark" in ended.stdout


def test_make_run_serves_the_examples() -> None:
    dry_run = subprocess.run(
        ["make", "--dry-run", "run"], cwd=CHECKOUT, capture_output=True, text=True, check=True
    ).stdout
    assert "run --uri my-metadata" in dry_run
    assert '"directory": "conf/instances"' in dry_run
    server = ServerProcess(CHECKOUT / "conf/instances")
    try:
        assert Vm(server.port, "web1").metadata()["instance-id"] == "my-instance"
        assert Vm(server.port, "db1").metadata()["hostname"] == "db1.example.com"
    finally:
        server.end()


def test_message_without_venv_names_the_package_to_install(tmp_path: Path) -> None:
    python = tmp_path / "python"
    python.write_text('#!/bin/sh\ncase "$2" in *ensurepip*) exit 1;; esac\n')
    python.chmod(0o755)
    shutil.copy(CHECKOUT / "Makefile", tmp_path)
    for name in ("setup.py", "pyproject.toml"):
        shutil.copy(CHECKOUT / name, tmp_path)
    shutil.copytree(CHECKOUT / "bin", tmp_path / "bin")
    ended = subprocess.run(
        ["make", f"PYTHON={python}", "run"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert ended.returncode != 0
    assert "apt-get install python3-venv" in ended.stdout


def test_version_is_that_of_the_package() -> None:
    from vmw_cloudinit_metadata import __version__

    assert run("--version").stdout == f"vmw-cloudinit-metadata, version {__version__}\n"


def test_programs_of_a_checkout_start_with_a_venv_that_is_a_link(tmp_path: Path) -> None:
    (tmp_path / "bin").mkdir()
    (tmp_path / ".venv").symlink_to(sys.prefix)
    (tmp_path / "vmw_cloudinit_metadata").symlink_to(CHECKOUT / "vmw_cloudinit_metadata")
    for name in ("vmw-metadata-server", "vmw-metadata-client"):
        program = shutil.copy(CHECKOUT / "bin" / name, tmp_path / "bin")
        ended = subprocess.run(["/usr/bin/env", "python3", program, "--help"], timeout=60)
        assert ended.returncode == 0

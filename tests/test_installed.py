"""What users install and start: make, a wheel, supervisord."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.process import CHECKOUT, ServerProcess, run
from tests.vm import Vm

BIN = Path(sys.executable).parent


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The package, built as a wheel and unpacked by pip into a directory of its own."""
    place = tmp_path_factory.mktemp("wheel")
    source = place / "source"
    left_out = shutil.ignore_patterns(".venv", ".git", "build", "*.egg-info", ".*_cache")
    shutil.copytree(CHECKOUT, source, ignore=left_out)
    pip = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check"]
    built = [*pip, "wheel", "--no-deps", "--wheel-dir", str(place), str(source)]
    subprocess.run(built, check=True, timeout=120)
    (file,) = place.glob("vmw_cloudinit_metadata-*.whl")
    target = place / "target"
    unpacked = [*pip, "install", "--no-deps", "--target", str(target), str(file)]
    subprocess.run(unpacked, check=True, timeout=120)
    return target


def test_wheel_serves_from_where_it_is_installed(wheel: Path, own_instances: Path) -> None:
    program = wheel / "bin/vmw-metadata-server"
    server = ServerProcess(
        own_instances, command=[str(program)], env={"PYTHONPATH": str(wheel)}, cwd=wheel
    )
    try:
        assert Vm(server.port).metadata()["instance-id"] == "my-instance"
    finally:
        server.end()


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


def test_wheel_holds_every_module(wheel: Path) -> None:
    modules = {
        path.relative_to(CHECKOUT) for path in CHECKOUT.glob("vmw_cloudinit_metadata/**/*.py")
    }
    assert modules
    assert all((wheel / module).exists() for module in modules)
    assert (wheel / "vmw_cloudinit_metadata/py.typed").exists()


@pytest.mark.parametrize("what", ["agent", "unit", "config", "settings", "clean"])
def test_wheel_holds_what_goes_into_guests(wheel: Path, what: str) -> None:
    ended = subprocess.run(
        [sys.executable, "-m", "vmw_cloudinit_metadata", "guest", "print", what],
        env={"PYTHONPATH": str(wheel)},
        cwd=wheel,
        capture_output=True,
        text=True,
        check=True,
    )
    assert ended.stdout == run("guest", "print", what).stdout
    assert ended.stdout


@pytest.fixture
def supervisor(tmp_path: Path) -> Iterator[Path]:
    """conf/supervisord.conf, run as it is but for the port, beside the example instances."""
    conf = tmp_path / "conf"
    shutil.copytree(CHECKOUT / "conf", conf)
    file = conf / "supervisord.conf"
    text = file.read_text().replace("%(here)s/../bin/", f"{CHECKOUT}/bin/")
    file.write_text(text.replace("--listen 0.0.0.0:13370", "--listen 127.0.0.1:0"))
    process = subprocess.Popen([BIN / "supervisord", "-n", "-c", file], stdout=subprocess.DEVNULL)
    yield conf
    process.terminate()
    process.wait(60)


def ctl(conf: Path, *words: str) -> str:
    command = [BIN / "supervisorctl", "-c", conf / "supervisord.conf", *words]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=60).stdout


def port_of(conf: Path, start: int = 1) -> int:
    """The port of the server's `start`-th start, from its log."""
    end_s = time.monotonic() + 20
    while time.monotonic() < end_s:
        log = conf / "vmw-metadata-server.log"
        ports = re.findall(r"listening on \S+:(\d+)", log.read_text() if log.exists() else "")
        if len(ports) >= start:
            return int(ports[start - 1])
        time.sleep(0.05)
    raise AssertionError("the server did not start under supervisord")


def test_supervisord_runs_and_stops_the_server(supervisor: Path) -> None:
    machine = Vm(port_of(supervisor))
    assert machine.metadata()["instance-id"] == "my-instance"
    pid = ctl(supervisor, "pid", "vmw-metadata-server").strip()
    assert pid.isdigit()
    assert "stopped" in ctl(supervisor, "stop", "vmw-metadata-server")
    assert not Path(f"/proc/{pid}").exists()
    assert "started" in ctl(supervisor, "start", "vmw-metadata-server")
    assert Vm(port_of(supervisor, 2)).metadata()["instance-id"] == "my-instance"


def test_supervisord_waits_longer_than_the_drain() -> None:
    text = (CHECKOUT / "conf/supervisord.conf").read_text()
    drain_s = int(re.search(r"--drain (\d+)", text)[1])  # type: ignore[index]
    assert int(re.search(r"stopwaitsecs=(\d+)", text)[1]) >= drain_s + 10  # type: ignore[index]


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


def test_python_without_venv_is_told_which_package_to_install(tmp_path: Path) -> None:
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

"""The state file: what lies under its name neither hangs nor leads elsewhere, and a disk that hangs
stops nobody."""

from __future__ import annotations

import json
import os
import signal
import stat
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.process import Program, ServerProcess, run
from tests.test_admin import Admin
from tests.test_workers import children
from tests.vm import Vm
from tests.waiting import wait_until
from vmw_cloudinit_metadata.admin import remembered

Start = Callable[..., ServerProcess]

UUID = "01234567-89ab-cdef-fedc-ba9800000001"
CANARY = "not to be touched"


def pipe(path: Path) -> None:
    os.mkfifo(path)


def link(path: Path) -> None:
    path.symlink_to(path.with_name("canary"))


def dangling_link(path: Path) -> None:
    path.symlink_to(path.with_name("nothing"))


def foreign_file(path: Path) -> None:
    path.write_text("something else\n")
    path.chmod(0o644)


def directory(path: Path) -> None:
    path.mkdir()


THINGS = pytest.mark.parametrize("make", [pipe, link, dangling_link, foreign_file])


@pytest.fixture
def file(tmp_path: Path) -> Path:
    (tmp_path / "canary").write_text(CANARY)
    return tmp_path / "machines"


def untouched(file: Path) -> bool:
    return file.with_name("canary").read_text() == CANARY and not file.with_name("nothing").exists()


def test_what_was_saved_is_loaded(file: Path) -> None:
    assert remembered.load(file) == []
    remembered.save(file, [UUID])
    assert remembered.load(file) == [UUID]


def test_file_is_for_its_owner_alone_whatever_the_umask(file: Path) -> None:
    before = os.umask(0)
    try:
        remembered.save(file, [UUID])
    finally:
        os.umask(before)
    assert stat.S_IMODE(file.stat().st_mode) == 0o600


@THINGS
@pytest.mark.parametrize("name", ["machines", ".machines.new"], ids=["file", "draft"])
def test_save_replaces_what_has_the_name_and_follows_nothing(
    file: Path, name: str, make: Callable[[Path], None]
) -> None:
    make(file.with_name(name))
    remembered.save(file, [UUID])
    assert stat.S_ISREG(file.lstat().st_mode)
    assert stat.S_IMODE(file.lstat().st_mode) == 0o600
    assert file.read_text() == f"{UUID}\n"
    assert untouched(file)


@pytest.mark.parametrize("name", ["machines", ".machines.new"], ids=["file", "draft"])
def test_save_does_not_replace_a_directory(file: Path, name: str) -> None:
    directory(file.with_name(name))
    with pytest.raises(OSError, match="directory"):
        remembered.save(file, [UUID])


@pytest.mark.parametrize("make", [pipe, link, dangling_link])
def test_what_is_no_file_is_one_line_and_exit_2(
    file: Path, own_instances: Path, make: Callable[[Path], None]
) -> None:
    make(file)
    ended = run(
        *("run", "--uri", "x", "--listen", "127.0.0.1:0", "--admin-listen", "127.0.0.1:0"),
        *("--driver-opts", json.dumps({"directory": str(own_instances)})),
        *("--state-file", str(file)),
    )
    assert ended.returncode == 2
    assert ended.stderr.splitlines() == [
        f"vmw-cloudinit-metadata: error: --state-file: {file}: not a regular file"
    ]
    assert untouched(file)


def test_file_is_on_the_disk_before_it_has_its_name(
    file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    told = []
    fsync, replace = os.fsync, os.replace

    def synced(descriptor: int) -> None:
        mode = os.fstat(descriptor).st_mode
        told.append("directory" if stat.S_ISDIR(mode) else "file")
        fsync(descriptor)

    def replaced(*arguments: str, **further: int) -> None:
        told.append("replace")
        replace(*arguments, **further)

    monkeypatch.setattr(os, "fsync", synced)
    monkeypatch.setattr(os, "replace", replaced)
    remembered.save(file, [UUID])
    assert told == ["file", "replace", "directory"]


@pytest.mark.parametrize(
    "workers", [1, pytest.param(2, marks=pytest.mark.slow)], ids=["alone", "workers"]
)
def test_disk_that_hangs_stops_neither_vms_nor_term(start: Start, file: Path, workers: int) -> None:
    """After the first save of both files, at the start, fsync returns no more."""
    program = (
        "import os, time\n"
        "fsync, count = os.fsync, [0]\n"
        "def hang(descriptor):\n"
        "    count[0] += 1\n"
        "    if count[0] > 4:\n"
        "        open(os.environ['HANGS'], 'w').close()\n"
        "        time.sleep(1000)\n"
        "    fsync(descriptor)\n"
        "os.fsync = hang\n"
        "from vmw_cloudinit_metadata.cli import main; main()"
    )
    hangs = file.with_name("hangs")
    server = start(
        *("--state-file", str(file), "--workers", str(workers), "--drain", "1"),
        command=Program([sys.executable, "-c", program, "run"]),
        env={"HANGS": str(hangs)},
    )
    admin = Admin(server)
    machine = Vm(server.port)
    assert machine.metadata()
    wait_until(hangs.exists)
    other = Vm(server.port)
    assert other.metadata()
    wait_until(lambda: admin.status("/readyz") == 200)
    for _ in range(5):
        assert admin.status("/readyz") == 200
        time.sleep(0.5)  # the file would be saved again
    assert file.read_text() == ""
    if workers > 1:  # its parent forks although a thread hangs
        os.kill(next(iter(children(server.pid))), signal.SIGKILL)
        server.wait_for("starting another one")
        wait_until(lambda: len(children(server.pid)) == workers)
        assert Vm(server.port).metadata()
    begun_s = time.monotonic()
    server.signal(signal.SIGTERM)
    machine.close()
    other.close()
    assert server.wait() == 0
    assert time.monotonic() - begun_s < 6

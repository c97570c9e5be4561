"""The seed that the guest agent publishes: the old set or the new one, at each instant."""

from __future__ import annotations

import fcntl
import json
import os
import stat
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.guest import MEMORY, QUICK, UUID, Guest, Serial, later_boot, mostly_slow, shipped
from tests.process import LIMIT_S
from tests.uart import DOCUMENTS, METADATA, server_of, silent
from vmw_cloudinit_metadata.guest.agent.documentset import sha256
from vmw_cloudinit_metadata.guest.agent.osfiles import exchange
from vmw_cloudinit_metadata.guest.agent.seeddirectory import Memory, SeedDir

SHIPPED = shipped()
OTHER_UUID = "564d0000-0000-0000-0000-000000000001"
OLD = {"meta-data": b"instance-id: old", "user-data": b"#!/bin/sh\n", "vendor-data": b"old"}
NEW = {"meta-data": b"instance-id: new", "user-data": b"n" * 5000, "network-config": b"version: 2"}


def memory_of(files: dict[str, bytes]) -> Memory:
    digests = {name: sha256(content) for name, content in files.items()}
    return Memory(UUID, "i", "i", digests)


def publish(place: Path, files: dict[str, bytes]) -> None:
    SeedDir(str(place)).publish(files, memory_of(files))


def found(place: Path) -> dict[str, bytes] | None:
    """What cloud-init would read."""
    if not place.is_dir():
        return None
    return {file.name: file.read_bytes() for file in place.iterdir() if file.name != MEMORY}


# Killed at every step


class Mortal:
    """The module os, of a process that dies at its n-th call that changes something."""

    CHANGES = ("mkdir", "open", "write", "fsync", "rename", "symlink", "unlink", "rmdir", "chmod")

    def __init__(self, lives: int) -> None:
        self._lives = lives

    def __getattr__(self, name: str) -> Any:
        real = getattr(os, name)
        return self._dying(real) if name in self.CHANGES else real

    def _dying(self, real: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any, **named: Any) -> Any:
            self.step(real, arguments)
            return real(*arguments, **named)

        return call

    def step(self, real: Callable[..., Any], arguments: Any) -> None:
        self._lives -= 1
        if self._lives:
            return
        if real is os.write:  # half of it comes to the disk
            os.write(arguments[0], arguments[1][: len(arguments[1]) // 2])
        os._exit(9)


def dies_publishing(place: Path, step: int, can_exchange: bool) -> bool:
    """Publishes NEW in a process that dies at this step; false if it has ended before."""
    pid = os.fork()
    if pid == 0:
        mortal = Mortal(step)

        def mortal_exchange(one: str, other: str) -> bool:
            mortal.step(exchange, (one, other))
            return can_exchange and exchange(one, other)

        SHIPPED.os = SHIPPED.shutil.os = mortal
        SHIPPED.exchange = mortal_exchange
        SHIPPED.SeedDir(str(place)).publish(NEW, memory_of(NEW))
        os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 9


def nothing(_place: Path) -> None:
    pass


def published(place: Path) -> None:
    publish(place, {**OLD, "vendor-data": b"older"})
    publish(place, OLD)


def plain(place: Path) -> None:
    place.mkdir(parents=True)
    for name, content in OLD.items():
        (place / name).write_bytes(content)


def damaged(place: Path) -> None:
    """The very set that is to be published, but somebody has changed it."""
    publish(place, NEW)
    for name in NEW:
        (place / name).unlink()
    for name, content in OLD.items():
        (place / name).write_bytes(content)


def linked_elsewhere(place: Path) -> None:
    plain(place.parent / "elsewhere")
    place.symlink_to("elsewhere")


@pytest.mark.parametrize("can_exchange", [True, False], ids=["exchange", "no-exchange"])
@pytest.mark.parametrize(
    "before", mostly_slow(plain, nothing, published, damaged, linked_elsewhere)
)
def test_seed_is_whole_wherever_the_agent_is_killed(
    tmp_path: Path, before: Callable[[Path], None], can_exchange: bool
) -> None:
    for step in range(1, 200):
        place = tmp_path / str(step) / "seed/nocloud"
        before(place)
        first = found(place)
        killed = dies_publishing(place, step, can_exchange)
        if before is plain and not can_exchange:  # what the next run does first
            SeedDir(str(place)).recover()
        assert found(place) in (first, NEW), step
        if not killed:
            break
        publish(place, NEW)
        assert found(place) == NEW
        left = {path.name for path in place.parent.iterdir()} - {"elsewhere"}
        assert left == {"nocloud", os.readlink(place)}, step
    assert not killed
    assert step > 20


def test_set_that_an_absolute_symlink_points_to_is_in_use(tmp_path: Path) -> None:
    place = tmp_path / "nocloud"
    publish(place, OLD)
    target = place.resolve()
    place.unlink()
    place.symlink_to(target)
    with pytest.raises(FileNotFoundError):  # it has swept twice by then
        publish(place, {"missing/name": b""})
    assert found(place) == OLD


def test_exchange_swaps_two_names_and_fails_without_one(tmp_path: Path) -> None:
    (tmp_path / "one").mkdir()
    (tmp_path / "other").symlink_to("nowhere")
    assert exchange(str(tmp_path / "one"), str(tmp_path / "other"))
    assert (tmp_path / "one").is_symlink()
    assert not exchange(str(tmp_path / "one"), str(tmp_path / "missing"))


def test_seed_is_for_root_alone(guest: Guest, serial: Serial) -> None:
    serial(server_of(DOCUMENTS))
    guest.fetch()
    assert guest.seed.is_symlink()
    assert stat.S_IMODE(guest.seed.stat().st_mode) == 0o700
    assert {stat.S_IMODE(file.stat().st_mode) for file in guest.seed.iterdir()} == {0o600}
    assert stat.S_IMODE((guest.root / "var/lib/cloud").stat().st_mode) == 0o755


def test_seed_that_cannot_be_written_is_reported(guest: Guest, serial: Serial) -> None:
    serial(server_of(DOCUMENTS))
    guest.write("var/lib/cloud/seed", "a file where a directory is needed")
    ended = guest.run()
    assert ended.returncode == 1
    assert "could not be written" in ended.stderr
    assert "Traceback" not in ended.stderr


def test_disk_that_is_full_keeps_the_old_seed_and_nothing_half_written(
    guest: Guest, serial: Serial
) -> None:
    serial(server_of(DOCUMENTS))
    guest.fetch()
    serial(server_of({**DOCUMENTS, "USERDATA": b"x" * 30_000}))
    command = ["sh", "-c", 'ulimit -f 8; trap "" XFSZ; exec "$@"', "sh", *guest.command(*QUICK)]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=LIMIT_S, check=False)
    assert ended.returncode == 1
    assert (
        "could not be written: [Errno 27] File too large: keeping the seed of i-1" in ended.stderr
    )
    assert guest.files["user-data"] == DOCUMENTS["USERDATA"]
    assert len(list(guest.seed.parent.iterdir())) == 2


def test_seed_of_a_time_without_dmi_is_this_machines(guest: Guest, serial: Serial) -> None:
    product_uuid = guest.write("sys/class/dmi/id/product_uuid", "")
    serial(server_of(DOCUMENTS))
    guest.fetch()
    product_uuid.write_text(f"{UUID}\n")
    assert "another machine" not in guest.fetch()
    assert json.loads((guest.seed / MEMORY).read_text())["machine"] == UUID


def test_seed_that_another_run_has_published_is_reported(guest: Guest, serial: Serial) -> None:
    uart = serial(server_of(DOCUMENTS))
    descriptor = os.open(uart.path, os.O_RDWR | os.O_NOCTTY)
    fcntl.flock(descriptor, fcntl.LOCK_EX)
    process = guest.start(*QUICK, "--timeout", "2")
    assert process.stderr
    assert "in use by another program" in process.stderr.readline()
    publish(guest.seed, OLD)
    _, output = process.communicate(timeout=LIMIT_S)
    os.close(descriptor)
    assert output.splitlines()[-1].endswith("in use by another program: keeping the seed of i")


def test_seed_goes_to_seed_dir(guest: Guest, serial: Serial) -> None:
    serial(server_of(DOCUMENTS))
    guest.fetch("--seed-dir", "/srv/seed/")
    assert (guest.root / "srv/seed/meta-data").read_bytes() == METADATA
    assert (guest.root / "srv/seed" / MEMORY).exists()
    assert not guest.seed.exists()


# What is remembered


def test_seed_of_another_machine_is_removed(guest: Guest, serial: Serial, tmp_path: Path) -> None:
    serial(server_of(DOCUMENTS))
    guest.fetch()
    clone = guest.clone(tmp_path / "clone", OTHER_UUID)
    (clone.root / "sys/class/tty/ttyS1/type").write_text("0\n")
    assert "another machine" in clone.fetch()
    assert list(clone.seed.parent.iterdir()) == []
    assert guest.files["meta-data"] == METADATA


@pytest.mark.slow
def test_copied_seed_without_symlink_is_removed_too(
    guest: Guest, serial: Serial, tmp_path: Path
) -> None:
    serial(server_of(DOCUMENTS))
    guest.fetch()
    clone = guest.clone(tmp_path / "clone", OTHER_UUID)
    files = clone.seed.resolve()
    clone.seed.unlink()
    files.rename(clone.seed)
    (clone.root / "sys/class/tty/ttyS1/type").write_text("0\n")
    clone.fetch()
    assert list(clone.seed.parent.iterdir()) == []


def test_seed_of_another_machine_is_removed_behind_the_gate_too(
    guest: Guest, serial: Serial, tmp_path: Path
) -> None:
    serial(server_of(DOCUMENTS))
    guest.fetch()
    clone = guest.clone(tmp_path / "clone", OTHER_UUID)
    clone.write("sys/class/dmi/id/sys_vendor", "QEMU\n")
    clone.fetch()
    assert not clone.seed.exists()


def test_clone_waits_as_on_a_first_boot(guest: Guest, serial: Serial, tmp_path: Path) -> None:
    serial(server_of(DOCUMENTS))
    guest.fetch()
    clone = guest.clone(tmp_path / "clone", OTHER_UUID)
    serial(silent)
    clone.add_port("ttyS1", None)
    (clone.root / "dev/ttyS1").symlink_to(os.readlink(guest.root / "dev/ttyS1"))
    output = clone.fetch(*QUICK, "--first-boot-timeout", "0.5", "--later-boot-timeout", "0")
    assert "retrying" in output
    assert "without data" in output


def test_later_hardware_version_is_no_other_machine(guest: Guest, serial: Serial) -> None:
    serial(server_of(DOCUMENTS))
    guest.fetch()
    turned = "34124d56-7856-bc9a-def0-123456789abc"
    guest.write("sys/class/dmi/id/product_uuid", turned.upper() + "\n")
    (guest.root / "sys/class/tty/ttyS1/type").write_text("0\n")
    assert "keeping the seed of i-1" in guest.fetch()


@pytest.mark.slow
def test_seed_of_others_is_neither_trusted_nor_removed(guest: Guest, serial: Serial) -> None:
    plain(guest.seed)
    serial(silent)
    output = guest.fetch(*QUICK, "--first-boot-timeout", "0.5", "--later-boot-timeout", "0")
    assert "retrying" in output
    assert "cloud-init uses the seed that is already there" in output
    assert guest.files == OLD


@pytest.mark.parametrize("memory", mostly_slow('{"files": 5}', "", "{", "[]", "{}", "[" * 100_000))
def test_memory_that_cannot_be_read_counts_for_nothing(
    guest: Guest, serial: Serial, memory: str
) -> None:
    serial(server_of(DOCUMENTS))
    guest.fetch()
    (guest.seed / MEMORY).write_text(memory)
    assert SeedDir(str(guest.seed)).memory() is None


def test_seed_that_was_changed_is_not_trusted(guest: Guest, serial: Serial) -> None:
    serial(server_of(DOCUMENTS))
    guest.fetch()
    assert SeedDir(str(guest.seed)).memory()
    (guest.seed / "user-data").write_bytes(b"edited")
    assert SeedDir(str(guest.seed)).memory() is None
    assert "is published" in guest.fetch()
    assert guest.files["user-data"] == DOCUMENTS["USERDATA"]
    assert SeedDir(str(guest.seed)).memory()


# What it says of changes


def second_boot(guest: Guest, serial: Serial, *options: str, **changed: bytes) -> str:
    serial(server_of(DOCUMENTS))
    guest.fetch()
    serial(server_of({**DOCUMENTS, **changed}))
    output = guest.fetch(*options)
    assert len(list(guest.seed.parent.iterdir())) == 2  # the old set is gone
    return output


NEW_ID = METADATA.replace(b"i-1", b"i-2")


def test_new_instance_id_is_reported(guest: Guest, serial: Serial) -> None:
    output = second_boot(guest, serial, METADATA=NEW_ID)
    assert "instance-id changed from i-1 to i-2" in output
    assert "applies everything again" in guest.console
    assert guest.metadata["instance-id"] == "i-2"


def test_new_data_under_the_old_instance_id_is_reported(guest: Guest, serial: Serial) -> None:
    output = second_boot(guest, serial, USERDATA=b"new")
    assert (
        "user-data changed and instance-id did not: cloud-init does not apply the change" in output
    )
    assert guest.files["user-data"] == b"new"


def test_first_boot_reports_no_change(guest: Guest, serial: Serial) -> None:
    serial(server_of(DOCUMENTS))
    assert "changed" not in guest.fetch()


def test_instance_id_is_kept_if_it_is_asked_for(guest: Guest, serial: Serial) -> None:
    astral = NEW_ID.replace(b"one", "\N{GRINNING FACE}\N{DELETE}".encode())
    output = second_boot(guest, serial, "--keep-instance-id", METADATA=astral)
    assert "keeping i-1, not the server's i-2" in output
    assert guest.metadata == {"instance-id": "i-1", "local-hostname": "\N{GRINNING FACE}\x7f"}
    assert b"\\u007f" in guest.files["meta-data"]
    assert "is unchanged" in guest.fetch("--keep-instance-id")
    guest.fetch()
    assert guest.metadata["instance-id"] == "i-2"


@pytest.mark.slow
def test_instance_id_is_kept_in_yaml_too(guest: Guest, serial: Serial) -> None:
    yaml = b"# ours\ninstance-id: i-2\nlist:\n- instance-id: x\n"
    second_boot(guest, serial, "--keep-instance-id", METADATA=yaml)
    assert guest.files["meta-data"] == yaml.replace(b"i-2", b'"i-1"')


def test_first_boot_keeps_no_instance_id(guest: Guest, serial: Serial) -> None:
    serial(server_of(DOCUMENTS))
    guest.fetch("--keep-instance-id")
    assert guest.metadata["instance-id"] == "i-1"


@pytest.mark.slow
def test_later_boot_without_a_server_keeps_what_it_remembers(guest: Guest, serial: Serial) -> None:
    later_boot(guest, serial, silent)
    assert json.loads((guest.seed / MEMORY).read_text())["machine"] == UUID

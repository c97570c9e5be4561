"""Changes of the file driver's directory that the system notifies, and those that it cannot."""

from __future__ import annotations

import errno
import mmap
import os
import shutil
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.process import LIMIT_S, Constants, ServerProcess
from tests.vm import Vm
from tests.waiting import wait_until
from vmw_cloudinit_metadata.drivers import revisions
from vmw_cloudinit_metadata.drivers.file import FileDriver
from vmw_cloudinit_metadata.drivers.filesystem import mounts, watching
from vmw_cloudinit_metadata.drivers.filesystem.watching import DirectoryWatch
from vmw_cloudinit_metadata.drivers.revisions import Revisions
from vmw_cloudinit_metadata.instance.model import InstanceData
from vmw_cloudinit_metadata.protocol.vmware import Machine

SERVED_S = 0.2  # a change is served after this time at most
FRESH_S = 0.15  # so old may what is known be

WEB1 = Machine(name="web1")


def text(name: str) -> str:
    return f"metadata: {{instance-id: {name}}}\n"


def put(path: Path, name: str) -> None:
    """Replace the file at once, as a tool does."""
    new = path.with_name(f".{path.name}.new")
    new.write_text(text(name))
    new.replace(path)


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    path = tmp_path / "instances"
    path.mkdir()
    (path / "web1.yaml").write_text(text("a"))
    return path


@pytest.fixture
def reports() -> list[str]:
    return []


@pytest.fixture
def driver(directory: Path, reports: list[str], settled: None) -> Iterator[FileDriver]:  # noqa: ARG001
    driver = FileDriver({"directory": str(directory)})
    driver.watch(reports.append)
    yield driver
    driver.close()


def answer_of(driver: FileDriver) -> InstanceData:
    found = driver.get_instance(WEB1)
    assert found
    return found


def is_known(driver: FileDriver, found: InstanceData) -> bool:
    return driver.held_at(found.token, time.monotonic() - FRESH_S)


def notified(driver: FileDriver) -> InstanceData:
    """An answer that needs no look, and goes on so."""
    found = answer_of(driver)
    known_since_s = None
    end_s = time.monotonic() + LIMIT_S
    while known_since_s is None or time.monotonic() - known_since_s < 2 * FRESH_S:
        assert time.monotonic() < end_s
        if is_known(driver, found):
            known_since_s = known_since_s or time.monotonic()
        else:
            known_since_s = None
            if not driver.still_holds(found.token):
                found = answer_of(driver)
        time.sleep(0.005)
    return found


def test_unchanged_answer_needs_no_look(driver: FileDriver, reports: list[str]) -> None:
    notified(driver)
    assert reports == []


@pytest.mark.usefixtures("settled")
def test_nothing_is_known_without_watch(directory: Path) -> None:
    driver = FileDriver({"directory": str(directory)})
    assert not is_known(driver, answer_of(driver))
    driver.close()


def rewrite(path: Path) -> None:
    path.write_text(text("b"))


def write_through_an_open_file(path: Path) -> None:
    with path.open("r+") as file:
        file.write(text("b"))
        file.flush()
        time.sleep(2 * SERVED_S)


def write_mapped(path: Path) -> None:
    with path.open("r+b") as file, mmap.mmap(file.fileno(), 0) as memory:
        memory[:] = path.read_bytes().replace(b" a}", b" b}")


def rename_over(path: Path) -> None:
    put(path, "b")


def rename_away(path: Path) -> None:
    path.rename(path.with_name("other.yaml"))


def rename_another_suffix(path: Path) -> None:
    path.with_suffix(".yml").write_text(text("b"))


def come_with_a_stronger_name(path: Path) -> None:
    path.with_suffix(".json").write_text("{}")


def forbid(path: Path) -> None:
    path.chmod(0)


def replace_by_link(path: Path) -> None:
    target = path.parent.parent / "target.yaml"
    target.write_text(text("b"))
    link = path.with_name("link")
    link.symlink_to(target)
    link.replace(path)


def write_by_another_name(path: Path) -> None:
    other = path.with_name("web2.yaml")
    other.hardlink_to(path)
    time.sleep(2 * SERVED_S)
    other.write_text(text("b"))


def make_anew(path: Path) -> None:
    shutil.rmtree(path.parent)
    path.parent.mkdir()
    path.write_text(text("b"))


def move_another_over(path: Path) -> None:
    other = path.parent.with_name("others")
    shutil.copytree(path.parent, other)
    (other / path.name).write_text(text("b"))
    path.parent.rename(path.parent.with_name("old"))
    other.rename(path.parent)


@pytest.mark.parametrize(
    "change",
    [
        rewrite,
        write_through_an_open_file,
        write_mapped,
        rename_over,
        rename_away,
        rename_another_suffix,
        come_with_a_stronger_name,
        Path.unlink,
        forbid,
        replace_by_link,
        write_by_another_name,
        make_anew,
        move_another_over,
    ],
    ids=lambda change: change.__name__,
)
def test_change_is_known_in_time(
    driver: FileDriver, directory: Path, change: Callable[[Path], None]
) -> None:
    found = notified(driver)
    change(directory / "web1.yaml")
    time.sleep(SERVED_S)
    assert not is_known(driver, found)
    assert not driver.still_holds(found.token)


def test_directory_that_is_a_link_may_be_swapped(
    tmp_path: Path,
    directory: Path,
    reports: list[str],
    settled: None,  # noqa: ARG001
) -> None:
    other = tmp_path / "other"
    shutil.copytree(directory, other)
    link = tmp_path / "link"
    link.symlink_to(directory)
    driver = FileDriver({"directory": str(link)})
    driver.watch(reports.append)
    found = notified(driver)
    for target in [other, directory] * 3:
        new = tmp_path / "new"
        new.symlink_to(target)
        new.replace(link)
        time.sleep(SERVED_S)
        assert not is_known(driver, found)
        found = notified(driver)
        put(target / "web1.yaml", target.name)
        time.sleep(SERVED_S)
        assert not is_known(driver, found)
        found = notified(driver)
        assert found.metadata["instance-id"] == target.name
    driver.close()


def test_directory_that_is_swapped_and_swapped_back_is_known(
    tmp_path: Path,
    directory: Path,
    reports: list[str],
    settled: None,  # noqa: ARG001
    constants: Constants,
) -> None:
    other = tmp_path / "other"
    shutil.copytree(directory, other)
    (other / "web1.yaml").write_text(text("b"))
    link = tmp_path / "link"
    link.symlink_to(directory)
    driver = FileDriver({"directory": str(link)})
    driver.watch(reports.append)
    notified(driver)
    constants(drivers__filesystem__watching__ROUND_S=1.0)
    time.sleep(SERVED_S)
    swap(link, other)
    found = answer_of(driver)
    assert driver.still_holds(found.token)
    swap(link, directory)
    end_s = time.monotonic() + 2.5
    while time.monotonic() < end_s:
        assert not is_known(driver, found)
        time.sleep(0.05)
    driver.close()


def swap(link: Path, target: Path) -> None:
    new = link.with_name("new")
    new.symlink_to(target)
    new.replace(link)


@pytest.mark.usefixtures("settled")
def test_config_map_is_looked_at(tmp_path: Path, reports: list[str]) -> None:
    """All of its entries are links by way of `..data`, which is swapped."""
    versions = [tmp_path / "..1", tmp_path / "..2"]
    for version in versions:
        version.mkdir()
        (version / "web1.yaml").write_text(text(version.name))
    (tmp_path / "..data").symlink_to(versions[0].name)
    (tmp_path / "web1.yaml").symlink_to("..data/web1.yaml")
    driver = FileDriver({"directory": str(tmp_path)})
    driver.watch(reports.append)
    found = answer_of(driver)
    is_known(driver, found)
    time.sleep(SERVED_S)
    assert not is_known(driver, found)
    assert driver.still_holds(found.token)
    (tmp_path / "new").symlink_to(versions[1].name)
    (tmp_path / "new").replace(tmp_path / "..data")
    assert not driver.still_holds(found.token)
    driver.close()


@pytest.mark.usefixtures("settled")
@pytest.mark.parametrize("place", ["below/user.sh", "user.sh"])
def test_userdata_file_that_changes_is_known_in_time(
    driver: FileDriver, directory: Path, place: str
) -> None:
    notified(driver)
    file = directory / place
    file.parent.mkdir(exist_ok=True)
    file.write_text("one")
    put(directory / "web1.yaml", "a")
    (directory / "web1.yaml").write_text(text("a") + f"userdata-file: {place}\n")
    if place == "user.sh":
        found = notified(driver)
    else:
        found = answer_of(driver)
        is_known(driver, found)
        time.sleep(SERVED_S)
        assert not is_known(driver, found)
    assert driver.still_holds(found.token)
    file.write_text("two")
    time.sleep(SERVED_S)
    assert not is_known(driver, found)
    assert not driver.still_holds(found.token)


def test_overflow_makes_everything_be_looked_at(
    driver: FileDriver, directory: Path, constants: Constants
) -> None:
    found = notified(driver)
    constants(drivers__filesystem__watching__ROUND_S=5.0)
    time.sleep(SERVED_S)
    file = directory / "noise"
    for _ in range(int(Path("/proc/sys/fs/inotify/max_queued_events").read_text())):
        file.touch()
        file.unlink()
    constants(drivers__filesystem__watching__ROUND_S=0.05)
    notified(driver)  # another answer: the overflow has been read
    assert not is_known(driver, found)  # nothing has happened to its own files
    # A look before all events are counted does not count.
    wait_until(lambda: driver.still_holds(found.token) and is_known(driver, found))


def test_answer_that_was_looked_at_needs_no_further_look(
    driver: FileDriver, directory: Path
) -> None:
    found = notified(driver)
    directory.chmod(0o750)
    time.sleep(SERVED_S)
    assert not is_known(driver, found)
    assert driver.still_holds(found.token)
    wait_until(lambda: is_known(driver, found))


def test_answer_is_looked_at_now_and_then_all_the_same(
    driver: FileDriver, constants: Constants
) -> None:
    found = notified(driver)
    constants(drivers__filesystem__filetoken__NOTIFIED_S=0.3)
    time.sleep(0.3 + FRESH_S)
    assert not is_known(driver, found)
    assert driver.still_holds(found.token)
    wait_until(lambda: is_known(driver, found))


@pytest.mark.usefixtures("settled")
@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (lambda: "nfs4", "it is on a file system of the type nfs4"),
        (lambda: "", "it is on a file system of the type unknown"),
    ],
    ids=["nfs", "unknown"],
)
def test_files_of_other_machines_are_looked_at(
    directory: Path,
    reports: list[str],
    monkeypatch: pytest.MonkeyPatch,
    make: Callable[[], str],
    reason: str,
) -> None:
    monkeypatch.setattr(mounts, "file_system_of", lambda _descriptor: make())
    driver = FileDriver({"directory": str(directory)})
    driver.watch(reports.append)
    wait_until(lambda: reports)
    found = "found by looking at the files, and no answers are prepared"
    assert reports == [f"changes in {directory} are {found}: {reason}"]
    assert not is_known(driver, answer_of(driver))
    driver.close()


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EMFILE])
def test_limit_of_the_system_is_reported_once(
    directory: Path,
    monkeypatch: pytest.MonkeyPatch,
    constants: Constants,
    reports: list[str],
    number: int,
) -> None:
    class Refused(watching.INotify):  # type: ignore[misc]
        def add_watch(self, *_arguments: object) -> int:
            raise OSError(number, os.strerror(number))

    monkeypatch.setattr(watching, "INotify", Refused)
    constants(drivers__filesystem__watching__RETRY_S=0.01)
    watch = DirectoryWatch(str(directory), "layers", Revisions())
    watch.start(reports.append)
    wait_until(lambda: reports)
    time.sleep(0.2)
    watch.close()
    assert len(reports) == 1
    assert "fs.inotify.max_user_" in reports[0]


def test_directory_that_is_gone_and_comes_again_is_reported(
    driver: FileDriver, directory: Path, reports: list[str], constants: Constants
) -> None:
    constants(drivers__filesystem__watching__RETRY_S=0.05)
    found = notified(driver)
    shutil.rmtree(directory)
    wait_until(lambda: not is_known(driver, found) and reports)
    assert reports[0].endswith("and no answers are prepared: No such file or directory")
    directory.mkdir()
    (directory / "web1.yaml").write_text(text("b"))
    wait_until(lambda: len(reports) == 2)
    assert reports[1].endswith("notified by the system again")
    assert notified(driver).metadata["instance-id"] == "b"


def test_mount_points_below_are_known() -> None:
    assert "/proc" in mounts.points_below("/")
    assert mounts.points_below("/proc/self") == []


def test_table_of_changes_is_bounded() -> None:
    book = Revisions()
    book.complete_until(1.0)
    before = book.revision
    for number in range(revisions.MAX_KEYS):
        book.changed(str(number))
    assert book.held_at(before, ["web1"], 1.0)
    book.changed("one more")
    assert not book.held_at(before, ["web1"], 1.0)
    assert book.held_at(book.revision, ["web1"], 1.0)
    assert not book.held_at(book.revision, ["web1"], 1.1)


def test_law_in_a_storm_no_answer_is_older_than_a_moment(
    driver: FileDriver, directory: Path
) -> None:
    """What is served was the content at some time within the last 0.2 s, and never goes back."""
    written: list[float] = []  # when version N was there at the latest
    stop = threading.Event()

    def write() -> None:
        path = directory / "web1.yaml"
        while not stop.is_set():
            number = len(written)
            if number % 3:
                put(path, str(number))
            else:
                path.unlink()
                path.write_text(text(str(number)))
            written.append(time.monotonic())
            time.sleep(0.03 * (number % 4))

    notified(driver)
    writer = threading.Thread(target=write)
    writer.start()
    wait_until(lambda: written)
    kept: InstanceData | None = None
    last, hits = -1, 0
    end_s = time.monotonic() + 5.0
    while time.monotonic() < end_s:
        asked_s = time.monotonic()
        if kept and is_known(driver, kept):
            hits += 1
        else:
            try:
                kept = driver.get_instance(WEB1)
            except Exception:  # a file that is being written is a fault for a moment
                kept = None
        if kept is None:
            continue
        try:
            version = int(str(kept.metadata["instance-id"]))
        except ValueError:
            continue
        assert version >= last
        last = version
        if version + 1 < len(written):
            assert asked_s - written[version + 1] < SERVED_S
        time.sleep(0.001)
    stop.set()
    writer.join()
    assert hits


@pytest.mark.parametrize("changes", [10, pytest.param(30, marks=pytest.mark.slow)])
@pytest.mark.parametrize("options", [[], ["--workers", "2"]], ids=["one", "workers"])
def test_each_process_serves_changes_in_time(
    start: Callable[..., ServerProcess], own_instances: Path, options: list[str], changes: int
) -> None:
    path = own_instances / "web1.yaml"
    path.write_text(text("0"))
    server = start(*options)
    for number in range(1, changes):
        before = Vm(server.port, "web1").metadata()["instance-id"]
        assert before == str(number - 1)
        path.write_text(text(str(number)))
        os.utime(path, (1, 1))
        time.sleep(SERVED_S)


def test_answers_of_a_server_are_cached_without_looks(
    start: Callable[..., ServerProcess], own_instances: Path, program: Callable[[str, str], str]
) -> None:
    (own_instances / "web1.yaml").write_text(text("a"))
    server = start()
    time.sleep(2.5)  # until the file's time stamps are old enough
    Vm(server.port, "web1").metadata()
    time.sleep(FRESH_S)
    Vm(server.port, "web1").metadata()  # wakes the watch
    strace = [program("strace", "strace"), "-f", "-e", "trace=%stat", "-p", str(server.pid)]
    with subprocess.Popen([*strace, "-o", str(own_instances.parent / "looks")]) as traced:
        time.sleep(0.5)
        for _ in range(10):
            time.sleep(FRESH_S)
            Vm(server.port, "web1").metadata()
        traced.terminate()
    looks = (own_instances.parent / "looks").read_text().count("web1.yaml")
    assert looks < 5  # on a busy machine the watch may be late now and then

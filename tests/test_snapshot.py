"""What was seen of files, and whether they still look the same: on real files."""

from __future__ import annotations

import errno
import os
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.process import Constants
from vmw_cloudinit_metadata.drivers.driver import DriverError
from vmw_cloudinit_metadata.drivers.filesystem import filetoken
from vmw_cloudinit_metadata.drivers.filesystem.filetoken import Looks, Token, signature_of
from vmw_cloudinit_metadata.drivers.filesystem.snapshot import Snapshot


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "file"
    path.write_text("old")
    return path


def token_of(*paths: Path, until_s: float = float("inf")) -> Token:
    seen = Snapshot()
    for path in paths:
        seen.exists(str(path))
    token = seen.token(until_s)
    assert token is not None
    return token


def rewrite_alike(path: Path) -> None:
    """New content of the same size and modification time, as soon as the clock has moved on."""
    before = path.stat()
    until_s = time.monotonic() + 5
    while path.stat().st_ctime_ns == before.st_ctime_ns and time.monotonic() < until_s:
        path.write_text("new")
        os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


def replace(path: Path) -> None:
    other = path.with_name("other")
    other.write_text("old")
    os.utime(other, ns=(path.stat().st_atime_ns, path.stat().st_mtime_ns))
    other.replace(path)


def loop(path: Path) -> None:
    path.unlink()
    path.symlink_to(path)


@pytest.mark.usefixtures("settled")
def test_token_of_unchanged_files_holds(file: Path) -> None:
    token = token_of(file, file.with_name("absent"), file.parent)
    assert token.holds()
    assert token.holds()


@pytest.mark.usefixtures("settled")
@pytest.mark.parametrize(
    "change",
    [
        pytest.param(lambda path: path.write_text("longer"), id="another-size"),
        pytest.param(rewrite_alike, id="same-size-and-mtime"),
        pytest.param(replace, id="replaced-by-an-equal-one"),
        pytest.param(Path.unlink, id="removed"),
        pytest.param(lambda path: path.chmod(0o640), id="another-mode"),
        pytest.param(loop, id="cannot-be-told"),
    ],
)
def test_token_of_a_changed_file_does_not_hold(
    file: Path, change: Callable[[Path], object]
) -> None:
    token = token_of(file)
    change(file)
    assert not token.holds()


@pytest.mark.usefixtures("settled")
def test_token_of_an_absent_file_does_not_hold_when_it_appears(tmp_path: Path) -> None:
    token = token_of(tmp_path / "absent")
    (tmp_path / "absent").touch()
    assert not token.holds()


@pytest.mark.usefixtures("settled")
def test_token_of_a_link_to_nowhere_does_not_hold_when_its_target_appears(
    tmp_path: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    target = tmp_path_factory.mktemp("elsewhere") / "target"
    (tmp_path / "link").symlink_to(target)
    token = token_of(tmp_path / "link")
    assert token.holds()
    target.touch()
    assert not token.holds()


@pytest.mark.usefixtures("settled")
def test_token_of_an_absent_file_holds_when_another_one_comes(tmp_path: Path) -> None:
    token = token_of(tmp_path / "absent")
    (tmp_path / "another").touch()
    assert token.holds()
    assert token.holds()
    (tmp_path / "absent").touch()
    assert not token.holds()


@pytest.mark.usefixtures("settled")
def test_token_of_an_absent_file_does_not_hold_when_its_directory_comes(tmp_path: Path) -> None:
    token = token_of(tmp_path / "below" / "absent")
    assert token.holds()
    (tmp_path / "below").mkdir()
    (tmp_path / "below" / "absent").touch()
    assert not token.holds()


@pytest.mark.usefixtures("settled")
@pytest.mark.parametrize(
    ("major", "trusted_s", "looks"),
    [
        pytest.param(0, 60, 0, id="trusted"),
        pytest.param(0, -1, 2, id="trusted-for-too-long"),
        pytest.param(8, -1, 0, id="disk"),
    ],
)
def test_absent_files_are_looked_for_when_their_directory_is_not_trusted(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    constants: Constants,
    major: int,
    trusted_s: float,
    looks: int,
) -> None:
    constants(drivers__filesystem__filetoken__TRUSTED_S=trusted_s)
    monkeypatch.setattr(os, "major", lambda _device: major)
    token = token_of(tmp_path / "absent", tmp_path / "missing")
    looked: list[str] = []
    really = os.lstat
    monkeypatch.setattr(os, "lstat", lambda path: looked.append(path) or really(path))
    assert token.holds()
    assert len(looked) == looks


def test_directory_that_changed_just_now_is_not_trusted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A file that comes within the same tick of the clock leaves its time stamp as it is."""
    token = token_of(tmp_path / "absent")
    before = signature_of(tmp_path.stat())
    (tmp_path / "absent").touch()
    monkeypatch.setattr(filetoken, "signature_of", lambda _found: before)
    assert not token.holds()


@pytest.mark.usefixtures("settled")
def test_token_of_a_link_does_not_hold_when_it_leads_elsewhere(file: Path) -> None:
    link = file.with_name("link")
    link.symlink_to(file)
    token = token_of(link)
    replace(file)
    assert not token.holds()


@pytest.mark.usefixtures("settled")
def test_token_holds_until_its_time() -> None:
    now_s = time.monotonic()
    assert Token({}, until_s=now_s + 60).holds()
    assert not Token({}, until_s=now_s).holds()


def test_token_of_a_file_that_changed_just_now_is_none(file: Path) -> None:
    seen = Snapshot()
    seen.exists(str(file))
    assert seen.token() is None


def test_token_of_an_old_file_is_given(constants: Constants, file: Path) -> None:
    constants(drivers__filesystem__filetoken__UNSETTLED_NS=1)
    seen = Snapshot()
    seen.exists(str(file))
    until_s = time.monotonic() + 5
    while seen.token() is None and time.monotonic() < until_s:
        pass
    assert seen.token() is not None


def test_token_of_absent_files_alone_is_given(tmp_path: Path) -> None:
    assert token_of(tmp_path / "absent").holds()


@pytest.mark.parametrize(
    ("name", "exists"),
    [
        pytest.param("file", True, id="file"),
        pytest.param(".", True, id="directory"),
        pytest.param("absent", False, id="absent"),
        pytest.param("file/below", False, id="below-a-file"),
        pytest.param("x" * 300, False, id="longer-than-a-name-can-be"),
    ],
)
def test_exists_returns_whether_there_is_such_a_file(file: Path, name: str, exists: bool) -> None:
    assert Snapshot().exists(str(file.parent / name)) is exists


def test_exists_of_a_link_loop_is_an_error(file: Path) -> None:
    loop(file)
    with pytest.raises(
        DriverError, match=r"file: cannot be read: Too many levels of symbolic links$"
    ):
        Snapshot().exists(str(file))


@pytest.mark.parametrize(("limit", "content"), [(2, b"old"), (1, b"ol"), (100, b"old")])
def test_read_gives_one_byte_more_than_the_limit_at_most(
    file: Path, limit: int, content: bytes
) -> None:
    assert Snapshot().read(str(file), limit) == content


def test_read_of_a_file_without_a_size_is_whole() -> None:
    path = Path("/proc/cpuinfo")
    assert path.stat().st_size == 0
    content = Snapshot().read(str(path), 1_000_000)
    assert content is not None
    assert content.count(b"\n") == path.read_bytes().count(b"\n")


@pytest.mark.parametrize("size", [16 * 1024 - 1, 16 * 1024, 16 * 1024 + 1, 1_000_000])
def test_read_of_a_file_of_any_size_is_whole(file: Path, size: int) -> None:
    file.write_bytes(os.urandom(size))
    assert Snapshot().read(str(file), size) == file.read_bytes()


def test_read_of_an_absent_file_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(DriverError, match=r"absent: cannot be read: No such file or directory$"):
        Snapshot().read(str(tmp_path / "absent"), 100)


def make_fifo(path: Path) -> None:
    os.mkfifo(path)


@pytest.mark.parametrize("make", [Path.mkdir, make_fifo], ids=["directory", "fifo"])
def test_read_of_what_is_no_regular_file_is_none(
    tmp_path: Path, make: Callable[[Path], None]
) -> None:
    make(tmp_path / "other")
    assert Snapshot().read(str(tmp_path / "other"), 100) is None


@pytest.mark.parametrize(
    "make", [Path.touch, Path.mkdir, make_fifo], ids=["file", "directory", "fifo"]
)
def test_read_leaves_no_descriptor_open(tmp_path: Path, make: Callable[[Path], None]) -> None:
    make(tmp_path / "other")
    before = os.listdir("/proc/self/fd")
    try:
        Snapshot().read(str(tmp_path / "other"), 100)
    except DriverError:
        pass
    finally:
        assert os.listdir("/proc/self/fd") == before


@pytest.mark.usefixtures("settled")
def test_token_after_a_read_is_of_what_was_read(file: Path) -> None:
    seen = Snapshot()
    seen.exists(str(file))
    file.write_text("longer")
    assert seen.read(str(file), 100) == b"longer"
    token = seen.token()
    assert token is not None
    assert token.holds()


def test_path_is_looked_at_once(tmp_path: Path) -> None:
    looks, path = Looks(), tmp_path / "file"
    assert looks(str(path)) is None
    path.touch()
    assert looks(str(path)) is None
    assert looks(str(tmp_path)) is not None  # another path
    seen = Looks()(str(path))
    assert seen is not None
    path.write_text("longer")
    assert Looks()(str(path)) != seen


def test_path_that_cannot_be_looked_at_is_looked_at_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    looks = Looks()
    with monkeypatch.context() as patch:
        patch.setattr(os, "stat", _cannot)
        with pytest.raises(OSError, match="no"):
            looks(str(tmp_path))
    assert looks(str(tmp_path)) is not None


def _cannot(_path: str) -> None:
    raise OSError(errno.EIO, "no")


@pytest.mark.usefixtures("settled")
def test_new_file_is_seen_by_the_next_looks(tmp_path: Path) -> None:
    token, looks = token_of(tmp_path / "absent"), Looks()
    assert token.holds(looks)
    (tmp_path / "absent").touch()
    assert token.holds(looks)
    assert not token.holds(Looks())


def test_file_is_settled_as_of_when_it_was_looked_at(file: Path, constants: Constants) -> None:
    """However long it takes to parse it: a change of that time may show in no time stamp."""
    seen = Snapshot()
    seen.read(str(file), 100)
    constants(drivers__filesystem__filetoken__UNSETTLED_NS=-(10**18))
    assert seen.token() is None

"""Last good answers on disk (--last-good-dir): real servers, and the directory by itself."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import sys
import threading
import time
from asyncio import CancelledError
from collections.abc import Callable, Collection, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import gevent
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.process import Constants, ServerProcess, counters, run
from tests.vm import Vm
from tests.waiting import wait_in_hub_until, wait_until
from vmw_cloudinit_metadata import Driver, DriverError, InstanceData, Machine
from vmw_cloudinit_metadata.drivers.memorystore import MemoryStore
from vmw_cloudinit_metadata.drivers.store import LAYERS, Key, Record, Store
from vmw_cloudinit_metadata.drivers.storedriver import StoreDriver
from vmw_cloudinit_metadata.instance.secretsearch import secret_in
from vmw_cloudinit_metadata.monitoring.counters import LAST_GOOD_ON_DISK
from vmw_cloudinit_metadata.process.budget import Budget
from vmw_cloudinit_metadata.protocol import packet
from vmw_cloudinit_metadata.serving.answer import Answer, Failure, Origin, Outcome, answer_of
from vmw_cloudinit_metadata.serving.lookup import Lookup
from vmw_cloudinit_metadata.serving.ondisk import answerfile
from vmw_cloudinit_metadata.serving.ondisk.answerdirectory import AnswerDirectory
from vmw_cloudinit_metadata.serving.ondisk.answerfile import NotAnAnswer, StoredAnswer
from vmw_cloudinit_metadata.serving.ondisk.answersondisk import AnswersOnDisk
from vmw_cloudinit_metadata.serving.ondisk.waitinganswers import WaitingAnswers
from vmw_cloudinit_metadata.settings.errors import ConfigError

Start = Callable[..., ServerProcess]
LAST_GOOD = "the last good answer is served, because: "
DOCUMENTS = ("METADATA", "NETWORKDATA", "USERDATA", "DIGEST")
UUID = "01234567-89ab-cdef-fedc-ba9800000001"  # of a Vm
MACHINE = Machine(name="web1", vc_uuid=UUID, service_uri="my-metadata")


@pytest.fixture
def kept(tmp_path: Path) -> Path:
    return tmp_path / "kept"


def files(directory: Path) -> list[Path]:
    return [path for path in directory.glob("*") if answerfile.is_name(path.name)]


def documents(server: ServerProcess, **settings: Any) -> list[bytes]:
    machine = Vm(server.port, **settings)
    found = [machine.document(name) for name in DOCUMENTS]
    machine.close()
    return found


# Real servers


def test_vm_boots_with_the_same_bytes_after_a_restart_without_the_directory(
    start: Start, own_instances: Path, kept: Path
) -> None:
    server = start("--last-good-dir", str(kept))
    before = documents(server)
    assert counters(server)["last good answers written"] == 1
    away = own_instances.rename(own_instances.with_name("away"))

    server = start("--last-good-dir", str(kept))
    assert documents(server) == before
    server.wait_for(f"{LAST_GOOD}.*instances.*No such file or directory")
    assert Vm(server.port, "web2").error("METADATA") == "failed"  # renamed
    other = Vm(server.port, vc_uuid="00000000-0000-0000-0000-000000000009")
    assert other.error("METADATA") == "failed"

    (away / "web1.yaml").write_text("metadata: {instance-id: new}\n")
    away.rename(own_instances)
    wait_until(lambda: Vm(server.port).metadata()["instance-id"] == "new")


@pytest.mark.parametrize("workers", ["1", pytest.param("2", marks=pytest.mark.slow)])
def test_plain_driver_that_is_down_or_hangs_after_a_restart(
    start: Start, tmp_path: Path, kept: Path, workers: str
) -> None:
    ledger = tmp_path / "ledger"
    ledger.mkdir()
    (ledger / "version").write_text("1")
    options: dict[str, Any] = {
        "driver_opts": {"directory": str(ledger), "stale_if_error": 600},
    }
    words = ("--driver", "tests.ledger_driver:LedgerDriver", "--lookup-timeout", "0.5")
    words += ("--workers", workers, "--last-good-dir", str(kept))
    server = start(*words, **options)
    assert Vm(server.port).metadata()["instance-id"] == "1"
    wait_until(lambda: files(kept))
    server.end()

    (ledger / "down").touch()
    server = start(*words, **options)
    assert Vm(server.port).metadata()["instance-id"] == "1"
    server.wait_for(f"{LAST_GOOD}the database is down")
    server.end()

    (ledger / "down").rename(ledger / "hangs")
    server = start(*words, **options)
    assert Vm(server.port).metadata()["instance-id"] == "1"
    server.wait_for(f"{LAST_GOOD}waited too long for the driver")
    (ledger / "version").write_text("2")
    (ledger / "hangs").unlink()
    wait_until(lambda: Vm(server.port).metadata()["instance-id"] == "2")


def test_missing_directory_is_an_error_without_the_option(tmp_path: Path, kept: Path) -> None:
    opts = json.dumps({"directory": str(tmp_path / "none")})
    words = ("run", "--uri", "x", "--listen", "127.0.0.1:0", "--driver-opts", opts)
    assert "does not exist" in run(*words).stderr
    opts = json.dumps({"directory": str(tmp_path / "none"), "last_good_max_age_s": 0})
    found = run(*words[:-1], opts, "--last-good-dir", str(kept))
    assert found.returncode == 2
    assert "--last-good-dir has no effect: FileDriver" in found.stderr


def test_files_and_directory_are_the_servers_alone(start: Start, kept: Path) -> None:
    server = start("--last-good-dir", str(kept))
    documents(server)
    wait_until(lambda: files(kept))
    assert kept.stat().st_mode & 0o777 == 0o700
    assert {path.stat().st_mode & 0o777 for path in kept.iterdir()} == {0o600}


# The server's answers, in this process


class Plain(Driver):
    """Has one VM, until `error` says otherwise."""

    def __init__(self, **options: Any) -> None:
        super().__init__({"stale_if_error": 600, **options})
        self.error: Exception | None = None
        self.mapping: dict[str, Any] | None = {"metadata": {"instance-id": "1"}}
        self.is_secret = False

    def get_instance(self, machine: Machine) -> InstanceData | None:  # noqa: ARG002
        if self.error:
            raise self.error
        if self.mapping is None:
            return None
        return replace(InstanceData.from_mapping(self.mapping), is_secret=self.is_secret)


class Own(Plain):
    """Sets its time itself, as the file driver does."""

    stale_if_error = None

    def __init__(self) -> None:
        Driver.__init__(self, {})
        self.error, self.mapping, self.is_secret = None, {"metadata": {"instance-id": "1"}}, False
        self.stale_if_error = 600.0


class Served:
    """Look-ups with a directory; `again` begins anew, as after a restart."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.lookups: list[Lookup] = []

    def again(self, driver: Driver) -> AnswersOnDisk:
        self.end()
        on_disk = AnswersOnDisk(self.directory, driver)
        lookup = Lookup(driver, 2, 3.0, Budget(1024**3), on_disk)
        self.lookups.append(lookup)
        lookup.watch()
        return on_disk

    def ask(self, machine: Machine = MACHINE) -> Outcome:
        found: list[Outcome] = []
        self.lookups[-1].ask(machine, found.append)
        wait_in_hub_until(lambda: found)
        return found[0]

    def write(self, driver: Driver, machine: Machine = MACHINE) -> dict[str, int]:
        """Look up an answer and end, by which it is written; return what was counted."""
        on_disk = self.again(driver)
        self.ask(machine)
        self.end()
        return {what: count for what, count in on_disk.counts().items() if count}

    def end(self) -> None:
        while self.lookups:
            self.lookups.pop().close()


@pytest.fixture
def served(kept: Path, constants: Constants) -> Iterator[Served]:
    constants(serving__ondisk__answersondisk__PAUSE_S=0.0)
    found = Served(kept)
    yield found
    found.end()


def age(directory: Path, seconds: float) -> None:
    for path in directory.iterdir():
        os.utime(path, (time.time() - seconds,) * 2)


def down(driver: Plain) -> Plain:
    driver.error = DriverError("the database is down")
    return driver


@pytest.mark.parametrize("error", [DriverError("down"), KeyError("url")], ids=repr)
def test_answer_of_any_driver_is_given_after_a_restart(served: Served, error: Exception) -> None:
    assert served.write(Plain()) == {"last good answers written": 1}
    driver = Plain()
    driver.error = error
    on_disk = served.again(driver)
    found = served.ask(replace(MACHINE, peer_address="another host"))
    assert isinstance(found, Answer)
    assert found.origin.problem.startswith(LAST_GOOD)
    assert on_disk.counts()[LAST_GOOD_ON_DISK["read"]] == 1
    driver.error = None
    wait_in_hub_until(lambda: not served.ask().origin.problem)  # type: ignore[union-attr]


def test_answer_of_a_store_with_layers_is_given_while_it_is_down_after_a_restart(
    served: Served,
) -> None:
    def store(instance_id: str) -> MemoryStore:
        made = MemoryStore()
        made.layer("10-all", {"metadata": {"region": "eu1"}})
        made.put("name", "web1", {"metadata": {"instance-id": instance_id}})
        return made

    served.write(StoreDriver(store("1")))
    down_now = store("2")
    down_now.is_down = True
    served.again(StoreDriver(down_now))
    found = served.ask()
    assert isinstance(found, Answer)
    assert found.origin.problem.startswith(f"{LAST_GOOD}memory")
    assert "the store is down" in found.origin.problem
    metadata = json.loads(packet.body_of(found.packets["METADATA"]))
    assert (metadata["instance-id"], metadata["region"]) == ("1", "eu1")
    assert isinstance(served.ask(replace(MACHINE, name="web2")), Failure)
    down_now.is_down = False
    found = served.ask()
    assert isinstance(found, Answer)
    assert json.loads(packet.body_of(found.packets["METADATA"]))["instance-id"] == "2"


@pytest.mark.parametrize("error_type", [DriverError, CancelledError])
def test_answers_are_written_though_check_fails_and_no_secret_of_it_is_logged(
    served: Served, error_type: type[BaseException], caplog: pytest.LogCaptureFixture
) -> None:
    class Failing(Plain):
        def check(self) -> None:
            raise error_type(f"{self.options['password']} is wrong")

    assert served.write(Failing(password="rosebud")) == {"last good answers written": 1}
    assert "(hidden) is wrong; until this is fixed, VMs get their last good" in caplog.text
    assert "rosebud" not in caplog.text


@pytest.mark.parametrize(
    "other",
    [{"name": "web2"}, {"bios_uuid": UUID}, {"service_uri": "x"}, {"direction": "server"}],
    ids=str,
)
def test_answer_is_given_to_no_other_machine(served: Served, other: dict[str, str]) -> None:
    served.write(Plain())
    served.again(down(Plain()))
    assert isinstance(served.ask(replace(MACHINE, **other)), Failure)


def test_vm_without_vc_uuid_has_no_answer_on_disk(served: Served) -> None:
    assert served.write(Plain(), Machine(name="web1", bios_uuid=UUID)) == {}
    assert files(served.directory) == []


def test_same_answer_is_not_written_again(served: Served) -> None:
    served.write(Plain())
    (path,) = files(served.directory)
    age(served.directory, 300)
    inode = path.stat().st_ino
    assert served.write(Plain()) == {}
    assert path.stat().st_ino == inode
    assert time.time() - path.stat().st_mtime < 100


@pytest.mark.parametrize("mapping", [None, {"metadata": {"hostname": "-"}}], ids=["none", "bad"])
def test_answer_ends_when_the_source_has_none(served: Served, mapping: Any) -> None:
    served.write(Plain())
    driver = Plain()
    driver.mapping = mapping
    assert served.write(driver) == {"last good answers removed": 1}
    served.again(down(Plain()))
    assert isinstance(served.ask(), Failure)


def test_answer_older_than_stale_if_error_is_not_given(served: Served) -> None:
    served.write(Plain())
    age(served.directory, 601)
    served.again(down(Plain()))
    assert isinstance(served.ask(), Failure)


@pytest.mark.parametrize(("answered_s", "kind"), [(500, Answer), (700, Failure)])
def test_time_of_a_driver_with_its_own_counts_from_the_last_answer_of_the_source(
    served: Served, answered_s: float, kind: type
) -> None:
    served.write(Own())
    AnswerDirectory(served.directory).note_source()
    age(served.directory, answered_s)
    (path,) = files(served.directory)
    os.utime(path, (0, 0))  # the VM has not booted for long
    served.again(down(Own()))
    assert isinstance(served.ask(), kind)


def test_answer_from_the_future_counts_from_the_start(
    served: Served, caplog: pytest.LogCaptureFixture
) -> None:
    served.write(Plain())
    age(served.directory, -1e6)
    served.again(down(Plain()))
    assert isinstance(served.ask(), Answer)
    assert "the clock is behind the time of the last good answers" in caplog.text
    served.again(down(Plain(stale_if_error=0.001)))
    gevent.sleep(0.01)
    assert isinstance(served.ask(), Failure)


@pytest.mark.usefixtures("at_info")
@pytest.mark.parametrize("is_marked", [True, False])
def test_answer_with_a_probable_secret_is_not_written(
    served: Served, is_marked: bool, caplog: pytest.LogCaptureFixture
) -> None:
    served.write(Plain())
    driver = Plain()
    driver.is_secret = is_marked
    assert driver.mapping
    driver.mapping["userdata"] = "#!/bin/sh\n" + ("" if is_marked else "PASSWORD=rosebud\n")
    expected = {"last good answers withheld": 1, "last good answers removed": 1}
    assert served.write(driver) == expected
    assert files(served.directory) == []
    reason = "the driver says" if is_marked else "it may hold a secret: USERDATA, line 2"
    assert f"'web1', VC UUID {UUID}: no last good answer on disk: {reason}" in caplog.text
    assert "rosebud" not in caplog.text


@pytest.mark.parametrize("harm", ["garbage", "truncated", "link", "pipe", "directory", "writable"])
def test_file_that_is_not_the_servers_counts_as_absent(served: Served, harm: str) -> None:
    served.write(Plain())
    (path,) = files(served.directory)
    content = path.read_bytes()
    path.unlink()
    match harm:
        case "garbage":
            path.write_bytes(os.urandom(1000))
        case "truncated":
            path.write_bytes(content[:-1])
        case "link":
            path.with_name("x").write_bytes(content)
            path.symlink_to(path.with_name("x"))
        case "pipe":
            os.mkfifo(path)
        case "directory":
            path.mkdir()
        case "writable":
            path.write_bytes(content)
            path.chmod(0o666)
    on_disk = served.again(down(Plain()))
    assert isinstance(served.ask(), Failure)
    assert on_disk.counts()[LAST_GOOD_ON_DISK["unusable"]] == 1
    written = served.write(Plain())
    assert written == {f"last good answers {'failed' if harm == 'directory' else 'written'}": 1}


def test_disk_that_fails_is_logged_once_and_vms_are_served(
    served: Served, caplog: pytest.LogCaptureFixture
) -> None:
    served.again(Plain())
    served.directory.rmdir()
    served.directory.write_text("no directory")
    for _ in range(3):
        assert isinstance(served.ask(), Answer)
        wait_in_hub_until(lambda: "cannot write" in caplog.text)
    served.end()
    assert caplog.text.count("cannot write: not a directory, or a link to one") == 1


def test_disk_that_hangs_takes_bounded_threads_and_time(
    kept: Path, caplog: pytest.LogCaptureFixture
) -> None:
    hangs, calls = threading.Event(), []

    class Hanging(AnswersOnDisk):
        def recall(self, machine: Machine) -> Answer | None:
            calls.append(machine)
            hangs.wait(60)
            return None

    driver = down(Plain())
    lookup = Lookup(driver, 2, 0.2, Budget(1024**3), Hanging(kept, driver))
    found: list[Outcome] = []
    try:
        for number in range(5):
            for _ in range(2):
                machine = replace(MACHINE, vc_uuid=f"{UUID[:-2]}{number:02}")
                lookup.ask(machine, found.append)
        wait_in_hub_until(lambda: len(found) == 10)
    finally:
        hangs.set()
        lookup.close()
    assert {one.error for one in found if isinstance(one, Failure)} == {"failed"}
    assert len(calls) == 2
    assert f"--last-good-dir: {kept}: cannot read: waited too long for the disk" in caplog.text


def test_answer_that_another_process_looked_up_later_stays(kept: Path) -> None:
    directory = AnswerDirectory(kept)
    name, now_s = answerfile.name_of(MACHINE), time.time()
    directory.write({name: (b"newer", now_s)})
    assert directory.has(name, b"older", now_s - 1)
    assert not directory.has(name, b"newest", now_s + 1)
    assert directory.has(name, b"newer", now_s + 1)
    assert directory.read(name) == (b"newer", pytest.approx(now_s + 1))
    directory.write({name: (b"newer", now_s + 9999)})  # the clock was wrong
    assert not directory.has(name, b"newest", now_s)


def test_answers_that_wait_are_bounded_and_the_latest_of_a_vm_counts(constants: Constants) -> None:
    constants(serving__ondisk__waitinganswers__MAX_WAITING=3)
    waiting = WaitingAnswers()
    first, second = Answer({}, Origin(), size=1000), Answer({}, Origin(), size=2000)
    waiting.put(replace(MACHINE, peer_address="a"), first)
    waiting.put(replace(MACHINE, peer_address="b"), second)
    assert waiting.kept_bytes == 2000
    for number in range(5):
        waiting.put(replace(MACHINE, service_uri=str(number)), None)
    assert waiting.dropped == 3
    assert waiting.kept_bytes > 2000  # removals count, too
    batch = waiting.take(0)
    assert [one.answer for one in batch.values()] == [second, None, None]
    assert waiting.is_busy
    assert waiting.take(0) == {}
    assert (waiting.is_busy, waiting.kept_bytes, waiting.shed()) == (False, 0, False)


def test_what_cannot_be_written_or_removed_is_tried_again(kept: Path, constants: Constants) -> None:
    constants(serving__ondisk__answersondisk__RETRY_S=0.05)
    constants(serving__ondisk__answersondisk__PAUSE_S=0.01)
    on_disk = AnswersOnDisk(kept, Plain(stale_if_error=60))
    other = replace(MACHINE, vc_uuid=f"{UUID[:-2]}99")
    answer = answer_of({"METADATA": b"{}"}, "name", (), 2)
    on_disk.start()
    try:
        on_disk.keep(other, answer)
        wait_until(lambda: len(files(kept)) == 1)
        kept.chmod(0o777)  # which the server refuses
        on_disk.forget(other, is_invalid=False)
        on_disk.keep(MACHINE, answer)
        wait_until(lambda: on_disk.counts()[LAST_GOOD_ON_DISK["failed"]] > 2)
        assert on_disk.waiting.is_busy
        kept.chmod(0o700)
        wait_until(lambda: not on_disk.waiting.is_busy)
        assert [path.name for path in files(kept)] == [answerfile.name_of(MACHINE)]
    finally:
        on_disk.waiting.close()


def test_record_that_is_secret_marks_the_answer() -> None:
    class Marked(Store):
        def fetch(self, keys: Collection[Key]) -> list[Record]:
            layer = Record(LAYERS, {"metadata": {"a": "b"}}, is_secret=self.is_secret)
            own = [Record(key, {"metadata": {}}) for key in keys if key.kind == "name"]
            return [*own, *([layer] if LAYERS in keys else [])]

        is_secret = False

    store = Marked({})
    for is_secret in (False, True):
        store.is_secret = is_secret
        found = StoreDriver(store).get_instance(MACHINE)
        assert found
        assert found.is_secret is is_secret


def test_option_without_effect_is_refused(kept: Path) -> None:
    with pytest.raises(ConfigError, match="--last-good-dir has no effect: Plain"):
        AnswersOnDisk(kept, Plain(stale_if_error=0))


# The directory and its files


@pytest.mark.parametrize("harm", ["link", "file", "writable", "no-parent"])
def test_directory_that_is_unsafe_is_refused(tmp_path: Path, harm: str) -> None:
    path = tmp_path / "kept"
    match harm:
        case "link":
            (tmp_path / "x").mkdir()
            path.symlink_to(tmp_path / "x")
        case "file":
            path.touch()
        case "writable":
            path.mkdir()
            path.chmod(0o770)
        case "no-parent":
            path /= "below"
    with pytest.raises(ConfigError, match="--last-good-dir: "):
        AnswerDirectory(path)


def test_oldest_answers_are_shed(kept: Path, constants: Constants) -> None:
    constants(serving__ondisk__answerdirectory__MAX_FILES=10)
    directory = AnswerDirectory(kept)
    machines = [replace(MACHINE, vc_uuid=f"{UUID[:-2]}{number:02}") for number in range(20)]
    names = [answerfile.name_of(machine) for machine in machines]
    (kept / "foreign").touch()
    (kept / ".draft-1-1").touch()
    os.utime(kept / ".draft-1-1", (0, 0))
    for number, name in enumerate(names):
        assert directory.write({name: (b"x", number)}) == 1
    assert directory.tidy() == 11
    assert {path.name for path in files(kept)} == set(names[-9:])
    assert {path.name for path in kept.iterdir()} == {*names[-9:], "foreign"}


def test_later_answer_of_another_process_stays(kept: Path) -> None:
    name, now_s = answerfile.name_of(MACHINE), time.time()
    directory = AnswerDirectory(kept)
    assert directory.write({name: (b"newer", now_s - 1)}) == 1
    assert directory.write({name: (b"older", now_s - 2)}) == 1
    assert directory.read(name) == (b"newer", pytest.approx(now_s - 1))
    assert directory.write({name: (b"newest", now_s)}) == 1
    assert directory.read(name) == (b"newest", pytest.approx(now_s))


@given(
    documents=st.dictionaries(
        st.text("ABC", min_size=1, max_size=5), st.binary(max_size=50), max_size=4
    ),
    sources=st.lists(st.text(max_size=9), max_size=3),
)
def test_content_is_parsed_to_the_same(documents: dict[str, bytes], sources: list[str]) -> None:
    documents["METADATA"] = b"{}"
    stored = StoredAnswer(documents, "name", tuple(sources))
    content = answerfile.content_of(MACHINE, stored)
    assert answerfile.parse(content, MACHINE) == stored
    assert answerfile.parse(content, replace(MACHINE, name="other")) is None


CONTENT = answerfile.content_of(MACHINE, StoredAnswer({"METADATA": b"{}"}, "name", ()))


@given(
    start=st.integers(0, len(CONTENT)), end=st.integers(0, len(CONTENT)), put=st.binary(max_size=9)
)
def test_parser_never_raises_anything_else(start: int, end: int, put: bytes) -> None:
    content = CONTENT[:start] + put + CONTENT[end:]
    if content != CONTENT:
        with pytest.raises(NotAnAnswer):
            answerfile.parse(content, MACHINE)


@given(rest=st.binary(max_size=200) | st.from_regex(rb'\{"who":[^\n]{0,40}\}\n.*', fullmatch=True))
def test_parser_trusts_no_checksum(rest: bytes) -> None:
    form = CONTENT[: CONTENT.index(b"\n") - 64]
    with pytest.raises(NotAnAnswer):
        answerfile.parse(
            b"%s%s\n%s" % (form, hashlib.sha256(rest).hexdigest().encode(), rest), MACHINE
        )


@pytest.mark.parametrize(
    "text",
    [
        "password: x",
        "users:\n- name: a\n  passwd: $6$salt$hash",
        "hashed_passwd: x",
        "plain_text_passwd: x",
        "chpasswd: {expire: false}",
        "ssh_keys: {rsa_private: x}",
        "-----BEGIN OPENSSH PRIVATE KEY-----",
        "API_TOKEN=x",
        "curl -H 'Authorization: Bearer x' u",
        "wget https://me:word@example.com/",
        '{"auth": "x"}',
        "content: " + "QUJD" * 10,
        "{'wifi': {'password': 'x'}}",
        "lock_passwd: hunter2",
        "echo root:x | chpasswd",
        "x" * 2000,
    ],
)
def test_secret_is_found(text: str) -> None:
    assert secret_in({"METADATA": b"{}", "USERDATA": text.encode()}).startswith("USERDATA")


@pytest.mark.parametrize(
    "documents", [{"SECURITYDATA": b"x"}, {"TOKEN": b"x"}, {"USERDATA": b"\x1f\x8b\xff"}], ids=str
)
def test_document_in_doubt_is_secret(documents: dict[str, bytes]) -> None:
    assert secret_in(documents)


@pytest.mark.parametrize(
    "text",
    [
        "#cloud-config\npackages: [nginx]\ngrowpart: {mode: auto}",
        "users:\n- name: ops\n  lock_passwd: true\n  ssh_authorized_keys:\n  - ssh-ed25519 "
        + "AAAA" * 17
        + " ops",
        "ssh_pwauth: false\nkeyboard: {layout: de}",
        '{"public-keys": ["ssh-rsa ' + "AAAA" * 90 + '"], "instance-id": "' + UUID + '"}',
    ],
)
def test_usual_data_is_no_secret(text: str) -> None:
    assert not secret_in({"USERDATA": text.encode()})


# Real failures


@pytest.mark.slow
def test_answers_survive_kill_in_the_middle_of_writes(
    start: Start, own_instances: Path, kept: Path
) -> None:
    uuids = [f"00000000-0000-0000-0000-{number:012}" for number in range(200)]
    for round_number in range(4):
        text = f"metadata: {{instance-id: r{round_number}}}\nuserdata: |\n" + "  a b\n" * 2000
        for uuid in uuids:
            (own_instances / f"{uuid}.yaml").write_text(text)
        server = start("--last-good-dir", str(kept), "--workers", "2")
        for uuid in uuids:
            Vm(server.port, vc_uuid=uuid).metadata()
        time.sleep(0.1 * round_number)
        server.signal(signal.SIGKILL)
        server.wait()
    own_instances.rename(own_instances.with_name("away"))
    server = start("--last-good-dir", str(kept), "--workers", "2")
    found = {}
    for uuid in uuids:
        code, _ = Vm(server.port, vc_uuid=uuid).ask("METADATA")
        found[code] = found.get(code, 0) + 1
    assert found.get("RESPONSE_METADATA", 0) >= 100
    assert counters(server)["last good answers unusable"] == 0


@pytest.mark.slow
def test_full_disk_stops_no_vm(start: Start, own_instances: Path, tmp_path: Path) -> None:
    """A tmpfs of 64 kB in a mount namespace of the server's own."""
    disk = tmp_path / "disk"
    disk.mkdir()
    (own_instances / "web1.yaml").write_text(
        "metadata: {instance-id: x}\nuserdata: |\n" + "  a b\n" * 30_000
    )
    code = (
        "import os, ctypes; os.unshare(os.CLONE_NEWNS) if hasattr(os, 'unshare') else "
        "ctypes.CDLL(None).unshare(0x20000); libc = ctypes.CDLL(None, use_errno=True); "
        "assert not libc.mount(b'none', b'/', None, 0x44000, None); "
        f"assert not libc.mount(b't', {str(disk).encode()!r}, b'tmpfs', 0, b'size=64k'); "
        "from vmw_cloudinit_metadata.cli import main; main()"
    )
    if os.geteuid():
        pytest.skip("needs root, for a mount namespace")
    command = [sys.executable, "-c", code, "run"]
    server = start("--last-good-dir", str(disk / "kept"), command=command)
    for _ in range(3):
        assert Vm(server.port).metadata()["instance-id"] == "x"
    server.wait_for("cannot write: No space left on device; free space on its file system")
    assert counters(server)["last good answers written"] == 0

"""The audit log of a real server."""

from __future__ import annotations

import base64
import hashlib
import json
import os
import re
import signal
import stat
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from tests.process import Constants, ServerProcess, run, with_constants
from tests.test_admin import Admin
from tests.test_workers import children
from tests.vm import Vm, suboption
from tests.waiting import wait_until
from vmw_cloudinit_metadata.monitoring.audit import Audit
from vmw_cloudinit_metadata.monitoring.facts import RequestFailed, VmLeft
from vmw_cloudinit_metadata.monitoring.happenings import Happenings, Peer

Start = Callable[..., ServerProcess]

UUID = "01234567-89ab-cdef-fedc-ba9800000001"
BIOS_UUID = "aa bb cc dd ee ff 00 11-22 33 44 55 66 77 88 99"
QUICK = with_constants(serving__timeouts__SETTLED_S=0.5)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "audit.log"


def lines(file: Path) -> list[dict[str, Any]]:
    return [json.loads(text) for text in file.read_text().splitlines()]


def of_kind(file: Path, kind: str) -> list[dict[str, Any]]:
    return [entry for entry in lines(file) if entry["kind"] == kind]


def has_open(pid: int, file: Path) -> bool:
    opened = set()
    for link in Path(f"/proc/{pid}/fd").iterdir():
        with suppress(FileNotFoundError):  # closed meanwhile
            opened.add(str(link.readlink()))
    return str(file) in opened


def boot(server: ServerProcess, *documents: str, **settings: Any) -> dict[str, bytes]:
    machine = Vm(server.port, **settings)
    had = {document: machine.document(document) for document in documents}
    machine.close()
    return had


def test_boot_is_one_line_with_who_it_was_and_what_it_was_served(start: Start, file: Path) -> None:
    server = start("--audit-log", str(file), "--uri", "my-metadata")
    uri = "my-metadata?token=SECRET&profile=web"
    had = boot(server, "METADATA", "USERDATA", bios_uuid=BIOS_UUID, uri=uri)
    wait_until(lambda: of_kind(file, "served"))
    (served,) = lines(file)
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", served.pop("time"))
    assert re.fullmatch(r"127\.0\.0\.1:\d+", served.pop("peer"))
    assert re.fullmatch(rf"{server.pid}-\d+", served.pop("connection_id"))
    assert served == {
        "kind": "served",
        "process": server.pid,
        "esxi_host": "127.0.0.1",
        "machine_name": "web1",
        "vc_uuid": UUID,
        "bios_uuid": "aabbccdd-eeff-0011-2233-445566778899",
        "service_uri": "my-metadata",
        "documents": {
            name: {"size": len(body), "sha256": hashlib.sha256(body).hexdigest()}
            for name, body in had.items()
        },
        "is_last_good": False,
        "matched_by": "name",
        "files": served["files"],
    }
    assert served["files"][0].endswith("/web1.yaml")


def test_failures_and_refusals_are_lines(start: Start, file: Path) -> None:
    server = start("--audit-log", str(file))
    Vm(server.port, "nobody").error("METADATA")
    other = Vm(server.port, uri="other?token=SECRET")
    wait_until(lambda: of_kind(file, "refused"))
    other.close()
    failed, refused = lines(file)
    assert (failed["kind"], failed["document"], failed["error"]) == (
        *("failed", "METADATA"),
        "not-found",
    )
    assert failed["machine_name"] == "nobody"
    assert refused["kind"] == "refused"
    assert refused["error"] == "refused: another service URI"
    assert refused["machine_name"] == "web1"


def test_last_good_answer_is_one(start: Start, file: Path, own_instances: Path) -> None:
    server = start("--audit-log", str(file), command=QUICK)
    boot(server, "METADATA")
    (own_instances / "web1.yaml").write_text("metadata: [wrong")
    wait_until(
        lambda: (
            boot(server, "METADATA")
            and [one for one in of_kind(file, "served") if one["is_last_good"]]
        )
    )


def test_no_content_of_documents_nor_of_queries_is_in_it(
    start: Start, file: Path, own_instances: Path
) -> None:
    (own_instances / "web1.yaml").write_text(
        "metadata: {color: SECRET}\nuserdata: SECRET\nvendordata: SECRET\n"
        "documents: {EXTRA: SECRET}\n"
    )
    (own_instances / "wrong.yaml").write_text("metadata: SECRET\nuserdata: [SECRET]\n")
    server = start("--audit-log", str(file), command=QUICK)
    documents = ("METADATA", "NETWORKDATA", "USERDATA", "VENDORDATA", "EXTRA", "DIGEST")
    boot(server, *documents, uri="my-metadata?SECRET=SECRET")
    Vm(server.port, "wrong", vc_uuid=None).error("USERDATA")
    refused = Vm(server.port, "other", uri="SECRET?SECRET")  # closed, it may say nothing
    wait_until(lambda: len(lines(file)) == 3)
    refused.close()
    (served,) = of_kind(file, "served")
    assert set(served["documents"]) == set(documents)
    text = file.read_text()
    assert "SECRET" not in text
    assert base64.b64encode(b"SECRET").decode() not in text


def test_name_cannot_forge_a_line(start: Start, file: Path) -> None:
    server = start("--audit-log", str(file))
    name = 'x"}\n{"kind": "served"}\u2028\x1b[2J\x7f'
    Vm(server.port, name, vc_uuid=None).error("METADATA")
    wait_until(lambda: file.read_text())
    (failed,) = lines(file)
    assert (failed["kind"], failed["machine_name"]) == ("failed", name)
    assert file.read_bytes().isascii()
    assert not set(file.read_text()) & set("\x1b\x7f")


# The file


def test_file_is_for_its_owner_alone_and_appended_to(start: Start, file: Path) -> None:
    before = os.umask(0)
    try:
        server = start("--audit-log", str(file))
    finally:
        os.umask(before)
    boot(server, "METADATA")
    server.signal(signal.SIGTERM)
    assert server.wait() == 0
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    server = start("--audit-log", str(file))
    boot(server, "METADATA")
    server.signal(signal.SIGTERM)
    assert server.wait() == 0
    assert len(of_kind(file, "served")) == 2


@pytest.mark.parametrize(
    "workers", ["1", pytest.param("2", marks=pytest.mark.slow)], ids=["alone", "workers"]
)
def test_hup_goes_on_in_a_new_file(start: Start, file: Path, workers: str) -> None:
    server = start("--audit-log", str(file), "--workers", workers, command=QUICK)
    boot(server, "METADATA")
    wait_until(lambda: of_kind(file, "served"))
    rotated = file.rename(file.with_name("audit.log.1"))
    processes = {server.pid, *children(server.pid)}
    assert any(has_open(pid, rotated) for pid in processes)
    boot(server, "METADATA")
    wait_until(lambda: len(of_kind(rotated, "served")) == 2)
    server.signal(signal.SIGHUP)
    wait_until(lambda: not any(has_open(pid, rotated) for pid in processes))
    for _ in range(10):
        boot(server, "METADATA")
    wait_until(lambda: len(of_kind(file, "served")) == 10)
    assert len(of_kind(rotated, "served")) == 2


def test_file_that_hup_cannot_open_is_reported_and_the_old_one_goes_on(
    start: Start, file: Path
) -> None:
    server = start("--audit-log", str(file), command=QUICK)
    rotated = file.rename(file.with_name("audit.log.1"))
    file.symlink_to("nothing")
    server.signal(signal.SIGHUP)
    server.wait_for(
        "ERROR --audit-log: .*/audit.log: not a regular file; the open file stays in use"
    )
    boot(server, "METADATA")
    wait_until(lambda: of_kind(rotated, "served"))
    assert not file.exists()


@pytest.mark.parametrize("workers", ["1", "2"], ids=["alone", "workers"])
@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (lambda file: os.mkfifo(file), "not a regular file"),
        (lambda file: file.symlink_to("x"), "not a regular file"),
        (lambda file: file.parent.rmdir(), "No such file or directory"),
    ],
    ids=["pipe", "link", "directory"],
)
def test_file_that_cannot_be_opened_is_one_line_and_exit_2(
    tmp_path: Path, own_instances: Path, workers: str, make: Callable[[Path], None], reason: str
) -> None:
    file = tmp_path / "logs/audit"
    file.parent.mkdir()
    make(file)
    ended = run(
        *("run", "--uri", "x", "--listen", "127.0.0.1:0", "--admin-listen", "off"),
        *("--driver-opts", json.dumps({"directory": str(own_instances)})),
        *("--audit-log", str(file), "--workers", workers),
    )
    assert ended.returncode == 2
    assert ended.stderr == f"vmw-cloudinit-metadata: error: --audit-log: {file}: {reason}\n"


@pytest.mark.slow
def test_lines_of_all_workers_are_whole(start: Start, file: Path) -> None:
    server = start("--audit-log", str(file), "--workers", "4")
    for number in range(200):
        machine = Vm(server.port, f"{'x' * 1000}-{number}", vc_uuid=None)
        machine.error("METADATA")
        machine.close()
    server.signal(signal.SIGTERM)
    assert server.wait() == 0
    assert len(of_kind(file, "failed")) == 200
    assert len({entry["process"] for entry in lines(file)}) > 1


# Bounds


def test_lines_that_the_disk_does_not_take_are_dropped_counted_and_noted(
    file: Path, constants: Constants
) -> None:
    constants(monitoring__writer__MAX_BYTES=5000)
    stream = Audit(file)
    happenings = Happenings()
    happenings.listeners[0] = stream.hear
    for number in range(100):  # before the thread has had its turn
        peer = Peer("10.0.0.1:1", "10.0.0.1", f"1-{number}")
        happenings.report(RequestFailed("failed", "METADATA", "x" * 900, "reason"), peer)
    dropped = stream.shed()["audit lines dropped"]
    stream.flush()
    assert dropped > 0
    written = lines(file)
    notes = [line for line in written if line["kind"] == "lines dropped"]  # several, if it had
    assert sum(note["count"] for note in notes) == dropped
    assert len(written) - len(notes) == 100 - dropped


def test_host_that_fails_for_ever_fills_no_disk(start: Start, file: Path) -> None:
    server = start(
        *("--audit-log", str(file)),
        command=with_constants(
            monitoring__audit__LEFT_OUT_S=0.5,
            monitoring__quota__HOST_BURST_BYTES=5000,
            monitoring__quota__HOST_BYTES_PER_S=1,
        ),
    )
    admin = Admin(server)
    for _ in range(100):
        machine = Vm(server.port, uri="other")
        machine.receive_until(suboption(73))  # WONT-PROXY
        machine.close()
    wait_until(lambda: of_kind(file, "lines left out"))
    assert file.stat().st_size < 8000
    (host,) = {note["esxi_host"] for note in of_kind(file, "lines left out")}
    assert host == "127.0.0.1"
    wait_until(
        lambda: (
            sum(note["count"] for note in of_kind(file, "lines left out"))
            == admin.metric("vmw_metadata_dropped_total", what="audit lines")
            == 100 - len(of_kind(file, "refused"))
        )
    )


def test_hearing_what_is_no_matter_of_the_stream_writes_nothing(file: Path) -> None:
    stream = Audit(file)
    happenings = Happenings()
    happenings.listeners[0] = stream.hear
    happenings.report(VmLeft("left"), Peer("10.0.0.1:1", "10.0.0.1", "1-1"))
    stream.flush()
    assert file.read_text() == ""

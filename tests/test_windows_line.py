"""The metadata service for cloudbase-init on a serial line: what it takes, and what it survives."""

from __future__ import annotations

import json
import logging
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from cloudbaseinit.metadata.services import base
from serial.tools.list_ports import comports

from tests.uart import (
    DOCUMENTS,
    Answers,
    ScriptedUart,
    digest,
    in_turn,
    old_server,
    refusal,
    refusing,
    response,
    server_of,
    silent,
)
from tests.waiting import wait_until
from vmw_cloudinit_metadata.guest.agent import patience
from vmw_cloudinit_metadata.guest.windows.comport import find_ports
from vmw_cloudinit_metadata.guest.windows.machine import manufacturer
from vmw_cloudinit_metadata.guest.windows.metadataservice import CONF, VmwMetadataService
from vmw_cloudinit_metadata.guest.windows.publickeys import public_keys

LIMIT_S = 60.0
Serial = Callable[..., ScriptedUart]


@pytest.fixture
def serial() -> Iterator[Serial]:
    made: list[ScriptedUart] = []

    def make(answers: Answers, **line: Any) -> ScriptedUart:
        made.append(ScriptedUart(answers, **line))
        return made[-1]

    yield make
    for uart in made:
        uart.close()


@pytest.fixture(autouse=True)
def configured() -> Iterator[None]:
    CONF([], default_config_files=[])
    configure(timeout=LIMIT_S, retry=0.1)
    yield
    CONF.clear_override("logging_serial_port_settings")
    for name in ("port", "timeout", "retry"):
        CONF.clear_override(name, group="vmwmetadata")


def configure(**values: Any) -> None:
    for name, value in values.items():
        CONF.set_override(name, value, group="vmwmetadata")


def loaded(uart: ScriptedUart, documents: dict[str, bytes] = DOCUMENTS) -> VmwMetadataService:
    """A service that has got the documents."""
    configure(port=uart.path)
    service = VmwMetadataService()
    assert service.load() is True
    assert service.get_user_data() == documents["USERDATA"]
    return service


def warnings_in(caplog: pytest.LogCaptureFixture) -> str:
    return "\n".join(r.getMessage() for r in caplog.records if r.levelno >= logging.WARNING)


# What cloudbase-init gets


FULL = {
    "instance-id": "i-7",
    "local-hostname": "web1.example.com",
    "public-keys": {"admin": "ssh-ed25519 AAAA a", "ci": ["ssh-rsa BBBB b"]},
    "admin-username": "operator",
    "admin-password": "s3cret-of-web1",
}
FULL_DOCUMENTS = {**DOCUMENTS, "METADATA": json.dumps(FULL).encode()}


def test_service_passes_on_what_the_server_says(serial: Serial) -> None:
    service = loaded(serial(server_of(FULL_DOCUMENTS)))
    assert service.get_instance_id() == "i-7"
    assert service.get_host_name() == "web1.example.com"
    assert service.get_public_keys() == ["ssh-ed25519 AAAA a", "ssh-rsa BBBB b"]
    assert service.get_admin_username() == "operator"
    assert service.get_admin_password() == "s3cret-of-web1"
    assert service.get_network_details_v2() is None


def test_no_secret_and_no_user_data_is_in_the_log(
    serial: Serial, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    uart = serial(
        server_of({**FULL_DOCUMENTS, "USERDATA": b"#ps1\nnet user x s3cret-of-user-data"})
    )
    service = loaded(uart, {"USERDATA": b"#ps1\nnet user x s3cret-of-user-data"})
    service.get_instance_data()
    assert "i-7" in caplog.text
    assert "s3cret" not in caplog.text


def test_values_that_yaml_makes_numbers_are_text(serial: Serial) -> None:
    metadata = b"instance-id: 7\nlocal-hostname: 42\n"
    service = loaded(serial(server_of({**DOCUMENTS, "METADATA": metadata})))
    assert (service.get_instance_id(), service.get_host_name()) == ("7", "42")
    assert service.get_admin_password() is None


def test_documents_are_forgotten_at_cleanup(serial: Serial) -> None:
    service = loaded(serial(server_of(DOCUMENTS)))
    service.cleanup()
    with pytest.raises(base.NotExistingMetadataException):
        service.get_user_data()


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (None, []),
        ("ssh-rsa A a\n# a comment\n\nssh-rsa B b\n", ["ssh-rsa A a", "ssh-rsa B b"]),
        (["ssh-rsa A a", 5], ["ssh-rsa A a"]),
        (
            {"a": {"openssh-key": "ssh-rsa A a"}, "b": ["ssh-rsa B b"]},
            ["ssh-rsa A a", "ssh-rsa B b"],
        ),
    ],
    ids=["none", "text", "list", "names"],
)
def test_public_keys_have_the_forms_of_instance_files(value: Any, expected: list[str]) -> None:
    assert public_keys(value) == expected


# Lines that are not clean


GARBAGE = b"\0\xff[    0.0] Linux\r\n!!RESPONSE_METADATA#not base64!\n!!REQUEST_METADATA#\n\n"
CUT = response("METADATA", b"{}")[:24] + b"\n"


@pytest.mark.parametrize("noise", [GARBAGE, CUT], ids=["garbage", "cut"])
def test_noise_before_answers_is_survived(serial: Serial, noise: bytes) -> None:
    known = server_of(DOCUMENTS)
    loaded(serial(in_turn(lambda name: noise + known(name), known), echo=True))


def test_answers_arrive_byte_by_byte(serial: Serial) -> None:
    loaded(serial(server_of(DOCUMENTS), piece_bytes=1))


def test_digest_that_does_not_match_is_asked_again(
    serial: Serial, caplog: pytest.LogCaptureFixture
) -> None:
    wrong = old_server({**DOCUMENTS, "DIGEST": digest({**DOCUMENTS, "USERDATA": b"other"})})
    loaded(serial(in_turn(wrong, server_of(DOCUMENTS), until="USERDATA")))
    assert "the digest does not match: user-data: retrying" in warnings_in(caplog)


def test_old_server_without_a_digest_is_enough(serial: Serial) -> None:
    loaded(serial(lambda name: old_server(DOCUMENTS)(name) or refusal(name, "unknown-request")))


# No data


METADATA_FAULTS = {
    "no-id": (b"{}", "meta-data has no instance-id"),
    "list": (b"[1]", "meta-data is not a mapping"),
    "bytes": (b"\xff\xfe", "meta-data is not UTF-8"),
    "yaml": (b"s3cret: [", "meta-data is neither JSON nor YAML, line 1"),
    "object": (b"!!python/object/apply:os.getpid []", "meta-data is neither JSON nor YAML"),
}
FAILURES: dict[str, tuple[Answers, str]] = {
    "silent": (silent, "no answer on"),
    "refused": (refusing("not-found"), "the server answered not-found: no reason"),
    "closed": (refusing("closed"), "the server answered closed: no reason"),
    "digest": (
        old_server({**DOCUMENTS, "DIGEST": digest({"METADATA": b"x"})}),
        "the digest does not match: meta-data, user-data",
    ),
    "noise": (lambda _: GARBAGE, "no answer on"),
    **{
        name: (server_of({**DOCUMENTS, "METADATA": text}), expected)
        for name, (text, expected) in METADATA_FAULTS.items()
    },
}


@pytest.fixture
def a_retry_takes_all_time(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """However slow this machine is, one attempt has its time, and a second one has none."""

    def monotonic() -> float:
        return time.monotonic() + LIMIT_S * caplog.text.count("retrying")

    monkeypatch.setattr(patience, "time", SimpleNamespace(monotonic=monotonic))


@pytest.mark.parametrize("name", FAILURES)
@pytest.mark.usefixtures("a_retry_takes_all_time")
def test_without_usable_data_the_service_gives_up_in_time(
    serial: Serial, name: str, caplog: pytest.LogCaptureFixture
) -> None:
    answers, expected = FAILURES[name]
    patience_s = 0.1 if answers is silent else LIMIT_S  # for the first byte of an answer
    configure(port=serial(answers).path, retry=patience_s)
    assert VmwMetadataService().load() is False
    assert caplog.text.count("retrying") <= 1
    assert f"no data over the serial port: {expected}" in warnings_in(caplog)
    assert "s3cret" not in caplog.text


@pytest.mark.slow
def test_large_user_data_arrive(serial: Serial) -> None:
    documents = {**DOCUMENTS, "USERDATA": b"#ps1\n" + b"# a line of many\n" * 60_000}
    loaded(serial(server_of(documents), piece_bytes=256), documents)


@pytest.mark.slow
def test_line_without_end_is_dropped(serial: Serial) -> None:
    known = server_of(DOCUMENTS)
    flood = b"!!RESPONSE_METADATA#" + b"A" * 9_000_000 + b"\n"
    configure(retry=1)
    loaded(serial(in_turn(lambda _: flood, known, until="DIGEST"), piece_bytes=65536))


def test_port_that_cannot_be_opened_is_reported(caplog: pytest.LogCaptureFixture) -> None:
    configure(port="/dev/ttyNOPE", timeout=0.3)
    assert VmwMetadataService().load() is False
    assert "no data over the serial port: /dev/ttyNOPE cannot be opened: " in warnings_in(caplog)


def test_port_that_goes_is_opened_again(
    serial: Serial, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    first, second = serial(silent), serial(server_of(DOCUMENTS))
    link = tmp_path / "COM1"
    link.symlink_to(first.path)

    def replace() -> None:
        while not first.asked:
            time.sleep(0.01)
        link.unlink()
        link.symlink_to(second.path)
        first.close()

    configure(port=str(link))
    replacing = threading.Thread(target=replace, daemon=True)
    replacing.start()
    assert VmwMetadataService().load() is True
    replacing.join(LIMIT_S)
    assert "COM1 was lost: " in warnings_in(caplog)


# Which machine, which port


def of_vmware() -> str:
    return "VMware, Inc."


def ports_of(*uarts: ScriptedUart) -> Callable[[], list[Any]]:
    return lambda: [SimpleNamespace(device=uart.path) for uart in uarts]


def test_every_port_is_asked_and_the_one_that_answers_is_named(
    serial: Serial, caplog: pytest.LogCaptureFixture
) -> None:
    mute, answering = serial(silent), serial(server_of(DOCUMENTS))
    assert VmwMetadataService(ports_of(mute, answering), of_vmware).load() is True
    wait_until(lambda: "METADATA" in mute.asked)
    assert f"set port={answering.path} in [vmwmetadata]" in warnings_in(caplog)


def test_other_machine_is_asked_nothing_without_a_port(
    serial: Serial, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    uart = serial(server_of(DOCUMENTS))
    assert VmwMetadataService(ports_of(uart), lambda: "Dell Inc.").load() is False
    assert uart.asked == []
    assert "this is no VMware machine (Dell Inc.)" in caplog.text


def test_machine_without_a_port_is_told_at_once(caplog: pytest.LogCaptureFixture) -> None:
    assert VmwMetadataService(ports_of(), of_vmware).load() is False
    assert "this machine has no serial port: add one to the VM" in warnings_in(caplog)


def test_port_of_cloudbase_inits_own_log_is_not_asked(
    serial: Serial, caplog: pytest.LogCaptureFixture
) -> None:
    uart = serial(server_of(DOCUMENTS))
    CONF.set_override("logging_serial_port_settings", f"{uart.path},115200,N,8")
    assert VmwMetadataService(ports_of(uart), of_vmware).load() is False
    assert f"cloudbase-init itself logs to {uart.path}: remove" in warnings_in(caplog)


@pytest.mark.parametrize("name", ["COM1", "com1", r"\\.\COM1", " COM1 "])
def test_port_of_the_log_is_known_under_each_name(name: str) -> None:
    ports = [SimpleNamespace(device="COM2"), SimpleNamespace(device="COM1")]
    assert find_ports(lambda: ports, None, name) == ["COM2"]
    assert find_ports(lambda: ports, None, None) == ["COM1", "COM2"]


def test_ports_and_manufacturer_of_this_machine_can_be_read() -> None:
    assert all(found.device for found in comports())
    assert isinstance(manufacturer(), str)


@pytest.mark.parametrize(("name", "value"), [("timeout", -1), ("timeout", 601), ("retry", 0)])
def test_invalid_setting_is_refused(name: str, value: float) -> None:
    with pytest.raises(ValueError, match="Should be"):
        configure(**{name: value})

"""The settings of a fleet, and a link without a fleet process."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest

from tests.fleet import asked
from tests.test_settings import effective, ends, refused
from tests.waiting import wait_in_hub_until
from vmw_cloudinit_metadata.monitoring.counters import FLEET_DROPPED
from vmw_cloudinit_metadata.process.fleet import urlcheck
from vmw_cloudinit_metadata.process.fleet.fleetlink import FleetLink
from vmw_cloudinit_metadata.process.fleet.migrations import MIGRATIONS, NEWEST, WrongSchemaError
from vmw_cloudinit_metadata.process.fleet.migrations import check as check_schema

NEEDED = ("--uri", "my-metadata", "--driver-opts", '{"directory":"/srv/instances"}')
URL = "postgresql://vmw:s3cret%41@db1:5433,db2/fleet?target_session_attrs=read-write"


def test_check_config_shows_no_password(tmp_path: Path) -> None:
    file = tmp_path / "server.yaml"
    file.write_text(f"fleet: {URL}\n")
    file.chmod(0o644)
    shown, origin = effective("--config", str(file), *NEEDED)["fleet"]
    assert "s3cret" not in shown
    assert "db1:5433,db2/fleet" in shown
    assert origin == f"{file}:1"
    _, _, warnings = ends("check-config", "--config", str(file), *NEEDED)
    assert "readable" in warnings


@pytest.mark.parametrize(
    ("url", "text"),
    [
        ("mysql://vmw:s3cret@db/fleet", "expected postgresql://"),
        ("s3cret", "expected postgresql://"),
        ("postgresql://vmw:s3\ncret@db/fleet", "not printable"),
        ("postgresql://vmw:s3\udcffcret@db/fleet", "not printable"),
        ("postgresql://vmw:s3cret@db/fleet?colour=s3cret", 'parameter: "colour"'),
        ("postgresql://vmw:s3/cret@db/fleet", "write / as %2F"),
    ],
)
def test_url_that_is_wrong_is_refused_without_a_quote(url: str, text: str) -> None:
    said = refused("--fleet", url, *NEEDED)
    assert "--fleet" in said
    assert text in said
    assert "cret" not in said


@pytest.mark.parametrize(
    ("url", "text"),
    [
        ("postgresql://vmw:s3cret s3cret@db/fleet", "unexpected spaces"),
        ('postgresql://vmw:s3%zz"cret@db/fleet', "percent-encoded"),
        ("postgresql://vmw:s3cret@[db/fleet", "looking for matching"),
        ("postgresql://vmw:s3cret", "expected a port"),
        ("postgresql://vmw:s3cret@db1:1,db2:65536/fleet", "expected a port"),
        ("postgresql://vmw:s3cret@db/fleet?target_session_attrs=standby", "must be read-write"),
        ("postgresql://vmw:s3cret@db/fleet?connect_timeout=x", "connect_timeout is set by"),
    ],
)
def test_url_that_libpq_or_the_server_does_not_take_is_explained(url: str, text: str) -> None:
    said = urlcheck.problem_for_libpq(url)
    assert text in said
    assert "cret" not in said


def test_environment_with_a_wrong_url_is_named() -> None:
    said = refused(*NEEDED, VMW_METADATA_FLEET="s3cret")
    assert "VMW_METADATA_FLEET: expected postgresql://" in said
    assert "s3cret" not in said


@pytest.mark.parametrize("name", ["x" * 101, "a\nb", "a\x1bb", "", " "])
def test_server_name_is_short_and_printable(name: str) -> None:
    assert "--server-name" in refused("--fleet", URL, "--server-name", name, *NEEDED)


def test_settings_without_effect_are_named() -> None:
    words = ("--server-name", "a", "--fleet-retention", "3")
    code, _, warnings = ends("check-config", *words, *NEEDED)
    assert not code
    for name in ("--server-name", "--fleet-retention"):
        assert f"{name} has no effect without --fleet" in warnings
    assert "--workers" not in warnings


def test_link_without_a_fleet_process_says_no_at_once() -> None:
    link = FleetLink("nobody-listens-here")
    link.start()
    assert not link.is_connected
    assert asked(link, "servers") is None
    assert not link.tell("machines", {})
    assert link.counted() == {FLEET_DROPPED["asks"]: 1, FLEET_DROPPED["tells"]: 1}
    link.close()


def test_link_takes_nothing_from_a_stranger() -> None:
    address = "vmw-cloudinit-metadata-test"
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(f"\0{address}")
        listener.listen()
        link = FleetLink(address)
        link.start()
        peer, _ = listener.accept()
        peer.sendall(b"SSH-2.0-x\r\n")
        peer.setblocking(False)
        wait_in_hub_until(lambda: has_ended(peer))
        assert not link.is_connected
        link.close()
        peer.close()


def has_ended(peer: socket.socket) -> bool:
    try:
        return not peer.recv(100)
    except BlockingIOError:
        return False


@pytest.mark.parametrize("version", [NEWEST, NEWEST + 1])
def test_schema_of_a_neighbour_is_used(version: int) -> None:
    assert check_schema(version) == version


@pytest.mark.parametrize(
    ("version", "text"),
    [(None, "fleet init"), (NEWEST + 2, "upgrade this server"), (NEWEST - 2, "fleet migrate")],
)
def test_schema_of_another_version_is_refused(version: int | None, text: str) -> None:
    with pytest.raises(WrongSchemaError, match=text):
        check_schema(version)


def test_migrations_are_numbered_from_one_on() -> None:
    assert [one.version for one in MIGRATIONS] == list(range(1, len(MIGRATIONS) + 1))


@pytest.mark.parametrize(
    ("words", "text"),
    [
        (("init", "--print", "--url", URL), "give --url or --print"),
        (("init", "--print", "--user", ""), "expected 1 to 63 bytes"),
        (("init", "--print", "--user", "x" * 64), "expected 1 to 63 bytes"),
        (("status", "--url", "postgresql://vmw:s3/cret@db/fleet"), "write / as %2F"),
        (("status", "--url", f"{URL}&keepalives_idle=1"), "keepalives_idle is set by"),
    ],
)
def test_command_with_what_has_no_effect_is_refused(words: tuple[str, ...], text: str) -> None:
    code, _, said = ends("fleet", *words)
    assert code == 2
    assert text in said
    assert "cret" not in said


def test_settings_that_only_libpq_takes_are_taken() -> None:
    effective("--fleet", "postgresql://vmw@[::1]:5433,db2:,db3/fleet?sslmode=require", *NEEDED)


@pytest.mark.parametrize("mode", [None, 0o644, 0o600])
def test_password_file_that_libpq_ignores_is_refused(mode: int | None, tmp_path: Path) -> None:
    file = tmp_path / "pgpass"
    if mode is not None:
        file.write_text("*:*:*:*:s3cret")
        file.chmod(mode)
    url = f"postgresql://vmw@db/fleet?passfile={file}"
    code, _, said = ends("check-config", "--fleet", url, *NEEDED)
    assert code == (None if mode == 0o600 else 2)
    assert ("cannot be read: No such file" in said) is (mode is None)
    assert ("others have access to it: chmod 600" in said) is (mode == 0o644)


def test_wrong_server_name_in_a_file_is_named_with_its_line(tmp_path: Path) -> None:
    file = tmp_path / "server.yaml"
    file.write_text('server-name: "a\\nb"\n')
    assert f"{file}:1: server-name: found 'a\\nb'" in refused("--config", str(file), *NEEDED)

"""Files that the server trusts: who else may read or write them, and files that are none."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.process import ServerProcess, run
from vmw_cloudinit_metadata.settings import permissions
from vmw_cloudinit_metadata.settings.errors import ConfigError
from vmw_cloudinit_metadata.settings.values import network_warnings, parse_network

TOKEN = "correct-horse-battery-staple"
REFUSED = "is world-writable, so any user can change what the server does"
OPTIONS = ("--admin-token-file", "--tls-key", "--vmotion-key-file", "--config")


def file_of(tmp_path: Path, mode: int, text: str = TOKEN * 4) -> Path:
    file = tmp_path / "secret"
    file.write_text(text)
    file.chmod(mode)
    return file


def options_with(option: str, file: Path) -> list[str]:
    certificate = ["--tls-cert", str(file)] if option == "--tls-key" else []
    driver_opts = ["--driver-opts", '{"directory": "/"}']
    return ["--uri", "x", *driver_opts, *certificate, option, str(file)]


@pytest.mark.parametrize("command", ["run", "check-config"])
@pytest.mark.parametrize("option", OPTIONS)
def test_file_that_every_user_may_write_ends_the_start(
    option: str, command: str, tmp_path: Path
) -> None:
    file = file_of(tmp_path, 0o646, "uri: x\n" if option == "--config" else TOKEN * 4)
    ended = run(command, *options_with(option, file))
    assert ended.returncode == 2
    assert REFUSED in ended.stderr
    assert f"chmod o-w {file}" in ended.stderr


@pytest.mark.parametrize("option", OPTIONS)
@pytest.mark.parametrize("kind", ["fifo", "device", "directory"])
def test_file_that_is_none_ends_the_start_at_once(option: str, kind: str, tmp_path: Path) -> None:
    file = tmp_path / "odd"
    if kind == "fifo":
        os.mkfifo(file, 0o600)
    elif kind == "device":
        file = Path("/dev/zero")
    else:
        file.mkdir()
    ended = run("run", *options_with(option, file))  # within its limit
    assert ended.returncode == 2
    assert str(file) in ended.stderr


@pytest.mark.parametrize(
    ("option", "text"),
    [
        ("--admin-token-file", TOKEN),
        ("--vmotion-key-file", TOKEN * 4),
        ("--config", "driver-opts: {password: x}\n"),
    ],
)
def test_secret_that_every_user_can_read_is_a_warning(
    option: str, text: str, tmp_path: Path, own_instances: Path
) -> None:
    file = file_of(tmp_path, 0o644, text)
    ended = run("check-config", "--uri", "x", option, str(file))
    assert ended.returncode == 0
    told = f"{option}: {file} holds a secret and is world-readable (mode 0644)"
    assert f"warning: {told}" in ended.stderr
    assert f"chmod o= {file}" in ended.stderr
    server = ServerProcess(own_instances, option, str(file))
    try:
        assert told in server.log or server.wait_for("is world-readable")
    finally:
        server.end()


@pytest.mark.parametrize("mode", [0o600, 0o640, 0o400])
def test_secret_that_others_cannot_read_is_no_warning(mode: int, tmp_path: Path) -> None:
    file = file_of(tmp_path, mode)
    assert list(permissions.secret_warnings("--x", file)) == []
    ended = run("check-config", "--uri", "x", "--admin-token-file", str(file))
    assert (ended.returncode, ended.stderr) == (0, "")


def test_settings_without_a_secret_may_be_read_by_all(tmp_path: Path) -> None:
    file = file_of(tmp_path, 0o644, "driver-opts: {password-file: x, token: ''}\n")
    assert run("check-config", "--uri", "x", "--config", str(file)).stderr == ""


@pytest.mark.parametrize(("mode", "is_told"), [(0o777, True), (0o1777, False), (0o775, False)])
def test_directory_in_which_all_may_replace_a_secret_is_a_warning(
    mode: int, is_told: bool, tmp_path: Path
) -> None:
    directory = tmp_path / "keys"
    directory.mkdir()
    file = file_of(directory, 0o600)
    directory.chmod(mode)
    told = list(permissions.secret_warnings("--x", file))
    assert [f"chmod o-w {directory}" in line for line in told] == ([True] if is_told else [])


def test_directory_above_a_linked_secret_is_looked_at(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    link = tmp_path / "a/link"
    link.symlink_to("../secret")
    file_of(tmp_path, 0o600)
    (tmp_path / "a").chmod(0o777)
    (told,) = permissions.secret_warnings("--x", link)
    assert f"chmod o-w {tmp_path / 'a'}" in told


@pytest.mark.parametrize("mode", [0o777, 0o1777])
def test_directory_of_instances_that_all_may_write_is_a_warning(mode: int, tmp_path: Path) -> None:
    directory = tmp_path / "instances"
    directory.mkdir()
    directory.chmod(mode)
    options = ["--uri", "x", "--driver-opts", f'{{"directory": "{directory}"}}']
    ended = run("check-config", *options)
    assert ended.returncode == 0
    assert f"chmod o-w {directory}" in ended.stderr


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to give a file away")
def test_owner_that_is_neither_root_nor_the_server_is_a_warning(tmp_path: Path) -> None:
    file = file_of(tmp_path, 0o600)
    os.chown(file, 12345, 0)
    (told,) = permissions.secret_warnings("--x", file)
    assert "is owned by user 12345, neither root nor the server's user" in told
    assert f"chown root {file}" in told


@pytest.mark.parametrize("length", [1, 15])
def test_short_token_is_refused_with_the_remedy(length: int, tmp_path: Path) -> None:
    ended = run("run", *options_with("--admin-token-file", file_of(tmp_path, 0o600, "x" * length)))
    assert ended.returncode == 2
    assert f"found {length} characters" in ended.stderr
    assert "openssl rand -hex 32" in ended.stderr


def test_key_that_every_user_may_write_is_not_read(tmp_path: Path) -> None:
    file = file_of(tmp_path, 0o666)
    with pytest.raises(ConfigError, match=REFUSED):
        permissions.read("--tls-key", file, 1000)


def test_file_beyond_the_limit_is_refused(tmp_path: Path) -> None:
    assert permissions.read("--x", file_of(tmp_path, 0o600, "x" * 100), 100) == b"x" * 100
    with pytest.raises(ConfigError, match="more than 99 bytes"):
        permissions.read("--x", file_of(tmp_path, 0o600, "x" * 100), 99)


# Networks


@pytest.mark.parametrize(
    ("text", "network"),
    [
        ("::ffff:10.0.0.0/104", "10.0.0.0/8"),
        ("::ffff:10.0.0.1", "10.0.0.1/32"),
        ("::ffff:0:0/96", "0.0.0.0/0"),
        ("::ffff:a00:0/120", "10.0.0.0/24"),
        ("::/0", "::/0"),
        ("fd00::/8", "fd00::/8"),
        ("10.0.0.0/8", "10.0.0.0/8"),
    ],
)
def test_network_of_ipv4_in_the_clothes_of_ipv6_is_ipv4(text: str, network: str) -> None:
    assert str(parse_network(text)) == network


@pytest.mark.parametrize("text", ["::ffff:0:0/95", "::ffff:10.0.0.0/64", "::/64", "::/1"])
def test_network_that_seems_to_hold_ipv4_is_refused(text: str) -> None:
    with pytest.raises(ConfigError, match=r"use 0\.0\.0\.0/0"):
        parse_network(text)


@pytest.mark.parametrize("text", ["::ffff:10.0.0.1/104", "10.0.0.1/8", "fd00::1/8"])
def test_network_with_host_bits_is_refused(text: str) -> None:
    with pytest.raises(ConfigError, match="has host bits set"):
        parse_network(text)


@pytest.mark.parametrize(
    ("texts", "is_told"),
    [
        (["::/0"], True),
        (["::/0", "fd00::/8"], True),
        (["::/0", "0.0.0.0/0"], False),
        (["::/0", "::ffff:0:0/96"], False),
        (["fd00::/8"], False),
        ([], False),
    ],
    ids=str,
)
def test_all_of_ipv6_without_ipv4_is_a_warning(texts: list[str], is_told: bool) -> None:
    told = list(network_warnings("--allow", [parse_network(text) for text in texts]))
    assert bool(told) is is_told


@pytest.mark.parametrize("option", ["--allow", "--proxy-protocol"])
def test_all_of_ipv6_alone_is_reported_by_check_config_and_at_the_start(
    option: str, own_instances: Path
) -> None:
    told = f"{option} ::/0 matches IPv6 only"
    ended = run("check-config", "--uri", "x", option, "::/0")
    assert (ended.returncode, told in ended.stderr) == (0, True)
    server = ServerProcess(own_instances, option, "::/0")
    try:
        assert server.wait_for(told)
    finally:
        server.end()

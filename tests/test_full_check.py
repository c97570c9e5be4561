"""`check-config --full`: what `run` refuses, it refuses, with all faults at once."""

from __future__ import annotations

import json
import random
import socket
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.certificates import make_pair
from tests.commandline import in_process
from tests.process import ServerProcess, run

GOOD = ("--listen", "127.0.0.1:0", "--admin-listen", "off")
Words = tuple[str, ...]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory, program: Callable[[str, str], str]) -> Path:
    """A directory with what settings may name."""
    directory = tmp_path_factory.mktemp("settings")
    openssl = program("openssl", "openssl")
    for name in ("one", "two"):
        (directory / name).mkdir()
        pair = make_pair(openssl, directory / name, "localhost")
        Path(pair.certificate).rename(directory / f"{name}.crt")
        Path(pair.key).rename(directory / f"{name}.key")
    (directory / "instances").mkdir()
    (directory / "short").write_bytes(b"short")
    (directory / "state.host-keys").mkdir()
    (directory / "open").write_bytes(b"x" * 40)
    (directory / "open").chmod(0o666)
    (directory / "file").write_text("x")
    (directory / "file.host-keys").write_text("x")
    (directory / "keys").touch()
    (directory / "keys.host-keys").write_text("x")
    # A header, but less than its page.
    (directory / "cut").write_bytes(b"SQLite format 3\0\x10\0" + bytes(1000))
    return directory


# Of each fault: the option that it is in, the further words of a command line, what is said.
FAULTS: dict[str, tuple[str, Words, str]] = {
    "no uri": ("--uri", (), "Missing option '--uri'"),
    "listen": ("--listen", ("--listen", "nope"), "found 'nope'"),
    "foreign address": ("--listen", ("--listen", "192.0.2.1:0"), "cannot listen on 192.0.2.1:0"),
    "no host": ("--listen", ("--listen", "no.invalid:1"), "cannot listen on no.invalid:1"),
    "range": ("--lookup-pool", ("--lookup-pool", "0"), "--lookup-pool"),
    "number": ("--drain", ("--drain", "x"), "found 'x', expected a number of seconds, at least 0"),
    "network": ("--allow", ("--allow", "10.0.0.1/8"), "--allow"),
    "choice": ("--log-level", ("--log-level", "loud"), "--log-level"),
    "memory": ("--memory-budget", ("--memory-budget", "1M"), "--memory-budget"),
    "key alone": ("--tls", ("--tls-key", "{0}/one.key"), "--tls-key needs --tls-cert"),
    "tls alone": ("--tls", ("--tls", "require"), "--tls require needs --tls-cert"),
    "no certificate": ("--tls", ("--tls-cert", "{0}/none"), "none: No such file"),
    "bad certificate": ("--tls", ("--tls-cert", "{0}/file"), "--tls-cert, --tls-key"),
    "wrong key": (
        "--tls",
        ("--tls-cert", "{0}/one.crt", "--tls-key", "{0}/two.key"),
        "do not match",
    ),
    "short key": ("--vmotion", ("--vmotion-key-file", "{0}/short"), "has 5 bytes"),
    "open key": ("--vmotion", ("--vmotion-key-file", "{0}/open"), "world-writable"),
    "identity": ("--identity", ("--identity-token", "warn"), "needs --identity-key-file"),
    "identity key": ("--identity", ("--identity-key-file", "{0}/short"), "has 5 bytes"),
    "vcenter": ("--vcenter", ("--vcenter", "vc.example"), "--vcenter needs --vcenter-user"),
    "admin": ("--admin", ("--admin-listen", "0.0.0.0:0"), "--admin-listen"),
    "token": ("--admin", ("--admin-token-file", "{0}/short", "--admin-listen", "[::1]:0"), "short"),
    "state file": (
        "--admin",
        ("--admin-listen", "127.0.0.1:0", "--state-file", "{0}/no/such"),
        "--state-file: {0}/no/such",
    ),
    "forget failed": (
        "--admin",
        ("--admin-listen", "off", "--forget-failed", "soon"),
        "Invalid value for '--forget-failed'",
    ),
    "host keys": (
        "--admin",
        ("--admin-listen", "127.0.0.1:0", "--state-file", "{0}/state"),
        "--state-file: {0}/state.host-keys: not a regular file",
    ),
    "outcome hook": (
        "--admin",
        ("--admin-listen", "off", "--outcome-hook", "http://h/"),
        "--outcome-hook needs --outcome-hook-key-file",
    ),
    "issuer": (
        "--identity",
        ("--identity-issuer", "https://x"),
        "--identity-issuer needs --identity-signing-key",
    ),
    "window": ("--fleet", ("--userdata-window", "60"), "--userdata-window needs --ledger FILE"),
    "window range": ("--fleet", ("--userdata-window", "nan"), "expected a finite number"),
    "ledger": ("--fleet", ("--ledger", "{0}/no/such"), "--ledger: {0}/no/such"),
    "no ledger": ("--fleet", ("--ledger", "{0}/one.crt"), "--ledger: {0}/one.crt"),
    "byte of a ledger": ("--fleet", ("--ledger", "{0}/file"), "neither empty nor a whole database"),
    "cut ledger": ("--fleet", ("--ledger", "{0}/cut"), "neither empty nor a whole database"),
    "certificate as state file": (
        "--admin",
        ("--admin-listen", "127.0.0.1:0", "--state-file", "{0}/one.crt"),
        "--state-file: {0}/one.crt: not a state file: name another file",
    ),
    "no host keys": (
        "--admin",
        ("--admin-listen", "127.0.0.1:0", "--state-file", "{0}/keys"),
        "--state-file: {0}/keys.host-keys: not a state file: name another file",
    ),
    "key as audit log": (
        "--audit-log",
        ("--audit-log", "{0}/one.key"),
        "--audit-log: {0}/one.key: not an audit log: name another file",
    ),
    "audit log": ("--audit-log", ("--audit-log", "{0}/no/such"), "--audit-log: {0}/no/such"),
    "last good": ("--last-good", ("--last-good-dir", "{0}/no/such"), "'{0}/no' does not exist"),
    "last good file": ("--last-good", ("--last-good-dir", "{0}/file"), "--last-good-dir: {0}/file"),
    "nowhere to make": (
        "--last-good",
        ("--last-good-dir", "/proc/no"),
        "--last-good-dir: /proc/no",
    ),
    "empty uri": ("--uri", ("--uri", ""), "found nothing, expected a service URI"),
    "empty path": ("--audit-log", ("--audit-log", ""), "found nothing, expected a path"),
    "fleet": ("--fleet", ("--fleet", "mysql://x"), "expected postgresql://"),
    "sslmode": (
        "--fleet",
        ("--fleet", "postgresql://u:secret@h/d?sslmode=bogus"),
        "--fleet: invalid sslmode value: (hidden)",
    ),
    "ports": (
        "--fleet",
        ("--fleet", "postgresql://h1,h2/d?port=1,2,3"),
        "could not match 3 port numbers to 2 hosts",
    ),
    "json": ("--driver", ("--driver-opts", "{{"), "expected a JSON object"),
    "directory": ("--driver", ("--driver-opts", '{{"directory": "/nowhere"}}'), "'/nowhere'"),
    "driver option": ("--driver", ("--driver-opts", '{{"directry": "."}}'), "'directory'"),
    "variable": ("--driver", ("--driver-opts", '{{"directory": "${{NO_SUCH}}"}}'), "NO_SUCH"),
    "module": ("--driver", ("--driver", "no.such:Driver"), "cannot import 'no.such'"),
    "class": ("--driver", ("--driver", "json:JSONDecoder"), "not a subclass of"),
    "name": ("--driver", ("--driver", "nonsense"), "no such driver"),
    "store": ("--driver", ("--driver", "sql", "--driver-opts", '{{"url": "x"}}'), "--driver"),
}


def contents_of(place: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in place.rglob("*") if path.is_file()}


def words_of(place: Path, *names: str) -> Words:
    """A command line with these faults, and no other."""
    options = {FAULTS[name][0] for name in names}
    words = [word.format(place) for name in names for word in FAULTS[name][1]]
    if "--uri" not in options:
        words += ["--uri", "my-metadata"]
    if "--listen" not in options:
        words += GOOD[:2]
    if "--admin" not in options:
        words += GOOD[2:]
    if "--driver" not in options:
        words += ["--driver-opts", json.dumps({"directory": str(place / "instances")})]
    return tuple(words)


@pytest.mark.parametrize("name", FAULTS)
def test_what_run_refuses_is_refused_in_the_same_words(place: Path, name: str) -> None:
    words, said = words_of(place, name), FAULTS[name][2].format(place)
    before = contents_of(place)
    code, _, errors = in_process("check-config", "--full", *words)
    refused = run("run", *words)
    assert (code, refused.returncode) == (2, 2)
    assert contents_of(place).items() >= before.items()
    reason = refused.stderr.splitlines()[-1].partition("error: ")[2]
    assert said in reason
    assert errors == [f"error: {reason}"]


@pytest.mark.parametrize("seed", range(30))
def test_all_faults_are_said_at_once(place: Path, seed: int) -> None:
    chance = random.Random(seed)
    by_option: dict[str, list[str]] = {}
    for name, (option, _, _) in FAULTS.items():
        by_option.setdefault(option, []).append(name)
    options = chance.sample([*by_option], chance.randint(2, len(by_option)))
    if "--last-good" in options:  # with it, the source may be absent
        by_option["--driver"].remove("directory")
    names = [chance.choice(by_option[option]) for option in options]
    words = words_of(place, *names)
    code, _, errors = in_process("check-config", "--full", *words)
    assert code == 2
    for name in names:
        said = FAULTS[name][2].format(place)
        assert sum(said in line for line in errors) >= 1, (name, errors)
    assert len(errors) == len(names)
    assert run("run", *words).returncode == 2


def test_address_in_use_is_refused_unless_the_server_runs(place: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        words = (*words_of(place), "--listen", address)
        code, _, errors = in_process("check-config", "--full", *words)
        assert (code, errors) == (2, [f"error: cannot listen on {address}: Address already in use"])
        assert in_process("check-config", "--full", "--running", *words)[0] == 0


def test_admin_address_that_cannot_be_had_is_a_warning(place: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        words = (*words_of(place), "--admin-listen", address)
        said = f"cannot listen on {address}: Address already in use: no admin port until it is free"
        code, _, errors = in_process("check-config", "--full", *words)
        assert (code, errors) == (0, [f"warning: --admin-listen: {said}"])
        assert in_process("check-config", "--full", "--running", *words)[2] == []


def test_admin_address_that_is_one_of_the_server_is_a_warning(place: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        address = f"127.0.0.1:{free.getsockname()[1]}"
    words = (*words_of(place), "--listen", address, "--admin-listen", address)
    code, _, errors = in_process("check-config", "--full", *words)
    assert code == 0
    said = f"{address} is an address of --listen: no admin port"
    assert errors == [f"warning: --admin-listen: {said}"]


def test_settings_that_run_takes_are_taken_and_nothing_is_left_behind(
    place: Path, tmp_path: Path, own_instances: Path, start: Callable[..., ServerProcess]
) -> None:
    further = (
        *("--audit-log", str(tmp_path / "audit"), "--state-file", str(tmp_path / "state")),
        *("--ledger", str(tmp_path / "ledger"), "--userdata-window", "60"),
        *("--last-good-dir", str(tmp_path / "answers"), "--tls-cert", str(place / "one.crt")),
        *("--tls-key", str(place / "one.key")),
    )
    opts = json.dumps({"directory": str(own_instances)})
    words = ("--uri", "my-metadata", "--driver-opts", opts, "--listen", "127.0.0.1:0", *further)
    code, lines, _ = in_process("check-config", "--full", "--admin-listen", "127.0.0.1:0", *words)
    assert code == 0
    assert any(line.startswith("uri: [my-metadata]") for line in lines)
    assert [*tmp_path.iterdir()] == [own_instances] * own_instances.is_relative_to(tmp_path)
    assert start(*further).port


def test_data_source_out_of_reach_is_a_warning(tmp_path: Path) -> None:
    answers = tmp_path / "answers"  # with them, a server starts without its directory
    opts = json.dumps({"directory": str(tmp_path / "none")})
    words = ("--uri", "x", *GOOD, "--last-good-dir", str(answers), "--driver-opts", opts)
    code, _, errors = in_process("check-config", "--full", *words)
    assert code == 0, errors
    assert any("warning: no VM can be served now: " in line for line in errors)
    assert not answers.exists()


def test_running_without_full_is_refused() -> None:
    code, _, errors = in_process("check-config", "--running", "--uri", "x")
    assert code == 2
    assert "--running has no effect without --full" in errors[0]


def test_banner_names_version_uris_driver_and_source(
    start: Callable[..., ServerProcess],
) -> None:
    log = start("--workers", "2", "--log-level", "error").log
    (line,) = [line for line in log.splitlines() if "URIs: " in line]
    assert "2 serving processes; URIs: my-metadata; driver: " in line
    assert '"directory":' in line

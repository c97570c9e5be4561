"""Settings: file, environment and command line, check-config, and HUP."""

from __future__ import annotations

import json
import os
import re
import signal
import ssl
from collections.abc import Callable, Mapping
from contextlib import redirect_stderr, redirect_stdout
from io import StringIO
from pathlib import Path
from unittest.mock import patch

import click
import pytest
import yaml
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
)
from hypothesis import given
from hypothesis import strategies as st

from tests.certificates import expired, make_pair
from tests.peer import connected, is_closed
from tests.process import CHECKOUT, ServerProcess, run
from tests.test_workers import children, listens
from tests.vm import Vm, suboption
from tests.waiting import wait_until
from vmw_cloudinit_metadata.cli import main
from vmw_cloudinit_metadata.cli.checkconfig import as_yaml
from vmw_cloudinit_metadata.cli.run import run as run_command
from vmw_cloudinit_metadata.instance.parsing import seed
from vmw_cloudinit_metadata.instance.parsing.textkeys import TEXT
from vmw_cloudinit_metadata.settings.layers import name_of, settings_of, variable_of
from vmw_cloudinit_metadata.settings.reload import CHANGEABLE
from vmw_cloudinit_metadata.settings.values import Address

EXAMPLE = CHECKOUT / "conf/vmw-metadata-server.yaml"
OPTIONS = {name_of(option): option for option in settings_of(run_command)}

Start = Callable[..., ServerProcess]


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """A file of settings."""
    path = tmp_path / "server.yaml"
    path.write_text("uri: my-metadata\n")
    return path


def ends(*arguments: str, **environment: str) -> tuple[object, str, str]:
    """Runs the command line in this process; its exit code, output and errors."""
    out, err = StringIO(), StringIO()
    with (
        patch.dict(os.environ, environment),
        patch("sys.argv", ["vmw-cloudinit-metadata", *arguments]),
        redirect_stdout(out),
        redirect_stderr(err),
        pytest.raises(SystemExit) as ended,
    ):
        main()
    return ended.value.code, out.getvalue(), err.getvalue()


def effective(*arguments: str, **environment: str) -> dict[str, tuple[str, str]]:
    """What check-config prints: of each setting the value and where it comes from."""
    code, out, err = ends("check-config", *arguments, **environment)
    assert not code, err
    lines = (re.fullmatch(r"([a-z-]+): (.*?) +# (.*)", line) for line in out.splitlines())
    return {found[1]: (found[2], found[3]) for found in lines if found}


def refused(*arguments: str, **environment: str) -> str:
    """What check-config says to settings that are wrong: one line."""
    code, out, err = ends("check-config", *arguments, **environment)
    assert (code, out, err.count("\n")) == (2, "", 1), err
    return err


# The example


def test_example_file_holds_every_setting_and_no_other() -> None:
    assert list(yaml.safe_load(EXAMPLE.read_text())) == list(OPTIONS)


def test_example_file_has_the_defaults() -> None:
    given = effective("--config", str(EXAMPLE))
    defaults = effective("--uri", "my-metadata", "--driver-opts", '{"directory":"/srv/instances"}')
    assert {key: value for key, (value, _) in given.items()} == {
        key: value for key, (value, _) in defaults.items()
    }


def test_example_file_says_what_happens_at_hup() -> None:
    told = re.findall(r"((?:^#.*\n)+)((?:^[a-z-]+:.*\n)+)", EXAMPLE.read_text(), re.MULTILINE)
    at_hup = {
        key
        for comment, block in told
        for key in re.findall(r"^([a-z-]+):", block, re.MULTILINE)
        if "t HUP" in comment
    }
    assert at_hup == {name_of(o) for o in OPTIONS.values() if o.name in CHANGEABLE}


# The layers


def test_each_layer_goes_before_the_one_below(file: Path) -> None:
    file.write_text("uri: a\nworkers: 2\nlookup-timeout: 4\nlookup-pool: 5\n")
    environment = {"VMW_METADATA_LOOKUP_TIMEOUT": "6", "VMW_METADATA_LOOKUP_POOL": "7"}
    found = effective("--config", str(file), "--lookup-pool", "8", **environment)
    assert found["drain"] == ("30", "default")
    assert found["workers"] == ("2", f"{file}:2")
    assert found["lookup-timeout"] == ("6", "environment VMW_METADATA_LOOKUP_TIMEOUT")
    assert found["lookup-pool"] == ("8", "command line")
    assert list(found) == list(OPTIONS)


SAMPLES = {
    "boolean": "false",
    "URI": "my-metadata",
    "ADDRESS:PORT": "127.0.0.1:5",
    "CIDR": "10.0.0.0/8",
    "SIZE": "4294967296",
    "URL": "postgresql://db/fleet",
    "HOST": "vcenter.example.com:443",
    "HEX": "ab" * 20,
    "JSON": '{"directory":"/x"}',
}


@pytest.fixture
def samples(tmp_path: Path) -> dict[str, str]:
    """A value that is right for each setting, as text: without TLS, which needs a certificate."""
    secret = tmp_path / "secret"
    secret.write_text("0123456789abcdef" * 2)
    signing_key = tmp_path / "signing.pem"
    signing_key.write_bytes(
        Ed25519PrivateKey.generate().private_bytes(
            Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()
        )
    )
    found = {key: sample(option, secret) for key, option in OPTIONS.items()}
    return found | {
        "tls": "off",
        "last-good-dir": str(tmp_path),
        "identity-key-file": f"2={secret}",
        "identity-signing-key": str(signing_key),
        "identity-issuer": "https://metadata.example.com",
        "outcome-hook": "https://hooks.example.com/outcomes",
    }


def sample(option: click.Option, path: Path) -> str:
    match option.type:
        case click.Choice() as choice:
            return str(choice.choices[0])
        case click.IntRange() | click.FloatRange():
            return "17"
        case click.Path():
            return str(path)
        case kind:
            return SAMPLES.get(kind.name) or str(option.default)


def test_every_setting_may_stand_in_the_file(file: Path, samples: dict[str, str]) -> None:
    file.write_text("".join(f"{key}: {text}\n" for key, text in samples.items()))
    found = effective("--config", str(file))
    assert {key: value.strip("[]") for key, (value, _) in found.items()} == samples
    assert [origin for _, origin in found.values()] == [
        f"{file}:{number}" for number, _ in enumerate(samples, 1)
    ]


def test_every_setting_may_stand_in_the_environment(samples: dict[str, str]) -> None:
    found = effective(**{variable_of(OPTIONS[key]): text for key, text in samples.items()})
    assert [origin for _, origin in found.values()] == [
        f"environment VMW_METADATA_{key.upper().replace('-', '_')}" for key in found
    ]


@pytest.mark.parametrize(
    "text", ["10.0.0.0/8,fd00::/8", "10.0.0.0/8 fd00::/8", "10.0.0.0/8, fd00::/8"]
)
def test_variable_of_a_repeatable_setting_holds_several(text: str) -> None:
    found = effective("--uri", "x", VMW_METADATA_ALLOW=text)["allow"][0]
    assert yaml.safe_load(found) == ["10.0.0.0/8", "fd00::/8"]


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("allow: 10.0.0.0/8", "[10.0.0.0/8]"),
        ("allow: [10.0.0.0/8, 10.1.2.3]", "[10.0.0.0/8, 10.1.2.3/32]"),
        ("allow:\n- 10.0.0.0/8\n- 10.1.2.3", "[10.0.0.0/8, 10.1.2.3/32]"),
        ("allow: []", "[]"),
        ("allow:", "[]"),
        ("lookup_timeout: 2.5", "2.5"),
        ("lookup-timeout: '2.5'", "2.5"),
        ("tls: off", "off"),
        ("tls: null", "null"),
        ("driver-opts: {directory: /x, deep: [1, true]}", '{"directory":"/x","deep":[1,true]}'),
    ],
)
def test_file_takes(file: Path, text: str, value: str) -> None:
    file.write_text(f"uri: x\n{text}\n")
    key = text.partition(":")[0].replace("_", "-")
    assert effective("--config", str(file))[key][0] == value


def test_file_may_be_empty_and_is_named_by_the_environment_too(file: Path) -> None:
    file.write_text("# nothing yet\n")
    assert effective("--uri", "x", VMW_METADATA_CONFIG=str(file))["drain"] == ("30", "default")
    file.write_text("uri: y\n")
    assert effective(VMW_METADATA_CONFIG=str(file))["uri"] == ("[y]", f"{file}:1")


# What is wrong


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("uri: x\nlookup-timeot: 3", "{}:2: lookup-timeot: found 'lookup-timeot', "
         "expected 'lookup-timeout'"),
        ("uri: x\nconfig: y", "{}:2:1: <6 characters>: found an unknown key (6 characters)"),
        ("uri: x\n\nworkers: [2]", "{}:3: workers: found a list, expected one value"),
        ("uri: x\nworkers: many", "{}:2: workers: found 'many', expected a whole number"),
        ("uri: x\nworkers: true", "{}:2: workers: found 'true', expected a whole number"),
        ("uri: x\nworkers: 0", "{}:2: workers: found '0', expected a whole number"),
        ("uri: x\nlisten: [1.2.3.4]", "{}:2: listen: found '1.2.3.4', expected ADDRESS:PORT"),
        ("uri: x\nlisten: {a: b}", "{}:2: listen: found a mapping, expected a value, or a list"),
        ("uri: x\nallow: [[a]]", "{}:2: allow: found a list that holds mappings or lists"),
        ("uri: x\ndriver-opts: '{}'", "{}:2: driver-opts: found a single value, expected a map"),
        ("uri: x\nuri: y", "{}:2:1: uri: found a duplicate key (the first is on line 1)"),
        (
            "max-per-host: 1\nmax_per_host: 2",
            "{}:1: max-per-host: found a duplicate key, with - and _",
        ),
        ("uri: x\ntls: loud", "{}:2: tls: 'loud' is not one of"),
        ("uri: [x\n", "{}:1:6: uri: found a [ that is not closed"),
        ("- uri", "{}:1: found a list, expected a mapping of settings"),
        ("tls-cert: /nowhere.pem", "Missing option '--uri'"),
        ("uri: x\ntls-key: x", "--tls-key needs --tls-cert"),
        ("uri: x\ntls-cert: /nowhere.pem", "--tls-cert: /nowhere.pem: No such file"),
        ("uri: x\nvmotion-key-file: /nowhere.key", "--vmotion-key-file: /nowhere.key: No such"),
    ],
    ids=lambda value: value.replace("\n", " ")[:40],
)  # fmt: skip
def test_wrong_file_is_reported_with_line_and_key(file: Path, text: str, told: str) -> None:
    file.write_text(text)
    assert told.replace("{}", str(file), 1) in refused("--config", str(file))


def test_every_fault_of_the_file_is_reported_at_once(file: Path) -> None:
    file.write_text("urri: x\nworker: 1\nworkers: {}\n")
    told = refused("--config", str(file))
    assert [place in told for place in (f"{file}:1:", f"{file}:2:", f"{file}:3:")] == [True] * 3


@pytest.mark.parametrize(
    ("make", "told"),
    [
        (lambda path: path.unlink(), "No such file or directory"),
        (
            lambda path: path.write_bytes(b"uri: x\n\xff"),
            ":2:1: found the byte 0xff",
        ),
        (lambda path: path.write_text("#" * 2**21), "more than 1,048,576 bytes"),
        (lambda path: path.unlink() or path.mkdir(), "is a directory"),
    ],
    ids=["missing", "no UTF-8", "too large", "a directory"],
)
def test_file_that_cannot_be_read_is_reported(
    file: Path, make: Callable[[Path], object], told: str
) -> None:
    make(file)
    error = refused("--config", str(file))
    assert told in error
    assert str(file) in error


def test_wrong_value_of_the_environment_is_reported_with_its_variable() -> None:
    told = refused("--uri", "x", VMW_METADATA_WORKERS="many")
    assert "environment: VMW_METADATA_WORKERS: found 'many', expected a whole number" in told


def test_server_that_would_listen_nowhere_is_refused(file: Path) -> None:
    file.write_text("uri: x\nlisten: []\n")
    assert "server.yaml:2: listen: found no value, expected at least" in refused(
        "--config", str(file)
    )
    told = refused("--uri", "x", VMW_METADATA_LISTEN=" ")
    assert "environment: VMW_METADATA_LISTEN: found no value, expected at least one" in told


def test_missing_uri_is_reported_with_all_ways_to_give_it() -> None:
    told = refused()
    for way in ("'--uri'", "'uri' in the file of --config", "VMW_METADATA_URI"):
        assert way in told


def test_unknown_variable_with_our_prefix_is_a_warning(start: Start) -> None:
    environment = {"VMW_METADATA_LOOKUP_TIMEOT": "9", "VMW_METADATA_CONFIG": ""}
    told = "VMW_METADATA_LOOKUP_TIMEOT is not a setting, expected 'VMW_METADATA_LOOKUP_TIMEOUT'"
    code, _, err = ends("check-config", "--uri", "x", **environment)
    assert (code, err) == (None, f"warning: environment: {told}\n")
    assert f"WARNING environment: {told}" in start(env=environment).log


def test_run_reports_the_same_as_check_config(file: Path) -> None:
    file.write_text("uri: x\nworkrs: 2\n")
    ended = run("run", "--config", str(file))
    assert (ended.returncode, ended.stderr) == (2, refused("--config", str(file)))


# check-config


def test_check_config_hides_secrets_and_starts_no_driver() -> None:
    opts = {
        "password": "hunter1",
        "api_key": "hunter2",
        "nested": [{"client-secret": "hunter3"}],
        "url": "https://user:hunter4@inventory/",
        "further": [
            "postgres://user:p@hunter5@inventory/",
            "postgres://user:p/hunter6@inventory/",
        ],
        "token-file": "/etc/token",
    }
    ended = run(
        "check-config",
        "--uri",
        "x",
        "--driver",
        "no.such:Driver",
        "--driver-opts",
        json.dumps(opts),
    )
    assert ended.returncode == 0
    assert "hunter" not in ended.stdout
    assert '"token-file":"/etc/token"' in ended.stdout
    assert "@inventory/" in ended.stdout


@pytest.mark.parametrize(
    ("options", "is_warned"),
    [
        (("--no-catalogue",), False),
        (("--no-catalogue", "--prepared-memory", "1M"), True),
        (("--no-catalogue", "--prepared-memory", "0"), False),
        (("--prepared-memory", "1M", "--workers", "2"), False),
    ],
)
def test_check_config_warns_of_prepared_memory_without_effect(
    options: tuple[str, ...], is_warned: bool
) -> None:
    ended = run("check-config", "--uri", "x", *options)
    assert ("--prepared-memory has no effect with --no-catalogue" in ended.stderr) is is_warned


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("--admin-listen off --expect-outcomes", "--expect-outcomes has no effect with --admin-"),
        ("--admin-listen off --state-file x", "--state-file has no effect with --admin-listen off"),
        ("--admin-listen off --forget-failed 3", "--forget-failed has no effect with --admin-"),
        ("--admin-listen off --forget-failed 3 --fleet postgresql://h/d", ""),
        ("--admin-listen off --forget-failed 24", ""),
        ("--vcenter-check require", "--vcenter-check has no effect without --vcenter"),
        ("--vcenter-check warn", ""),
        ("--outcome-hook-key-file x", "--outcome-hook-key-file has no effect without --outcome-"),
    ],
)
def test_setting_that_needs_another_one_is_warned_of(words: str, said: str) -> None:
    _, _, warnings = ends("check-config", "--uri", "x", *words.split())
    found = [warning for warning in warnings.splitlines() if "no effect" in warning]
    assert len(found) == bool(said)
    assert all(said in warning for warning in found)


def test_settings_of_the_package_have_all_an_effect() -> None:
    file = CHECKOUT / "conf/vmw-metadata-server.yaml"
    assert "no effect" not in ends("check-config", "--config", str(file))[2]


def test_wrong_driver_opts_are_not_repeated() -> None:
    assert "hunter2" not in refused("--uri", "x", VMW_METADATA_DRIVER_OPTS='{"pass": "hunter2"')


def test_output_of_check_config_is_a_file_of_the_same_settings(file: Path) -> None:
    arguments = ("--uri", "a b", "--listen", "[::]:0", "--max-per-host", "7", "--tls", "OFF")
    file.write_text(ends("check-config", *arguments)[1])
    again = effective("--config", str(file))
    assert {key: value for key, (value, _) in again.items()} == {
        key: value for key, (value, _) in effective(*arguments).items()
    }


def test_one_address_is_shown_as_one_value() -> None:
    assert as_yaml(Address("127.0.0.1", 13371)) == "127.0.0.1:13371"
    assert as_yaml((Address("::1", 5),)) == '["[::1]:5"]'


@given(st.text(st.characters(exclude_categories=["Cs", "Cc"]), min_size=1))
def test_text_that_check_config_shows_is_read_as_the_same(text: str) -> None:
    read = seed.read(f"uri: [{as_yaml(text)}]", {"uri": TEXT})
    assert (read.value, read.faults) == ({"uri": [text]}, ())


def test_tls_info_takes_the_certificate_from_the_file(
    file: Path, tmp_path: Path, program: Callable[[str, str], str]
) -> None:
    pair = make_pair(program("openssl", "openssl"), tmp_path, "own")
    file.write_text(f"uri: x\ntls-cert: {pair.certificate}\ntls-key: {pair.key}\n")
    assert "thumbprint=" in ends("tls-info", "--config", str(file))[1]


@pytest.mark.parametrize(
    ("listen", "options", "said"),
    [
        ("'[::]:14000'", (), ":14000#thumbprint="),
        ("[0.0.0.0:14001, '[::]:14000']", (), ":14001#thumbprint="),
        ("'[::]:14000'", ("--port", "99"), ":99#thumbprint="),
        ("'[::]:0'", (), "give the server's port with --port"),
        ("'[::]:0'", ("--port", "99", "--listen", "[::]:98"), "--listen has no effect with --port"),
    ],
)
def test_tls_info_takes_the_port_from_the_file(
    file: Path,
    tmp_path: Path,
    program: Callable[[str, str], str],
    listen: str,
    options: tuple[str, ...],
    said: str,
) -> None:
    pair = make_pair(program("openssl", "openssl"), tmp_path, "own")
    file.write_text(f"uri: x\ntls-cert: {pair.certificate}\nlisten: {listen}\n")
    assert said in "".join(map(str, ends("tls-info", "--config", str(file), *options)))


def test_show_and_validate_take_the_driver_from_the_file(file: Path, own_instances: Path) -> None:
    file.write_text(f"uri: x\nworkers: 3\ndriver-opts: {{directory: {own_instances}}}\n")
    assert "my-instance" in run("show", "web1", "--config", str(file)).stdout
    assert run("validate", env={"VMW_METADATA_CONFIG": str(file)}).returncode == 0
    file.write_text("wrokers: 3\n")
    assert "expected 'workers'" in run("validate", "--config", str(file)).stderr


# Serving


def test_server_is_run_by_its_file_alone(file: Path, own_instances: Path) -> None:
    opts: Mapping[str, object] = {"directory": str(own_instances)}
    file.write_text(f"uri: [my-metadata]\nlisten: 127.0.0.1:0\ndriver-opts: {json.dumps(opts)}\n")
    program = str(CHECKOUT / "bin/vmw-metadata-server")
    server = ServerProcess(own_instances, command=[program, "--config", str(file)], uri=None)
    try:
        assert Vm(server.port).metadata()["instance-id"] == "my-instance"
    finally:
        server.end()


# HUP


def hup(server: ServerProcess, told: str) -> None:
    server.signal(signal.SIGHUP)
    server.wait_for(told)


@pytest.mark.parametrize(
    "workers", [1, pytest.param(2, marks=pytest.mark.slow)], ids=["alone", "workers"]
)
def test_hup_changes_what_can_be_changed_and_closes_nothing(
    start: Start, file: Path, workers: int
) -> None:
    file.write_text("uri: my-metadata\nmax-per-host: 50\n")
    server = start("--config", str(file), "--workers", str(workers), uri=None)
    machine = Vm(server.port)
    assert machine.metadata()
    file.write_text("uri: another\nallow: 127.0.0.9\nlog-level: debug\n")
    hup(server, r"reload: allow has changed \(.*server\.yaml:2\)")
    server.wait_for(r"reload: uri has changed \(.*server\.yaml:1\)")
    server.wait_for("reload: max-per-host has changed \\(default\\)")
    server.wait_for(rf"(?s)(reload: there is no certificate.*){{{workers}}}")
    with connected(server.port) as peer:
        assert is_closed(peer)
    assert machine.metadata()["instance-id"] == "my-instance"
    with connected(server.port, "127.0.0.9") as peer:
        assert not is_closed(peer)
    server.wait_for(r"DEBUG .*127\.0\.0\.9:\d+: connected")
    assert server.log.count("reload: allow has changed") == 1


def test_hup_serves_a_new_uri_and_no_more_the_old_one(start: Start, file: Path) -> None:
    server = start("--config", str(file), uri=None)
    file.write_text("uri: another\n")
    hup(server, "reload: uri has changed")
    Vm(server.port, uri="another").receive_until(suboption(71))
    Vm(server.port, uri="my-metadata").receive_until(suboption(73))


def test_hup_names_what_waits_for_the_next_start(start: Start, file: Path) -> None:
    server = start("--config", str(file), uri=None)
    file.write_text("uri: my-metadata\nworkers: 4\nlookup-pool: 5\ndrain: 1\ntls: off\n")
    hup(
        server, "WARNING reload: changes to lookup-pool, tls, workers take effect at the next start"
    )
    server.wait_for("INFO reload: drain has changed")
    assert Vm(server.port).metadata()


@pytest.mark.parametrize(
    "workers", [1, pytest.param(2, marks=pytest.mark.slow)], ids=["alone", "workers"]
)
@pytest.mark.parametrize(
    "text", ["uri: [my-metadata\n", "uri: x\nallow: 1.2.3.4\nnonsense: 1\n", None]
)
def test_broken_file_at_hup_changes_nothing_and_is_one_line(
    start: Start, file: Path, text: str | None, workers: int
) -> None:
    server = start("--config", str(file), "--workers", str(workers), uri=None)
    before = len(server.lines)
    file.write_text(text) if text else file.unlink()
    hup(server, r"ERROR .*reload: .*server\.yaml.*; nothing is changed\n")
    assert Vm(server.port).metadata()["instance-id"] == "my-instance"
    told = [line for line in server.lines[before:] if "reload" in line or "ERROR" in line]
    assert len(told) == 1, server.log


def test_hup_takes_another_certificate(
    start: Start, file: Path, tmp_path: Path, program: Callable[[str, str], str]
) -> None:
    openssl = program("openssl", "openssl")
    one, two = (make_pair(openssl, tmp_path, name) for name in ("one", "two"))
    file.write_text(f"uri: my-metadata\ntls-cert: {one.certificate}\ntls-key: {one.key}\n")
    server = start("--config", str(file))
    assert certificate_of(server) == one.der
    file.write_text(f"uri: my-metadata\ntls-cert: {two.certificate}\ntls-key: {two.key}\n")
    hup(server, f"reload: certificate read from {two.certificate}")
    assert certificate_of(server) == two.der
    two.certificate.write_text(expired(two.certificate))
    hup(server, f"WARNING .*reload: --tls-cert: {two.certificate} expired on 2020-01-02 03:04:05")
    file.write_text("uri: my-metadata\n")
    hup(server, "reload: changes to tls-cert, tls-key take effect at the next start")
    assert certificate_of(server) == two.der


def certificate_of(server: ServerProcess) -> bytes:
    return ssl.PEM_cert_to_DER_cert(ssl.get_server_certificate(("127.0.0.1", server.port)))


@pytest.mark.slow
def test_worker_started_after_hup_has_the_new_settings(start: Start, file: Path) -> None:
    server = start("--config", str(file), "--workers", "2")
    file.write_text("uri: my-metadata\nallow: 127.0.0.9\nmax-per-host: 2\n")
    hup(server, "reload: max-per-host has changed")
    before = children(server.pid)
    for worker in before:
        os.kill(worker, signal.SIGKILL)
    wait_until(lambda: len(children(server.pid) - before) == 2)
    wait_until(lambda: all(listens(worker, server.port) for worker in children(server.pid)))
    for _ in range(5):
        with connected(server.port) as peer:
            assert is_closed(peer)
        with connected(server.port, "127.0.0.9") as peer:
            assert not is_closed(peer)


@pytest.mark.slow
def test_hup_while_a_worker_starts_reaches_it_too(start: Start, file: Path) -> None:
    server = start("--config", str(file), "--workers", "2")
    before = children(server.pid)
    for worker in before:
        os.kill(worker, signal.SIGKILL)
    wait_until(lambda: len(children(server.pid) - before) == 2)
    file.write_text("uri: my-metadata\nallow: 127.0.0.9\n")
    hup(server, "reload: allow has changed")
    server.wait_for(r"(?s)(no certificate to read again.*){2}")
    with connected(server.port) as peer:
        assert is_closed(peer)
    assert server.log.count("starting another one") == 2


def test_hup_without_a_change_says_so(start: Start, file: Path) -> None:
    hup(start("--config", str(file)), "INFO reload: no setting has changed")


def test_hup_shortens_the_look_up_and_the_drain(start: Start, file: Path, tmp_path: Path) -> None:
    file.write_text("drain: 20\nlookup-timeout: 20\n")
    server = start(
        *("--config", str(file), "--driver", "tests.scripted_driver:ScriptedDriver"),
        driver_opts={"calls": str(tmp_path / "calls")},
    )
    file.write_text("drain: 0.1\nlookup-timeout: 0.2\n")
    hup(server, "reload: lookup-timeout has changed")
    assert Vm(server.port, "sleep-2 a").error("METADATA") == "timeout"
    file.write_text("drain: 0.1\nlookup-timeout: 20\n")
    hup(server, r"(?s)(reload: lookup-timeout has changed.*){2}")
    machine = Vm(server.port, "sleep-19 b")
    machine.receive_until(suboption(71))
    machine.send(b"!!REQUEST_METADATA#\n")
    wait_until(lambda: "sleep-19" in (tmp_path / "calls").read_text())
    server.signal(signal.SIGTERM)
    assert server.wait(limit_s=15) == 0

"""The command line through a real process: what operators type, and what they read."""

from __future__ import annotations

import json
import os
import re
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.certificates import expired
from tests.process import CHECKOUT, ServerProcess, counters, run
from tests.vm import Vm
from vmw_cloudinit_metadata.settings.certificatenames import names_in, valid_until

UUID = "01234567-89ab-cdef-fedc-ba9800000001"
GUESTS_UUID = "5c241f42-a87f-fa60-6af6-a46351ced0eb"  # as dmidecode prints it
HOSTS_UUID = "421f245c-7fa8-60fa-6af6-a46351ced0eb"


def opts(directory: Path, **further: object) -> str:
    return json.dumps({"directory": str(directory), **further})


def fails_with_one_line(*arguments: str, **settings: object) -> str:
    """Runs a command that must end with exit 2 and one line; returns the line."""
    ended = run(*arguments, **settings)
    assert ended.returncode == 2, ended
    assert ended.stdout == ""
    assert ended.stderr.count("\n") == 1, ended.stderr
    return ended.stderr


# run


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        ([], "--uri"),
        (["--uri", "x", "--nonsense"], "--nonsense"),
        (["--uri", "x"], "directory: missing"),
        (["--uri", "x", "--driver-opts", "{"], "expected a JSON object"),
        (["--uri", "x", "--driver-opts", "[1]"], "expected a JSON object"),
        (["--uri", "x", "--driver-opts", '{"directory": "/nowhere"}'], "'/nowhere'"),
        (["--uri", "x", "--driver-opts", '{"directory": 5}'], "directory: found 5"),
        (["--uri", "x", "--driver-opts", '{"directry": "."}'], "expected 'directory'"),
        (
            ["--uri", "x", "--driver-opts", '{"directory": ".", "match": ["nme"]}'],
            "match.0: found 'nme'",
        ),
        (
            ["--uri", "x", "--driver-opts", '{"directory": ".", "last_good_max_age_s": -1}'],
            "last_good_max_age_s: found -1",
        ),
        (
            ["--uri", "x", "--driver-opts", '{"directory": ".", "defaults": "none.yaml"}'],
            "none.yaml",
        ),
        (["--uri", "x", "--driver", "no.such.module:Driver"], "cannot import 'no.such.module'"),
        (["--uri", "x", "--driver", "json:NoSuch"], "has no 'NoSuch'"),
        (["--uri", "x", "--driver", "json:JSONDecoder"], "not a subclass of"),
        (["--uri", "x", "--driver", "nonsense"], "expected module:Class, or one of: "),
        (["--uri", "x", "--listen", "1.2.3.4"], "expected ADDRESS:PORT"),
        (["--uri", "x", "--listen", "::1:13370"], "expected 0.0.0.0:13370 or [::]:13370"),
        (["--uri", "x", "--listen", "0.0.0.0:99999"], "a port of 0 to 65535"),
        (["--uri", "x", "--drain", "-1"], "--drain"),
        (["--uri", "x", "--lookup-pool", "0"], "--lookup-pool"),
        (["--uri", "x", "--lookup-timeout", "0"], "--lookup-timeout"),
        (["--uri", "x", "--log-level", "loud"], "--log-level"),
    ],
    ids=lambda value: " ".join(value[2:]) if isinstance(value, list) else "",
)
def test_run_with_wrong_options_says_what_is_wrong(arguments: list[str], told: str) -> None:
    assert told in fails_with_one_line("run", *arguments)


def test_run_on_a_port_in_use_says_so(own_instances: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        told = fails_with_one_line(
            *("run", "--uri", "x", "--listen", address, "--driver-opts", opts(own_instances))
        )
    assert f"cannot listen on {address}: Address already in use" in told


def test_unknown_command_says_so() -> None:
    assert "serve" in fails_with_one_line("serve")


def test_help_names_every_option_of_run() -> None:
    text = run("run", "--help").stdout
    for option in (
        *("--uri", "--driver", "--driver-opts", "--listen", "--log-level", "--drain"),
        *("--lookup-pool", "--lookup-timeout"),
    ):
        assert option in text


@pytest.mark.parametrize("command", ["bin/vmw-metadata-server", "vmw-metadata-server"])
def test_server_program_takes_the_options_of_run(
    start: Callable[..., ServerProcess], command: str
) -> None:
    path = CHECKOUT / command if "/" in command else Path(sys.executable).parent / command
    server = start("--log-level", "warning", "--drain", "1", command=[str(path)], cwd=Path("/"))
    assert Vm(server.port).metadata()["instance-id"] == "my-instance"


def test_server_program_with_wrong_options_ends_with_one_line() -> None:
    ended = subprocess.run(
        [CHECKOUT / "bin/vmw-metadata-server"], capture_output=True, text=True, check=False
    )
    assert (ended.returncode, ended.stderr.count("\n")) == (2, 1)
    assert ended.stderr.startswith("vmw-metadata-server: error: Missing option '--uri'")


def test_driver_module_in_the_working_directory_is_found(
    start: Callable[..., ServerProcess], tmp_path: Path
) -> None:
    (tmp_path / "mine.py").write_text(
        "from vmw_cloudinit_metadata import Driver, InstanceData\n"
        "class Mine(Driver):\n"
        "    def get_instance(self, machine):\n"
        "        return InstanceData.from_mapping({'metadata': {'instance-id': 'mine'}})\n"
    )
    server = start("--driver", "mine:Mine", driver_opts={}, cwd=tmp_path)
    assert Vm(server.port).metadata()["instance-id"] == "mine"


# show


def test_show_prints_the_documents_that_the_vm_gets(
    start: Callable[..., ServerProcess], own_instances: Path
) -> None:
    ended = run("show", "web1", "--driver-opts", opts(own_instances))
    machine = Vm(start().port)
    for document in ("METADATA", "NETWORKDATA", "USERDATA"):
        assert machine.document(document).decode() in ended.stdout
    assert ended.returncode == 0
    assert "'web1', found by its name" in ended.stderr
    assert str(own_instances / "web1.yaml") in ended.stderr


def test_show_one_document_prints_it_and_nothing_else(own_instances: Path) -> None:
    (own_instances / "gz.yaml").write_text(
        "metadata: {instance-id: x}\nuserdata: !!binary H4sA/w==\n"
    )
    ended = subprocess.run(
        [
            *(sys.executable, "-m", "vmw_cloudinit_metadata", "show", "gz"),
            *("--document", "user-data", "--driver-opts", opts(own_instances)),
        ],
        capture_output=True,
        check=True,
    )
    assert ended.stdout == b"\x1f\x8b\x00\xff"


def test_show_by_name_has_a_placeholder_for_the_vc_uuid(own_instances: Path) -> None:
    (own_instances / "bare.yaml").write_text("metadata: {}\n")
    ended = run("show", "bare", "--driver-opts", opts(own_instances))
    assert '{"instance-id":"<VC UUID>","hostname":"bare"' in ended.stdout
    assert "--vc-uuid" in ended.stderr
    ended = run("show", "bare", "--vc-uuid", UUID, "--driver-opts", opts(own_instances))
    assert f'{{"instance-id":"{UUID}","hostname":"bare"' in ended.stdout


@pytest.mark.parametrize("option", ["--vc-uuid", "--bios-uuid"])
def test_show_looks_up_by_uuid_in_any_form(own_instances: Path, option: str) -> None:
    (own_instances / f"{UUID}.yaml").write_text(
        f"metadata: {{instance-id: by-uuid}}\nmatch: {{{option[2:]}: {UUID}}}\n"
    )
    told = UUID.upper().replace("-", "")
    ended = run("show", option, told, "--driver-opts", opts(own_instances))
    assert '"instance-id":"by-uuid"' in ended.stdout
    assert option[2:] in ended.stderr


def test_show_by_bios_uuid_says_what_the_file_needs(own_instances: Path) -> None:
    (own_instances / f"{UUID}.yaml").write_text("metadata: {instance-id: by-uuid}\n")
    ended = run("show", "--bios-uuid", UUID, "--driver-opts", opts(own_instances))
    assert (ended.returncode, ended.stdout) == (1, "")
    assert f"write `match: {{bios-uuid: {UUID}}}` into it" in ended.stderr


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("unknown", "no file named 'unknown.yaml'"),
        ("bad", "bad.yaml:1: metadata: found 5"),
        (UUID, "use --vc-uuid"),
        ("x/../web1", "no file named 'x%2f..%2fweb1.yaml'"),
        ("../web1", "names that begin with a dot are not looked up"),
    ],
)
def test_show_of_a_vm_without_data_says_why(own_instances: Path, name: str, told: str) -> None:
    (own_instances / "bad.yaml").write_text("metadata: 5\n")
    ended = run("show", name, "--driver-opts", opts(own_instances))
    assert (ended.returncode, ended.stdout) == (1, "")
    assert told in ended.stderr


def test_show_without_a_vm_says_what_to_give(own_instances: Path) -> None:
    assert "--vc-uuid" in fails_with_one_line("show", "--driver-opts", opts(own_instances))
    wrong = fails_with_one_line("show", "--vc-uuid", "x", "--driver-opts", opts(own_instances))
    assert "expected a UUID" in wrong


# validate


def test_validate_of_good_files_is_0(own_instances: Path) -> None:
    (own_instances / "web1.yaml").chmod(0o640)
    ended = run("validate", "--driver-opts", opts(own_instances))
    assert (ended.returncode, ended.stdout) == (0, "")


def test_validate_prints_every_fault_with_file_line_and_key(own_instances: Path) -> None:
    bad = own_instances / "bad.yaml"
    bad.write_text(
        "metadata:\n  hostname: a_b\n  hostname: c\nnetwork:\n  address: 1.2.3\n  gatway: x\n"
        "userdta: x\n"
    )
    (own_instances / "worse.yml").write_text("metadata: [\n")
    ended = run("validate", "--driver-opts", opts(own_instances))
    assert ended.returncode == 1
    faults = [line for line in ended.stdout.splitlines() if "warning" not in line]
    assert [re.sub(": found.*", "", fault) for fault in faults] == [
        f"{bad}:3:3: metadata.hostname",
        f"{bad}:5: network.address",
        f"{bad}:6: network.gatway",
        f"{bad}:7: userdta",
        f"{own_instances}/worse.yml:1:11: metadata",
    ]
    assert "found 'userdta', expected 'userdata'" in ended.stdout


def test_validate_with_warnings_only_is_0_and_prints_them(own_instances: Path) -> None:
    (own_instances / "web1.yaml").chmod(0o644)
    (own_instances / "odd.yaml").write_text("metadata: {instanceid: x}\nuserdata: hello\n")
    (own_instances / "odd.yaml").chmod(0o644)
    ended = run("validate", "--driver-opts", opts(own_instances))
    assert ended.returncode == 0
    assert re.search(
        r"odd\.yaml:1: warning: found mode 0644.*; likewise in 1 other: web1\.yaml\n",
        ended.stdout,
    )
    assert "odd.yaml:1: warning: metadata.instanceid: found 'instanceid'" in ended.stdout
    assert "odd.yaml:2: warning: userdata: found 5 characters" not in ended.stdout
    assert "odd.yaml:2: warning: userdata" in ended.stdout
    assert "0 faults, " in ended.stderr


def test_validate_says_what_files_named_by_a_uuid_are_found_by(own_instances: Path) -> None:
    (own_instances / f"{UUID}.yaml").write_text("metadata: {}\n")
    ended = run("validate", "--driver-opts", opts(own_instances))
    assert ended.returncode == 0
    assert "1 file is named by a UUID: it is found by VC UUID." in ended.stderr


@pytest.fixture
def files(tmp_path: Path) -> Callable[..., Path]:
    """Makes a directory of these files, which others cannot read."""

    def make(**texts: str) -> Path:
        directory = tmp_path / "files"
        directory.mkdir()
        for name, text in texts.items():
            path = directory / (name if "." in name else f"{name}.yaml")
            path.parent.mkdir(exist_ok=True)
            path.write_text(text)
            path.chmod(0o600)
        return directory

    return make


def test_validate_says_one_fault_and_one_warning(files: Callable[..., Path]) -> None:
    directory = files(web1="metadata: 5\n", web2="metadata: {regio: r}\n")
    ended = run("validate", "--driver-opts", opts(directory))
    assert (ended.returncode, ended.stderr) == (1, "1 fault, 1 warning\n")
    ended = run("validate", "web2", "--driver-opts", opts(directory))
    assert (ended.returncode, ended.stderr) == (0, "0 faults, 1 warning\n")


def test_validate_of_a_userdata_file_called_yaml_finds_no_fault(
    files: Callable[..., Path],
) -> None:
    directory = files(
        web1="metadata: {instance-id: a}\nuserdata-file: cloud-config.yaml\n",
        **{"cloud-config": "#cloud-config\npackage_update: true\n"},
    )
    for names in ([], ["cloud-config.yaml"], ["web1", "cloud-config.yaml"]):
        ended = run("validate", *names, "--driver-opts", opts(directory))
        told = (ended.returncode, ended.stdout, ended.stderr)
        assert told == (0, "", "0 faults, 0 warnings\n")


def test_validate_reports_the_same_warning_of_many_files_in_one_line(
    files: Callable[..., Path],
) -> None:
    directory = files(**{f"web{number:02}": "metadata: {}\n" for number in range(57)})
    for path in directory.iterdir():
        path.chmod(0o644)
    ended = run("validate", "--driver-opts", opts(directory))
    assert ended.stdout == (
        f"{directory}/web00.yaml:1: warning: found mode 0644: every user of this system can read "
        "the file, expected no rights for others, such as 0640; likewise in 56 others: "
        "web01.yaml, web02.yaml, web03.yaml and 53 more\n"
    )
    assert ended.stderr == "0 faults, 57 warnings\n"
    assert run("validate", "--strict", "--driver-opts", opts(directory)).returncode == 1


def test_validate_where_there_is_nothing_says_what_it_skips(files: Callable[..., Path]) -> None:
    directory = files(**{"web1.YAML": "metadata: {}\n", "prod/web2.yaml": "metadata: {}\n"})
    ended = run("validate", "--driver-opts", opts(directory))
    assert ended.returncode == 0
    assert "found 1 file that no VM gets (web1.YAML)" in ended.stdout
    assert f"0 files: {directory} has no NAME.yaml" in ended.stderr
    assert "the files of 1 subdirectory are ignored: prod;" in ended.stderr
    assert run("validate", "--strict", "--driver-opts", opts(directory / "prod")).returncode == 0
    (directory / "prod" / "web2.yaml").unlink()
    ended = run("validate", "--strict", "--driver-opts", opts(directory / "prod"))
    assert (ended.returncode, ended.stdout) == (1, "")


def test_validate_quiet_prints_only_what_fails(files: Callable[..., Path]) -> None:
    directory = files(web1="metadata: 5\n", web2="metadata: {regio: r}\n")
    ended = run("validate", "--quiet", "--driver-opts", opts(directory))
    assert (ended.returncode, ended.stderr, ended.stdout.count("\n")) == (1, "", 1)
    assert "web1.yaml:1: metadata: found 5" in ended.stdout
    ended = run("validate", "--quiet", "web2", "--driver-opts", opts(directory))
    assert (ended.returncode, ended.stdout, ended.stderr) == (0, "", "")
    ended = run("validate", "--quiet", "--strict", "web2", "--driver-opts", opts(directory))
    assert (ended.returncode, ended.stderr) == (1, "")
    assert "metadata.regio" in ended.stdout


def test_validate_in_json_is_one_document(files: Callable[..., Path]) -> None:
    directory = files(web1="metadata: {hostname: a_b}\n", web2="metadata: {regio: r}\n")
    (directory / "web3.yaml").write_text("metadata: {regio: r}\nuserdta: geheim\n")
    (directory / "web3.yaml").chmod(0o600)
    (directory / "sub").mkdir()
    (directory / "sub" / "x.yaml").touch()
    (directory / "web4.yaml").write_text("metadata: {regio: r}\n")
    (directory / "web4.yaml").chmod(0o600)
    ended = run("validate", "--format", "json", "--driver-opts", opts(directory))
    assert (ended.returncode, ended.stderr) == (1, "")
    told = json.loads(ended.stdout)
    assert told["totals"] == {"faults": 2, "warnings": 2, "files": 4}
    assert [(one["severity"], one["key"]) for one in told["findings"]] == [
        ("fault", "metadata.hostname"),
        ("fault", "userdta"),
        ("warning", "metadata.regio"),
    ]
    assert told["findings"][2] == {
        "severity": "warning",
        "file": f"{directory}/web2.yaml",
        "line": 1,
        "column": 0,
        "key": "metadata.regio",
        "found": "'regio'",
        "expected": "'region', if that is meant",
        "count": 2,
        "files": [f"{directory}/web2.yaml", f"{directory}/web4.yaml"],
    }
    assert len(told["notes"]) == 1
    quiet = run("validate", "--format", "json", "--quiet", "--driver-opts", opts(directory))
    assert len(json.loads(quiet.stdout)["findings"]) == 2


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("web9", "web9: no file named 'web9.yaml' in"),
        ("web9.yaml", "web9.yaml: no such file"),
        (UUID, f"no file named '{UUID}.yaml' in"),
    ],
)
def test_validate_of_a_vm_without_a_file_says_so(
    files: Callable[..., Path], name: str, told: str
) -> None:
    directory = files(web1="metadata: {}\n")
    assert told in fails_with_one_line("validate", name, "--driver-opts", opts(directory))


def test_show_by_bios_uuid_knows_the_guests_byte_order(files: Callable[..., Path]) -> None:
    guests, hosts = GUESTS_UUID, HOSTS_UUID
    directory = files(**{guests: "metadata: {instance-id: a}\n"})
    ended = run("show", "--bios-uuid", hosts, "--driver-opts", opts(directory))
    assert ended.returncode == 1
    assert f"{guests}.yaml is named by the BIOS UUID of this VM as its guest" in ended.stderr
    assert f"rename it to {hosts}.yaml" in ended.stderr


def test_show_of_json_with_surrogates_is_as_json_has_it(files: Callable[..., Path]) -> None:
    text = r'{"metadata": {"instance-id": "a", "note": "\ud83d\ude80"}}'
    directory = files(web1=text, **{"web2.json": text})
    for name in ("web1", "web2"):
        ended = run(*("show", name, "--document", "meta-data", "--driver-opts", opts(directory)))
        assert json.loads(ended.stdout)["note"] == "\U0001f680"


# A server


def test_server_finds_the_file_of_a_name_in_each_spelling(
    files: Callable[..., Path], start: Callable[..., ServerProcess]
) -> None:
    directory = files(
        **{
            "ci%2fbuild-1": "metadata: {instance-id: a}\nmatch: {name: ci/build-1}\n",
            "Bu\u0308ro": "metadata: {instance-id: b}\nmatch: {name: B\xfcro}\n",
        }
    )
    server = start(driver_opts={"directory": str(directory)})
    for name in ("ci%2fbuild-1", "ci%2Fbuild-1", "ci/build-1"):
        assert Vm(server.port, name).metadata()["instance-id"] == "a"
    for name in ("B\xfcro", "Bu\u0308ro"):
        assert Vm(server.port, name).metadata()["instance-id"] == "b"


def test_server_reports_a_vm_whose_data_another_one_has_too(
    files: Callable[..., Path], start: Callable[..., ServerProcess]
) -> None:
    directory = files(web1="metadata: {instance-id: all}\n", web2="metadata: {instance-id: all}\n")
    server = start(driver_opts={"directory": str(directory)})
    for name in ("web1", "web2"):
        assert Vm(server.port, name).metadata()["instance-id"] == "all"
    server.wait_for(
        rf"WARNING .*'web2'.*: metadata\.instance-id is 'all', which {directory}/web1\.yaml has too"
    )
    assert "web2.yaml has too" not in server.log
    assert counters(server)["duplicates"] == 1


def test_server_hints_at_a_bios_uuid_in_the_guests_byte_order(
    files: Callable[..., Path], start: Callable[..., ServerProcess]
) -> None:
    guests, hosts = GUESTS_UUID, HOSTS_UUID
    directory = files(**{guests: "metadata: {instance-id: a}\n"})
    server = start(driver_opts={"directory": str(directory)})
    assert Vm(server.port, "web1", bios_uuid=hosts).error("METADATA") == "not-found"
    server.wait_for(
        f"not-found: no file named .*{guests}.yaml is named by the BIOS UUID of this VM"
    )


def test_validate_with_a_driver_that_cannot_says_so() -> None:
    driver = "tests.scripted_driver:ScriptedDriver"
    told = fails_with_one_line("validate", "--driver", driver)
    assert "ScriptedDriver cannot validate its data" in told


def test_examples_of_conf_have_no_fault() -> None:
    ended = run("validate", "--driver-opts", opts(CHECKOUT / "conf/instances"))
    assert ended.returncode == 0
    warnings = [line for line in ended.stdout.splitlines() if "found mode" not in line]
    assert warnings == []


def test_command_in_a_directory_that_was_removed_works(tmp_path: Path) -> None:
    """A release may be replaced under somebody who stands in it."""
    (tmp_path / "removed").mkdir()
    ended = subprocess.run(
        ["sh", "-c", 'rmdir "$PWD" && exec "$0" -m vmw_cloudinit_metadata drivers', sys.executable],
        cwd=tmp_path / "removed",
        env={**os.environ, "PYTHONPATH": str(CHECKOUT)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (ended.returncode, ended.stderr) == (0, "")
    assert "FileDriver" in ended.stdout


# tls-info


@pytest.fixture(scope="module")
def certificate(
    tmp_path_factory: pytest.TempPathFactory, program: Callable[[str, str], str]
) -> Path:
    """A certificate and its key, in one file, made by the real program."""
    directory = tmp_path_factory.mktemp("certificate")
    subprocess.run(
        [
            *(program("openssl", "openssl"), "req", "-x509", "-newkey", "ec"),
            *("-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-subj", "/CN=metadata"),
            *("-keyout", str(directory / "key"), "-out", str(directory / "certificate")),
        ],
        check=True,
        capture_output=True,
    )
    both = directory / "both.pem"
    both.write_text((directory / "key").read_text() + (directory / "certificate").read_text())
    return both


def test_tls_info_prints_the_uri_with_the_thumbprint(
    certificate: Path, program: Callable[[str, str], str]
) -> None:
    told = subprocess.run(
        [
            *(program("openssl", "openssl"), "x509", "-in", str(certificate)),
            *("-noout", "-fingerprint", "-sha1"),
        ],
        check=True,
        capture_output=True,
        text=True,
    )
    thumbprint = told.stdout.strip().partition("=")[2]
    ended = run("tls-info", "--tls-cert", str(certificate), "--host", "meta.example.com")
    assert f"telnets://meta.example.com:13370#thumbprint={thumbprint}\n" in ended.stdout
    assert f" {thumbprint}\n" in ended.stdout
    assert ended.returncode == 0


@pytest.mark.parametrize(
    ("subject", "alternative", "host"),
    [
        ("/CN=metadata", "", "metadata"),
        ("/O=us/CN=a.example/OU=x", "DNS:*.example,DNS:b.example,IP:10.0.0.1", "b.example"),
        ("/CN=a.example", "IP:10.0.0.1", "10.0.0.1"),
        ("/CN=a.example", "IP:fd00::1,DNS:c.example", "[fd00::1]"),
        ("/CN=a.example", "email:root@a.example", "a.example"),
        ("/CN=x", "DNS:other,DNS:{own}", "{own}"),
        ("/CN=x", "DNS:*.example", "{own}"),
        ("/CN=Metadata of our VMs", "", "{own}"),
        ("/CN=evil\x1b[2Jhost", "", "{own}"),
        ("/O=nobody", "", "{own}"),
    ],
)
def test_tls_info_takes_the_host_from_the_certificate(
    tmp_path: Path,
    program: Callable[[str, str], str],
    subject: str,
    alternative: str,
    host: str,
) -> None:
    own = socket.getfqdn()
    file = tmp_path / "both.pem"
    names = ["-addext", f"subjectAltName={alternative.format(own=own)}"] if alternative else []
    subprocess.run(
        [
            *(program("openssl", "openssl"), "req", "-x509", "-newkey", "ec"),
            *("-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-subj", subject, *names),
            *("-keyout", str(file), "-out", str(tmp_path / "certificate")),
        ],
        check=True,
        capture_output=True,
    )
    ended = run("tls-info", "--tls-cert", str(tmp_path / "certificate"))
    assert f" telnets://{host.format(own=own)}:13370#thumbprint=" in ended.stdout


@given(st.binary() | st.lists(st.sampled_from([0x30, 0xA3, 0x82, 0x80, 0, 1, 2])).map(bytes))
def test_names_of_what_is_no_certificate_are_refused(data: bytes) -> None:
    for read in (names_in, valid_until):
        with pytest.raises(ValueError, match="not a certificate"):
            read(data)


@pytest.mark.parametrize("command", ["tls-info", "check-config"])
def test_expired_certificate_is_a_warning(certificate: Path, tmp_path: Path, command: str) -> None:
    old = tmp_path / "old.pem"
    old.write_text(expired(certificate))
    further = () if command == "tls-info" else ("--uri", "x", "--tls-key", str(certificate))
    for file, said in ((certificate, False), (old, True)):
        ended = run(command, "--tls-cert", str(file), *further)
        assert ended.returncode == 0, ended.stderr
        line = f"warning: --tls-cert: {file} expired on 2020-01-02 03:04:05 UTC: renew it"
        assert (line in ended.stderr.splitlines()) is said


def test_tls_info_of_an_ipv6_address_and_another_port(certificate: Path) -> None:
    ended = run("tls-info", "--tls-cert", str(certificate), "--host", "fd00::1", "--port", "99")
    assert "telnets://[fd00::1]:99#thumbprint=" in ended.stdout


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (None, "No such file"),
        ("nonsense", "no PEM certificate found"),
        ("-----BEGIN CERTIFICATE-----\nA\n-----END CERTIFICATE-----\n", "invalid certificate"),
    ],
    ids=["missing", "no pem", "damaged"],
)
def test_tls_info_without_a_usable_certificate_says_so(
    tmp_path: Path, content: str | None, told: str
) -> None:
    file = tmp_path / "certificate"
    if content is not None:
        file.write_text(content)
    line = fails_with_one_line("tls-info", "--tls-cert", str(file))
    assert told in line
    assert str(file) in line


def test_tls_info_with_another_key_says_so(certificate: Path, tmp_path: Path) -> None:
    (tmp_path / "key").write_text("nonsense")
    line = fails_with_one_line(
        *("tls-info", "--tls-cert", str(certificate), "--tls-key", str(tmp_path / "key"))
    )
    assert "certificate and its key" in line

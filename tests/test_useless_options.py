"""What is given and would have no effect is refused, or warned of where a server is to start."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.certificates import make_pair
from tests.commandline import in_process
from vmw_cloudinit_metadata.guest.agent import commandline

URL = "http://127.0.0.1:9"
UUID = "50120000-0000-0000-0000-000000000001"


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        (f"show web1 --admin {URL}", "--admin has no effect without --sha256"),
        ("show web1 --admin-listen 127.0.0.1:9", "--admin-listen has no effect without --sha256"),
        ("show web1 --admin-token-file x", "--admin-token-file has no effect without --sha256"),
        (f"status --admin {URL} --admin-listen [::1]:9", "--admin-listen has no effect with --adm"),
        (f"upgrade --pid 1 --admin {URL}", "--admin has no effect with --pid"),
        (
            "window reopen web1 --ledger x --fleet postgresql://db/vmw",
            "--ledger has no effect with --fleet",
        ),
        (
            f"window reopen {UUID} --ledger x --admin {URL}",
            "--admin has no effect without the name of a VM",
        ),
        ("upgrade --pid 1 --admin-listen [::1]:9", "--admin-listen has no effect with --pid"),
        ("sql init --url sqlite:////x --password-file x", "--password-file has no effect without"),
        ("guest print agent --with-guestinfo", "--with-guestinfo has no effect on agent, only on"),
        ("guest print unit --network-every-boot", "--network-every-boot has no effect on unit"),
        (
            "client storm --uri u --pattern vm-{:05} --defaults x.yaml",
            "--defaults has no effect with --pattern",
        ),
        ("client herd --uri u --directory {instances} -n 3", "-n 3: found 1 VM in --directory"),
        (
            "client storm --uri u --directory {instances} -n 5 --vms 2",
            "--vms 2: found 1 VM in --directory: ask for fewer",
        ),
        (
            "vm-port show web1 --defaults x.yaml --vcenter v --user u",
            "--defaults has no effect without a folder in --from",
        ),
    ],
)
def test_option_without_effect_is_refused(words: str, reason: str, tmp_path: Path) -> None:
    (tmp_path / "web1.yaml").write_text("metadata: {}\n")
    code, out, err = in_process(*words.replace("{instances}", str(tmp_path)).split())
    assert (code, out) == (2, [])
    assert reason in err[-1]


def test_settings_of_the_admin_port_in_a_file_are_no_reason_to_refuse(tmp_path: Path) -> None:
    """The file is the server's, which has them."""
    (tmp_path / "web1.yaml").write_text("metadata: {instance-id: i-1}\n")
    config = tmp_path / "server.conf"
    config.write_text(
        f"uri: u\nadmin-listen: 127.0.0.1:9\ndriver-opts: {{directory: {tmp_path}}}\n"
    )
    code, out, _ = in_process("show", "web1", "--explain", "--config", str(config))
    assert code == 0
    assert any("i-1" in line for line in out)


@pytest.mark.parametrize(
    ("words", "warning"),
    [
        ("--tls off --tls-cert {certificate}", "--tls-cert has no effect without TLS"),
        ("--max-handshake-rate 7", "--max-handshake-rate has no effect without TLS"),
        ("--max-handshake-rate 7 --tls-cert {certificate} --tls-key {key}", ""),
        (
            "--vcenter v --vcenter-user u --vcenter-password-file {key} --vcenter-wait 7",
            "--vcenter-wait has no effect without --vcenter-check require",
        ),
        (
            "--vcenter v --vcenter-user u --vcenter-password-file {key} --vcenter-wait 7"
            " --vcenter-check require",
            "",
        ),
        (
            "--identity-signing-key {key} --identity-issuer https://i",
            "--identity-signing-key has no effect: no VM is proved without --identity-token or "
            "--vcenter-check",
        ),
        (
            "--identity-signing-key {key} --identity-issuer https://i --vmotion-key-file {key}",
            "",
        ),
        (
            '--admin-listen off --driver-opts {"webhook-key-file":"x"}',
            "the driver option webhook-key-file has no effect with --admin-listen off",
        ),
    ],
)
def test_setting_without_effect_is_warned_of(
    words: str, warning: str, program: Callable[[str, str], str], tmp_path: Path
) -> None:
    pair = make_pair(program("openssl", "openssl"), tmp_path, "server")
    for name, path in (("certificate", pair.certificate), ("key", pair.key)):
        words = words.replace(f"{{{name}}}", str(path))
    code, _, err = in_process("check-config", "--uri", "u", *words.split())
    assert code == 0
    found = [line.removeprefix("warning: ") for line in err if "no effect" in line]
    assert found == ([warning] if warning else [])


def test_variable_of_a_wrong_name_is_warned_of_by_each_command(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("VMW_METADATA_ADMIN_LISTN", "127.0.0.1:9")
    monkeypatch.setenv("VMW_METADATA_VCENTER_PASSWORD", "x")  # which is one, and no option
    opts = f'{{"directory": "{tmp_path}"}}'
    for words in (("validate", "--driver-opts", opts), ("status", "--admin", URL)):
        _, _, err = in_process(*words)
        assert err[0] == (
            "warning: environment: VMW_METADATA_ADMIN_LISTN is not a setting, "
            "expected 'VMW_METADATA_ADMIN_LISTEN'"
        )
        assert "PASSWORD" not in "".join(err)


def test_password_for_sqlite_is_refused() -> None:
    pytest.importorskip("sqlalchemy")
    opts = '{"url": "sqlite:////tmp/none.sqlite", "password": "x"}'
    code, _, err = in_process("validate", "--driver", "sql", "--driver-opts", opts)
    assert code == 2
    assert "password: SQLite has none: remove it" in err[-1]


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        ("--check --dry-run", "--check goes without --dry-run"),
        ("report --check", "--check goes without report"),
        ("identity --audience x --dry-run", "--dry-run has no effect with identity"),
        ("--force --gate vmware", "--force is the same as --gate off: give only one"),
    ],
)
def test_option_of_the_agent_without_effect_is_refused(
    words: str, reason: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        commandline.main(words.split())
    assert ended.value.code == 2
    assert reason in capsys.readouterr().err

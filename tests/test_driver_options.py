"""Options of drivers: the model, the environment, files with secrets, and what messages quote."""

from __future__ import annotations

import os
import string
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import Field, SecretStr, field_validator

from tests.process import run
from vmw_cloudinit_metadata import Driver, DriverError, DriverOptions, InstanceData, Machine
from vmw_cloudinit_metadata.drivers import driveroptions, optionvalues
from vmw_cloudinit_metadata.drivers.loading import load
from vmw_cloudinit_metadata.settings.errors import ConfigError
from vmw_cloudinit_metadata.settings.masking import holds_secret

SECRET = "hunter2-hunter2"


class Login(DriverOptions):
    user: str = "reader"
    password: str | None = None


class Options(DriverOptions):
    url: str = Field(description="the address of the database")
    port: int = 5432
    password: str | None = None
    pin: SecretStr | None = None
    ca_file: str | None = None
    ca: str | None = None
    login: Login = Login()
    logins: list[Login] = Field(default_factory=list)

    @field_validator("password")
    @classmethod
    def _is_long(cls, password: str | None) -> str | None:
        if password is not None and len(password) < 4:
            raise ValueError(f"{password} is too short")
        return password


class Database(Driver):
    Options = Options
    options: Options

    def get_instance(self, machine: Machine) -> InstanceData | None:  # noqa: ARG002
        return None


class Loose(Database):
    Options = None


def options_of(given: Mapping[str, Any], driver: type[Driver] = Database) -> Any:
    return load(f"{__name__}:{driver.__name__}", given).options


def refusal_of(given: Mapping[str, Any], driver: type[Driver] = Database) -> str:
    with pytest.raises(ConfigError) as raised:
        options_of(given, driver)
    text = str(raised.value)
    assert text.isprintable()
    return text.removeprefix("--driver-opts: ")


def test_options_are_an_instance_of_the_model() -> None:
    options = options_of({"url": "x", "port": 1, "login": {"user": "me"}})
    assert isinstance(options, Options)
    assert (options.url, options.port, options.login.user) == ("x", 1, "me")


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({}, "url: missing, expected the address of the database"),
        ({"url": "x", "prot": 1}, "found 'prot', expected 'port'"),
        ({"url": "x", "cache_tll": 1}, "found 'cache_tll', expected 'cache_ttl'"),
        ({"url": "x", "login": {"usr": 1}}, "login: found 'usr', expected 'user'"),
        ({"url": "x", "logins": [{"usr": 1}]}, "logins.0: found 'usr', expected 'user'"),
        ({"url": "x", "port": "y"}, "port: found 'y', expected: Input should be a valid integer"),
        ({"url": 5}, "url: found 5, expected: Input should be a valid string"),
        ({"url": "x", "login": 5}, "login: found 5, expected: "),
        ({"url": "x", "password": [SECRET]}, "password: found a list, expected: "),
        (
            {"url": "x", "password": "abc"},
            "password: found 3 characters, expected: (hidden) is too",
        ),
        ({"url": "x", "pin": 12345678}, "pin: found a number, expected: "),
        ({"url": ["x"], "port": f"http://me:{SECRET}@x"}, "url: found a list"),
        ({"url": "x", "cache_ttl": "soon"}, "cache_ttl: found 'soon', expected seconds, from 0"),
    ],
    ids=str,
)
def test_wrong_option_is_reported_without_secrets(options: Mapping[str, Any], text: str) -> None:
    refusal = refusal_of(options)
    assert refusal.startswith(text)
    assert SECRET not in refusal
    assert "12345678" not in refusal


@pytest.mark.parametrize(
    ("body", "text"),
    [
        (
            "Options = dict",
            "Faulty.Options must be a subclass of vmw_cloudinit_metadata.DriverOptions",
        ),
        (
            "class Options(DriverOptions):\n        model_config = {'extra': 'ignore'}",
            "Faulty.Options accepts unknown options",
        ),
        (
            "class Options(DriverOptions):\n        cache_ttl: float = 1",
            "Faulty.Options has cache_ttl: make it an attribute of Faulty",
        ),
        (
            "def __init__(self, options): pass",
            "Faulty.__init__ must call super().__init__(options)",
        ),
    ],
    ids=["no-model", "unknown-ones", "cache-ttl", "no-super"],
)
def test_class_with_unusable_options_is_refused(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    request: pytest.FixtureRequest,
    body: str,
    text: str,
) -> None:
    monkeypatch.syspath_prepend(tmp_path)
    name = f"faulty_{request.node.callspec.id.replace('-', '_')}"
    (tmp_path / f"{name}.py").write_text(
        "from vmw_cloudinit_metadata import Driver, DriverOptions\n\n"
        f"class Faulty(Driver):\n    {body}\n    def get_instance(self, machine): ...\n"
    )
    with pytest.raises(ConfigError) as raised:
        load(f"{name}:Faulty", {})
    assert str(raised.value).startswith(f"--driver {name}:Faulty: {text}")


# The environment


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("${A}", "one"),
        ("x${A}y${B}z", "xoneytwoz"),
        ("$${A}", "${A}"),
        ("$$${A}", "$${A}"),
        ("$A $ $$ {A}", "$A $ $$ {A}"),
        ("${REFERENCE}", "${A}"),
    ],
)
def test_variable_is_replaced_once(text: str, value: str) -> None:
    environ = {"A": "one", "B": "two", "REFERENCE": "${A}"}
    given = {"a": text, "b": [{"c": text}], "d": 5}
    assert optionvalues.resolved(given, environ) == {"a": value, "b": [{"c": value}], "d": 5}


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("${MISSING}", "the environment variable MISSING is not set"),
        ("${missing}", "the environment variable is not set"),
        ("${", "found ${ without the name of a variable and }"),
        ("${}", "found ${ without the name of a variable and }"),
        (f"${{{SECRET}}}", "found ${ without the name of a variable and }"),
        ("${A", "found ${ without the name of a variable and }"),
        ("${BIG}", "has more than 65,536 characters"),
    ],
)
def test_variable_that_cannot_be_used_is_reported_with_its_key(text: str, fault: str) -> None:
    with pytest.raises(ConfigError) as raised:
        optionvalues.resolved({"login": [{"password": text}]}, {"A": "x", "BIG": "x" * 70_000})
    assert str(raised.value).startswith(f"--driver-opts: login.0.password: {fault}")
    assert SECRET not in str(raised.value)


@given(st.text(alphabet="${}A\\ab", max_size=30))
def test_text_without_a_reference_stays_and_any_text_can_be_escaped(text: str) -> None:
    if "${" not in text:
        assert optionvalues.resolved({"a": text}, {}) == {"a": text}
    escaped = text.replace("${", "$${")
    assert optionvalues.resolved({"a": escaped}, {}) == {"a": text}


def test_numbers_and_times_may_come_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VALUE", "7")
    driver = load(f"{__name__}:Database", {"url": "x", "port": "${VALUE}", "cache_ttl": "${VALUE}"})
    assert (driver.options.port, driver.cache_ttl) == (7, 7.0)
    monkeypatch.setenv("VALUE", SECRET)
    for name in ("port", "cache_ttl"):
        assert SECRET not in refusal_of({"url": "x", name: "${VALUE}"})


# Files


@pytest.fixture
def secret(tmp_path: Path) -> Callable[..., str]:
    def write(content: bytes = f"{SECRET}\n".encode(), mode: int = 0o600) -> str:
        path = tmp_path / "secret"
        path.write_bytes(content)
        path.chmod(mode)
        return str(path)

    return write


@pytest.mark.parametrize("end", ["", "\n", "\r\n"])
def test_option_is_read_from_a_file(secret: Callable[..., str], end: str) -> None:
    path = secret(f" {SECRET}{end}".encode())
    options = options_of(
        {"url": "x", "password_file": path, "pin_file": path, "logins": [{"password_file": path}]}
    )
    assert options.password == options.logins[0].password == f" {SECRET}"
    assert options.pin.get_secret_value() == f" {SECRET}"
    assert type(options.password) is str


def test_path_of_a_file_may_have_a_variable(
    secret: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(Path(secret()).parent))
    options = options_of({"url": "x", "password_file": "${CREDENTIALS_DIRECTORY}/secret"})
    assert options.password == SECRET


def test_declared_option_with_that_name_is_a_path() -> None:
    assert options_of({"url": "x", "ca_file": "/nowhere"}).ca_file == "/nowhere"


@pytest.mark.parametrize(
    ("content", "mode", "text"),
    [
        (b"\xff", 0o600, "is not UTF-8 text"),
        (b"\n", 0o600, "is empty, expected the value in it"),
        (b"x" * 70_000, 0o600, "has more than 65,536 bytes"),
        (b"x", 0o602, "is world-writable"),
    ],
    ids=["binary", "empty", "large", "writable"],
)
def test_file_that_cannot_be_used_is_reported(
    secret: Callable[..., str], content: bytes, mode: int, text: str
) -> None:
    path = secret(content, mode)
    refusal = refusal_of({"url": "x", "login": {"password_file": path}})
    assert refusal.startswith(f"login.password_file: {path}")
    assert text in refusal


@pytest.mark.parametrize("path", ["relative", SECRET, "", "/a\0b", 5, None, ["/x"]], ids=repr)
def test_what_is_no_path_is_not_quoted(path: Any) -> None:
    expected = "password_file: expected the absolute path of a file, such as /run/secrets/name"
    assert refusal_of({"url": "x", "password_file": path}) == expected


def test_missing_file_and_a_value_twice_are_reported(tmp_path: Path) -> None:
    missing = str(tmp_path / "missing")
    assert "No such file" in refusal_of({"url": "x", "password_file": missing})
    twice = refusal_of({"url": "x", "password": SECRET, "password_file": missing})
    assert twice == "password_file: password is set too: remove one"


def test_unknown_option_with_a_file_is_reported_with_the_nearest(tmp_path: Path) -> None:
    refusal = refusal_of({"url": "x", "pasword_file": str(tmp_path)})
    assert refusal == "found 'pasword_file', expected 'password_file'"


def test_readable_file_is_a_warning_of_check_config(
    secret: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    path = secret(mode=0o644)
    monkeypatch.setenv("SECRET_FILE", path)
    opts = '{"login": {"password_file": "${SECRET_FILE}"}, "password": "' + SECRET + '"}'
    ended = run("check-config", "--uri", "x", "--driver-opts", opts)
    assert f"warning: password_file: {path} holds a secret and is world-readable" in ended.stderr
    assert ended.returncode == 0
    assert SECRET not in ended.stdout + ended.stderr
    monkeypatch.delenv("SECRET_FILE")
    ended = run("check-config", "--uri", "x", "--driver-opts", opts)
    assert "login.password_file: the environment variable SECRET_FILE is not set" in ended.stderr
    assert ended.returncode == 2


def test_reference_in_the_settings_file_is_no_secret() -> None:
    assert not holds_secret({"password": "${PASSWORD}"})
    assert holds_secret({"password": "x${PASSWORD}"})


# What shows the options

WORDS = st.text(string.ascii_letters + string.digits, min_size=8, max_size=30)


@given(WORDS.map("S{}".format))
def test_secrets_are_never_shown(value: str) -> None:
    given: dict[str, Any] = {"url": f"db://me:{value}@host", "password": value}
    given |= {"login": {"password": value}, "logins": [{"password": value}]}
    for driver, further in ((Database, {"pin": value}), (Loose, {})):
        options = options_of(given | further, driver)
        assert value not in repr(options) + str(options) + f"{options!r}"
    for wrong in ({"port": f"x://me:{value}@"}, {"passwd": value}, {"login": {"passwort": value}}):
        assert value not in refusal_of(given | wrong)


@pytest.mark.parametrize("driver", [Database, Loose])
def test_values_of_the_environment_are_never_shown(
    monkeypatch: pytest.MonkeyPatch, driver: type[Driver]
) -> None:
    monkeypatch.setenv("DSN", f"host=db password={SECRET}")
    options = options_of({"url": "${DSN}", "logins": [{"user": "${DSN}"}]}, driver)
    assert SECRET not in repr(options)
    url = options.url if driver is Database else options["url"]
    assert url == os.environ["DSN"]
    assert type(url) is str


def test_options_cannot_be_changed() -> None:
    with pytest.raises(ValueError, match="frozen"):
        options_of({"url": "x"}).url = "y"


def test_driver_made_by_a_program_takes_values_as_they_are() -> None:
    assert Database({"url": "${HOME}"}).options.url == "${HOME}"
    with pytest.raises(DriverError, match="url: missing"):
        Database({})


def test_hyphens_stand_for_underscores_in_names_of_options(tmp_path: Path) -> None:
    class Options(DriverOptions):
        poll_s: float
        password: str
        labels: dict[str, str]

    secret = tmp_path / "secret"
    secret.write_text("pass")
    given = {"poll-s": 2, "password-file": str(secret), "labels": {"a-b": "c"}}
    found = driveroptions.checked(Options, given)
    assert (found.poll_s, found.password, found.labels) == (2, "pass", {"a-b": "c"})


def test_option_with_hyphen_and_with_underscore_raises() -> None:
    class Options(DriverOptions):
        poll_s: float

    with pytest.raises(DriverError, match="poll_s: the option is set twice, with - and with _"):
        driveroptions.checked(Options, {"poll-s": 2, "poll_s": 2})


@pytest.mark.parametrize("name", ["token_file", "token-file", "client-key-file"])
def test_files_with_secrets_that_all_can_read_are_warned_of(name: str, tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_text("secret")
    secret.chmod(0o644)
    (warning, *_) = optionvalues.file_warnings({name: str(secret)})
    assert f"{name}: {secret} holds a secret and is world-readable" in warning

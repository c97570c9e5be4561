"""Secrets among a driver's options are in no text that its exceptions bring, wherever that goes."""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Iterable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import SecretStr

from tests.process import Constants, ServerProcess, run
from tests.vm import Vm
from vmw_cloudinit_metadata import (
    Driver,
    DriverError,
    DriverOptions,
    InstanceData,
    Key,
    Machine,
    Record,
    Store,
    StoreDriver,
)
from vmw_cloudinit_metadata.drivers.loading import load
from vmw_cloudinit_metadata.drivers.optionvalues import FromEnvironment
from vmw_cloudinit_metadata.serving.answer import Failure, document_names, look_up
from vmw_cloudinit_metadata.serving.driverlog import log_error
from vmw_cloudinit_metadata.settings.errors import ConfigError
from vmw_cloudinit_metadata.settings.knownsecrets import KnownSecrets, parts_of
from vmw_cloudinit_metadata.settings.masking import HIDDEN

SECRET = "Sw0rdfish-99/+ä"
WEB1 = Machine(name="web1")
Start = Callable[..., ServerProcess]


class Options(DriverOptions):
    url: str = ""
    login: str = ""
    directory: str = ""
    password: str = ""
    pin: SecretStr = SecretStr("")
    port: int = 0


class Telling(Driver):
    """Its exceptions tell everything that it knows."""

    Options = Options

    def text(self) -> str:
        options = self.options
        return (
            f"{options.url} {options.login} {options.directory} {options.password!r} "
            f"{options.pin.get_secret_value()}"
        )

    def get_instance(self, machine: Machine) -> InstanceData | None:  # noqa: ARG002
        raise RuntimeError(self.text())

    def document_names(self) -> Collection[str]:
        raise DriverError(self.text())


class TellingAtOnce(Telling):
    def __init__(self, options: Any) -> None:
        super().__init__(options)
        raise RuntimeError(self.text())


class TellingStore(Store):
    Options = Options

    def fetch(self, keys: Collection[Key]) -> Iterable[Record]:  # noqa: ARG002
        raise ConnectionError("x" * 995 + self.options.password)


GIVEN = {
    "secret-name": {"password": SECRET},
    "secret-type": {"pin": SECRET},
    "address": {"url": f"postgres://me:{SECRET.replace('/', '%2F')}@host/db"},
    "at-sign": {"url": f"postgres://me:p@{SECRET.replace('/', '%2F')}@host/db"},
    "slash": {"url": f"postgres://me:p/{SECRET}@host/db"},
    "two addresses": {"url": f"a://me:{SECRET.replace('/', '%2F')}@b/c,a://me:pass@b/d"},
    "connection-string": {"login": FromEnvironment(f"host=db password={SECRET} user=x")},
    "environment": {"login": FromEnvironment(SECRET)},
}


@pytest.mark.parametrize("options", GIVEN.values(), ids=GIVEN)
def test_exception_of_a_driver_shows_no_secret_of_its_options(
    options: dict[str, Any], caplog: pytest.LogCaptureFixture, constants: Constants
) -> None:
    constants(monitoring__onceaminute__QUIET_S=0.0)  # a driver may have the id of an earlier one
    driver = Telling(options)
    for outcome in (look_up(driver, WEB1), document_names(driver)):
        assert isinstance(outcome, Failure)
        assert "Sw0rdfish" not in outcome.reason
        assert "(hidden)" in outcome.reason
    assert "Traceback" in caplog.records[0].traceback  # type: ignore[attr-defined]
    assert "Sw0rdfish" not in "".join(str(vars(record)) for record in caplog.records)


def test_secret_of_a_file_is_hidden_when_the_driver_cannot_be_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "password").write_text(SECRET)
    monkeypatch.setenv("LOGIN", SECRET)
    options = {"password_file": str(tmp_path / "password"), "login": "${LOGIN}", "cache_ttl": 5}
    with pytest.raises(ConfigError, match=r"RuntimeError: .*\(hidden\)") as raised:
        load(f"{__name__}:TellingAtOnce", options)
    assert "Sw0rdfish" not in str(raised.value)


def test_secret_at_the_cut_of_a_long_text_is_hidden() -> None:
    driver = StoreDriver(TellingStore({"password": SECRET}))
    with pytest.raises(DriverError) as raised:
        driver.get_instance(WEB1)
    assert "Sw0" not in str(raised.value)


def test_what_is_no_secret_is_shown() -> None:
    options = {
        "directory": FromEnvironment("/srv/instances"),
        "url": FromEnvironment("postgres://host:5432/db"),
        "port": FromEnvironment("5432"),
        "password": "abc",  # part of too many words
    }
    text = "abc: postgres://host:5432/db and /srv/instances"
    assert Telling(options).known_secrets.hide(text) == text


@given(st.lists(st.text("ABC/\n'", min_size=4), max_size=3), st.text("xyz "))
def test_hidden_text_has_no_secret(secrets: list[str], text: str) -> None:
    hide = KnownSecrets(secrets).hide
    found = hide(text.join(["", *secrets, *map(repr, secrets), ""]))
    assert not any(secret in found for secret in secrets)
    assert hide(text) == text


def test_password_of_an_address_is_hidden_as_it_is_and_decoded() -> None:
    hide = KnownSecrets(parts_of("postgresql://fleet:Sw0rd%2Ffish@db/fleet")).hide
    assert hide("Sw0rd%2Ffish, Sw0rd/fish") == f"{HIDDEN}, {HIDDEN}"


def test_failures_of_one_place_are_logged_once_a_minute(caplog: pytest.LogCaptureFixture) -> None:
    driver = Telling({})
    for number in range(10):
        look_up(driver, Machine(name=f"web{number}"))
    assert len(caplog.records) == 1
    look_up(Telling({}), WEB1)  # another driver
    assert len(caplog.records) == 2


def test_long_traceback_is_cut(caplog: pytest.LogCaptureFixture) -> None:
    log_error(Telling({}), "watch", ValueError("x" * 10**6))
    assert len(caplog.records[0].traceback) < 20_000  # type: ignore[attr-defined]
    assert caplog.records[0].levelno == logging.ERROR


HOSTILE = """
from vmw_cloudinit_metadata import Driver, DriverError, DriverOptions, Store

class Options(DriverOptions):
    password: str

class Hostile(Store):
    Options = Options

    def fetch(self, keys):
        raise ConnectionError(f"cannot log in with {self.options.password}")

    def listen(self, changes):
        changes.lost(f"lost with {self.options.password}")
        changes.closed.wait()

    def check(self):
        raise ConnectionError(f"no session for {self.options.password}\\n" * 1000)

    def all(self):
        yield from self.fetch(())

class Plain(Driver):
    Options = Options

    def get_instance(self, machine):
        raise DriverError(f"cannot log in with {self.options.password}")

    def validate(self):
        yield self.get_instance(None)
"""


@pytest.mark.parametrize("workers", ["1", pytest.param("2", marks=pytest.mark.slow)])
def test_server_shows_no_secret_anywhere(start: Start, tmp_path: Path, workers: str) -> None:
    (tmp_path / "hostile.py").write_text(HOSTILE)
    env = {"PYTHONPATH": str(tmp_path), "PASSWORD": "Sw0rdfish-99"}
    server = start(
        *("--driver", "hostile:Hostile", "--log-level", "debug", "--workers", workers),
        driver_opts={"password": "${PASSWORD}"},
        env=env,
    )
    Vm(server.port).error("METADATA")
    server.wait_for(r"cannot log in with \(hidden\)")
    server.wait_for(r"lost with \(hidden\)")
    assert "Sw0rdfish" not in server.log


@pytest.mark.parametrize("name", ["Hostile", "Plain"])
def test_commands_show_no_secret(tmp_path: Path, name: str) -> None:
    (tmp_path / "hostile.py").write_text(HOSTILE)
    env = {"PYTHONPATH": str(tmp_path), "PASSWORD": "Sw0rdfish-99"}
    options = ("--driver", f"hostile:{name}", "--driver-opts", '{"password": "${PASSWORD}"}')
    for command in (["show", "web1"], ["validate"]):
        ended = run(*command, *options, env=env)
        assert "cannot log in with (hidden)" in ended.stderr
        assert "Sw0rdfish" not in ended.stdout + ended.stderr

"""What `run` would refuse, all of it at once: `check-config --full`. Serves nobody."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from vmw_cloudinit_metadata.admin import remembered
from vmw_cloudinit_metadata.admin.knownhosts import HostEntry
from vmw_cloudinit_metadata.cli import serversettings
from vmw_cloudinit_metadata.drivers import optionvalues
from vmw_cloudinit_metadata.drivers.driver import Driver
from vmw_cloudinit_metadata.drivers.drivererror import DriverError
from vmw_cloudinit_metadata.drivers.loading import load
from vmw_cloudinit_metadata.monitoring.audit import open_to_append
from vmw_cloudinit_metadata.process.listener import listen_on
from vmw_cloudinit_metadata.protocol.vmware import parse_uuid
from vmw_cloudinit_metadata.serving.health import problem_of
from vmw_cloudinit_metadata.serving.ondisk.answerdirectory import AnswerDirectory
from vmw_cloudinit_metadata.serving.ondisk.ledgerfile import LedgerFile
from vmw_cloudinit_metadata.serving.server import MetadataServer
from vmw_cloudinit_metadata.settings.errors import ConfigError
from vmw_cloudinit_metadata.settings.values import Address

Options = Mapping[str, Any]


class _InvalidOptionError(Exception):
    """A check needs an option whose value is invalid by itself."""


class _ValidOptions(dict[str, Any]):
    """The options of `run`; asking for an `invalid` one raises _InvalidOptionError."""

    def __init__(self, options: Options, invalid: Mapping[str, str]) -> None:
        super().__init__(options)
        self._invalid = invalid

    def __getitem__(self, name: str) -> Any:
        if name in self._invalid:
            raise _InvalidOptionError(name)
        return super().__getitem__(name)


def faults_in(options: Options, invalid: Mapping[str, str], *, is_running: bool) -> Iterator[str]:
    """Yield what is wrong, some of it twice; `invalid` are options whose values are, with the
    reasons: what needs one of them is left out.

    Where the server `is_running`, its addresses are in use, and not checked.
    """
    yield from invalid.values()
    valid = _ValidOptions(options, invalid)
    for check in (*CHECKS, *(() if is_running else (_listen,))):
        try:
            check(valid)
        except (ConfigError, DriverError) as error:
            yield str(error)
        except _InvalidOptionError:
            continue


def warnings_in(options: Options, *, is_running: bool) -> Iterator[str]:
    """Warn of what cannot be used now: `run` starts all the same, and tries again."""
    driver = _driver(options)
    try:
        if problem := problem_of(driver):
            yield f"no VM can be served now: {problem}"
    finally:
        driver.close()
    answers = options["last_good_dir"]
    if answers and answers.exists() and not os.access(answers, os.W_OK, effective_ids=True):
        yield f"--last-good-dir: {answers}: no answer can be written: user {os.geteuid()} may not"
    if not is_running:
        yield from _admin_warnings(options)


def _admin_warnings(options: Options) -> Iterator[str]:
    address = options["admin_listen"]
    if not isinstance(address, Address):
        return
    if address.port and address in options["listen"]:
        yield f"--admin-listen: {address} is an address of --listen: no admin port"
        return
    try:
        for listener in listen_on([address]):
            listener.close()
    except ConfigError as error:
        yield f"--admin-listen: {error}: no admin port until it is free"


def _tls(options: Options) -> None:
    pair = serversettings.key_pair(options["tls_cert"], options["tls_key"])
    serversettings.tls_policy(options["tls"], pair)
    if pair:
        pair.load()


def _last_good(options: Options) -> None:
    path = options["last_good_dir"]
    if path:
        with _removed_if_new(path):
            AnswerDirectory(path)


def _state_file(options: Options) -> None:
    """Read both files, and find out whether others can take their place; change nothing."""
    path = options["state_file"]
    if path is None or not isinstance(options["admin_listen"], Address):
        return
    files = ((path, parse_uuid), (remembered.host_keys_beside(path), HostEntry.of))
    for file, is_own in files:
        try:
            remembered.require_own(remembered.load(file), is_own)
            with tempfile.TemporaryFile(dir=file.parent):
                pass
        except OSError as error:
            raise ConfigError(f"--state-file: {file}: {error.strerror or error}") from error


def _audit_log(options: Options) -> None:
    path = options["audit_log"]
    if path is None:
        return
    with _left_as_it_was(path):
        os.close(open_to_append(path))


def _ledger(options: Options) -> None:
    path = options["ledger"]
    if path is None or options["fleet_url"]:
        return
    with _left_as_it_was(path):
        LedgerFile(path)


@contextmanager
def _left_as_it_was(path: Path) -> Iterator[None]:
    """Remove the file in the end if there was none."""
    is_new = not path.exists()
    try:
        yield
    finally:
        if is_new:
            path.unlink(missing_ok=True)


@contextmanager
def _removed_if_new(directory: Path | None) -> Iterator[None]:
    """Remove the directory in the end if there was none."""
    is_new = directory is not None and not directory.exists()
    try:
        yield
    finally:
        if directory and is_new:
            with suppress(OSError):
                directory.rmdir()


def _driver(options: Options) -> Driver:
    is_optional = bool(options["last_good_dir"])
    return load(options["driver_spec"], options["driver_opts"], may_be_absent=is_optional)


def _server(options: Options) -> None:
    """Make what would serve, of driver and settings."""
    driver, answers = _driver(options), options["last_good_dir"]
    try:
        with _removed_if_new(answers):
            MetadataServer(driver, (), last_good_dir=answers)
    except DriverError as error:
        raise ConfigError(f"--driver {options['driver_spec']}: {error}") from error
    finally:
        driver.close()


def _listen(options: Options) -> None:
    for listener in listen_on(options["listen"]):
        listener.close()


# Each is one thing that `run` does with its options. The last one repeats many of them, so that no
# rule is missed that is in it alone.
CHECKS: tuple[Callable[[Options], object], ...] = (
    _tls,
    lambda options: serversettings.memory_budget(options["memory_budget"], options["workers"]),
    lambda options: serversettings.vmotion_key(options["vmotion_key_file"]),
    serversettings.identity,
    serversettings.admin_settings,
    _state_file,
    _audit_log,
    _ledger,
    serversettings.check_userdata_window,
    _last_good,
    serversettings.vcenter_settings,
    serversettings.fleet_settings,
    lambda options: optionvalues.resolved(options["driver_opts"]),
    _server,
    serversettings.server_settings,
)

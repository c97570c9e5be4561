"""Drivers by name: what can be loaded, and what an operator hears of what cannot."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

import pytest

from vmw_cloudinit_metadata.drivers import loading
from vmw_cloudinit_metadata.drivers.driver import Driver, DriverError
from vmw_cloudinit_metadata.drivers.file import FileDriver
from vmw_cloudinit_metadata.drivers.fileoptions import FileOptions
from vmw_cloudinit_metadata.drivers.loading import load
from vmw_cloudinit_metadata.instance.model import InstanceData
from vmw_cloudinit_metadata.protocol.vmware import Machine
from vmw_cloudinit_metadata.serving.answer import Answer, look_up
from vmw_cloudinit_metadata.settings.errors import ConfigError

FILE_DRIVER = "vmw_cloudinit_metadata.drivers.file:FileDriver"

MODULE = """\
from vmw_cloudinit_metadata.drivers.driver import Driver
from vmw_cloudinit_metadata.drivers.driver import DriverError
from vmw_cloudinit_metadata.instance.model import InstanceData

class Good(Driver):
    def get_instance(self, machine):
        return InstanceData.from_mapping({"metadata": {"instance-id": self.options["id"]}})

class Refusing(Good):
    def __init__(self, options):
        raise DriverError("url: found nothing, expected an address")

class Raising(Good):
    def __init__(self, options):
        raise KeyError("url")

class Abstract(Driver):
    pass

class Stranger:
    def __init__(self, options):
        pass

def function(options):
    return Good(options)
"""

WriteModule = Callable[[str, str], None]


@pytest.fixture
def write_module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> WriteModule:
    """Makes a module that can be imported."""
    monkeypatch.syspath_prepend(tmp_path)

    def write(name: str, text: str) -> None:
        (tmp_path / f"{name}.py").write_text(text)

    return write


@pytest.fixture
def module(write_module: WriteModule) -> None:
    write_module("some_drivers", MODULE)


@pytest.fixture
def installed(install_drivers: Callable[[str], None], module: None) -> None:  # noqa: ARG001
    """A distribution with two drivers as entry points."""
    install_drivers("good = some_drivers:Good\nbroken = no_such_module:Driver\n")


def refusal_of(spec: str, options: Mapping[str, object]) -> str:
    """What the operator hears: one line."""
    with pytest.raises(ConfigError) as raised:
        load(spec, options)
    text = str(raised.value)
    assert "\n" not in text
    return text


@pytest.mark.parametrize("spec", [FILE_DRIVER, "file"], ids=["module-and-class", "entry-point"])
def test_file_driver_is_loaded_with_its_options(spec: str, tmp_path: Path) -> None:
    driver = load(spec, {"directory": str(tmp_path)})
    assert isinstance(driver, FileDriver)
    assert driver.options == FileOptions(directory=str(tmp_path))


@pytest.mark.usefixtures("module")
def test_own_driver_is_loaded_by_module_and_class() -> None:
    instance = load("some_drivers:Good", {"id": "i-1"}).get_instance(Machine(name="web1"))
    assert instance == InstanceData(metadata={"instance-id": "i-1"})


@pytest.mark.usefixtures("installed")
def test_own_driver_is_loaded_by_its_entry_point() -> None:
    assert load("good", {"id": "i-1"}).options == {"id": "i-1"}


@pytest.mark.usefixtures("installed")
def test_entry_point_that_cannot_be_imported_is_reported() -> None:
    text = refusal_of("broken", {})
    assert text.startswith("--driver broken: ")
    assert "No module named 'no_such_module'" in text


def test_unknown_entry_point_is_reported_with_the_known_ones() -> None:
    known = ", ".join(sorted({entry.name for entry in loading.installed()}))
    assert refusal_of("fiel", {}) == (
        f"--driver fiel: no such driver, expected module:Class, or one of: {known}"
    )
    assert "file" in known


@pytest.mark.usefixtures("module")
@pytest.mark.parametrize(
    ("spec", "reason"),
    [
        ("no_such_module:Driver", "cannot import 'no_such_module': ModuleNotFoundError"),
        (":Driver", "cannot import ''"),
        (".some_drivers:Good", "cannot import '.some_drivers'"),
        ("some_drivers:Bad", "the module some_drivers has no 'Bad'"),
        ("some_drivers:", "the module some_drivers has no ''"),
        ("some_drivers:Stranger", "not a subclass of vmw_cloudinit_metadata.Driver or"),
        ("some_drivers:function", "not a subclass of vmw_cloudinit_metadata.Driver or"),
        ("some_drivers:Abstract", "TypeError: Can't instantiate abstract class Abstract"),
        ("some_drivers:Raising", "KeyError: 'url'"),
    ],
    ids=lambda value: value if ":" in value else "",
)
def test_driver_that_cannot_be_used_is_reported(spec: str, reason: str) -> None:
    assert refusal_of(spec, {}).startswith(f"--driver {spec}: {reason}")


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        ("1 +", "SyntaxError: invalid syntax"),
        ("1 / 0", "ZeroDivisionError: division by zero"),
        ("import no_such_module", "ModuleNotFoundError: No module named 'no_such_module'"),
        ("import os\nos.no_such_name", "AttributeError: module 'os' has no attribute"),
    ],
    ids=["syntax", "error", "import", "attribute"],
)
def test_module_that_fails_to_import_is_reported_with_its_error(
    write_module: WriteModule, request: pytest.FixtureRequest, body: str, reason: str
) -> None:
    name = f"failing_{request.node.callspec.id}"
    write_module(name, body)
    text = refusal_of(f"{name}:Driver", {})
    assert text.startswith(f"--driver {name}:Driver: cannot import {name!r}: {reason}")


@pytest.mark.usefixtures("module")
def test_options_that_a_driver_refuses_are_reported() -> None:
    text = refusal_of("some_drivers:Refusing", {})
    assert text == "--driver-opts: url: found nothing, expected an address"


@pytest.mark.parametrize(
    ("options", "text"),
    [
        pytest.param(
            {}, "directory: missing, expected the directory of the instance files", id="none"
        ),
        pytest.param(
            {"directory": "{}", "directroy": "x"},
            "found 'directroy', expected 'directory'",
            id="unknown",
        ),
        pytest.param(
            {"directory": "{}/missing"},
            "directory '{}/missing' does not exist",
            id="directory-that-is-not-there",
        ),
        pytest.param(
            {"directory": "{}/file"},
            "directory: '{}/file' is not a directory",
            id="directory-that-is-a-file",
        ),
        pytest.param(
            {"directory": 5}, "directory: found 5, expected: ", id="directory-as-a-number"
        ),
        pytest.param({"directory": ""}, "directory: found '', expected: ", id="directory-empty"),
        pytest.param(
            {"directory": None}, "directory: found nothing, expected: ", id="directory-null"
        ),
        pytest.param(
            {"directory": "{}", "match": "name"},
            "match: found 'name', expected: ",
            id="match-as-text",
        ),
        pytest.param(
            {"directory": "{}", "match": ["uuid"]}, "match.0: found 'uuid', expected: ", id="match"
        ),
        pytest.param(
            {"directory": "{}", "match": []}, "match: found a list, expected: ", id="match-empty"
        ),
        pytest.param(
            {"directory": "{}", "defaults": "missing.yaml"},
            "defaults: '{}/missing.yaml' does not exist",
            id="defaults-that-are-not-there",
        ),
        pytest.param(
            {"directory": "{}", "last_good_max_age_s": -1},
            "last_good_max_age_s: found -1, expected: ",
            id="negative-age",
        ),
        pytest.param(
            {"directory": "{}", "last_good_max_age_s": "1"},
            "last_good_max_age_s: found '1', expected: ",
            id="age-as-a-text",
        ),
    ],
)
def test_option_that_the_file_driver_refuses_is_reported(
    tmp_path: Path, options: Mapping[str, object], text: str
) -> None:
    (tmp_path / "file").touch()
    filled = {
        name: value.format(tmp_path) if isinstance(value, str) else value
        for name, value in options.items()
    }
    assert refusal_of("file", filled).startswith(f"--driver-opts: {text.format(tmp_path)}")


def test_every_option_that_the_file_driver_refuses_is_reported_at_once(tmp_path: Path) -> None:
    text = refusal_of("file", {"directory": str(tmp_path), "defualts": "x", "match": ["uuid"]})
    assert "found 'defualts', expected 'defaults'" in text
    assert "match.0: found 'uuid'" in text


class Plain(Driver):
    """A driver with nothing but what it must have."""

    def get_instance(self, machine: Machine) -> InstanceData | None:
        return None if machine.name else InstanceData(metadata={})


def test_plain_driver_lets_no_answer_hold() -> None:
    assert not Plain({}).still_holds(object())


def test_plain_driver_has_no_further_documents() -> None:
    assert list(Plain({}).document_names()) == []


def test_plain_driver_explains_why_there_is_no_such_machine() -> None:
    assert Plain({}).explain(Machine(name="web1")) == "the driver knows no such VM"


def test_plain_driver_cannot_check_its_data() -> None:
    with pytest.raises(DriverError, match="Plain cannot validate its data"):
        Plain({}).validate()


def test_plain_driver_says_what_to_use_in_place_of_what_it_cannot_do() -> None:
    with pytest.raises(DriverError, match="no method validate: use `show` for a VM"):
        Plain({}).validate()
    with pytest.raises(DriverError, match="no method trace: use `show` without --explain"):
        Plain({}).trace(Machine(name="web1"))


# Classes that derive from the file driver


class Named(FileDriver):
    """Adds something to what the file of a VM says."""

    def get_instance(self, machine: Machine) -> InstanceData | None:
        instance = super().get_instance(machine)
        return instance and replace(instance, matched_by="our own")


def test_driver_that_derives_from_the_file_driver_is_asked_for_all(own_instances: Path) -> None:
    driver = Named({"directory": str(own_instances)})
    answer = look_up(driver, Machine(name="web1"))
    assert isinstance(answer, Answer)
    assert answer.origin.matched_by == "our own"
    assert driver.prepared is None
    driver.close()

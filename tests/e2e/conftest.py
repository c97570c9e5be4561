"""Fixtures for images and labs, and a report of the results."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Generator, Iterator
from pathlib import Path

import pytest

from tests.e2e.image import Image, ImageOf, image
from tests.e2e.lab import Lab
from tests.e2e.recipe import Recipe
from tests.packages.conftest import dist  # noqa: F401 - a fixture

PROGRAMS = {
    "qemu-system-x86_64": "qemu-system-x86",
    "mmdebstrap": "mmdebstrap",
    "mke2fs": "e2fsprogs",
    "debugfs": "e2fsprogs",
}


@pytest.fixture(scope="session")
def shelf() -> Iterator[Path]:
    """A temporary directory for disks, which are large."""
    with tempfile.TemporaryDirectory(prefix="e2e-") as directory:
        yield Path(directory)


@pytest.fixture(scope="session")
def image_of(shelf: Path, program: Callable[[str, str], str]) -> ImageOf:
    for name, package in PROGRAMS.items():
        program(name, package)
    made: dict[Recipe, Image] = {}

    def get(recipe: Recipe) -> Image:
        if recipe not in made:
            made[recipe] = image(recipe, shelf)
        return made[recipe]

    return get


@pytest.fixture
def lab() -> Iterator[Lab]:
    with tempfile.TemporaryDirectory(prefix="e2e-") as directory:
        lab = Lab(Path(directory))
        yield lab
        lab.end()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item,
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    lab = getattr(item, "funcargs", {}).get("lab")
    if report.when == "call" and isinstance(lab, Lab):
        report.user_properties.append(("seen", lab.seen))
        if report.failed:
            report.sections += lab.logs
    return report


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    for outcome in ("passed", "failed"):
        for report in terminalreporter.getreports(outcome):
            properties = dict(report.user_properties)
            if report.when == "call" and "seen" in properties:
                terminalreporter.write_line(f"{outcome} {report.nodeid.rpartition('::')[2]}")
                for fact in properties["seen"]:
                    terminalreporter.write_line(f"    {fact}")

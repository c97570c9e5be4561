"""Whether requirements.lock holds all that a release installs, each with its hashes.

    python -m tests.lock

Works offline: it compares the lock with pyproject.toml and with what the installed packages say of
themselves. It cannot know whether a release was yanked, or has a known vulnerability: `make audit`.
"""

from __future__ import annotations

import re
import sys
import tomllib
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from importlib.metadata import Distribution, PackageNotFoundError, distribution
from pathlib import Path

from packaging.requirements import InvalidRequirement, Requirement
from packaging.utils import canonicalize_name

from tests.process import CHECKOUT

LOCK = CHECKOUT / "requirements.lock"
EXTRAS = ("vsphere", "http", "sql", "fleet", "identity")  # those that the lock is for

_HASH = re.compile(r"--hash=sha256:[0-9a-f]{64}")
_PLACE = re.compile(r"://|^\s*-|(^|\s)[.~]?/\w|\bfile:")  # an address, an option, a path

Installed = Callable[[str], Distribution | None]


@dataclass(frozen=True)
class Pin:
    requirement: Requirement
    hashes: int

    @property
    def name(self) -> str:
        return canonicalize_name(self.requirement.name)

    @property
    def version(self) -> str:
        """The only one that it allows, or ""."""
        exact = [one.version for one in self.requirement.specifier if one.operator == "=="]
        return exact[0] if len(exact) == len(self.requirement.specifier) == 1 else ""

    @property
    def is_for_here(self) -> bool:
        return self.requirement.marker is None or self.requirement.marker.evaluate()


def installed(name: str) -> Distribution | None:
    try:
        return distribution(name)
    except PackageNotFoundError:
        return None


def faults_in(text: str, wanted: Iterable[Requirement], installed: Installed) -> Iterator[str]:
    """What is wrong with a lock of `text` for what is `wanted`."""
    faults: list[str] = []
    pins = pins_in(text, faults)
    yield from faults
    for pin in pins.values():
        yield from _faults_of(pin)
    for requirement in wanted:
        yield from _missing(requirement, pins, "pyproject.toml")
    for pin in pins.values():
        found = installed(pin.name) if pin.is_for_here else None
        if found and found.version == pin.version:
            for requirement in _needs(found, pin.requirement.extras):
                yield from _missing(requirement, pins, pin.name)


def unknown(text: str, installed: Installed) -> Iterator[str]:
    """What cannot be checked here: another release is installed, or none."""
    for pin in pins_in(text, []).values():
        found = installed(pin.name)
        if pin.is_for_here and not (found and found.version == pin.version):
            here = found.version if found else "not installed"
            yield f"{pin.name}: {pin.version} is locked, here it is {here}: its needs are unknown"


def wanted_by(project: Mapping[str, object]) -> list[Requirement]:
    """What pyproject.toml wants to be installed, with EXTRAS."""
    table = project["project"]
    assert isinstance(table, dict)
    extras = (table["optional-dependencies"][extra] for extra in EXTRAS)
    return [Requirement(text) for texts in (table["dependencies"], *extras) for text in texts]


def pins_in(text: str, faults: list[str]) -> dict[str, Pin]:
    """Return the pins of a lock by name; append what is wrong to `faults`."""
    pins: dict[str, Pin] = {}
    for line in text.replace("\\\n", " ").splitlines():
        bare = _HASH.sub("", line)
        if _PLACE.search(bare):
            faults.append(f"a place, or an option, which may hold on one machine alone: {line!r}")
            continue
        told = bare.partition("#")[0].strip()
        if not told:
            continue
        try:
            pin = Pin(Requirement(told), len(_HASH.findall(line)))
        except InvalidRequirement:
            faults.append(f"no requirement: {line!r}")
            continue
        if pin.name in pins:
            faults.append(f"{pin.name}: twice")
        pins[pin.name] = pin
    return pins


def _faults_of(pin: Pin) -> Iterator[str]:
    if not pin.version:
        yield f"{pin.name}: not pinned to one version: {pin.requirement}"
    if not pin.hashes:
        yield f"{pin.name}: no hash"


def _needs(found: Distribution, extras: Iterable[str]) -> Iterator[Requirement]:
    for text in found.requires or ():
        requirement = Requirement(text)
        marker = requirement.marker
        if not marker or any(marker.evaluate({"extra": extra}) for extra in ("", *extras)):
            yield requirement


def _missing(requirement: Requirement, pins: Mapping[str, Pin], by: str) -> Iterator[str]:
    pin = pins.get(canonicalize_name(requirement.name))
    if pin is None or not pin.is_for_here:
        yield f"{requirement.name}: not there, and {by} needs it"
    elif pin.version and not requirement.specifier.contains(pin.version, prereleases=True):
        yield f"{pin.name}: {pin.version} is not what {by} needs: {requirement}"


def main(lock: Path = LOCK) -> int:
    text = lock.read_text()
    wanted = wanted_by(tomllib.loads((CHECKOUT / "pyproject.toml").read_text()))
    faults = list(faults_in(text, wanted, installed))
    for line in unknown(text, installed):
        print(f"{lock.name}: {line}")
    for fault in faults:
        print(f"{lock.name}: {fault}: run `make lock`")
    if not faults:
        print(f"{lock.name}: {len(pins_in(text, []))} releases, each with its hashes")
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())

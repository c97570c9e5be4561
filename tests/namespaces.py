"""Hosts of a test's own: network namespaces, linked to this machine. They need root."""

from __future__ import annotations

import itertools
import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import suppress
from typing import Self

import pytest

NETWORKS = "198.18.0.0/15"  # RFC 2544: for tests
_LINKS_EACH = 64  # of one process
_numbers = itertools.count()


class NeedsRoot(Exception):  # noqa: N818 - what is missing
    """Only root may make a namespace."""


def _ip(*arguments: str) -> None:
    path = shutil.which("ip")
    assert path, "needs ip (Debian: apt-get install iproute2)"
    try:
        subprocess.run([path, *arguments], check=True, capture_output=True, text=True)
    except subprocess.CalledProcessError as error:
        if "not permitted" in error.stderr:
            raise NeedsRoot from error
        raise AssertionError(f"ip {' '.join(arguments)}: {error.stderr}") from error


class Namespace:
    """A host: `with` makes it, and removes it with its links at the end."""

    def __init__(self) -> None:
        self.name = f"vmw{os.getpid()}-{next(_numbers)}"
        self._links: list[Link] = []

    def __enter__(self) -> Self:
        _ip("netns", "add", self.name)
        _ip("-n", self.name, "link", "set", "lo", "up")
        return self

    def __exit__(self, *_: object) -> None:
        # It lives on, without a name, for as long as the system has to send a FIN there.
        for link in self._links:
            link.remove()
        _ip("netns", "delete", self.name)

    def link(self) -> Link:
        """Link it to this machine by one more network."""
        link = Link(self)
        self._links.append(link)
        return link

    def command(self, *command: str) -> list[str]:
        """Return the command that runs `command` there."""
        return ["ip", "netns", "exec", self.name, *command]


class Link:
    """A network between this machine, `here`, and a namespace, `there`: addresses of the two."""

    def __init__(self, namespace: Namespace) -> None:
        number, pid = next(_numbers), os.getpid()
        self._namespace = namespace
        self._ours, self._theirs = f"vmw{pid}.{number}", f"vmw{pid}.{number}p"
        subnet = f"198.{18 + pid // 256 % 2}.{pid % 256}"
        place = number % _LINKS_EACH * 4
        self.here, self.there = f"{subnet}.{place + 1}", f"{subnet}.{place + 2}"
        peer = ("type", "veth", "peer", self._theirs, "netns", namespace.name)
        _ip("link", "add", self._ours, *peer)
        _ip("address", "add", f"{self.here}/30", "dev", self._ours)
        _ip("link", "set", self._ours, "up")
        _ip("-n", namespace.name, "address", "add", f"{self.there}/30", "dev", self._theirs)
        self.mend()

    def cut(self) -> None:
        """From now on no packet arrives, in neither direction."""
        _ip("-n", self._namespace.name, "link", "set", self._theirs, "down")

    def mend(self) -> None:
        _ip("-n", self._namespace.name, "link", "set", self._theirs, "up")

    def remove(self) -> None:
        with suppress(AssertionError):
            _ip("link", "delete", self._ours)


@pytest.fixture
def namespace() -> Iterator[Namespace]:
    try:
        with Namespace() as made:
            yield made
    except NeedsRoot:
        if os.environ.get("CI"):
            pytest.fail("needs a network namespace, which takes root")
        pytest.skip("needs a network namespace, which takes root")

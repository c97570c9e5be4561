"""Names of hosts that a resolver does not answer: what is sent to them ends in its time."""

from __future__ import annotations

import itertools
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.process import CHECKOUT, Constants
from tests.vm import LIMIT_S
from tests.waiting import wait_until
from vmw_cloudinit_metadata.drivers.stores.httpclient import HttpClient
from vmw_cloudinit_metadata.drivers.stores.httperrors import ServerError
from vmw_cloudinit_metadata.drivers.stores.httpoptions import HttpOptions
from vmw_cloudinit_metadata.process.namelookup import addresses
from vmw_cloudinit_metadata.process.outcomes.hookwork import BEAT, HookWork

_numbers = itertools.count()
FOUND = [(socket.AF_INET, socket.SOCK_STREAM, 6, "", ("127.0.0.1", 80))]


class Resolver:
    """Knows one name, and answers when `answers` is set. It is not asked for addresses."""

    def __init__(self) -> None:
        self.name = f"{next(_numbers)}.example"  # of this test alone
        self.answers = threading.Event()
        self.asked = 0
        self._numeric = socket.getaddrinfo

    def __call__(self, host: str, port: int, **how: Any) -> list[Any]:
        if how.get("flags"):
            return self._numeric(host, port, **how)
        self.asked += 1
        self.answers.wait(LIMIT_S)
        if host != self.name:
            raise socket.gaierror(socket.EAI_NONAME, "unknown")
        return FOUND


@pytest.fixture
def resolver(monkeypatch: pytest.MonkeyPatch) -> Iterator[Resolver]:
    made = Resolver()
    monkeypatch.setattr(socket, "getaddrinfo", made)
    yield made
    made.answers.set()
    wait_until(lambda: not lookups())


def lookups() -> list[threading.Thread]:
    return [one for one in threading.enumerate() if one.name == "name look-up"]


def test_many_who_ask_for_a_name_have_one_look_up(resolver: Resolver) -> None:
    for _ in range(20):
        with pytest.raises(TimeoutError):
            addresses(resolver.name, 80, 0.01)
    assert (len(lookups()), resolver.asked) == (1, 1)


def test_answer_that_came_too_late_is_that_of_the_next_one(resolver: Resolver) -> None:
    with pytest.raises(TimeoutError):
        addresses(resolver.name, 80, 0.01)
    resolver.answers.set()
    wait_until(lambda: not lookups())
    assert [addresses(resolver.name, 80, LIMIT_S) for _ in range(2)] == [FOUND, FOUND]
    assert resolver.asked == 2  # the late one, and one of its own


def test_old_answer_and_late_failure_are_nobodys(resolver: Resolver, constants: Constants) -> None:
    constants(process__namelookup__KEPT_S=0.0)
    for name in (resolver.name, "unknown.example"):
        with pytest.raises(TimeoutError):
            addresses(name, 80, 0.01)
    resolver.answers.set()
    wait_until(lambda: not lookups())
    assert addresses(resolver.name, 80, LIMIT_S) == FOUND
    with pytest.raises(socket.gaierror):
        addresses("unknown.example", 80, LIMIT_S)
    assert resolver.asked == 4


def test_forked_process_looks_up_anew(resolver: Resolver) -> None:
    with pytest.raises(TimeoutError):
        addresses(resolver.name, 80, 0.01)
    pid = os.fork()
    if not pid:
        resolver.answers.set()
        os._exit(0 if addresses(resolver.name, 80, LIMIT_S) == FOUND else 1)
    assert os.waitpid(pid, 0)[1] == 0


@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
def test_address_needs_no_look_up(resolver: Resolver, host: str) -> None:
    assert addresses(host, 80, 0.0)[0][4][:2] == (host, 80)
    assert resolver.asked == 0


def test_text_that_is_no_name_is_an_error_of_the_system() -> None:
    with pytest.raises(socket.gaierror, match="no name of a host"):
        addresses("a..b", 80, LIMIT_S)


# What uses it


def test_request_to_a_store_ends_in_its_time(resolver: Resolver) -> None:
    client = HttpClient(HttpOptions.model_validate({"url": f"http://{resolver.name}/"}))
    for _ in range(3):
        with pytest.raises(ServerError, match=r"no connection within 0\.2 s"):
            client.request("GET", "/", within_s=0.2)
    assert resolver.asked == 1


# The process of webhooks, with a name server that takes questions and says nothing.
SILENT = """
import socket
from vmw_cloudinit_metadata.process import keptchild
from vmw_cloudinit_metadata.process.outcomes import hookchild

server = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
server.bind(("127.0.0.1", 53))
hookchild.ATTEMPT_S = 0.5
keptchild.run(hookchild._run, hookchild.MEMORY_BYTES)
"""


def test_attempt_of_a_webhook_ends_in_its_time(
    tmp_path: Path, program: Callable[[str, str], str]
) -> None:
    alone = [program("unshare", "util-linux"), "--user", "--map-root-user", "--mount", "--net"]
    program("ip", "iproute2")
    (tmp_path / "resolv.conf").write_text(f"nameserver 127.0.0.1\noptions timeout:{LIMIT_S:.0f}\n")
    (tmp_path / "key").write_bytes(b"k" * 32)
    (tmp_path / "key").chmod(0o600)
    inside = 'mount --bind "$0" /etc/resolv.conf && ip link set lo up && exec "$@"'
    shell = [*alone, "sh", "-c", inside, str(tmp_path / "resolv.conf")]
    if subprocess.run([*shell, "true"], capture_output=True, check=False).returncode:
        pytest.skip("this system lets nobody mount in a name space of its own")
    work = HookWork("http://receiver.example/", str(tmp_path / "key")).line()
    with subprocess.Popen(
        [*shell, sys.executable, "-c", SILENT],
        cwd=CHECKOUT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    ) as process:
        assert process.stdin
        assert process.stdout
        process.stdin.write(work + b"1 %.3f {}\n" % time.time())
        process.stdin.flush()
        said = (line for line in process.stdout if line.rstrip() != BEAT)
        for _ in range(3):
            assert next(said) == b"failed the receiver has not answered within 0.5 s\n"
        threads = len(list(Path(f"/proc/{process.pid}/task").iterdir()))
        process.kill()
    assert threads == 3  # of asyncio, of deliveries, of the look-up

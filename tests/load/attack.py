"""Attack the server's limits, each attack with its own real server; print which limits hold.

    python -m tests.load.attack [NAME ...]

An attack is a function of a Place; it returns whether the limit holds, and the result. All attacks
use loopback only, are bounded, and end by themselves. The exit code is 1 if a limit does not hold.
"""

from __future__ import annotations

import argparse
import http.client
import os
import re
import resource
import signal
import socket
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from tests.peer import connected
from tests.process import COMMAND, ServerProcess, run
from tests.vm import ALWAYS_KNOWN, BINARY, KNOWN, SEQUENCE, VC_UUID, Vm, suboption

OTHER_HOST = "127.0.0.2"
BUDGET_MIB = 256
NORMAL_S = 5.0  # limit of an undisturbed boot
FILE = "metadata: {{instance-id: {}}}\nuserdata: {}\n"


class Seen(NamedTuple):
    holds: bool
    what: str


@dataclass
class Place:
    """A directory of instance files, and the resources to close after the attack."""

    directory: Path
    stack: ExitStack = field(default_factory=ExitStack)

    def file(self, name: str, text: str) -> None:
        path = self.directory / name
        path.write_text(text)
        path.chmod(0o600)

    def server(self, *options: str, **settings: object) -> ServerProcess:
        server = ServerProcess(self.directory, *options, **settings)  # type: ignore[arg-type]
        self.stack.callback(server.end)
        return server

    def keep(self, peer: socket.socket | Vm) -> None:
        self.stack.callback(peer.close)


# Checks of the server during an attack


def boot_s(server: ServerProcess, limit_s: float = NORMAL_S, **identity: object) -> float | None:
    """Return the seconds until a VM gets its meta-data, or None if it does not in time."""
    begun_s = time.monotonic()
    try:
        vm = Vm(server.port, **identity)  # type: ignore[arg-type]
    except OSError:
        return None
    try:
        return time.monotonic() - begun_s if vm.ask("METADATA", limit_s) else None
    except (AssertionError, OSError):
        return None
    finally:
        vm.close()


def booted(server: ServerProcess, count: int, limit_s: float = NORMAL_S) -> int:
    """Return how many of `count` VMs, one after the other, are served."""
    return sum(boot_s(server, limit_s) is not None for _ in range(count))


def admin(server: ServerProcess, path: str, limit_s: float = 3.0) -> tuple[int, str]:
    """Return status and body; status 0 if there is no answer in time."""
    port = int(server.wait_for(r"admin on http://[\d.]+:(\d+)")[1])
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=limit_s)
    try:
        connection.request("GET", path)
        answer = connection.getresponse()
        return answer.status, answer.read().decode()
    except (OSError, http.client.HTTPException):
        return 0, ""
    finally:
        connection.close()


def children(pid: int) -> set[int]:
    return {int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()}


def rss_mib(pid: int) -> float:
    found = re.search(r"VmRSS:\s+(\d+) kB", Path(f"/proc/{pid}/status").read_text())
    return int(found[1]) / 1024 if found else 0.0


def has_ended(pid: int, limit_s: float) -> bool:
    """Return whether a process ends in time, without waiting for its log, which may never end."""
    stat = Path(f"/proc/{pid}/stat")

    def is_over() -> bool:
        try:
            return stat.read_text().rpartition(")")[2][1] == "Z"
        except FileNotFoundError:  # another process has waited for it
            return True

    return until(is_over, limit_s)


def until(condition: Callable[[], bool], limit_s: float, pause_s: float = 0.1) -> bool:
    end_s = time.monotonic() + limit_s
    while not condition():
        if time.monotonic() > end_s:
            return False
        time.sleep(pause_s)
    return True


@contextmanager
def stopped(pid: int) -> Iterator[None]:
    os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGCONT)


def canonical(text: str) -> str:
    digits = text.replace(" ", "").replace("-", "")
    return "-".join((digits[:8], digits[8:12], digits[12:16], digits[16:20], digits[20:]))


def uuid(number: int) -> str:
    return f"0a 23 45 67 89 ab cd ef-{number.to_bytes(8, 'big').hex(' ')}"


# The attacks


def odd_names(place: Place) -> Seen:
    """Names of control characters, which take six bytes each in JSON."""
    server = place.server("--workers", "2")
    hosts = [connected(server.port) for _ in range(64)]
    known = BINARY + b"\xff\xfb\xe8" + suboption(0, ALWAYS_KNOWN + bytes([80, 81, 82, 83]))
    uri = suboption(70, b"Cmy-metadata?" + b"\x02" * 1000)
    for number, host in enumerate(hosts):
        place.keep(host)
        name = suboption(82, b"\x01" * 1000)
        host.sendall(known + suboption(80, uuid(number).encode()) + name + uri)
    served = booted(server, 4)
    heard = until(lambda: '"web1"' in admin(server, "/api/machines?q=web1")[1], 10)
    server.signal(signal.SIGTERM)
    code = server.wait(5) if has_ended(server.pid, 15) else None
    torn = ", Traceback" if "Traceback" in server.log else ""
    what = f"{served} of 4 served, known to the parent: {heard}, exit code {code}{torn}"
    return Seen(served == 4 and heard and code == 0 and not torn, what)


def stopped_log_reader(place: Place) -> Seen:
    shell = ["bash", "-c", 'exec "$@" 2> >(exec cat >&2)', "bash", *COMMAND, "run"]
    server = place.server(command=shell)
    names = {Path(f"/proc/{pid}/comm").read_text().strip(): pid for pid in children(server.pid)}
    reader = names["cat"]
    with stopped(reader):
        served = 0
        for _ in range(1500):  # about 300 kB of log; pipes hold 128
            if boot_s(server, NORMAL_S) is None:
                break
            served += 1
        server.signal(signal.SIGTERM)
        ended = has_ended(server.pid, 40)
        if not ended:
            server.signal(signal.SIGKILL)
    what = f"{served} of 1500 served, {'ended' if ended else 'did not end'} after TERM"
    return Seen(served == 1500 and ended, what)


def unread_answers(place: Place) -> Seen:
    """Invented VC UUIDs; each requests a user-data of 1 MB and does not read it."""
    place.file("web1.yaml", FILE.format("my-instance", "x" * 1_000_000))
    has_budget = "--memory-budget" in run("run", "--help").stdout
    options = ("--memory-budget", f"{BUDGET_MIB}M") if has_budget else ()
    server = place.server(*options)
    most = 0.0
    for number in range(600):
        with suppress(OSError):
            vm = Vm(server.port, vc_uuid=uuid(number), receive_buffer=2048)
            place.keep(vm)
            vm.send(b"!!REQUEST_USERDATA#\n" * 2)
        most = max(most, rss_mib(server.pid))
        if most > 3 * BUDGET_MIB:
            break
    time.sleep(3)  # until the server has processed the rest
    most = max(most, rss_mib(server.pid))
    served = booted(server, 4)
    limit = "" if has_budget else " (no option --memory-budget)"
    return Seen(most <= BUDGET_MIB and served == 4, f"{most:.0f} MiB{limit}, {served} of 4 served")


def late_identity(place: Place) -> Seen:
    """The announced VC UUID arrives late: the file of the VM's name must not be served."""
    place.file("web1.yaml", FILE.format("of-the-name", "name"))
    server = place.server()
    wrong = 0
    for number in range(4):
        place.file(f"{canonical(uuid(number))}.yaml", FILE.format("of-the-uuid", "uuid"))
        vm = Vm(server.port, silent=True)
        place.keep(vm)
        known = ALWAYS_KNOWN + bytes([80, 81, 82, 83])
        vm.send(BINARY + b"\xff\xfb\xe8" + suboption(0, known) + suboption(82, b"web1"))
        vm.send(suboption(70, b"Cmy-metadata") + b"!!REQUEST_METADATA#\n")
        vm.receive_until(suboption(81))
        identity = suboption(80, uuid(number).encode())
        if number % 2:  # the process pauses; the UUID waits in the socket
            with stopped(server.pid):
                vm.send(identity)
                time.sleep(3)
        else:  # the host is late
            time.sleep(2.5)
            vm.send(identity)
        wrong += b"of-the-name" in vm.answer()[1]
    return Seen(not wrong, f"{wrong} of 4 got the file of the VM's name")


def silent_admin(place: Place) -> Seen:
    server = place.server()
    port = int(server.wait_for(r"admin on http://[\d.]+:(\d+)")[1])
    for _ in range(64):
        place.keep(connected(port))
    ready = sum(admin(server, "/readyz")[0] == 200 for _ in range(15))
    return Seen(ready == 15, f"/readyz answered {ready} of 15 times")


def silent_main(place: Place) -> Seen:
    server = place.server("--max-connections", "3968")
    kept = 0
    for _ in range(3968):
        with suppress(OSError):
            place.keep(connected(server.port, OTHER_HOST))
            kept += 1
    served = booted(server, 4, 10)
    ready = admin(server, "/readyz")[0]
    return Seen(
        kept == 3968 and served == 4, f"{kept} silent; {served} of 4 served, /readyz {ready}"
    )


def begun_and_closed(place: Place) -> Seen:
    server = place.server("--max-pending-moves", "1000")
    source = Vm(server.port)
    place.keep(source)
    source.metadata()
    for number in range(2000):
        peer = connected(server.port, OTHER_HOST)
        identity = suboption(80, uuid(number).encode()) + suboption(82, b"x")
        hello = (
            BINARY
            + b"\xff\xfb\xe8"
            + suboption(0, KNOWN)
            + identity
            + suboption(70, b"Cmy-metadata")
        )
        peer.sendall(hello + suboption(40, number.to_bytes(4, "big")))
        with suppress(TimeoutError):
            peer.settimeout(1)
            heard = b""
            while b"\xff\xfa\xe8\x29" not in heard and b"\xff\xfa\xe8\x2b" not in heard:
                heard += peer.recv(4096) or b"\xff\xfa\xe8\x2b"
        peer.close()
    source.send(suboption(40, SEQUENCE))
    answer = source.receive_matching(rb"\xff\xfa\xe8[\x29\x2b]", 5)[-1]
    return Seen(answer == 0x29, "GOAHEAD" if answer == 0x29 else "NOTNOW to another host's VM")


def stopped_worker(place: Place) -> Seen:
    server = place.server("--workers", "2")
    until(lambda: len(children(server.pid)) == 2, 10)
    before = children(server.pid)
    hung = min(before)
    os.kill(hung, signal.SIGSTOP)
    begun_s = time.monotonic()
    replaced = until(lambda: len(children(server.pid) - {hung}) == 2, 40, 0.5)
    took_s = time.monotonic() - begun_s
    served = booted(server, 20, 2)
    if hung in children(server.pid):
        os.kill(hung, signal.SIGKILL)
    when = f"replaced after {took_s:.0f} s" if replaced else "not replaced in 40 s"
    return Seen(replaced and served == 20, f"{when}, then {served} of 20 served")


def borrowed_uuid(place: Place) -> Seen:
    """A BIOS UUID, which tenants may edit, must not select a file named by a VC UUID."""
    place.file("01234567-89ab-cdef-fedc-ba9800000001.yaml", FILE.format("victim", "secret"))
    server = place.server()
    vm = Vm(server.port, "attacker", vc_uuid=uuid(1), bios_uuid=VC_UUID)
    place.keep(vm)
    code, body = vm.ask("USERDATA")
    return Seen(
        b"secret" not in body, f"{code}{', the file of another VM' if b'secret' in body else ''}"
    )


def linked_document(place: Place) -> Seen:
    with tempfile.NamedTemporaryFile("w") as outside:
        outside.write("private key")
        outside.flush()
        (place.directory / "key").symlink_to(outside.name)
        place.file("web1.yaml", "metadata: {instance-id: i}\nuserdata-file: key\n")
        server = place.server()
        vm = Vm(server.port)
        place.keep(vm)
        code, body = vm.ask("USERDATA")
    leaked = b"private key" in body
    return Seen(not leaked, f"{code}{', with the content' if leaked else ''}")


def secret_in_a_fault(place: Place) -> Seen:
    secret = "hunter2hunter2"
    texts = (f"password: !{secret} x", f"userdata: *{secret}", f"documents: {secret}",
             "userdata: 48151623421", f"userdata: {{{secret}: 1, {secret}: 2}}")  # fmt: skip
    for number, text in enumerate(texts):
        place.file(f"vm{number}.yaml", f"metadata: {{instance-id: i}}\n{text}\n")
    server = place.server()
    for number in range(len(texts)):
        vm = Vm(server.port, f"vm{number}", vc_uuid=uuid(number))
        place.keep(vm)
        vm.ask("USERDATA")
    time.sleep(0.5)
    shown = server.log + "".join(
        admin(server, f"/api/machines/vm{n}")[1] for n in range(len(texts))
    )
    found = [word for word in (secret, "48151623421") if word in shown]
    return Seen(not found, f"{len(found)} of 2 secrets in log or API")


class Attack(NamedTuple):
    name: str
    limit: str
    run: Callable[[Place], Seen]


ATTACKS = (
    Attack("odd names, 2 workers", "all served, logged, exit 0", odd_names),
    Attack("log reader stopped", "1500 boots, ends after TERM", stopped_log_reader),
    Attack("600 MB unread answers", "256 MiB, others served", unread_answers),
    Attack("BIOS UUID of a victim", "not the victim's file", borrowed_uuid),
    Attack("VC UUID after a pause", "never the name's file", late_identity),
    Attack("link out of directory", "content not served", linked_document),
    Attack("64 silent on admin", "/readyz 15 of 15", silent_admin),
    Attack("3,968 silent on main", "4 of 4 others served", silent_main),
    Attack("2,000 BEGIN and close", "GOAHEAD to another host", begun_and_closed),
    Attack("secrets in faults", "none in log or API", secret_in_a_fault),
    Attack("worker stopped", "replaced in 40 s", stopped_worker),
)


def main(words: Sequence[str] | None = None) -> int:
    names = {attack.run.__name__: attack for attack in ATTACKS}
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help=", ".join(names))
    chosen = parser.parse_args(words).names or list(names)
    if wrong := set(chosen) - set(names):
        parser.error(f"unknown attack {', '.join(wrong)}; attacks: {', '.join(names)}")
    most = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    print(f"{'attack':<24} {'limit':<28} {'holds':<6} result")
    results = [row(names[name]) for name in chosen]
    print(f"attack: {sum(results)} passed, {len(results) - sum(results)} failed")
    return 0 if all(results) else 1


def row(attack: Attack) -> bool:
    begun_s = time.monotonic()
    with tempfile.TemporaryDirectory() as directory:
        place = Place(Path(directory))
        place.file("web1.yaml", FILE.format("my-instance", "x"))
        with place.stack:
            try:
                seen = attack.run(place)
            except (AssertionError, OSError, LookupError, ValueError) as error:
                seen = Seen(False, f"{type(error).__name__}: {str(error).splitlines()[0][:120]}")
    took = f"({time.monotonic() - begun_s:.0f} s)"
    verdict = "yes" if seen.holds else "NO"
    print(f"{attack.name:<24} {attack.limit:<28} {verdict:<6} {seen.what} {took}", flush=True)
    return seen.holds


if __name__ == "__main__":
    sys.exit(main())

"""Let many VMs boot from a store whose rows change, and whose server hangs, dies and returns.

python -m tests.load.stores --backends postgresql,sqlite --vms 3000 --seconds 10 --workers 2

For each backend, with the real server: what a first boot costs, compared with a kept one; then a
storm of boots and changes; then the same while the server is restarted, killed and stopped. Each
answer is checked against what was written when. With several workers a VM that reconnects to
another one may get no answer during an outage, but never an older one than before.
"""

from __future__ import annotations

import argparse
import importlib
import json
import re
import sys
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from random import Random
from urllib.request import urlopen

import gevent

from tests.load import Run, WatchedServer
from tests.load.ledger import ABSENT, SERVED_AFTER_S, Ledger
from tests.servers import Backend, Data
from tests.vm import LIMIT_S, Vm

# `module:class` of each, so that one without its client is only missed when it is asked for.
BACKENDS = {
    "file": "tests.servers.filebackend:FileBackend",
    "sqlite": "tests.servers.sqlite:SqliteBackend",
    "postgresql": "tests.servers.postgresql:PostgresqlBackend",
    "mariadb": "tests.servers.mariadb:MariadbBackend",
    "etcd": "tests.servers.etcdbackend:EtcdBackend",
    "etcd3": "tests.servers.etcdbackend:EtcdCluster",
    "http": "tests.servers.httpbackend:HttpBackend",
    "http-hook": "tests.servers.httpbackend:HttpHookBackend",
}
SLOW_BACKENDS = {  # those that take long to install: `make netbox`
    "netbox": "tests.servers.netboxbackend:NetBoxBackend",
}
DOCUMENTS = ("METADATA", "NETWORKDATA", "USERDATA")
LAYER = "10-all"
NOT_FOUND, FAILED = "not-found", "failed"
READERS = 8  # VMs that boot at a time
HOT = 40  # that boot again and again, so that their answers are kept
WARM = 200  # boots before anything is measured
CHANGE_EVERY_S = 0.02
LAYER_EVERY = 50  # changes, of which one is of the layer
DELETE_EVERY = 20
MAX_FIRST = 2.5  # kept boots that a first one may cost
MEASURABLE = 1000  # VMs; with fewer, the first boots are those of a server that has just begun
RECOVERED_S = 5.0
OUTAGE_S = 4.0
SLICE = 250  # boots measured in a row
UNKNOWN = 20  # VMs that boot for the first time while the server is away
CALM_S = 0.5  # of boots before an outage
SETTLED_S = 2.5  # after which a file that has changed is kept
OUTAGES = ("restarted", "killed", "stopped")

_PREPARED = re.compile(r"^\w*answers_prepared\S* (\S+)$", re.MULTILINE)


def backend_of(name: str) -> Backend:
    module, _, kind = (BACKENDS | SLOW_BACKENDS)[name].partition(":")
    made: Backend = getattr(importlib.import_module(module), kind)()
    return made


def vm_name(number: int) -> str:
    return f"vm-{number:05}"


def uuid_of(name: str) -> str:
    return f"01 23 45 67 89 ab cd ef-{int(name[3:]).to_bytes(8, 'big').hex(' ')}"


def data_of(name: str, version: int) -> Data:
    number = int(name[3:])
    return {
        "metadata": {"instance-id": f"i-{number}", "version": version},
        "network": {"address": f"10.1.{number >> 8}.{number & 255}/8", "gateway": "10.255.255.254"},
        "userdata": "#cloud-config\n" + f"# {name} has version {version}\n" * 20,
    }


def layer_of(version: int) -> Data:
    return {"metadata": {"hostname": "${vm.name}", "layer": version}}


def cpu_s(pid: int) -> float:
    """Return the processor time of a process, in nanoseconds and not in ticks."""
    return time.clock_gettime((~pid << 3) | 2)  # MAKE_PROCESS_CPUCLOCK(pid, CPUCLOCK_SCHED)


class Storm:
    """VMs that boot, and a writer that changes what they get."""

    def __init__(
        self,
        run: Run,
        backend: Backend,
        server: WatchedServer,
        ledger: Ledger,
        names: Sequence[str],
        workers: int,
    ) -> None:
        self._run = run
        self._workers = workers
        self._backend = backend
        self._server = server
        self.ledger = ledger
        self._rng = Random(1)
        self._names = names
        self._seen: dict[str, tuple[int, int]] = {}  # by VM: versions of its row and of the layer
        self._busy: set[str] = set()  # a VM asks for one thing at a time
        self.is_over = False
        self.answers: Counter[str] = Counter()
        self.changes = 0
        self.wrong = 0

    # Changes

    def write(self, name: str) -> None:
        version = self.ledger.begin(name, time.monotonic())
        self._backend.put({name: data_of(name, version)})
        self.ledger.end(name, time.monotonic())

    def write_layer(self) -> None:
        version = self.ledger.begin(LAYER, time.monotonic())
        self._backend.put_layer(LAYER, layer_of(version))
        self.ledger.end(LAYER, time.monotonic())

    def _delete(self, name: str) -> None:
        self.ledger.begin(name, time.monotonic(), is_absent=True)
        self._backend.delete(name)
        self.ledger.end(name, time.monotonic())

    def keep_changing(self) -> None:
        while not self.is_over and not self._run.is_stopped:
            self.changes += 1
            if self.changes % LAYER_EVERY == 0:
                self.write_layer()
            else:
                name = self._some()
                if self.changes % DELETE_EVERY == 0 and not self.ledger.is_absent(name):
                    self._delete(name)
                else:
                    self.write(name)
            gevent.sleep(CHANGE_EVERY_S)
        for name in self._names:  # those that an outage finds must exist
            if self.ledger.is_absent(name):
                self.write(name)

    # Boots

    @contextmanager
    def booting(self) -> Iterator[None]:
        """Let VMs boot until the end of the block."""
        self.is_over = False
        booting = [gevent.spawn(self._keep_booting) for _ in range(READERS)]
        try:
            yield
        finally:
            self.is_over = True
            gevent.joinall(booting, timeout=LIMIT_S, raise_error=True)

    def is_up_to_date(self, name: str) -> bool:
        """Return whether the VM has got what was written last."""
        return self._seen.get(name) == (self.ledger.version(name), self.ledger.version(LAYER))

    def _some(self) -> str:
        is_hot = self._rng.random() < 0.5
        return self._rng.choice(self._names[:HOT] if is_hot else self._names)

    def _keep_booting(self) -> None:
        while not self.is_over and not self._run.is_stopped:
            name = self._some()
            if name in self._busy:
                gevent.sleep(0.001)
            else:
                self.boot(name)

    def boot(self, name: str) -> None:
        while name in self._busy:
            gevent.sleep(0.001)
        self._busy.add(name)
        try:
            with self._run.checking("boot"):
                vm = Vm(self._server.port, name, vc_uuid=uuid_of(name))
                try:
                    for document in DOCUMENTS:
                        self.ask(vm, name, document)
                finally:
                    vm.close()
        finally:
            self._busy.discard(name)

    def boot_all(self, names: Sequence[str]) -> None:
        """Boot each VM once, a few at a time."""
        following = iter(names)

        def boot_some() -> None:
            for name in following:
                self.boot(name)

        gevent.joinall([gevent.spawn(boot_some) for _ in range(READERS)])

    def ask(self, vm: Vm, name: str, document: str) -> str:
        """Ask for a document; return its name, or the error."""
        from_s = time.monotonic()
        code, body = vm.ask(document)
        until_s = time.monotonic()
        self._run.took("answer", until_s - from_s)
        found = json.loads(body)["error"] if code == "RESPONSE_ERROR" else document
        self.answers[found] += 1
        why = self._fault(name, document, found, body, from_s, until_s)
        if why:
            self.wrong += 1
            self._run.fault(f"{name} {document}: {why}")
        return found

    def _fault(
        self, name: str, document: str, found: str, body: bytes, from_s: float, until_s: float
    ) -> str:
        if found == NOT_FOUND:
            return self._judge(name, name, ABSENT, from_s, until_s)
        if found != document:
            if found == FAILED and self._may_fail(name, from_s, until_s):
                return ""
            return f"the answer is {found}"
        version: int | None = None
        if document == "METADATA":
            metadata = json.loads(body)
            version = int(metadata["version"])
            self._seen[name] = version, int(metadata["layer"])
            number = int(name[3:])
            who = (metadata["instance-id"], metadata["local-hostname"])
            if who != (f"i-{number}", name):
                return f"is another VM's: {who}"
            why = self._judge(LAYER, name, metadata["layer"], from_s, until_s)
            if why:
                return f"layer: {why}"
        elif document == "NETWORKDATA":
            address = json.loads(body)["config"][0]["subnets"][0]["address"]
            wanted = str(data_of(name, 0)["network"]["address"]).partition("/")[0]
            return "" if address == wanted else f"is another VM's: {address}"
        else:
            version = int(body.rsplit(maxsplit=1)[-1])
            if body.decode() != data_of(name, version)["userdata"]:
                return f"is another VM's: {body[:60]!r}"
        return self._judge(name, name, version, from_s, until_s)

    def _may_fail(self, name: str, from_s: float, until_s: float) -> bool:
        """Return whether the store is away, and there was no answer that could be given again, or
        another worker may have it."""
        has_none = self._workers > 1 or not self.ledger.is_known(name, name)
        return self.ledger.is_lenient(from_s, until_s) and has_none

    def _judge(self, value: str, vm: str, version: int, from_s: float, until_s: float) -> str:
        return self.ledger.fault_of(value, vm, version, from_s, until_s)


class Trial:
    """All that one backend must show; `figures` are a row of the table."""

    def __init__(
        self, run: Run, backend: Backend, vms: int, seconds: float, workers: int = 1
    ) -> None:
        self._run = run
        self._workers = workers
        self._backend = backend
        self._seconds = seconds
        self._ledger = Ledger({LAYER: backend.layer_served_after_s})
        names = [vm_name(number) for number in range(vms + WARM + len(OUTAGES) * UNKNOWN)]
        self._names, others = names[:vms], names[vms:]
        self._warm, self._unknown = others[:WARM], others[WARM:]
        self.figures: dict[str, str] = {"backend": backend.name}

    def run(self) -> None:
        self._fill()
        backend = self._backend
        server = WatchedServer(
            backend.directory,
            *("--driver", backend.driver, "--driver-opts", json.dumps(backend.options)),
            *("--max-connection-rate", "0", "--catalogue", "--workers", str(self._workers)),
            *backend.server_options,
            env=backend.environment,
        )
        with self._run.against(server):
            admin_port = int(server.wait_for(r"admin on http://\S*:(\d+)")[1])
            backend.attach(server.port, admin_port)
            parts = backend, server, self._ledger, self._names
            storm = Storm(self._run, *parts, self._workers)
            gevent.sleep(SETTLED_S)
            self.figures["prepared"] = str(self._prepared(admin_port))
            self._compare_costs(storm, server)
            self._change(storm)
            for outage in OUTAGES:
                self._break(storm, outage)
            self._count(storm)
            counters = server.stop()
            self._run.expect(not counters["internal errors"], "internal errors")

    def _prepared(self, admin_port: int) -> int:
        """Return how many answers the catalogue has prepared, once these are all."""
        wanted = len({*self._names, *self._warm, *self._unknown}) if self._backend.prepares else 0
        end_s = time.monotonic() + LIMIT_S
        while True:
            with urlopen(f"http://127.0.0.1:{admin_port}/metrics") as answer:
                found = _PREPARED.search(answer.read().decode())
            count = int(float(found[1])) if found else 0
            if count >= wanted or time.monotonic() > end_s:
                return count
            gevent.sleep(0.2)

    def _fill(self) -> None:
        names = [*self._names, *self._warm, *self._unknown]
        now_s = time.monotonic()
        for name in [LAYER, *names]:
            self._ledger.begin(name, now_s)
        self._backend.put_layer(LAYER, layer_of(0))
        self._backend.put({name: data_of(name, 0) for name in names})
        for name in [LAYER, *names]:
            self._ledger.end(name, now_s)

    def _compare_costs(self, storm: Storm, server: WatchedServer) -> None:
        """Boot each VM for the first time and again, in turns."""
        storm.boot_all(self._warm)
        spent_s = {"first": 0.0, "kept": 0.0}
        for begin in range(0, len(self._names), SLICE):
            names = self._names[begin : begin + SLICE]
            for kind in spent_s:
                before_s = cpu_s(server.pid)
                storm.boot_all(names)
                spent_s[kind] += cpu_s(server.pid) - before_s
        count = len(self._names)
        ratio = spent_s["first"] / spent_s["kept"]
        for kind, seconds in spent_s.items():
            self.figures[f"{kind} boot"] = f"{1000 * seconds / count:.3f} ms"
        self.figures["ratio"] = f"{ratio:.2f}"
        is_meaningful = (
            count >= MEASURABLE and self._backend.driver != "file" and self._workers == 1
        )
        self._run.expect(
            ratio <= MAX_FIRST or not is_meaningful,
            f"{self._backend.name}: a first boot costs {ratio:.2f} kept ones, not {MAX_FIRST}",
        )

    def _change(self, storm: Storm) -> None:
        with storm.booting():
            changing = gevent.spawn(storm.keep_changing)
            self._run.pause(self._seconds)
            storm.is_over = True
            changing.get(timeout=LIMIT_S)
        self.figures["changes"] = str(storm.changes)

    def _break(self, storm: Storm, outage: str) -> None:
        strangers, self._unknown = self._unknown[:UNKNOWN], self._unknown[UNKNOWN:]
        with storm.booting():
            self._run.pause(CALM_S)
            self._ledger.lenient(time.monotonic())
            in_thread = gevent.get_hub().threadpool.apply  # VMs go on booting meanwhile
            if outage == "restarted":
                in_thread(self._backend.restart)
            else:
                begin, end = {
                    "killed": (self._backend.kill, self._backend.start),
                    "stopped": (self._backend.stop, self._backend.cont),
                }[outage]
                in_thread(begin)
                visiting = gevent.spawn(storm.boot_all, strangers)
                self._run.pause(OUTAGE_S)
                visiting.get(timeout=LIMIT_S)
                in_thread(end)
            took_s = self._recover(storm, strangers)
        self.figures[outage] = f"{took_s:.2f} s"

    def _recover(self, storm: Storm, strangers: Sequence[str]) -> float:
        """Return the seconds until what is written now is served, and VMs that were refused."""
        begun_s = time.monotonic()
        storm.write(self._names[0])
        storm.write_layer()
        waiting = {*strangers, self._names[0]}
        while waiting and time.monotonic() < begun_s + LIMIT_S:
            storm.boot_all(sorted(waiting))
            waiting = {name for name in waiting if not storm.is_up_to_date(name)}
            gevent.sleep(0.02)
        took_s = time.monotonic() - begun_s
        self._ledger.lenient(begun_s, begun_s + took_s)
        limit_s = RECOVERED_S + self._backend.layer_served_after_s - SERVED_AFTER_S
        self._run.expect(
            not waiting and took_s <= limit_s, f"recovered after {took_s:.1f} s: {waiting}"
        )
        return took_s

    def _count(self, storm: Storm) -> None:
        self.figures["answers"] = str(sum(storm.answers.values()))
        self.figures["wrong"] = str(storm.wrong)
        errors = {name: n for name, n in storm.answers.items() if name not in DOCUMENTS}
        self.figures["errors"] = ", ".join(f"{n} {name}" for name, n in sorted(errors.items()))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--backends", default=",".join(BACKENDS), help="names, with commas")
    parser.add_argument("--vms", type=int, default=3000)
    parser.add_argument("--seconds", type=float, default=10, help="of the storm of changes")
    parser.add_argument("--workers", type=int, default=1)
    arguments = parser.parse_args()
    run = Run("stores")
    rows = []
    for name in arguments.backends.split(","):
        with backend_of(name) as backend:
            trial = Trial(run, backend, arguments.vms, arguments.seconds, arguments.workers)
            trial.run()
        rows.append(trial.figures)
        if run.is_stopped:
            break
    _show(rows)
    run.time_rows()
    return run.end()


def _show(rows: Sequence[dict[str, str]]) -> None:
    """Print a line for each backend."""
    columns = {name: len(name) for row in rows for name in row}
    for row in rows:
        for name, value in row.items():
            columns[name] = max(columns[name], len(value))
    for row in [{name: name for name in columns}, *rows]:
        line = "  ".join(row.get(name, "").ljust(width) for name, width in columns.items())
        print(f"  {line}".rstrip())


if __name__ == "__main__":
    sys.exit(main())

"""Change the data of many VMs all the time, in every way; check each answer against its history.

python -m tests.load.changes --files 50000 --seconds 60 --workers 2
"""

from __future__ import annotations

import argparse
import csv
import io
import json
import os
import sys
import tempfile
import time
from collections import Counter, deque
from collections.abc import Callable, Mapping
from pathlib import Path
from random import Random
from typing import Any

import gevent
import yaml

from tests.load import Run, WatchedServer
from tests.load.history import (
    ABSENT,
    BROKEN,
    INVALID,
    INVENTORIES,
    NOT_FOUND,
    Asking,
    History,
)
from tests.process import tree_of
from tests.vm import Vm

SAFE_DUMPER: Any = getattr(yaml, "CSafeDumper", yaml.SafeDumper)
SAFE_LOADER: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
DOCUMENTS = ("METADATA", "NETWORKDATA", "USERDATA", "ROLE")
VMS = 24  # that ask at a time
HOT = 40  # VMs that boot again and again, so that their answers are kept
RECENT = 12  # whose data was changed last: those boot most
PAUSE_S = 0.002  # between two changes, at least
STORM_S, CALM_S = 3.0, 4.0  # answers from files that changed less than 2 s ago are not kept
TEXT = "parts/common.txt"
WRITTEN_S = 0.01  # at most, between the two halves of a file written in place
MAX_FOR_SWAPS = 10_000  # with more files, copying them for a swap takes seconds: once is enough
TIMEOUT, MAX_TIMEOUTS = "timeout", 0.01  # of all answers
MIN_ANSWERS = 20  # a second, or the run shows nothing

# Every match there is. `N` becomes the number of the version.
LAYERS: dict[str, dict[str, Any]] = {
    "10-all": {
        "metadata": {
            "hostname": "${vm.name}",
            "instance-id": "i-${vm.vc-uuid}",
            "region": "eu1",
            "tags": ["all-N"],
            "all": "N",
        },
        "network": {"nameservers": ["10.0.0.53"]},
        "userdata": {"packages": ["chrony"], "runcmd": ["echo ${HOME} $${x} ${metadata.all}"]},
        "documents": {"role": "N ${vm.name} ${metadata.all}"},
    },
    "20-name": {
        "match": {"name": "web-*"},
        "metadata": {"name": "N", "tags+": ["web-N"]},
        "userdata": {"packages+": ["nginx-N"]},
    },
    "25-query": {
        "match": {"query.profile": "web"},
        "metadata": {"query": "N ${query.profile}"},
        "userdata": {"write_files+": [{"path": "/query", "content": "N"}]},
    },
    "30-site": {
        "match": {"name": "{kind}-{site}-*"},
        "metadata": {"site": "${match.site}-N", "nested": {"kind": "${match.kind}"}},
    },
    "40-peer": {"match": {"peer": "127.0.0.0/8"}, "metadata": {"peer": "N", "nested": {"b": "N"}}},
    "45-other-peer": {"match": {"peer": "10.0.0.0/8"}, "metadata": {"wrong": "N"}},
    "50-direction": {"match": {"direction": "client"}, "metadata": {"direction": "N"}},
    "60-uuid": {
        "match": {"vc-uuid": "01234567-89ab-cdef-0000-000000000000"},
        "metadata": {"uuid": "N"},
        "documents": {"role": "of one N ${match.kind}"},
    },
    "70-both": {
        "match": {"name": "???-ber-*", "query.profile": "web"},
        "metadata": {"both": "N", "region": None},
        "userdata": {"runcmd+": ["second N"]},
    },
    "80-serve": {
        "match": {"name": "srv-*"},
        "serve": True,
        "metadata": {"serve": "N"},
        "network": {"address": "10.8.0.1/8"},
    },
    "85-now-and-then": {"metadata": {"extra": "N", "nested": "N"}},
}
ALWAYS = ("10-all", "30-site", "80-serve")  # others may be removed for a while


def numbered(value: Any, number: int) -> Any:
    if isinstance(value, dict):
        return {key: numbered(one, number) for key, one in value.items()}
    if isinstance(value, list):
        return [numbered(one, number) for one in value]
    return value.replace("N", str(number), 1) if isinstance(value, str) else value


def written(data: Any) -> str:
    return str(yaml.dump(data, Dumper=SAFE_DUMPER, sort_keys=False, allow_unicode=True))


class Fleet:
    """The VMs by kind: who they are, and where their data may stand."""

    def __init__(self, files: int) -> None:
        entries = min(200, files // 10)
        counts = {
            "web": files // 2,
            "dbs": files - files // 2,
            "txt": entries,  # with a `userdata-file`
            "cfg": entries,  # links, as a ConfigMap has them
            "inv": entries,
            "tab": entries,
            "srv": entries,  # served by a layer
            "nof": entries // 2,  # nobody knows them at first
        }
        self.by_kind: dict[str, list[str]] = {}
        self.askings: dict[str, Asking] = {}
        number = 0
        for kind, count in counts.items():
            names = []
            for _ in range(count):
                name = f"{kind}-{'ber' if number % 3 else 'ham'}-{number:05}"
                query = {"profile": "web"} if number % 2 else {}
                vc_uuid = f"01234567-89ab-cdef-0000-{number:012x}"
                self.askings[name] = Asking(name, vc_uuid, query)
                names.append(name)
                number += 1
            self.by_kind[kind] = names
        self.names = list(self.askings)


class Writer:
    """Makes one change after the other, and tells the history before and after each.

    Each change is one system call, or takes effect by one (a rename).
    """

    def __init__(self, directory: Path, fleet: Fleet, history: History, rng: Random) -> None:
        self._directory = directory  # a link to the directory
        self._fleet = fleet
        self._history = history
        self._rng = rng
        self._number = 0
        self.recent: deque[str] = deque(maxlen=RECENT)
        self.counts: Counter[str] = Counter()

    # Steps

    def _next(self) -> int:
        self._number += 1
        return self._number

    def _change(self, versions: Mapping[tuple[str, str], Any], call: Callable[[], object]) -> None:
        self._history.begin(time.monotonic(), versions)
        call()
        self._history.end(time.monotonic())
        for kind, name in versions:
            if kind in ("file", *INVENTORIES):
                self.recent.append(name)

    def _aside(self, text: str, target: Path) -> Path:
        aside = target.with_name(f".{target.name}.new")
        aside.write_text(text)
        return aside

    def _replace(self, versions: Mapping[tuple[str, str], Any], path: Path, text: str) -> None:
        aside = self._aside(text, path)
        self._change(versions, lambda: aside.replace(path))

    def _link(self, versions: Mapping[tuple[str, str], Any], link: Path, target: str) -> None:
        aside = link.with_name(f".{link.name}.link")
        aside.symlink_to(target)
        self._change(versions, lambda: aside.replace(link))

    def _path(self, name: str) -> Path:
        return self._directory / f"{name}.yaml"

    def _own(self, name: str) -> dict[str, Any]:
        number = self._next()
        own: dict[str, Any] = {"metadata": {"own": number, "tags+": [f"own-{number}"]}}
        if self._rng.random() < 0.7:
            own["network"] = {"address": f"10.{number >> 16 & 255}.{number >> 8 & 255}.7/8"}
        if name.startswith("txt"):
            own["userdata-file"] = TEXT
        elif self._rng.random() < 0.3:
            own["userdata"] = {"packages+": [f"own-{number}"], "hostname": "${metadata.hostname}"}
        if self._rng.random() < 0.05:
            own["metadata"]["tags"] = {"a": "mapping over a list"}
            del own["metadata"]["tags+"]
        return own

    def _some(self, *kinds: str) -> str:
        return self._rng.choice(self._fleet.by_kind[self._rng.choice(kinds)][: self._reach()])

    def _reach(self) -> int:
        """Return how many VMs of a kind change: few often, all now and then."""
        return HOT if self._rng.random() < 0.7 else len(self._fleet.names)

    def _with_file(self, *kinds: str) -> str | None:
        name = self._some(*kinds)
        return name if self._history.now("file", name) is not ABSENT else None

    # All at the start

    def begin(self) -> None:
        directory = self._directory
        (directory / "parts").mkdir()
        (directory / "layers").mkdir()
        versions: dict[tuple[str, str], Any] = {}
        for name, layer in LAYERS.items():
            versions["layer", name] = data = numbered(layer, self._next())
            (directory / "layers" / f"{name}.yaml").write_text(written(data))
        versions["text", TEXT] = text = "#cloud-config\n# 0\n"
        (directory / TEXT).write_text(text)
        for name in self._fleet.by_kind["web"] + self._fleet.by_kind["dbs"]:
            versions["file", name] = data = self._own(name)
            self._path(name).write_text(json.dumps(data))
        for name in self._fleet.by_kind["txt"]:
            versions["file", name] = data = self._own(name)
            self._path(name).write_text(written(data))
        versions |= self._config_map()
        (directory / "..data").symlink_to(f"..{self._number}")
        for name in self._fleet.by_kind["cfg"]:
            self._path(name).symlink_to(f"..data/{name}.yaml")
        for name in self._fleet.by_kind["inv"]:
            versions["vms.yaml", name] = self._own(name)
        for name in self._fleet.by_kind["tab"]:
            versions["vms.csv", name] = self._row()
        self._change(versions, lambda: None)
        (directory / "vms.yaml").write_text(self._inventory({}))
        (directory / "vms.csv").write_text(self._table({}))

    # Changes of files of VMs

    def replaces(self) -> None:
        name = self._some("web", "dbs", "txt", "nof", "srv")
        data = self._own(name)
        self._replace({("file", name): data}, self._path(name), written(data))

    def writes_in_place(self) -> None:
        """For a moment the file is empty."""
        if (name := self._with_file("web", "dbs")) is None:
            return
        data = self._own(name)
        text = written(data).encode()
        descriptors: list[int] = []
        flags = os.O_WRONLY | os.O_TRUNC
        self._change(
            {("file", name): BROKEN},
            lambda: descriptors.append(os.open(self._path(name), flags)),
        )
        gevent.sleep(self._rng.uniform(0, WRITTEN_S))
        self._change({("file", name): data}, lambda: os.write(descriptors[0], text))
        os.close(descriptors[0])

    def removes(self) -> None:
        if (name := self._with_file("web", "dbs", "nof", "srv", "inv", "tab")) is not None:
            self._change({("file", name): ABSENT}, self._path(name).unlink)

    def breaks(self) -> None:
        name = self._some("web", "dbs", "srv")
        text = self._rng.choice(("metadata: [\n", "metadata: {}\nuserdta: x\n", "a text\n"))
        self._replace({("file", name): BROKEN}, self._path(name), text)

    def renames(self) -> None:
        """One VM loses its file to another one."""
        if (old := self._with_file("web", "dbs")) is None or (new := self._some("web")) == old:
            return
        data = self._history.now("file", old)
        self._change(
            {("file", old): ABSENT, ("file", new): data},
            lambda: self._path(old).replace(self._path(new)),
        )

    def has_two_places(self) -> None:
        """A VM of an inventory gets a file, too; `removes` ends that."""
        name = self._some("inv", "tab")
        data = self._own(name)
        self._replace({("file", name): data}, self._path(name), written(data))

    def swaps_a_config_map(self) -> None:
        """All of its VMs change at once."""
        versions, before = self._config_map(), (self._directory / "..data").readlink()
        self._link(versions, self._directory / "..data", f"..{self._number}")
        self._forget(self._directory / before)

    def _config_map(self) -> dict[tuple[str, str], Any]:
        names = self._fleet.by_kind["cfg"]
        data = {name: self._own(name) for name in names}
        place = self._directory / f"..{self._number}"
        place.mkdir()
        for name, one in data.items():
            (place / f"{name}.yaml").write_text(json.dumps(one))
        return {("file", name): one for name, one in data.items()}

    def _forget(self, place: Path) -> None:
        for path in place.iterdir():
            path.unlink()
        place.rmdir()

    def changes_a_text(self) -> None:
        text = f"#cloud-config\n# {self._next()}\n"
        self._replace({("text", TEXT): text}, self._directory / TEXT, text)

    # Changes of layers

    def _layer(self, name: str) -> Path:
        return self._directory / "layers" / f"{name}.yaml"

    def edits_a_layer(self) -> None:
        name = self._rng.choice(list(LAYERS))
        data = numbered(LAYERS[name], self._next())
        self._replace({("layer", name): data}, self._layer(name), written(data))

    def removes_a_layer(self) -> None:
        name = self._rng.choice([name for name in LAYERS if name not in ALWAYS])
        if self._history.now("layer", name) is not ABSENT:
            self._change({("layer", name): ABSENT}, self._layer(name).unlink)

    def breaks_a_layer(self) -> None:
        """All VMs have invalid data for a moment."""
        text = "match: {nam: x}\n"
        self._replace({("layer", "85-now-and-then"): BROKEN}, self._layer("85-now-and-then"), text)
        gevent.sleep(self._rng.uniform(0, 0.3))
        data = numbered(LAYERS["85-now-and-then"], self._next())
        self._replace(
            {("layer", "85-now-and-then"): data}, self._layer("85-now-and-then"), written(data)
        )

    def swaps_the_layers(self) -> None:
        """All layers change at once, where their directory is a link."""
        link = self._directory / "layers"
        if not link.is_symlink():
            return
        before, place = link.readlink(), f".layers-{self._next()}"
        (self._directory / place).mkdir()
        versions: dict[tuple[str, str], Any] = {}
        for name, layer in LAYERS.items():
            versions["layer", name] = data = numbered(layer, self._next())
            (self._directory / place / f"{name}.yaml").write_text(written(data))
        self._link(versions, link, place)
        self._forget(self._directory / before)

    def swaps_the_directory(self) -> None:
        """All files are new: the directory that the server knows is a link."""
        before = self._directory.resolve()
        place = before.with_name(f"release-{self._next()}")
        place.mkdir()
        for path in before.iterdir():
            if path.name.startswith("."):  # the data of links is moved, after the copy
                continue
            if not path.is_symlink() and path.is_file():
                (place / path.name).write_bytes(path.read_bytes())
        for name in ("layers", "parts"):
            (place / name).mkdir()
            for path in (before / name).iterdir():
                (place / name / path.name).write_bytes(path.read_bytes())
        if not (before / "layers").is_symlink():  # one directory in two has a link there
            (place / "layers").rename(place / f".layers-{self._number}")
            (place / "layers").symlink_to(f".layers-{self._number}")
        versions = self._config_map_in(place)
        self._link(versions, self._directory, place.name)
        gevent.spawn(self._remove_tree, before)

    def _config_map_in(self, place: Path) -> dict[tuple[str, str], Any]:
        was, self._directory = self._directory, place
        try:
            versions = self._config_map()
        finally:
            self._directory = was
        (place / "..data").symlink_to(f"..{self._number}")
        for name in self._fleet.by_kind["cfg"]:
            (place / f"{name}.yaml").symlink_to(f"..data/{name}.yaml")
        return versions

    def _remove_tree(self, place: Path) -> None:
        gevent.sleep(1)  # for readers that are at it
        for number, path in enumerate(sorted(place.rglob("*"), reverse=True)):
            path.rmdir() if path.is_dir() and not path.is_symlink() else path.unlink()
            if number % 100 == 0:
                gevent.sleep(0.001)
        place.rmdir()

    # Changes of inventories

    def _row(self) -> dict[str, Any]:
        number = self._next()
        return {
            "metadata": {"row": f"row {number}", "tags+": [f"row-{number}"]},
            "network": {"address": f"10.9.{number & 255}.9/8"},
        }

    def _entries(self, inventory: str, changed: Mapping[str, Any]) -> dict[str, Any]:
        kind = {"vms.yaml": "inv", "vms.csv": "tab"}[inventory]
        now = {name: self._history.now(inventory, name) for name in self._fleet.by_kind[kind]}
        return {name: data for name, data in (now | changed).items() if data is not ABSENT}

    def _inventory(self, changed: Mapping[str, Any]) -> str:
        return json.dumps(self._entries("vms.yaml", changed), indent=1)

    def _table(self, changed: Mapping[str, Any]) -> str:
        text = io.StringIO()
        table = csv.writer(text)
        table.writerow(("name", "metadata.row", "metadata.tags+", "network.address"))
        for name, data in self._entries("vms.csv", changed).items():
            metadata = data["metadata"]
            table.writerow((name, metadata["row"], *metadata["tags+"], data["network"]["address"]))
        return text.getvalue()

    def edits_an_inventory(self) -> None:
        """Some entries are changed, added and removed at once."""
        changed: dict[str, Any] = {}
        for _ in range(self._rng.randint(1, 5)):
            name = self._some("inv")
            changed[name] = ABSENT if self._rng.random() < 0.2 else self._own(name)
        versions: dict[tuple[str, str], Any] = {("vms.yaml", n): one for n, one in changed.items()}
        versions["inventory", "vms.yaml"] = ABSENT
        self._replace(versions, self._directory / "vms.yaml", self._inventory(changed))

    def edits_a_table(self) -> None:
        changed: dict[str, Any] = {}
        for _ in range(self._rng.randint(1, 5)):
            changed[self._some("tab")] = ABSENT if self._rng.random() < 0.2 else self._row()
        versions: dict[tuple[str, str], Any] = {("vms.csv", n): one for n, one in changed.items()}
        self._replace(versions, self._directory / "vms.csv", self._table(changed))

    def breaks_an_inventory(self) -> None:
        """Its VMs, and those with no data elsewhere, have invalid data until it is edited."""
        text, versions = self._inventory({}), {("inventory", "vms.yaml"): BROKEN}
        self._replace(versions, self._directory / "vms.yaml", "a: [\n")
        gevent.sleep(self._rng.uniform(0, 0.3))
        versions["inventory", "vms.yaml"] = ABSENT
        self._replace(versions, self._directory / "vms.yaml", text)

    def keep_changing(self, run: Run, until_s: float, swap_every_s: float) -> None:
        """Alternate storm and calm: in a calm answers are kept, and single files change."""
        changes = [change for change, weight in CHANGES.items() for _ in range(weight)]
        begun_s = run.elapsed_s
        swap_s = begun_s + swap_every_s
        first = list(CHANGES)  # so that a short run makes each one
        while not run.is_stopped and run.elapsed_s < until_s:
            is_calm = (run.elapsed_s - begun_s) % (STORM_S + CALM_S) > STORM_S
            change = self._rng.choice(IN_A_CALM if is_calm else changes)
            if first:
                change = first.pop()
            elif is_calm:
                gevent.sleep(self._rng.uniform(0, 0.2))
            elif run.elapsed_s > swap_s:
                change, swap_s = Writer.swaps_the_directory, run.elapsed_s + swap_every_s
            change(self)
            self.counts[change.__name__] += 1
            gevent.sleep(PAUSE_S if self._rng.random() < 0.8 else self._rng.uniform(0, 0.1))


CHANGES: dict[Callable[[Writer], None], int] = {  # how often each is made, relatively
    Writer.replaces: 60,
    Writer.writes_in_place: 20,
    Writer.removes: 20,
    Writer.breaks: 4,
    Writer.renames: 10,
    Writer.has_two_places: 2,
    Writer.swaps_a_config_map: 2,
    Writer.changes_a_text: 4,
    Writer.edits_a_layer: 10,
    Writer.removes_a_layer: 3,
    Writer.breaks_a_layer: 1,
    Writer.swaps_the_layers: 2,
    Writer.edits_an_inventory: 6,
    Writer.edits_a_table: 6,
    Writer.breaks_an_inventory: 1,
}

IN_A_CALM = (Writer.replaces, Writer.writes_in_place, Writer.removes, Writer.renames)


class Readers:
    """VMs that boot, and ask again on lines that stay open."""

    def __init__(self, run: Run, port: int, fleet: Fleet, history: History, rng: Random) -> None:
        self._run = run
        self._port = port
        self.fleet = fleet
        self._history = history
        self._rng = rng
        self._busy: set[str] = set()  # a VM asks for one thing at a time
        self.answers: Counter[str] = Counter()
        self.wrong = 0

    def keep_asking(self, until_s: float, recent: deque[str]) -> None:
        while not self._run.is_stopped and self._run.elapsed_s < until_s:
            name = self._one(recent)
            if name in self._busy:
                gevent.sleep(0.001)
                continue
            self._busy.add(name)
            try:
                with self._run.checking("boot"):
                    self._boot(self.fleet.askings[name])
            finally:
                self._busy.discard(name)

    def _one(self, recent: deque[str]) -> str:
        chance = self._rng.random()
        if chance < 0.5 and recent:
            return self._rng.choice(recent)
        if chance < 0.9:
            kind = self._rng.choice(list(self.fleet.by_kind.values()))
            return self._rng.choice(kind[:HOT])
        return self._rng.choice(self.fleet.names)

    def _boot(self, asking: Asking) -> None:
        query = "".join(f"?{key}={value}" for key, value in asking.query.items())
        digits = asking.vc_uuid.replace("-", "")
        octets = " ".join(digits[place : place + 2] for place in range(0, 32, 2))
        uuid = f"{octets[:23]}-{octets[24:]}"
        vm = Vm(self._port, asking.name, vc_uuid=uuid, uri=f"my-metadata{query}")
        try:
            for _ in range(self._rng.choice((1, 3, 3, 8))):
                self._ask(vm, asking, self._rng.choice(DOCUMENTS))
                if self._rng.random() < 0.2:
                    gevent.sleep(self._rng.uniform(0, 0.2))
        finally:
            vm.close()

    def _ask(self, vm: Vm, asking: Asking, document: str) -> None:
        from_s = time.monotonic()
        code, body = vm.ask(document)
        until_s = time.monotonic()
        self._run.took("answer", until_s - from_s)
        answer = parsed(code, document, body)
        self.answers[answer if code == "RESPONSE_ERROR" else document] += 1
        if answer == TIMEOUT:  # on a machine that is too busy; no answer says what is in a file
            return
        why = self._history.fault_of(asking, document, answer, from_s, until_s)
        if why:
            self.wrong += 1
            self._run.fault(f"{asking.name} {document}: {why}")


def parsed(code: str, document: str, body: bytes) -> Any:
    """Return what the history has: an error, or the content of a document."""
    if code == "RESPONSE_ERROR":
        return json.loads(body)["error"]
    if not body:
        return None
    text = body.decode()
    if document == "METADATA":
        return json.loads(text)
    if document == "NETWORKDATA":
        (interface,) = json.loads(text)["config"]
        (subnet,) = interface["subnets"]
        assert subnet["netmask"] == "255.0.0.0", subnet
        network = {"address": f"{subnet['address']}/8"}
        if servers := subnet.get("dns_nameservers"):
            network["nameservers"] = servers
        return network
    if document == "USERDATA" and "\n# " not in text:
        head, _, rest = text.partition("\n")
        assert head == "#cloud-config", text
        return yaml.load(rest, Loader=SAFE_LOADER)
    return text


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--files", type=int, default=50_000)
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--seed", type=int, default=1)
    arguments = parser.parse_args()
    run = Run("changes")
    with tempfile.TemporaryDirectory() as place:
        directory = Path(place) / "current"
        (Path(place) / "release-0").mkdir()
        directory.symlink_to("release-0")
        rng = Random(arguments.seed)
        fleet, history = Fleet(arguments.files), History(LAYERS)
        writer = Writer(directory, fleet, history, rng)
        writer.begin()
        driver_opts = {"directory": str(directory), "last_good_max_age_s": 0}
        server = WatchedServer(
            directory,
            *("--driver-opts", json.dumps(driver_opts), "--workers", str(arguments.workers)),
            *("--max-connection-rate", "0"),
        )
        with run.against(server):
            readers = Readers(run, server.port, fleet, history, rng)
            _storm(run, server, writer, readers, history, arguments.seconds)
    return run.end()


def _storm(
    run: Run,
    server: WatchedServer,
    writer: Writer,
    readers: Readers,
    history: History,
    seconds: float,
) -> None:
    gevent.sleep(2.5)  # answers from files that have just changed are not kept
    begun_s, client_s, server_s = run.elapsed_s, time.process_time(), tree_cpu_s(server.pid)
    until_s = begun_s + seconds
    swaps = 3 if len(readers.fleet.names) <= MAX_FOR_SWAPS else 1.5
    watcher = gevent.spawn(run.watch, server, lambda: f"{sum(readers.answers.values())} answers")
    asking = [gevent.spawn(readers.keep_asking, until_s, writer.recent) for _ in range(VMS)]
    changing = gevent.spawn(writer.keep_changing, run, until_s, seconds / swaps)
    gevent.joinall([changing, *asking], timeout=seconds + 60)
    took_s = run.elapsed_s - begun_s
    watcher.kill()
    run.expect(all(one.ready() for one in (changing, *asking)), "a VM hangs")
    for one in (changing, *asking):
        run.expect(one.exception is None, f"{one.exception!r}")
    total = sum(readers.answers.values())
    share = f"client {(time.process_time() - client_s) / took_s:.0%} of a processor"
    run.row("load", f"{share}, server {(tree_cpu_s(server.pid) - server_s) / took_s:.0%}")
    run.row("changes", f"{history.changes}: {_shown(writer.counts)}")
    run.row("answers", f"{total}, {total / took_s:.0f} a second: {_shown(readers.answers)}")
    run.row("wrong answers", str(readers.wrong))
    memory, descriptors = tree_size(server.pid)
    run.row("the server", f"{memory / 2**20:.0f} MiB, {descriptors} descriptors")
    run.time_rows()
    run.look_at(server)
    run.expect(total > MIN_ANSWERS * seconds, f"only {total} answers")
    late = readers.answers[TIMEOUT] / max(total, 1)
    run.expect(late <= MAX_TIMEOUTS, f"{late:.1%} of the answers were {TIMEOUT}")
    missing = {*DOCUMENTS, NOT_FOUND, INVALID} - set(readers.answers)
    run.expect(not missing, f"never answered: {missing}")
    undone = {change.__name__ for change in CHANGES} - set(writer.counts)
    run.expect(not undone, f"never done: {undone}")
    counters = server.stop()
    run.expect(not counters["internal errors"], "internal errors")


def _shown(counts: Counter[str]) -> str:
    return ", ".join(f"{name.replace('_', ' ')} {count}" for name, count in sorted(counts.items()))


def tree_cpu_s(pid: int) -> float:
    ticks = 0
    for one in tree_of(pid):
        fields = Path(f"/proc/{one}/stat").read_text().rpartition(")")[2].split()
        ticks += int(fields[11]) + int(fields[12])
    return ticks / os.sysconf("SC_CLK_TCK")


def tree_size(pid: int) -> tuple[int, int]:
    """Return bytes of memory (what is shared counts for each process), and descriptors."""
    pages = descriptors = 0
    for one in tree_of(pid):
        pages += int(Path(f"/proc/{one}/statm").read_text().split()[1])
        descriptors += len(os.listdir(f"/proc/{one}/fd"))
    return pages * os.sysconf("SC_PAGE_SIZE"), descriptors


if __name__ == "__main__":
    sys.exit(main())

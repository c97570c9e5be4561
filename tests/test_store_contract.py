"""The law of all stores: their records give what files with the same data give.

Each store that is installed with the server holds it, on its real server: documents, sources,
faults, explanations and what two VMs have in common.
"""

from __future__ import annotations

import json
import re
import sqlite3
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.httppeer import Asked, HttpPeer, reply
from tests.servers.etcdbackend import PREFIX, EtcdBackend
from tests.servers.mariadb import MariadbBackend
from tests.servers.postgresql import PostgresqlBackend
from tests.servers.sqlite import SqliteBackend
from tests.test_store_laws import BIOS, LAYER, MACHINES, OWN, STEM, VC, in_words_of_files, outcome
from vmw_cloudinit_metadata import Machine, Store, StoreDriver
from vmw_cloudinit_metadata.drivers.file import FileDriver
from vmw_cloudinit_metadata.drivers.stores.etcd.etcdstore import EtcdStore
from vmw_cloudinit_metadata.drivers.stores.httpstore import HttpStore
from vmw_cloudinit_metadata.drivers.stores.sql.sqlstore import SqlStore

NO_PLACE = "\0 "  # no text has it

Own = Mapping[str, str]  # texts of VMs, by stems of files
Layers = Sequence[str]  # the lowest first


class Filled:
    """A store that can be filled again and again, and how its labels read as those of files."""

    store: Store
    lines_of_layers = True  # as in files

    def fill(self, own: Own, layers: Layers) -> None:
        raise NotImplementedError

    def in_paths(self, text: str) -> str:
        """Return a text of the store with the paths of files in place of its labels and name."""
        return self.plain(text).replace(f" in {self.store.name}", " in ")

    def plain(self, text: str) -> str:
        raise NotImplementedError


@contextmanager
def etcd() -> Iterator[Filled]:
    class InEtcd(Filled):
        def __init__(self, backend: EtcdBackend) -> None:
            self._backend = backend
            self.store = EtcdStore(backend.options)

        def fill(self, own: Own, layers: Layers) -> None:
            self._backend.clear()
            texts = {**own, **{f"layers/{number}": text for number, text in enumerate(layers)}}
            self._backend.put_keys({f"{PREFIX}/{place}": text for place, text in texts.items()})

        def plain(self, text: str) -> str:
            return re.sub(rf"{PREFIX}/(?! of etcd)", "", text)

    with EtcdBackend() as backend:
        yield InEtcd(backend)


class InTables(Filled):
    """The tables of `sql init`; `execute` runs a statement with marks for its values."""

    def __init__(self, url: str, execute: Callable[..., object], mark: str) -> None:
        self.store = SqlStore({"url": url})
        self._execute = execute
        self._mark = mark
        self._stems: list[str] = []

    def fill(self, own: Own, layers: Layers) -> None:
        self._execute("DELETE FROM cloudinit_vms")
        self._execute("DELETE FROM cloudinit_layers")
        self._stems = list(own)
        for number, (stem, text) in enumerate(own.items()):
            columns = ("vc_uuid", "bios_uuid") if stem in (VC, BIOS) else ("name",)
            row = {"id": number + 1, "data": text, **dict.fromkeys(columns, stem)}
            self._insert("cloudinit_vms", row)
        for number, text in enumerate(layers):
            self._insert("cloudinit_layers", {"name": str(number), "data": text})

    def _insert(self, table: str, row: Mapping[str, object]) -> None:
        marks = ", ".join([self._mark] * len(row))
        self._execute(f"INSERT INTO {table} ({', '.join(row)}) VALUES ({marks})", *row.values())

    def plain(self, text: str) -> str:
        text = re.sub(r"(\d+) of cloudinit_layers", r"layers/\1", text)
        return re.sub(r"row (\d+) of cloudinit_vms", lambda row: self._stems[int(row[1]) - 1], text)


@contextmanager
def sqlite() -> Iterator[Filled]:
    with SqliteBackend() as backend:
        db = sqlite3.connect(backend.url.removeprefix("sqlite:///"), isolation_level=None)
        yield InTables(backend.url, lambda text, *values: db.execute(text, values), "?")
        db.close()


@contextmanager
def postgresql() -> Iterator[Filled]:
    with PostgresqlBackend() as backend, backend.admin("vms") as db:
        yield InTables(backend.url, lambda text, *values: db.execute(text, values), "%s")


@contextmanager
def mariadb() -> Iterator[Filled]:
    with MariadbBackend() as backend, backend.admin("vms") as db, db.cursor() as cursor:
        yield InTables(backend.url, lambda text, *values: cursor.execute(text, values), "%s")


@contextmanager
def http() -> Iterator[Filled]:
    class OverHttp(Filled):
        lines_of_layers = False  # all are in one document

        def __init__(self) -> None:
            self._documents: dict[str, str] = {}

        def answer(self, asked: Asked) -> Iterable[bytes]:
            found = self._documents.get(asked.target)
            return reply("", "404 Not Found") if found is None else reply(found)

        def fill(self, own: Own, layers: Layers) -> None:
            self._documents = {"/layers": json.dumps(list(map(yaml.safe_load, layers)))}
            for stem, text in own.items():
                for kind in ("vc", "bios") if stem in (VC, BIOS) else ("name",):
                    self._documents[f"/{kind}/{stem}"] = text

        def plain(self, text: str) -> str:
            def path(layer: re.Match[str]) -> str:
                return f"layers/{int(layer[1]) - 1}"

            text = re.sub(rf"{re.escape(self.store.name)}/layers layer (\d+)", path, text)
            return re.sub(rf"{re.escape(self.store.name)}/(?:vc|bios|name)/", "", text)

    filled = OverHttp()
    with HttpPeer(filled.answer) as peer:
        more = [f"{peer.url}/bios/{{bios-uuid}}", f"{peer.url}/name/{{name}}"]
        filled.store = HttpStore(
            {
                "url": f"{peer.url}/vc/{{vc-uuid}}",
                "more-urls": more,
                "layers-url": f"{peer.url}/layers",
            }
        )
        yield filled


QUICK = [http]
SLOW = [etcd, sqlite, postgresql, mariadb]


@pytest.fixture(
    scope="module",
    params=[*QUICK, *(pytest.param(one, marks=pytest.mark.slow) for one in SLOW)],
    ids=lambda one: one.__name__,
)
def filled(request: pytest.FixtureRequest) -> Iterator[Filled]:
    with request.param() as made:
        yield made
        made.store.close()


@given(
    st.dictionaries(STEM, OWN),
    st.lists(LAYER, max_size=4),
    st.lists(st.sampled_from(MACHINES), min_size=4, max_size=4, unique=True),
)
@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
@pytest.mark.usefixtures("settled")
def test_records_of_each_store_give_what_files_with_the_same_data_give(
    filled: Filled, own: Own, layers: Layers, machines: list[Machine]
) -> None:
    filled.fill(own, layers)
    of_store = StoreDriver(filled.store)
    with tempfile.TemporaryDirectory() as path:
        directory = Path(path)
        for stem, text in own.items():
            (directory / f"{stem}.yaml").write_text(text)
        if layers:
            (directory / "layers").mkdir()
        for number, text in enumerate(layers):
            (directory / "layers" / f"{number}.yaml").write_text(text)
        of_files = FileDriver({"directory": path})

        def in_paths(text: str) -> str:
            return text.replace(f"{path}/", "").replace(f" in {path}", " in ")

        for machine in machines:
            expected = in_plain_words(outcome(of_files, machine, NO_PLACE), in_paths)
            found = in_plain_words(outcome(of_store, machine, NO_PLACE), filled.in_paths)
            if not filled.lines_of_layers:
                found, expected = (in_plain_words(one, without_lines) for one in (found, expected))
            assert found == expected


def without_lines(text: str) -> str:
    return re.sub(r"(layers/\d+):\d+", r"\1", text)


def in_plain_words(found: object, in_paths: Callable[[str], str] = str) -> object:
    """Return what a guest or an operator gets, with the words of files in each text."""
    match found:
        case str():
            text = in_words_of_files(in_paths(found))
            return sorted(text.split("; "))  # faults are in the order of their labels
        case list() | tuple():
            return [in_plain_words(one, in_paths) for one in found]
        case dict():
            return {name: in_plain_words(one, in_paths) for name, one in found.items()}
        case _:
            return found

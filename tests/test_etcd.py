"""etcd as a store, without a server: keys, the texts of the gateway, and where watches begin."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.httppeer import Asked, HttpPeer, reply
from tests.process import Constants, run
from tests.waiting import wait_until
from vmw_cloudinit_metadata import LAYERS, DriverError, Key, StoreDriver
from vmw_cloudinit_metadata.drivers.filesystem.filename import usual_stem
from vmw_cloudinit_metadata.drivers.loading import driver_of
from vmw_cloudinit_metadata.drivers.stores.etcd import gateway
from vmw_cloudinit_metadata.drivers.stores.etcd.etcdstore import EtcdStore
from vmw_cloudinit_metadata.drivers.stores.etcd.gateway import (
    ClusterState,
    EtcdError,
    KeyEvent,
    KeyValue,
)
from vmw_cloudinit_metadata.drivers.stores.etcd.gathering import Gathering
from vmw_cloudinit_metadata.drivers.stores.etcd.keyspace import Keyspace
from vmw_cloudinit_metadata.drivers.stores.etcd.replay import Replay
from vmw_cloudinit_metadata.protocol.vmware import parse_uuid

UUID = "01234567-89ab-cdef-fedc-ba9876543210"
STORE = "vmw_cloudinit_metadata.drivers.stores.etcd.etcdstore:EtcdStore"
OPTIONS = {"url": "http://127.0.0.1:2379", "prefix": "/vms"}

# Keys

PREFIX = st.text(st.characters(codec="utf-8"), min_size=1, max_size=8)
NAME = st.one_of(
    st.text(max_size=12), st.sampled_from([UUID, UUID.upper(), "a/b", "ö", ".x", "layers"])
)


@given(PREFIX, NAME)
def test_record_of_a_vm_stands_under_its_own_prefix_alone(prefix: str, name: str) -> None:
    stem = usual_stem(name)
    if stem is None:
        return
    kinds = ("vc-uuid", "bios-uuid") if parse_uuid(stem) else ("name",)
    space = Keyspace(prefix)
    for kind in kinds:
        place = space.range_of(Key(kind, stem)).start
        assert Key(kind, stem) in space.keys_at(place)
        assert space.all.start < place < space.all.end
        assert not space.layers.start <= place < space.layers.end
        other = Keyspace(f"{prefix}2")
        assert not other.all.start <= place < other.all.end


@given(PREFIX, st.binary(max_size=12))
def test_key_that_no_vm_is_looked_up_by_has_no_record(prefix: str, rest: bytes) -> None:
    space = Keyspace(prefix)
    place = space.all.start + rest
    keys = space.keys_at(place)
    assert space.all.start <= place < space.all.end
    assert (LAYERS in keys) == (space.layers.start <= place < space.layers.end)
    assert all(space.range_of(key).start == place for key in keys if key != LAYERS)
    assert space.label(place).startswith(f"{space}")


@pytest.mark.parametrize("prefix", ["/vms", "/vms/"])
def test_prefix_ends_with_a_slash_whether_it_is_written_or_not(prefix: str) -> None:
    space = Keyspace(prefix)
    assert str(space) == "/vms/"
    assert (space.all.start, space.all.end) == (b"/vms/", b"/vms0")
    assert space.keys_at(b"/vms/web1") == (Key("name", "web1"),)
    assert space.keys_at(b"/vms/layers/10-all") == (LAYERS,)
    assert space.keys_at(b"/vms/layers") == (Key("name", "layers"),)
    assert space.keys_at(b"/vms/ci%2fweb1") == (Key("name", "ci%2fweb1"),)


@pytest.mark.parametrize(
    "name", ["", ".web1", "ci/web1", "ci%2Fweb1", UUID.upper(), "Bu\u0308ro", b"\xff"], ids=repr
)
def test_other_spelling_of_a_name_has_no_record(name: str | bytes) -> None:
    rest = name if isinstance(name, bytes) else name.encode()
    assert Keyspace("/vms").keys_at(b"/vms/" + rest) == ()


@pytest.mark.parametrize("place", [b"/vms", b"/vms2/web1", b"web1"])
def test_key_of_another_prefix_has_no_record(place: bytes) -> None:
    assert Keyspace("/vms").keys_at(place) == ()


# The gateway: answers of etcd 3.4

HEADER = {"cluster_id": "7", "member_id": "8", "revision": "5", "raft_term": "2"}
STATE = ClusterState(7, 5, 2)
PAIR = {"key": "L3Ztcy93ZWIx", "mod_revision": "4", "version": "1", "value": "e30="}


def text(answer: Any) -> bytes:
    return json.dumps(answer).encode()


def test_answer_to_a_range_has_pairs_and_whether_more_follow() -> None:
    found = gateway.key_values(text({"header": HEADER, "kvs": [PAIR], "more": True, "count": "9"}))
    assert (found.state, found.pairs, found.more) == (STATE, (KeyValue(b"/vms/web1", b"{}"),), True)
    assert gateway.key_values(text({"header": HEADER})).pairs == ()


def test_answer_to_parts_has_each_part() -> None:
    full, empty = ({"response_range": {"header": {}, "kvs": kvs}} for kvs in ([PAIR], []))
    found = gateway.parts(text({"header": HEADER, "succeeded": True, "responses": [full, empty]}))
    assert list(found) == [(KeyValue(b"/vms/web1", b"{}"),), ()]


def test_message_of_a_watch_has_events() -> None:
    deleted = {"type": "DELETE", "kv": {"key": "L3Ztcy93ZWIy", "mod_revision": "5"}}
    result = {"header": HEADER, "events": [{"kv": PAIR}, deleted]}
    found = gateway.watch_message(text({"result": result}), "etcd1")
    assert found.events == (KeyEvent(b"/vms/web1", 4), KeyEvent(b"/vms/web2", 5))
    assert not found.is_created
    created = {"header": HEADER, "created": True}
    assert gateway.watch_message(text({"result": created}), "etcd1").is_created


REFUSALS = {
    "token": ({"error": "etcdserver: invalid auth token", "code": 16}, "invalid auth token"),
    "no user": (
        {"message": "etcdserver: user name is empty", "code": 3},
        "user name is empty: set the options user and password",
    ),
    "of a watch": (
        {"error": {"grpc_code": 14, "message": "etcdserver: no leader"}},
        "etcdserver: no leader",
    ),
    "of another program": (b"<html>\n404 Not Found\x1b", "404 Not Found\\x1b: start etcd with"),
    "no text": ({"error": None}, "None"),
}


@pytest.mark.parametrize("case", REFUSALS)
def test_refusal_says_what_to_do_on_one_line(case: str) -> None:
    answer, reason = REFUSALS[case]
    error = gateway.error(answer if isinstance(answer, bytes) else text(answer), "http://etcd1")
    assert str(error).startswith("etcd at http://etcd1 refuses: ")
    assert reason in str(error)
    assert str(error).isprintable()
    assert error.is_of_token == (case in ("token", "no user"))


NO_TOKENS = {
    "empty": "",
    "line feed": "a\r\nb",
    "blank": "a b",
    "long": "x" * 20_000,
    "number": 5,
    "none": None,
}


@pytest.mark.parametrize("case", NO_TOKENS)
def test_token_that_is_no_header_field_is_refused(case: str) -> None:
    with pytest.raises(DriverError, match="expected a token"):
        gateway.token(text({"token": NO_TOKENS[case]}))


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=4),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner),
    max_leaves=6,
)
KNOWN = st.sampled_from(
    (
        *("header", "kvs", "kv", "key", "value", "mod_revision", "revision", "responses", "events"),
        *("response_range", "result", "error", "message", "compact_revision", "token", "created"),
    )
)
ANSWER = st.recursive(
    JSON, lambda inner: st.dictionaries(KNOWN, inner | st.lists(inner)), max_leaves=9
)


@given(ANSWER.map(text) | st.binary(max_size=20) | st.just(b"[" * 100_000))
def test_what_is_no_answer_of_the_gateway_is_a_drivers_error(body: bytes) -> None:
    for parse in (
        gateway.key_values,
        lambda text: list(gateway.parts(text)),
        gateway.token,
        lambda line: gateway.watch_message(line, "etcd1"),
    ):
        with suppress(DriverError):
            parse(body)
    assert isinstance(gateway.error(body, "etcd1"), EtcdError)


# Where watches begin

# Each round of a watch: which keys change before it is created, which while it lives, and how many
# of its events it tells: all, none because it hangs, or the first ones, as time is over. Other
# prefixes' changes have no key.
CHANGE = st.lists(st.sampled_from(["a", "b", None]), max_size=3)
ROUNDS = st.lists(st.tuples(CHANGE, CHANGE, st.sampled_from(["all", "none", 1, 2])), max_size=20)


class Cluster:
    """What etcd does: changes have revisions, and a watch tells those from its start on."""

    def __init__(self) -> None:
        self.history: list[str | None] = [None]  # by revision

    @property
    def state(self) -> ClusterState:
        return ClusterState(7, len(self.history) - 1, 2)

    def events(self, start: int) -> list[KeyEvent]:
        numbered = enumerate(self.history[start:], start)
        return [KeyEvent(key.encode(), revision) for revision, key in numbered if key]


@given(ROUNDS)
def test_change_is_told_unless_two_quiet_watches_in_a_row_hang(
    rounds: Sequence[tuple[list[str | None], list[str | None], Any]],
) -> None:
    cluster = Cluster()
    replay = Replay(cluster.state)
    told: list[tuple[bytes, int]] = []
    has_hung = False
    for before, while_it_lives, tells in [*rounds, ([], [], "all"), ([], [], "all")]:
        assert replay.follows(cluster.state)
        cluster.history += before
        start = replay.start
        assert replay.created(cluster.state)
        cluster.history += while_it_lives
        events = cluster.events(start)
        if isinstance(tells, int):
            events = events[:tells]
        else:
            has_hung = tells == "none" and not has_hung
            events = [] if has_hung else events
        told += [(key, event.revision) for event in events for key in replay.untold([event])]
        if not isinstance(tells, int):
            replay.is_quiet()
    made = [(event.key, event.revision) for event in cluster.events(0)]
    assert list(dict.fromkeys(told)) == made
    assert len(told) <= len(made) + len(rounds) + 2  # only the last one is told again, once a watch


def test_quiet_watches_begin_later_and_later() -> None:
    replay = Replay(ClusterState(7, 5, 2))
    starts = []
    for revision in (10, 20, 30, 40):
        replay.created(ClusterState(7, revision, 2))
        replay.is_quiet()
        starts.append(replay.start)
    assert starts == [6, 11, 21, 31]


@pytest.mark.parametrize(
    "state",
    [ClusterState(9, 20, 3), ClusterState(7, 8, 3), ClusterState(7, 20, 1)],
    ids=["other cluster", "revision went back", "term went back"],
)
def test_backup_that_took_the_place_of_the_cluster_is_another_history(state: ClusterState) -> None:
    replay = Replay(ClusterState(7, 5, 2))
    assert replay.created(ClusterState(7, 9, 2))
    assert not replay.follows(state)


def test_watch_of_a_member_behind_the_last_read_does_not_count() -> None:
    replay = Replay(ClusterState(7, 5, 2))
    assert replay.follows(ClusterState(7, 9, 2))
    assert not replay.created(ClusterState(7, 8, 2))
    assert replay.start == 6


# Questions of several threads


class Joining(Sequence[int]):
    """Parts that count when they are taken into a request."""

    def __init__(self, *parts: int) -> None:
        self._parts = parts
        self.are_taken = threading.Event()

    def __len__(self) -> int:
        return len(self._parts)

    def __getitem__(self, place: Any) -> Any:
        if place == len(self) - 1:
            self.are_taken.set()
        return self._parts[place]


class Waiting:
    """`ask` waits until it may go on; it doubles each part, and fails for a negative one."""

    def __init__(self) -> None:
        self.requests: list[list[int]] = []
        self.has_begun, self.may_go_on = threading.Event(), threading.Event()

    def ask(self, parts: Sequence[int], end_s: float) -> list[int]:
        self.requests.append(list(parts))
        self.has_begun.set()
        assert self.may_go_on.wait(60)
        assert end_s > time.monotonic()
        if min(parts) < 0:
            raise DriverError("no")
        return [2 * part for part in parts]


def asking(
    gathering: Gathering[int, int], questions: Sequence[Joining]
) -> list[Future[Sequence[int]]]:
    """Ask each question in a thread of its own, one after the other."""
    pool = ThreadPoolExecutor(len(questions))
    futures = []
    for question in questions:
        futures.append(pool.submit(gathering.ask, question))
        assert question.are_taken.wait(60)
    pool.shutdown(wait=False)
    return futures


def test_what_is_asked_during_a_request_is_the_next_one() -> None:
    asked = Waiting()
    gathering = Gathering(asked.ask, max_parts=4, within_s=60)
    first = asking(gathering, [Joining(1)])
    assert asked.has_begun.wait(60)
    others = asking(gathering, [Joining(2, 3), Joining(4), Joining(5, 6), Joining(7)])
    asked.may_go_on.set()
    assert [list(one.result(60)) for one in first + others] == [[2], [4, 6], [8], [10, 12], [14]]
    assert sorted(asked.requests) == [[1], [2, 3, 4], [5, 6, 7]]


def test_failure_of_a_request_is_that_of_all_who_asked() -> None:
    asked = Waiting()
    gathering = Gathering(asked.ask, max_parts=10, within_s=60)
    first = asking(gathering, [Joining(1)])
    assert asked.has_begun.wait(60)
    others = asking(gathering, [Joining(2), Joining(-3)])
    asked.may_go_on.set()
    assert list(first[0].result(60)) == [2]
    for one in others:
        with pytest.raises(DriverError, match="no"):
            one.result(60)
    assert list(gathering.ask([4])) == [8]


def test_request_that_hangs_keeps_nobody_longer_than_a_look_up() -> None:
    asked = Waiting()
    gathering = Gathering(asked.ask, max_parts=10, within_s=0.1)
    hanging = asking(gathering, [Joining(1)])
    assert asked.has_begun.wait(60)
    for one in asking(gathering, [Joining(2), Joining(3)]):
        with pytest.raises(DriverError, match="has not answered the requests of other VMs"):
            one.result(60)
    asked.may_go_on.set()
    with pytest.raises(AssertionError):  # it was late itself
        hanging[0].result(60)


# A gateway that is slow


def test_watch_that_begins_too_late_is_followed_by_one_that_counts(constants: Constants) -> None:
    constants(drivers__stores__etcd__etcdstore__WATCH_S=0.05)
    watches: list[int] = []
    is_over = threading.Event()
    state = {"header": HEADER}

    def answer(asked: Asked) -> Iterable[bytes]:
        if asked.target != gateway.WATCH:
            return reply(text(state))
        return watched()

    def watched() -> Iterator[bytes]:
        watches.append(len(watches))
        yield b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n"
        if len(watches) > 2:
            line = text({"result": {**state, "created": True}}) + b"\n"
            yield b"%x\r\n%s\r\n" % (len(line), line)
        is_over.wait(60)

    with HttpPeer(answer) as peer:
        driver = StoreDriver(EtcdStore({**OPTIONS, "url": peer.url}))
        driver.watch(lambda _: None)
        wait_until(lambda: driver.revision() is not None)
        assert len(watches) >= 3
        driver.close()
        is_over.set()


# Options

WRONG = {
    "no prefix": ({"prefix": ""}, "prefix: found"),
    "no url": ({"url": []}, "url: found"),
    "other scheme": ({"url": ["ftp://etcd1"]}, "url: found 'ftp://etcd1', expected: http://HOST"),
    "password in the url": ({"url": "http://u:hunter2@etcd1"}, "and not in url"),
    "user alone": ({"user": "vmw"}, "both user and password, or none of them"),
    "password alone": ({"password": "hunter2"}, "both user and password, or none of them"),
    "certificate without TLS": ({"ca-file": "/etc/hosts"}, "https:// in url"),
    "missing file": ({"url": "https://etcd1", "ca_file": "/nope"}, "/nope"),
    "unknown option": ({"prefx": "/x"}, "found 'prefx', expected 'prefix'"),
}


@pytest.mark.parametrize("case", WRONG)
def test_wrong_option_is_an_error_that_says_what_is_expected(case: str) -> None:
    changed, reason = WRONG[case]
    with pytest.raises(DriverError) as raised:
        driver_of(EtcdStore, {**OPTIONS, **changed})
    assert reason in str(raised.value)
    assert "hunter2" not in str(raised.value)


def test_store_is_named_by_prefix_and_address() -> None:
    store = EtcdStore({**OPTIONS, "url": ["http://etcd1:2379", "http://etcd2:2379/"]})
    assert store.name == "/vms/ of etcd at http://etcd1:2379"
    secret = EtcdStore({**OPTIONS, "user": "vmw", "password": "hunter2"})
    assert "hunter2" not in repr(secret.options)
    assert secret.known_secrets.hide("hunter2") == "(hidden)"


def test_driver_without_its_extra_says_what_to_install(tmp_path: Path) -> None:
    (tmp_path / "urllib3.py").write_text("raise ModuleNotFoundError('no', name='urllib3')")
    words = ("--driver", STORE, "--driver-opts", json.dumps(OPTIONS))
    done = run("show", "web1", *words, env={"PYTHONPATH": str(tmp_path)})
    assert done.returncode == 2
    expected = "the driver etcd needs the extra `http`: pip install 'vmw-cloudinit-metadata[http]'"
    assert expected in done.stderr

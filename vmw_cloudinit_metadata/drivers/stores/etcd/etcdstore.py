"""EtcdStore: instance data under a prefix of etcd's keys."""

from __future__ import annotations

import time
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from typing import Annotated, Any

from pydantic import BeforeValidator, Field, SecretStr, model_validator

from vmw_cloudinit_metadata.drivers import driveroptions
from vmw_cloudinit_metadata.drivers.drivererror import DriverError
from vmw_cloudinit_metadata.drivers.driveroptions import DriverOptions
from vmw_cloudinit_metadata.drivers.layers.sharedlayer import MAX_LAYERS
from vmw_cloudinit_metadata.drivers.store import Changes, Key, Record, Store
from vmw_cloudinit_metadata.drivers.stores.etcd import gateway
from vmw_cloudinit_metadata.drivers.stores.etcd.gateway import ClusterState, KeyValue, KeyValues
from vmw_cloudinit_metadata.drivers.stores.etcd.gathering import Gathering
from vmw_cloudinit_metadata.drivers.stores.etcd.keyspace import UNUSABLE, KeyRange, Keyspace
from vmw_cloudinit_metadata.drivers.stores.etcd.members import CompactedError, Members
from vmw_cloudinit_metadata.drivers.stores.etcd.replay import Replay
from vmw_cloudinit_metadata.drivers.stores.httperrors import SilenceError, TooLongError
from vmw_cloudinit_metadata.drivers.stores.httpextra import http_client
from vmw_cloudinit_metadata.drivers.stores.httpoptions import REQUEST_S, File, HttpOptions

MAX_URLS = 20
MAX_PREFIX_CHARACTERS = 1000

# Of one watch: what it loses, the next one tells. A member that hangs is noticed as late.
WATCH_S = 0.5
SILENCE_S = 1.0  # after which no cached answer is given until a member has answered

MAX_MESSAGE_BYTES = 16 * 1024 * 1024  # of a watch; etcd's values have 1.5 MiB by default

MAX_PARTS = 60  # of one question; etcd takes 128

PAGE_KEYS = 500  # of a list of all keys; fewer if they do not fit into an answer


def _as_list(value: Any) -> Any:
    return [value] if isinstance(value, str) else value


class EtcdOptions(DriverOptions):
    url: Annotated[list[str], BeforeValidator(_as_list)] = Field(
        min_length=1,
        max_length=MAX_URLS,
        description="the address, https://HOST:2379, or a list with those of several members",
    )
    prefix: str = Field(
        min_length=1,
        max_length=MAX_PREFIX_CHARACTERS,
        description="where the keys are: /vms for /vms/web1 and /vms/layers/10-all",
    )
    user: str | None = Field(default=None, min_length=1, description="a user of etcd")
    password: SecretStr | None = Field(default=None, description="the user's password")
    ca_file: File | None = Field(
        default=None,
        description="a file with the certificates to trust, in PEM; by default the system's",
    )
    client_certificate_file: File | None = Field(
        default=None, description="a file with our own certificate for etcd, in PEM"
    )
    client_key_file: File | None = Field(
        default=None, description="a file with its key; by default that of the certificate"
    )

    @model_validator(mode="after")
    def _agree(self) -> EtcdOptions:
        if (self.user is None) != (self.password is None):
            raise ValueError("both user and password, or none of them")
        if any("@" in url for url in self.url):
            raise ValueError("user and password as options, and not in url")
        return self


Pairs = tuple[KeyValue, ...] | TooLongError


class EtcdStore(Store):
    """Takes VMs and layers from the keys of etcd, and watches them. Needs the extra [http]."""

    Options = EtcdOptions
    options: EtcdOptions
    can_prepare = True

    def __init__(self, options: Mapping[str, Any]) -> None:
        super().__init__(options)
        given = self.options
        files = {
            name: value
            for name in ("ca_file", "client_certificate_file", "client_key_file")
            if (value := getattr(given, name)) is not None
        }
        clients = [
            http_client("etcd", driveroptions.checked(HttpOptions, {"url": url, **files}))
            for url in given.url
        ]
        password = given.password.get_secret_value() if given.password else ""
        self._members = Members(clients, given.user, password)
        self._gathering = Gathering(self._parts, MAX_PARTS, REQUEST_S)
        self._keyspace = Keyspace(given.prefix)
        self._origin = str(clients[0].origin)

    @property
    def name(self) -> str:
        return f"{self._keyspace} of etcd at {self._origin}"

    def fetch(self, keys: Collection[Key]) -> Iterable[Record]:
        """Ask for all of them at once, so that they are of one revision."""
        parts = [self._keyspace.range_of(key) for key in keys]
        found = self._gathering.ask(parts)
        if len(found) != len(parts):
            raise DriverError("etcd has answered another question than it was asked")
        return [
            self._record(key, pair)
            for key, pairs in zip(keys, found, strict=True)
            for pair in _found(pairs)
        ]

    def all(self) -> Iterator[Record]:
        for pair in self._pairs():
            keys = self._keyspace.keys_at(pair.key)
            yield self._record(keys[0] if keys else UNUSABLE, pair)

    def listen(self, changes: Changes) -> None:
        replay: Replay | None = None
        while not changes.closed.is_set():
            newest = self._newest()
            if replay is None or not replay.follows(newest):
                replay = Replay(newest)
            try:
                self._watch(replay, changes)
            except SilenceError:
                replay.is_quiet()
            except CompactedError:
                replay = None

    def check(self) -> None:
        self._newest()

    def close(self) -> None:
        self._members.close()

    def _parts(self, parts: Sequence[KeyRange], end_s: float) -> list[Pairs]:
        """Return the pairs of each range, or why there are none."""
        question = gateway.question_of_parts(parts, limit=MAX_LAYERS + 1)
        try:
            return list(gateway.parts(self._members.ask(gateway.TXN, question, end_s)))
        except TooLongError as error:
            if len(parts) == 1:
                return [error]
        middle = len(parts) // 2
        return [*self._parts(parts[:middle], end_s), *self._parts(parts[middle:], end_s)]

    def _newest(self) -> ClusterState:
        """Return what a majority of the members knows at present."""
        return self._page(self._keyspace.all, limit=1, keys_only=True).state

    def _page(self, keys: KeyRange, **further: Any) -> KeyValues:
        question = gateway.question_of_range(keys, **further)
        return gateway.key_values(self._members.ask(gateway.RANGE, question))

    def _pairs(self) -> Iterator[KeyValue]:
        """Yield all pairs, as they were at one moment."""
        keys, limit, revision = self._keyspace.all, PAGE_KEYS, 0
        while True:
            try:
                page = self._page(keys, limit=limit, revision=revision)
            except TooLongError:
                if limit == 1:
                    raise
                limit = max(limit // 4, 1)
                continue
            yield from page.pairs
            if not page.more or not page.pairs:
                return
            revision = revision or page.state.revision
            keys = KeyRange(page.pairs[-1].key + b"\0", keys.end)  # the next key that there can be

    def _record(self, key: Key, pair: KeyValue) -> Record:
        return Record(key, pair.value, self._keyspace.label(pair.key))

    def _watch(self, replay: Replay, changes: Changes) -> None:
        """Tell what one watch is told in a moment."""
        end_s = time.monotonic() + WATCH_S
        question = gateway.question_of_watch(self._keyspace.all, replay.start)
        with self._members.watch(
            question, max_bytes=MAX_MESSAGE_BYTES, silence_s=WATCH_S
        ) as messages:
            for message in messages:
                if message.is_created:
                    is_first = not replay.has_begun
                    if not replay.created(message.state):
                        raise DriverError("a member of etcd is behind the others")
                    if is_first:
                        changes.connected(SILENCE_S)
                    else:
                        changes.alive()
                places = replay.untold(message.events)
                changes.changed(key for place in places for key in self._keyspace.keys_at(place))
                if time.monotonic() > end_s or changes.closed.is_set():
                    return


def _found(pairs: Pairs) -> tuple[KeyValue, ...]:
    if isinstance(pairs, TooLongError):
        raise pairs
    return pairs

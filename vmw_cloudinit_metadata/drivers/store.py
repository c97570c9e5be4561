"""Store: where instance data comes from, and how its changes are told. Written by store authors.

A store is asked for records by their keys; `StoreDriver` does the rest: ranks of identities,
layers, faults, last good answers, and caching for as long as the store tells of no change.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Collection, Hashable, Iterable, Mapping
from dataclasses import dataclass
from math import inf
from threading import Event
from typing import Any, NamedTuple

from vmw_cloudinit_metadata.drivers import driveroptions
from vmw_cloudinit_metadata.drivers.drivererror import NoWebhooksError
from vmw_cloudinit_metadata.drivers.driveroptions import DriverOptions
from vmw_cloudinit_metadata.drivers.optionsecrets import secrets_in
from vmw_cloudinit_metadata.protocol.webhook import Webhook
from vmw_cloudinit_metadata.settings.knownsecrets import KnownSecrets

VC_UUID, BIOS_UUID, NAME = "vc-uuid", "bios-uuid", "name"
IDENTITIES = (VC_UUID, BIOS_UUID, NAME)  # in the order in which they find a VM's data


class Key(NamedTuple):
    """What records are asked for by: an identity of a VM, or LAYERS.

    UUIDs are in lower case. In names, `/ \\ %` are written as vCenter does: %2f %5c %25.
    """

    kind: str
    value: str = ""

    def __str__(self) -> str:
        return f"{self.kind} {self.value}" if self.value else self.kind


LAYERS = Key("layers")


@dataclass(frozen=True, slots=True)
class Record:
    """The data of a VM under one of its keys, or a layer under LAYERS.

    `data` is what an instance file has, or a layer's file: a mapping, or its text in YAML or JSON.
    `label` says where it stands, for operators: `row 17 of vms`. An answer in which a record
    `is_secret` is never written to disk. `also` are further keys under which `fetch` returns it,
    for a record of `all`. `version` is for stores that tell `record_version`. `vm_name` is the name
    that a VM under a UUID probably has: for checks, and answers that are prepared.
    """

    key: Key
    data: Mapping[str, Any] | str | bytes
    label: str = ""
    is_secret: bool = False
    also: tuple[Key, ...] = ()
    version: str = ""
    vm_name: str = ""


class Fetched(list[Record]):
    """What `fetch` may return: records that may be kept for some seconds only, although no change
    is told. `kept_s` says so of each key, also of one without records. `all` may yield it, too."""

    def __init__(self, records: Iterable[Record], kept_s: Mapping[Key, float]) -> None:
        super().__init__(records)
        self.kept_s = kept_s


class Changes(ABC):
    """Takes what a store's listener is told. All methods may be called in any thread."""

    closed: Event  # set when the server stops: wait for it instead of sleeping

    @abstractmethod
    def connected(self, silence_s: float = inf) -> None:
        """State that from now on all changes are told; before, anything may have changed.

        If the listener calls no method for `silence_s`, it counts as lost meanwhile.
        """

    @abstractmethod
    def alive(self) -> None:
        """State that all changes up to now have been told."""

    @abstractmethod
    def changed(self, keys: Iterable[tuple[str, str]]) -> None:
        """State that the records of these keys have changed, come or gone."""

    @abstractmethod
    def everything(self) -> None:
        """State that anything may have changed."""

    @abstractmethod
    def lost(self, reason: object) -> None:
        """State that changes are no longer told, until the next call of `connected`."""


class Store(ABC):
    """A source of records. All methods run in threads, several at once, and may block."""

    # The model of the options; None: any options, unchecked.
    Options: type[DriverOptions] | None = None

    poll_s = 1.0  # between two calls of `version`

    # Whether `listen` tells all changes. Otherwise `fetch` says for how long records may be kept,
    # and the catalogue reads all data again from time to time.
    tells_all = True

    # Whether answers may be prepared of what `all` returns, before their VMs ask: only if each of
    # its records has all keys under which `fetch` would return it. If not `tells_all`, it must
    # yield what `fetch` returns, and no VM has records under several keys.
    can_prepare = False

    why_not_prepared = ""  # what an operator may change, so that answers are prepared

    # Whether `all` may return something older than `fetch` does in another process. Then what is
    # prepared counts only for a record of the `version` that `record_version` tells.
    tells_versions = False

    # The secrets among the options: they are hidden in what its exceptions say.
    known_secrets = KnownSecrets()

    def __init__(self, options: Mapping[str, Any]) -> None:
        """Check --driver-opts, and keep them as `self.options`; raise DriverError.

        Without those that are StoreDriver's: `match` and `last_good_max_age_s`.
        """
        self.options: Any = driveroptions.checked(self.Options, options)
        self.known_secrets = KnownSecrets(secrets_in([options, self.options]))

    @property
    def name(self) -> str:
        """What the store is called in messages: `table vms of /srv/inventory.sqlite`."""
        return type(self).__name__

    @abstractmethod
    def fetch(self, keys: Collection[Key]) -> Iterable[Record]:
        """Return the records of these keys, the layers from the lowest to the highest.

        Any exception means that the store is out of reach; DriverError has its text for operators.
        """

    def listen(self, changes: Changes) -> None:
        """Tell changes until `changes.closed` is set; runs in a thread of its own.

        An exception means that the connection is lost: `listen` is called again, after a pause. If
        it returns without `connected`, the store cannot tell changes, and no answer is cached.

        By default `version` is polled.
        """
        version = self.version()
        if version is None:
            return
        changes.connected(silence_s=2 * self.poll_s)
        while not changes.closed.wait(self.poll_s):
            before, version = version, self.version()
            if version != before:
                changes.everything()
            changes.alive()

    def version(self) -> Hashable:
        """Return a value that is another one after each change; None if there is none.

        It should be cheap, such as `PRAGMA data_version`. Called in the thread of `listen` alone.
        """
        return None

    @property
    def can_list(self) -> bool:
        """Whether `all` lists the records."""
        return type(self).all is not Store.all

    def all(self) -> Iterable[Record | Fetched] | None:
        """Return all records, a VM's under one key each; None if they cannot be listed."""
        return None

    def record_version(self, key: Key) -> str | None:  # noqa: ARG002
        """Return the `version` of the only record under a key, "" if there is none there.

        None if that is not known at once, and for several. Equal records have equal versions, in
        each process. Called in the event loop: it must not block.
        """
        return None

    def hook(self, webhook: Webhook) -> None:  # noqa: ARG002
        """Take a webhook of the admin port: check its signature, and tell the changes it names.

        Called in each worker. Raise WebhookRefusedError if the signature is wrong, another
        DriverError if it cannot be understood. The sender is told when it returns: no change may be
        lost from then on. A store that reads its source in another thread may only note what to
        read; its documentation says after what time the change counts.
        """
        raise NoWebhooksError(f"{self.name} takes no webhooks")

    def check(self) -> None:  # noqa: B027 - not every store has something to check
        """Raise an exception if no VM could be served now; called every second."""

    def close(self) -> None:  # noqa: B027 - not every store holds something
        """Free resources, and end the wait of `listen`; called once."""

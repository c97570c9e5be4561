"""HttpStore: a VM's instance data at an address of its own, as JSON or YAML."""

from __future__ import annotations

import json
import re
import threading
import time
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from operator import attrgetter
from typing import Any

from cachetools import LRUCache
from pydantic import Field, field_validator, model_validator

from vmw_cloudinit_metadata.drivers.drivererror import DriverError
from vmw_cloudinit_metadata.drivers.layers.sharedlayer import MAX_LAYERS
from vmw_cloudinit_metadata.drivers.records.listening import usual
from vmw_cloudinit_metadata.drivers.store import (
    BIOS_UUID,
    LAYERS,
    NAME,
    VC_UUID,
    Changes,
    Fetched,
    Key,
    Record,
    Store,
)
from vmw_cloudinit_metadata.drivers.stores import freshness
from vmw_cloudinit_metadata.drivers.stores.httpextra import http_client
from vmw_cloudinit_metadata.drivers.stores.httpoptions import REQUEST_S, File, HttpOptions, parsed
from vmw_cloudinit_metadata.drivers.stores.httptemplate import HttpTemplate
from vmw_cloudinit_metadata.drivers.stores.signature import Signature
from vmw_cloudinit_metadata.protocol.webhook import Webhook

MAX_KEPT_BYTES = 32 * 1024 * 1024  # of answers that a server may confirm with 304
MAX_LIST_BYTES = 64 * 1024 * 1024
LIST_S = 30.0
MAX_HOOK_KEYS = 1000

_BETWEEN = re.compile(r"[ \t\r\n,]*")  # two items of a list
_ABOUT_BYTES = 512  # of an answer without its texts
_EXPECTED_HOOK = (
    'the webhook must be {"all": true}, or a mapping with one or more of "names", "vc-uuids", '
    '"bios-uuids" (each a list of names or UUIDs), and "layers": true'
)
_OF_HOOK = {"names": NAME, "vc-uuids": VC_UUID, "bios-uuids": BIOS_UUID}


class HttpStoreOptions(HttpOptions):
    url: str = Field(description="the address of a VM's data, such as https://cmdb/vms/{vc-uuid}")
    more_urls: list[str] = Field(
        default=[], max_length=2, description="such addresses for other identities, asked after url"
    )
    layers_url: str | None = Field(default=None, description="the address of a JSON list of layers")
    list_url: str | None = Field(
        default=None, description="the address of a JSON list of all values of the identity in url"
    )
    health_url: str | None = Field(
        default=None, description="an address that is asked every second, and must answer with 2xx"
    )
    webhook_key_file: File | None = Field(
        default=None, description="a file with the key that signs webhooks"
    )

    @field_validator("url", "more_urls")
    @classmethod
    def _are_templates(cls, found: Any) -> Any:
        for url in [found] if isinstance(found, str) else found:
            HttpTemplate.of(url)
        return found

    @field_validator("layers_url", "list_url", "health_url")
    @classmethod
    def _is_address(cls, url: str | None) -> str | None:
        if url is not None:
            if "{" in url:
                raise ValueError("an address without { }")
            parsed(url)
        return url

    @model_validator(mode="after")
    def _are_of_one_server(self) -> HttpStoreOptions:
        others = [url for url in (self.layers_url, self.list_url, self.health_url) if url]
        origins = {parsed(url)[0] for url in [self.url, *self.more_urls, *others]}
        if len(origins) > 1:  # the token is for one of them
            raise ValueError("the same scheme, host, port, user and password in all addresses")
        kinds = [HttpTemplate.of(url).kind for url in [self.url, *self.more_urls]]
        if len(set(kinds)) < len(kinds):
            raise ValueError("another identity in each of url and more-urls")
        return self


@dataclass(frozen=True, slots=True)
class _LastReply:
    """The last answer of an address; `body` None: it was 404."""

    target: str
    body: bytes | None
    conditions: Mapping[str, str]
    age_s: float

    @property
    def size(self) -> int:
        texts = (self.target, self.body or b"", *self.conditions.values())
        return _ABOUT_BYTES + sum(map(len, texts))


class HttpStore(Store):
    """Asks an HTTP server for each VM: https://cmdb/vms/{vc-uuid}. Needs the extra [http]."""

    Options = HttpStoreOptions
    tells_all = False

    def __init__(self, options: Mapping[str, Any]) -> None:
        super().__init__(options)
        checked: HttpStoreOptions = self.options
        self._client = http_client("http", checked)
        templates = map(HttpTemplate.of, [checked.url, *checked.more_urls])
        self._templates = {template.kind: template for template in templates}
        self.why_not_prepared = _why_not_prepared(checked)
        self.can_prepare = not self.why_not_prepared
        self._signature = Signature("x-hub-signature-256", checked.webhook_key_file)
        self._lock = threading.Lock()
        self._kept: LRUCache[str, _LastReply] = LRUCache(
            MAX_KEPT_BYTES, getsizeof=attrgetter("size")
        )
        self._changes: Changes | None = None
        # What failed last, and its address, since the last answer.
        self._in_trouble: tuple[Key, str] | None = None

    @property
    def name(self) -> str:
        return str(self._client.origin)

    @property
    def can_list(self) -> bool:
        return self.options.list_url is not None

    def fetch(self, keys: Collection[Key]) -> Fetched:
        end_s = time.monotonic() + REQUEST_S
        records: list[Record] = []
        kept_s = {}
        for key in keys:
            target = self._target(key)
            if target is not None:
                found = self._asked(key, target, end_s - time.monotonic())
                kept_s[key] = found.age_s
                records += self._records(key, target, found.body)
        return Fetched(records, kept_s)

    def all(self) -> Iterable[Fetched] | None:
        return self._listed(self.options.list_url) if self.options.list_url else None

    def listen(self, changes: Changes) -> None:
        """Tell what webhooks and answers say; other changes are found by the age of answers."""
        self._changes = changes
        changes.connected()
        changes.closed.wait()

    def hook(self, webhook: Webhook) -> None:
        self._signature.check(webhook)
        keys = _keys_in(webhook.body)
        if not self._changes:
            return  # nothing is kept yet
        if keys is None:
            self._changes.everything()
        else:
            self._changes.changed(keys)

    def check(self) -> None:
        if self.options.health_url:
            _, target = parsed(self.options.health_url)
            answer = self._client.get(target)
            if not 200 <= answer.status < 300:
                raise self._client.status_error(answer.status)
        elif failed := self._in_trouble:
            self._answer(*failed, None, REQUEST_S)
            self._in_trouble = None

    def close(self) -> None:
        self._client.close()

    def _target(self, key: Key) -> str | None:
        if key == LAYERS:
            return parsed(self.options.layers_url)[1] if self.options.layers_url else None
        template = self._templates.get(key.kind)
        return template.target(key) if template else None

    def _asked(self, key: Key, target: str, within_s: float) -> _LastReply:
        """Return what the server has now, and keep it; raise DriverError."""
        with self._lock:
            before = self._kept.get(target)
        try:
            found = self._answer(key, target, before, within_s)
        except DriverError:
            self._in_trouble = key, target
            raise
        self._in_trouble = None
        if found.size <= MAX_KEPT_BYTES:
            with self._lock:
                self._kept[target] = found
        return found

    def _answer(
        self, key: Key, target: str, before: _LastReply | None, within_s: float
    ) -> _LastReply:
        if within_s <= 0:
            raise self._client.error(f"no whole answer within {REQUEST_S:g} s")
        conditions = before.conditions if before else {}
        answer = self._client.request("GET", target, headers=conditions, within_s=within_s)
        if answer.status == 304 and before and conditions:
            age_s = freshness.age_s(answer.headers, before.age_s)
            return _LastReply(target, before.body, conditions, age_s)
        if answer.status not in (200, 404):
            raise self._client.status_error(answer.status)
        is_there = answer.status == 200
        if key == LAYERS and not is_there:
            raise self._client.error("found the HTTP status 404 at the address of the layers")
        return _LastReply(
            target,
            answer.body if is_there else None,
            freshness.conditions(answer.headers) if is_there else {},
            freshness.age_s(answer.headers),
        )

    def _records(self, key: Key, target: str, body: bytes | None) -> Iterator[Record]:
        if body is None:
            return
        label = f"{self._client.origin}{target.partition('?')[0]}"
        if key != LAYERS:
            yield Record(key, body, label)
            return
        try:
            items = _items_in(body)
        except ValueError as error:
            raise self._client.error(f"the layers are no JSON list: {error}") from None
        for number, item in enumerate(items, 1):
            yield Record(key, item, f"{label} layer {number}")

    def _listed(self, url: str) -> Iterator[Fetched]:
        template = HttpTemplate.of(self.options.url)
        _, target = parsed(url)
        answer = self._client.request("GET", target, max_bytes=MAX_LIST_BYTES, within_s=LIST_S)
        if answer.status != 200:
            raise self._client.status_error(answer.status)
        try:
            values = json.loads(answer.body)
        except (ValueError, RecursionError):
            values = None
        if not _are_texts(values):
            raise self._client.error(
                f"list-url: expected a JSON list of texts, each a {template.kind}"
            )
        keys = [Key(template.kind, value) for value in values]
        yield self.fetch([LAYERS])
        for key in dict.fromkeys(usual(key) or key for key in keys):  # as VMs are looked up
            yield self.fetch([key])


def _items_in(body: bytes) -> list[str]:
    """Return the text of each item of a JSON list, up to one more than there may be layers; raise
    ValueError."""
    text = body.decode("utf-8-sig").strip()  # as some servers begin JSON
    decoder = json.JSONDecoder()
    items: list[str] = []
    try:
        if not isinstance(decoder.decode(text), list):
            raise ValueError("found another value")
    except json.JSONDecodeError as error:
        raise ValueError(f"{error.msg}, in line {error.lineno}") from None
    except RecursionError:
        raise ValueError("too many levels of nesting") from None
    index = _next_item(text, 1)
    while text[index] != "]" and len(items) <= MAX_LAYERS:
        _, end = decoder.raw_decode(text, index)
        items.append(text[index:end])
        index = _next_item(text, end)
    return items


def _next_item(text: str, start: int) -> int:
    found = _BETWEEN.match(text, start)
    assert found
    return found.end()


def _keys_in(body: bytes) -> list[Key] | None:
    """Return the keys that a webhook names, None for all; raise DriverError."""
    try:
        found = json.loads(body)
    except (ValueError, RecursionError):
        found = None
    if found == {"all": True}:
        return None
    if not isinstance(found, dict) or not found:
        raise DriverError(_EXPECTED_HOOK)
    keys: list[Key] = []
    for name, value in found.items():
        if name == "layers" and value is True:
            keys.append(LAYERS)
        elif name in _OF_HOOK and _are_texts(value):
            keys += filter(None, (usual((_OF_HOOK[name], one)) for one in value))
        else:
            raise DriverError(_EXPECTED_HOOK)
    if not keys:  # empty lists, or texts that no VM has, such as `vm-123` for a UUID
        raise DriverError(_EXPECTED_HOOK)
    return keys if len(keys) <= MAX_HOOK_KEYS else None


def _why_not_prepared(options: HttpStoreOptions) -> str:
    if options.list_url is None:
        return "without list-url nobody knows which VMs there are"
    if options.more_urls:
        return "with more-urls a VM may have data that list-url does not list"
    if HttpTemplate.of(options.url).kind == BIOS_UUID:
        return "a VM that is found by its BIOS UUID is looked up"
    return ""


def _are_texts(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(one, str) for one in value)

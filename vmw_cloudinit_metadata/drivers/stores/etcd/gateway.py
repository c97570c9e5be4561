"""What etcd's JSON gateway is asked and answers: JSON, with keys and values in base64. Pure.

https://etcd.io/docs/v3.4/dev-guide/api_grpc_gateway/
"""

from __future__ import annotations

import json
import re
from base64 import b64decode, b64encode
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from vmw_cloudinit_metadata.drivers.drivererror import DriverError
from vmw_cloudinit_metadata.drivers.stores.etcd.keyspace import KeyRange
from vmw_cloudinit_metadata.instance.fault import kind_of
from vmw_cloudinit_metadata.protocol.printable import one_line, shortened

RANGE, TXN, WATCH, AUTHENTICATE = "/v3/kv/range", "/v3/kv/txn", "/v3/watch", "/v3/auth/authenticate"

_MAX_DIGITS = 20  # of a number of 64 bits
_TOKEN = re.compile(r"[!-~]{1,16384}")  # printable ASCII, for a header field

# What etcd says if a token is missing, has expired, or is from before a change of roles.
_OUTDATED = ("user name is empty", "invalid auth token", "revision of auth store is old")
_NO_AUTHENTICATION = "authentication is not enabled"

_HINTS = {
    "user name is empty": "set the options user and password",
    "invalid user ID or password": "check the options user and password",
    "permission denied": "let the user's role read all keys with the prefix",
    "CommonName of client": "use a client certificate whose subject has no CN: the gateway knows "
    "users by user and password only",
    "Not Found": "start etcd with --enable-grpc-gateway",
    "Host header was unrecognized": "name this host in etcd's --host-whitelist, or use https",
}


class EtcdError(DriverError):
    """etcd refuses what it was asked."""

    def __init__(self, reason: str, origin: str) -> None:
        hint = next((hint for part, hint in _HINTS.items() if part in reason), "")
        text = one_line(shortened(" ".join(reason.split()), 200))
        super().__init__(f"etcd at {origin} refuses: {text}" + (f": {hint}" if hint else ""))
        self.is_of_token = any(part in reason for part in _OUTDATED)
        self.is_without_authentication = _NO_AUTHENTICATION in reason


@dataclass(frozen=True, slots=True)
class ClusterState:
    """What each answer says of the cluster, and of its member that answers."""

    cluster_id: int
    revision: int  # of all keys; it grows with each change
    raft_term: int  # it grows with each election


@dataclass(frozen=True, slots=True)
class KeyValue:
    key: bytes
    value: bytes


@dataclass(frozen=True, slots=True)
class KeyValues:
    """Those of a range, in the order of keys; `more` follow beyond the limit."""

    state: ClusterState
    pairs: tuple[KeyValue, ...]
    more: bool


@dataclass(frozen=True, slots=True)
class KeyEvent:
    """A key was put or deleted."""

    key: bytes
    revision: int


@dataclass(frozen=True, slots=True)
class WatchMessage:
    state: ClusterState
    is_created: bool
    is_canceled: bool
    compact_revision: int  # of a canceled one: there is no history before
    reason: str
    events: tuple[KeyEvent, ...]


# Questions


def question_of_range(
    keys: KeyRange, *, limit: int, revision: int = 0, keys_only: bool = False
) -> bytes:
    """Ask for the pairs of a range, at a revision, or at the present one."""
    return _text(_range(keys, limit=limit, revision=revision, keys_only=keys_only))


def question_of_parts(ranges: Iterable[KeyRange], *, limit: int) -> bytes:
    """Ask for the pairs of several ranges, all at one revision."""
    parts = [{"request_range": _range(one, limit=limit)} for one in ranges]
    return _text({"success": parts})


def question_of_watch(keys: KeyRange, start: int) -> bytes:
    """Ask for all changes of a range from a revision on, in messages of a bounded size."""
    return _text({"create_request": {**_range(keys), "start_revision": start, "fragment": True}})


def question_of_token(user: str, password: str) -> bytes:
    return _text({"name": user, "password": password})


def _range(keys: KeyRange, **further: Any) -> dict[str, Any]:
    return {"key": _base64(keys.start), "range_end": _base64(keys.end), **further}


def _base64(data: bytes) -> str:
    return b64encode(data).decode()


def _text(question: Any) -> bytes:
    return json.dumps(question).encode()


# Answers; all of these raise DriverError for what is none


def key_values(body: bytes) -> KeyValues:
    """Parse the answer to `question_of_range`."""
    answer = _mapping(_parsed(body))
    return KeyValues(state_of(answer), _pairs(answer), answer.get("more") is True)


def parts(body: bytes) -> Iterator[tuple[KeyValue, ...]]:
    """Parse the answer to `question_of_parts`: the pairs of each range."""
    for part in _list(_mapping(_parsed(body)), "responses"):
        yield _pairs(_mapping(_mapping(part).get("response_range")))


def watch_message(line: bytes, origin: str) -> WatchMessage:
    answer = _mapping(_parsed(line))
    if "error" in answer:
        raise EtcdError(_reason(answer), origin)
    result = _mapping(answer.get("result"))
    return WatchMessage(
        state_of(result),
        result.get("created") is True,
        result.get("canceled") is True,
        _number(result, "compact_revision"),
        str(result.get("cancel_reason", "")),
        tuple(_events(result)),
    )


def token(body: bytes) -> str:
    """Parse the answer to `question_of_token`."""
    found = _mapping(_parsed(body)).get("token")
    if not isinstance(found, str) or not _TOKEN.fullmatch(found):
        raise _unlike("a token")
    return found


def error(body: bytes, origin: str) -> EtcdError:
    """Return what an answer with an error's status says."""
    try:
        answer = _mapping(_parsed(body))
    except DriverError:  # text, of etcd or of what is in its place
        return EtcdError(body[:1000].decode(errors="replace"), origin)
    return EtcdError(_reason(answer), origin)


def _reason(answer: Mapping[str, Any]) -> str:
    """Return the text of an error: that of a stream has a mapping of its own."""
    inner = answer.get("error")
    found = inner.get("message") if isinstance(inner, Mapping) else answer.get("message", inner)
    return str(found)


def state_of(answer: Mapping[str, Any]) -> ClusterState:
    header = _mapping(answer.get("header"))
    return ClusterState(
        _number(header, "cluster_id"), _number(header, "revision"), _number(header, "raft_term")
    )


def _pairs(answer: Mapping[str, Any]) -> tuple[KeyValue, ...]:
    pairs = map(_mapping, _list(answer, "kvs"))
    return tuple([KeyValue(_bytes(pair, "key"), _bytes(pair, "value")) for pair in pairs])


def _events(result: Mapping[str, Any]) -> Iterator[KeyEvent]:
    for event in _list(result, "events"):
        pair = _mapping(_mapping(event).get("kv"))
        yield KeyEvent(_bytes(pair, "key"), _number(pair, "mod_revision"))


def _parsed(text: bytes) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        raise _unlike("JSON") from None


def _mapping(value: Any) -> Mapping[str, Any]:
    if not isinstance(value, dict):
        raise _unlike(f"a mapping in place of {kind_of(value)}")
    return value


def _list(answer: Mapping[str, Any], name: str) -> Sequence[Any]:
    value = answer.get(name, [])  # the gateway leaves out what is empty
    if not isinstance(value, list):
        raise _unlike(f"a list in {name}")
    return value


def _number(answer: Mapping[str, Any], name: str) -> int:
    value = answer.get(name, 0)
    if isinstance(value, int):
        return value
    if isinstance(value, str) and len(value) <= _MAX_DIGITS and value.isascii() and value.isdigit():
        return int(value)
    raise _unlike(f"a number in {name}")


def _bytes(answer: Mapping[str, Any], name: str) -> bytes:
    try:
        return b64decode(answer.get(name, ""), validate=True)
    except (TypeError, ValueError):
        raise _unlike(f"base64 in {name}") from None


def _unlike(expected: str) -> DriverError:
    return DriverError(f"etcd's answer is not that of its JSON gateway: expected {expected}")

"""What each VM may be answered while its data changes: a model of docs/layers.md, and its history.

No code of the package in here. The data of a VM has parts: the layers, its own data, texts. Each
change gives one or several parts another version at one moment, between `begin` and `end`. An
answer is right if the parts had that content at one moment between the request, minus the time
until a change is served, and the answer; and if no later moment has been seen by the same VM.
"""

from __future__ import annotations

import re
from bisect import bisect_right
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from ipaddress import ip_address, ip_network
from typing import Any

SERVED_AFTER_S = 0.2  # docs/instance-files.md
NOT_FOUND, INVALID = "not-found", "invalid"
ABSENT = None  # the version of a part that does not exist
BROKEN = "broken"  # of one that cannot be read
INVENTORIES = ("vms.yaml", "vms.csv")

_VALUE = re.compile(r"\$\$\{|\$\{(vm|query|match|metadata)\.([^}]*)\}")
Data = Mapping[str, Any]


class InvalidError(Exception):
    """The VM has no valid data."""


@dataclass(frozen=True)
class Asking:
    """Who asks, as the values that `match` and `${…}` see."""

    name: str
    vc_uuid: str
    query: Mapping[str, str]
    peer: str = "127.0.0.1"


# The rule of merging


def merged(below: Data, above: Data) -> dict[str, Any]:
    result = dict(below)
    for key, value in above.items():
        name, is_added = key.removesuffix("+"), key.endswith("+")
        under = result.get(name)
        if is_added:
            if under is not None and not isinstance(under, list):
                raise InvalidError(key)
            result[name] = [*(under or []), *value]
        elif value is None:
            result.pop(name, None)
        elif isinstance(value, dict):
            if isinstance(under, list):
                raise InvalidError(key)
            result[name] = merged(under if isinstance(under, dict) else {}, value)
        else:
            result[name] = value
    return result


def words_of(pattern: str, name: str) -> dict[str, str] | None:
    """Return what `{word}` takes of the name; None if the name has another form."""
    parts = re.split(r"(\*|\?|\{\w+\})", pattern)
    forms = {"*": ".*", "?": "."}
    text = "".join(
        forms.get(part)
        or (f"(?P<{part[1:-1]}>[A-Za-z0-9]{{1,64}})" if part[:1] == "{" else re.escape(part))
        for part in parts
    )
    found = re.fullmatch(text, name)
    return None if found is None else found.groupdict()


def words_if_it_counts(match: Data, asking: Asking) -> dict[str, str] | None:
    words: dict[str, str] = {}
    for key, wanted in match.items():
        if key == "name":
            found = words_of(wanted, asking.name)
            if found is None:
                return None
            words |= found
        elif key == "vc-uuid":
            if wanted != asking.vc_uuid:
                return None
        elif key == "peer":
            if ip_address(asking.peer) not in ip_network(wanted):
                return None
        elif key == "direction":
            if wanted != "client":
                return None
        elif asking.query.get(key.removeprefix("query.")) != wanted:
            return None
    return words


def _put_in(value: Any, values: Mapping[str, Any]) -> Any:
    if isinstance(value, dict):
        return {key: _put_in(one, values) for key, one in value.items()}
    if isinstance(value, list):
        return [_put_in(one, values) for one in value]
    if isinstance(value, str):
        return _VALUE.sub(lambda found: _written(found, values), value)
    return value


def _written(found: re.Match[str], values: Mapping[str, Any]) -> str:
    if found[0] == "$${":
        return "${"
    value = values[found[1]].get(found[2])
    if value is None:
        raise InvalidError(found[0])
    return str(value)


@dataclass(frozen=True)
class Parts:
    """The versions at one moment of all that a VM's data may consist of."""

    layers: tuple[Any, ...]  # from the lowest to the highest
    own: Mapping[str, Any]  # by the place: a file, or an inventory with an entry
    broken: frozenset[str]  # inventories, which then have no entries
    texts: Mapping[str, str]


def data_of(asking: Asking, parts: Parts) -> dict[str, Any] | str:
    """Return the merged data of the VM, or the error of its answers."""
    own = [
        version
        for place, version in parts.own.items()
        if version is not ABSENT and place not in parts.broken
    ]
    if len(own) > 1 or BROKEN in own or (not own and parts.broken):
        return INVALID
    total: dict[str, Any] = {}
    words: dict[str, str] = {}
    serves, is_broken = bool(own), False
    try:
        for layer in parts.layers:
            if layer is ABSENT:
                continue
            if layer == BROKEN:  # it could count for each VM
                is_broken = True
                continue
            found = words_if_it_counts(layer.get("match", {}), asking)
            if found is None:
                continue
            words |= found
            serves = serves or bool(layer.get("serve"))
            total = merged(total, {k: v for k, v in layer.items() if k not in ("match", "serve")})
        if not serves:
            return NOT_FOUND
        if is_broken:
            return INVALID
        for version in own:
            if "userdata-file" in version:
                total.pop("userdata", None)
            total = merged(total, version)
        return _filled(total, asking, words, parts.texts)
    except InvalidError:
        return INVALID


def _filled(
    total: dict[str, Any], asking: Asking, words: dict[str, str], texts: Mapping[str, str]
) -> dict[str, Any]:
    values: dict[str, Any] = {
        "vm": {"name": asking.name, "vc-uuid": asking.vc_uuid},
        "query": asking.query,
        "match": words,
    }
    metadata = _put_in(total.get("metadata", {}), {**values, "metadata": {}})
    values["metadata"] = metadata
    userdata = total.get("userdata")
    if "userdata-file" in total:
        userdata = texts[total["userdata-file"]]
    elif isinstance(userdata, dict):
        userdata = _put_in(userdata, values)
    network = _put_in(total.get("network", {}), values)
    return {
        "METADATA": {**metadata, "local-hostname": metadata["hostname"]},
        "NETWORKDATA": network if network.get("address") else None,
        "USERDATA": userdata,
        "ROLE": _put_in(total.get("documents", {}), values).get("role"),
    }


# What was when


@dataclass
class _Versions:
    since: list[int] = field(default_factory=list)  # numbers of changes
    values: list[Any] = field(default_factory=list)

    def at(self, moment: int) -> Any:
        place = bisect_right(self.since, moment) - 1
        return ABSENT if place < 0 else self.values[place]


class History:
    """The versions of all parts. A moment is the number of the change that has led to it."""

    def __init__(self, layers: Iterable[str]) -> None:
        self._layers = tuple(layers)  # the names of all that ever exist
        self._versions: dict[tuple[str, str], _Versions] = {}
        self._of_all: list[int] = []  # changes of parts that several VMs share
        self._begun_s: list[float] = []
        self._ended_s: list[float] = []
        self._seen: dict[str, int] = {}  # by VM: no earlier moment may be seen any more

    def begin(self, now_s: float, changes: Mapping[tuple[str, str], Any]) -> None:
        """Record a change, before it is made: new versions by kind and name of the part."""
        number = len(self._begun_s)
        self._begun_s.append(now_s)
        for part, version in changes.items():
            versions = self._versions.setdefault(part, _Versions())
            versions.since.append(number)
            versions.values.append(version)
            if part[0] in ("layer", "text", "inventory") and self._of_all[-1:] != [number]:
                self._of_all.append(number)

    def end(self, now_s: float) -> None:
        self._ended_s.append(now_s)

    @property
    def changes(self) -> int:
        return len(self._ended_s)

    def now(self, kind: str, name: str) -> Any:
        return self._at((kind, name), len(self._begun_s))

    def _at(self, part: tuple[str, str], moment: int) -> Any:
        versions = self._versions.get(part)
        return ABSENT if versions is None else versions.at(moment)

    def _parts(self, name: str, moment: int) -> Parts:
        return Parts(
            tuple(self._at(("layer", layer), moment) for layer in self._layers),
            {kind: self._at((kind, name), moment) for kind in ("file", *INVENTORIES)},
            frozenset(one for one in INVENTORIES if self._at(("inventory", one), moment)),
            {
                text: versions.at(moment)
                for (kind, text), versions in self._versions.items()
                if kind == "text"
            },
        )

    def _moments(self, name: str, from_s: float, until_s: float) -> list[int]:
        """Return those that differ for this VM: the first, and after each change."""
        first = bisect_right(self._ended_s, from_s) - 1
        last = bisect_right(self._begun_s, until_s) - 1
        logs = [self._of_all]
        for kind in ("file", *INVENTORIES):
            if versions := self._versions.get((kind, name)):
                logs.append(versions.since)
        between = {
            moment for log in logs for moment in log[bisect_right(log, first) :] if moment <= last
        }
        return [first, *sorted(between)]

    def fault_of(
        self, asking: Asking, document: str, answer: Any, from_s: float, until_s: float
    ) -> str:
        """Return why the answer is wrong; "" if it is right. `from_s` is when the VM asked."""
        moments = self._moments(asking.name, from_s - SERVED_AFTER_S, until_s)
        right = [moment for moment in moments if self._is_at(moment, asking, document, answer)]
        if not right:
            return self._reason(moments[0], asking, document, answer, from_s)
        # A moment holds until the next change of this VM's data.
        seen = self._seen.get(asking.name, 0)
        follows = dict(zip(moments, [*moments[1:], len(self._begun_s)], strict=True))
        later = [moment for moment in right if follows[moment] > seen]
        if not later:
            return f"older than an answer before: of change {right[-1]}, not {seen} or later"
        self._seen[asking.name] = max(seen, later[0])
        return ""

    def _is_at(self, moment: int, asking: Asking, document: str, answer: Any) -> bool:
        data = data_of(asking, self._parts(asking.name, moment))
        return answer == (data if isinstance(data, str) else data[document])

    def _reason(self, first: int, asking: Asking, document: str, answer: Any, from_s: float) -> str:
        for moment in range(first - 1, max(first - 2000, -1), -1):
            if self._is_at(moment, asking, document, answer):
                late_s = from_s - self._ended_s[moment + 1]
                return f"{answer_of(answer)} was valid until {late_s:.3f} s before the request"
        data = data_of(asking, self._parts(asking.name, first))
        valid = data if isinstance(data, str) else data[document]
        return f"never valid: {_differences(answer, valid)}"


def answer_of(answer: Any) -> str:
    return str(answer)[:100]


def _differences(answer: Any, valid: Any) -> str:
    """Show what differs, briefly."""
    if isinstance(answer, dict) and isinstance(valid, dict):
        names = sorted({*answer, *valid})
        pairs = {n: (answer.get(n), valid.get(n)) for n in names if answer.get(n) != valid.get(n)}
        return f"(found, valid) {str(pairs)[:300]}"
    return f"{str(answer)[:100]}; valid was {str(valid)[:100]}"

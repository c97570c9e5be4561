"""Preparation: what an answer is made of that was put together before its VM asked. Pure.

It travels as one line of JSON (preparedrecords.py), and is kept as this line. What depends on the
VM, as the default of the instance-id does, is put in when the VM asks.
"""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import ujson

from vmw_cloudinit_metadata.instance import nocloud
from vmw_cloudinit_metadata.instance.fault import InvalidInstanceData
from vmw_cloudinit_metadata.instance.model import InstanceData
from vmw_cloudinit_metadata.protocol.vmware import NIL_UUID, Machine

_USERDATA, _VENDORDATA = "USERDATA", "VENDORDATA"


@dataclass(frozen=True, slots=True)
class Preparation:
    """The fields are those of the JSON list, in this order."""

    path: str  # of the VM's own data
    line: int  # likewise, in an inventory
    layers: Sequence[int]  # that count, by their places among all
    name: str  # of the VM, if there are references to its values, and it is known
    keys: Sequence[str]  # of further changes that it depends on
    metadata: Mapping[str, Any]
    network: Mapping[str, Any] | None
    documents: Mapping[str, str | Sequence[str]]  # a text, or a list with base64 of other bytes
    match: Mapping[str, str]
    sources: Sequence[str]
    signs: Sequence[str] = ()  # of the own data and of all layers, if there are any

    def instance(self, matched_by: str = "", token: object = None) -> InstanceData:
        documents = {name: _bytes_of(value) for name, value in self.documents.items()}
        return InstanceData(
            metadata=self.metadata,
            network=self.network,
            userdata=documents.pop(_USERDATA, b""),
            vendordata=documents.pop(_VENDORDATA, b""),
            documents=documents,
            match=self.match,
            sources=tuple(self.sources),
            matched_by=matched_by,
            token=token,
        )

    def line_for(self, stem: str) -> bytes:
        """Return the record of the data under this stem; raise ValueError if JSON changes it."""
        fields = [getattr(self, name) for name in self.__slots__]
        record = {"kind": "prepared", "stem": stem, "data": fields}
        text = ujson.dumps(record, ensure_ascii=False, escape_forward_slashes=False)
        return text.encode() + b"\n"


def made_of(instance: InstanceData, machine: Machine, **about: Any) -> Preparation | None:
    """Return the preparation for an instance; None if it is secret, has a document that is served
    once, or JSON would change it.

    `machine` is any for which it counts, `about` what does not stand in the instance.
    """
    if instance.is_secret or instance.once:  # which a preparation does not say
        return None
    documents = {
        _USERDATA: instance.userdata,
        _VENDORDATA: instance.vendordata,
        **instance.documents,
    }
    made = Preparation(
        **about,
        metadata=instance.metadata,
        network=instance.network,
        documents={name: _value_of(body) for name, body in documents.items() if body},
        match=instance.match,
        sources=instance.sources,
    )
    try:
        same = of_line(made.line_for("")).instance()
        is_same = _parts(same, machine) == _parts(instance, machine)
    except (InvalidInstanceData, ValueError, OverflowError, TypeError):
        return None
    return made if is_same else None


def _value_of(body: bytes) -> str | list[str]:
    try:
        return body.decode()
    except UnicodeDecodeError:
        return [base64.b64encode(body).decode()]


def _bytes_of(value: str | Sequence[str]) -> bytes:
    return value.encode() if isinstance(value, str) else base64.b64decode(value[0], validate=True)


def _parts(instance: InstanceData, machine: Machine) -> tuple[object, ...]:
    """Return everything that an answer is made of."""
    whole = Machine(name=machine.name, vc_uuid=machine.vc_uuid or NIL_UUID)
    documents = nocloud.render(instance, whole)
    return list(documents.items()), instance.metadata, instance.match, instance.sources


def of_line(line: bytes) -> Preparation:
    """Return what a checked line says."""
    return Preparation(*ujson.loads(line)["data"])


_TYPES = (str, int, list, str, list, dict, dict | None, dict, dict, list, list)


def is_valid(fields: object) -> bool:
    """Return whether a list has the fields of a Preparation, of which `instance` can be made."""
    if not isinstance(fields, list) or len(fields) != len(_TYPES):
        return False
    if not all(map(isinstance, fields, _TYPES)):
        return False
    made = Preparation(*fields)
    if not all(isinstance(index, int) for index in made.layers):
        return False
    texts = (*made.keys, *made.sources, *made.match.values(), *made.signs)
    if not all(isinstance(text, str) for text in texts):
        return False
    try:
        list(map(_bytes_of, made.documents.values()))
    except (TypeError, ValueError, LookupError):
        return False
    return True

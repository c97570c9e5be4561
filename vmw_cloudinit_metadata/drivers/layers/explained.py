"""Where each value of an answer stands, and what it overrides: the lines of `show --explain`."""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import partial
from typing import Any

from vmw_cloudinit_metadata.drivers.content.layer import FileLayer
from vmw_cloudinit_metadata.drivers.layers.stack import LayerStack
from vmw_cloudinit_metadata.instance.documents import USER_DATA_KEYS
from vmw_cloudinit_metadata.instance.fault import kind_of
from vmw_cloudinit_metadata.instance.layering import patch
from vmw_cloudinit_metadata.instance.layering.secretreference import shown
from vmw_cloudinit_metadata.instance.layering.substitution import sources_of
from vmw_cloudinit_metadata.instance.values.dump import json_text
from vmw_cloudinit_metadata.protocol.printable import one_line
from vmw_cloudinit_metadata.protocol.vmware import Machine

_PLAIN = re.compile(r"[\w./:@+-]+(?: [\w./:@+-]+)*")

_Key = tuple[Any, ...]


def explained(stack: LayerStack, machine: Machine, prefix: str) -> Iterator[str]:
    """Yield a line for each leaf of the document: `metadata.region: eu1  # layers/10-all.yaml:1`.

    Labels that begin with `prefix` are written without it.
    """
    mapping = stack.mapping(partial(sources_of, machine, stack.captures, shown)).mapping
    for key in patch.leaves(mapping):
        if _value(mapping, key) is None and _is_left_out(key):
            continue
        makers, overridden = patch.history(stack.patches, key)
        places = " and ".join(_place(stack.at(index), key, prefix) for index in makers)
        line = f"{_dotted(key)}: {_shown(_value(mapping, key))}  # {places}"
        for index in reversed(overridden):
            value = patch.value_at(stack.patches[index], key)
            text = kind_of(value) if isinstance(value, dict) else _shown(value)
            line += f", over {text} ({_place(stack.at(index), key, prefix)})"
        yield one_line(line)


def _is_left_out(key: _Key) -> bool:
    """Whether the document does not have this key, if it is empty and over nothing."""
    return len(key) < 2 or (len(key) == 2 and key[0] not in USER_DATA_KEYS)


def _dotted(key: _Key) -> str:
    return ".".join(str(part) for part in key)


def _value(mapping: Any, key: _Key) -> Any:
    for part in key:
        mapping = mapping[part]
    return mapping


def _shown(value: Any) -> str:
    if value is None:
        return "nothing"
    if isinstance(value, bytes):
        return kind_of(value)
    if isinstance(value, str) and _PLAIN.fullmatch(value):
        return value
    return json_text(value)


def _place(file: FileLayer, key: _Key, prefix: str) -> str:
    appended = (*key[:-1], f"{key[-1]}{patch.APPENDS}")
    place = next((one for one in (key, appended) if file.seed.has(one)), key)
    path = file.path.removeprefix(prefix)
    line = file.seed.line(place)
    return f"{path}:{line}" if line else path

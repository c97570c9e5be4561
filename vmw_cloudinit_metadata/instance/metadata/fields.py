"""The keys of meta-data and of `match`, as pydantic models. Pure."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, model_validator

from vmw_cloudinit_metadata.instance.fault import Fault, Key, describe
from vmw_cloudinit_metadata.instance.metadata import publickey
from vmw_cloudinit_metadata.instance.metadata.hostname import (
    MAX_LINUX_HOSTNAME,
    is_hostname,
    set_by_cloud_init,
)
from vmw_cloudinit_metadata.instance.values import placeholder
from vmw_cloudinit_metadata.instance.values.dump import json_text
from vmw_cloudinit_metadata.instance.values.plain import MAPPING
from vmw_cloudinit_metadata.instance.values.text import Text, dashed
from vmw_cloudinit_metadata.protocol.vmware import parse_uuid

# As written in JSON. PyYAML, which reads meta-data in the guest, accepts at most 1,024.
MAX_KEY_CHARACTERS = 256
MAX_INSTANCE_ID_BYTES = 255  # the limit of a file name in Linux; cloud-init writes _ for /
_CONTROLS = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029]")
_SURELY_SHORT = (MAX_KEY_CHARACTERS - len('""')) // len("\\u0000")  # even if all of it is escaped


def _instance_id(text: str) -> str:
    """Check an ID: cloud-init names a directory by it, and strips it when it reads it back."""
    if not text:
        raise ValueError("an ID (omit the key for the default)")
    if len(text.encode()) > MAX_INSTANCE_ID_BYTES:
        raise ValueError(
            f"an instance-id of at most {MAX_INSTANCE_ID_BYTES} bytes (it names a directory)"
        )
    if text != text.strip() or _CONTROLS.search(text):
        raise ValueError("an ID on one line, without surrounding blanks")
    if text in (".", ".."):
        raise ValueError("an ID that is a valid directory name")
    return text


def _hostname(text: str) -> str:
    if not is_hostname(text):
        raise ValueError("a host name or FQDN: labels of letters, digits and hyphens")
    return text


def _uuid(text: str) -> str:
    canonical = parse_uuid(text)
    if canonical is None:
        raise ValueError("a UUID such as 01234567-89ab-cdef-fedc-ba9876543210")
    return canonical


def _tags(value: Any) -> Any:
    if not isinstance(value, list | Mapping):
        raise ValueError("a list or a mapping")
    return value


def _json(value: Any) -> Any:
    """Return `value` if JSON and a YAML reader preserve it."""
    match value:
        case float() if not math.isfinite(value) or "e" in repr(value):
            raise ValueError(
                "a number that JSON and YAML write the same way, or a string in quotes"
            )
        case None | bool() | int() | float() | str():
            return value
        case list() | tuple():
            return [_json(item) for item in value]
        case Mapping():
            return {_json_key(name): _json(item) for name, item in value.items()}
        case _:
            raise ValueError("a string, number, boolean, list or mapping")


def _json_key(name: Any) -> str:
    if not isinstance(name, str) or not _is_short(name):
        raise ValueError(f"string keys of at most {MAX_KEY_CHARACTERS} characters")
    return name


def _is_short(name: str) -> bool:
    return len(name) <= _SURELY_SHORT or len(json_text(name)) <= MAX_KEY_CHARACTERS


def _short_keys(value: Any) -> Any:
    if isinstance(value, MAPPING):
        for name in value:
            _json_key(name)
    return value


Json = Annotated[Any, BeforeValidator(_json)]
Hostname = Annotated[Text, AfterValidator(_hostname)]
InstanceId = Annotated[Text, AfterValidator(_instance_id)]
Uuid = Annotated[Text, AfterValidator(_uuid)]


class Metadata(BaseModel):
    """The known keys of meta-data, in the order of the document; other keys are passed on."""

    model_config = ConfigDict(extra="allow", alias_generator=dashed)
    __pydantic_extra__: dict[str, Json]

    _keys = model_validator(mode="before")(_short_keys)

    ami_id: Text | None = None
    instance_id: InstanceId | None = None
    region: Text | None = None
    availability_zone: Text | None = None
    tags: Annotated[Json, BeforeValidator(_tags)] | None = None
    public_keys: Annotated[Json, BeforeValidator(publickey.served)] | None = None
    hostname: Hostname | None = None
    local_hostname: Hostname | None = None


class Match(BaseModel):
    """Which VM an instance file is for: all given keys must match."""

    model_config = ConfigDict(extra="forbid", alias_generator=dashed)

    vc_uuid: Uuid | None = None
    bios_uuid: Uuid | None = None
    name: Text | None = None


def warnings_in(metadata: Mapping[str, Any]) -> Iterator[Fault]:
    """Yield warnings for valid meta-data that does not reach the VM as it is written."""
    name = "local-hostname" if metadata.get("local-hostname") else "hostname"
    if metadata.get(name):
        yield from _hostname_warnings(metadata[name], ("metadata", name))
    yield from publickey.warnings_in(metadata.get("public-keys"), ("metadata", "public-keys"))
    yield from placeholder.warnings_in(metadata, ("metadata",))


def _hostname_warnings(name: str, key: Key) -> Iterator[Fault]:
    if "." in name and name.rpartition(".")[2].isdigit():
        found = f"{describe(name, key)}, which cloud-init turns into the host name"
        expected = "a name without dots, or an FQDN whose last part is not a number"
        yield Fault(key, f"{found} {set_by_cloud_init(name)!r}", expected, is_warning=True)
    elif len(name) > MAX_LINUX_HOSTNAME:
        expected = f"at most {MAX_LINUX_HOSTNAME} characters: Red Hat systems get the whole FQDN"
        yield Fault(key, f"an FQDN of {len(name)} characters", expected, is_warning=True)


METADATA_KEYS = tuple(str(field.alias) for field in Metadata.model_fields.values())
MATCH_KEYS = tuple(str(field.alias) for field in Match.model_fields.values())

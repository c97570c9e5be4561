"""The texts that cloud-init reads: JSON, YAML, and the instance-id in meta-data."""

import json
import re
from typing import Any, Dict

from vmw_cloudinit_metadata.guest.agent.failures import Unusable
from vmw_cloudinit_metadata.guest.agent.printing import printable
from vmw_cloudinit_metadata.guest.agent.responses import load_json

# PyYAML's constructors let these through.
ODD = (LookupError, TypeError, AttributeError, ArithmeticError, RecursionError)


def load_yaml(text: str) -> Any:
    """Parse YAML with PyYAML, which cloud-init requires; raise ImportError or ValueError."""
    import yaml

    try:
        return yaml.safe_load(text)
    except (yaml.YAMLError, *ODD) as error:
        raise ValueError(printable(error)) from None


def compose_yaml(text: str) -> Any:
    """Return PyYAML's nodes, with their places in the text; raise ImportError or ValueError."""
    import yaml

    try:
        return yaml.compose(text, Loader=yaml.SafeLoader)
    except yaml.YAMLError as error:
        raise ValueError(printable(error)) from None  # some JSON is not YAML


def load(text: str) -> Any:
    """Parse JSON or YAML; raise ImportError or ValueError."""
    try:
        return load_json(text)
    except ValueError:
        return load_yaml(text)


def load_mapping(document: bytes) -> Dict[Any, Any]:
    """Parse a document of JSON or YAML that is a mapping; raise ValueError."""
    text = document.decode()
    try:
        value = load(text)
    except ImportError:
        value = simple_pairs(text)
    if not isinstance(value, dict):
        raise ValueError("not a mapping")
    return value


def simple_pairs(text: str) -> Dict[str, str]:
    """Read the lines `name: text` of a YAML block without PyYAML."""
    found = {}
    for line in text.split("\n"):
        name, _, value = line.partition(":")
        if value[:1] in (" ", "\t") and re.match(r"[\w-]+\Z", name):
            value = value.strip(" \t\r")
            is_quoted = len(value) > 1 and value[0] in "\"'" and value[0] == value[-1]
            found[name] = value[1:-1] if is_quoted else value
    return {name: value for name, value in found.items() if value}


# PyYAML rejects these, or takes them for a line break or a byte order mark.
UNREADABLE = re.compile("[\x7f-\x9f\u2028\u2029\ufeff\ufffe\uffff]")


def dump_mapping(mapping: Dict[Any, Any]) -> bytes:
    """Return one line of JSON that PyYAML reads too: it does not join escaped surrogate pairs."""
    text = json.dumps(mapping, ensure_ascii=False)
    return UNREADABLE.sub(lambda found: f"\\u{ord(found.group()):04x}", text).encode()


def instance_id_of(metadata: bytes) -> str:
    """Return the instance-id; raise Unusable if cloud-init could not use the meta-data."""
    try:
        found = load_mapping(metadata).get("instance-id")
        if isinstance(found, (dict, list)):
            raise ValueError("instance-id is not a string")
        instance_id = "" if found is None else str(found)  # a number may have too many digits
    except ValueError as error:
        raise Unusable(f"meta-data cannot be read: {printable(error)}") from None
    if not instance_id:
        raise Unusable("meta-data has no instance-id")
    return instance_id


def with_instance_id(metadata: bytes, instance_id: str) -> bytes:
    """Return the meta-data with another instance-id; raise Unusable."""
    text = metadata.decode()
    try:
        return dump_mapping(dict(load_json(text), **{"instance-id": instance_id}))
    except ValueError:
        line = "instance-id: " + json.dumps(instance_id)
        changed = re.sub(r"^instance-id:.*$", lambda _: line, text, flags=re.MULTILINE).encode()
    if instance_id_of(changed) != instance_id:
        raise Unusable("meta-data is not JSON, and its instance-id cannot be replaced")
    return changed

"""SSH keys in the forms of NoCloud's meta-data. Pure."""

from typing import Any, Iterator, List


def public_keys(value: Any) -> List[str]:
    """Return the keys of a text of lines, of a list, or of a mapping of names to either."""
    return [key for key in keys_in(value) if key and not key.startswith("#")]


def keys_in(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield from (line.strip() for line in value.splitlines())
    elif isinstance(value, dict):
        yield from public_keys(list(value.values()))
    elif isinstance(value, list):
        for item in value:
            yield from keys_in(item.get("openssh-key") if isinstance(item, dict) else item)

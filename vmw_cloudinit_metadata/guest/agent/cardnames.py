"""The network-config: interfaces for which cloud-init would find no network card."""

import json
from typing import Any, Dict, Iterable, Iterator, List, NamedTuple, Sequence, Tuple

from vmw_cloudinit_metadata.guest.agent.printing import printable
from vmw_cloudinit_metadata.guest.agent.system import EthernetCard, System
from vmw_cloudinit_metadata.guest.agent.texts import ODD, compose_yaml, load

UNCERTAIN = "uncertain"  # the MAC address is not a string, or the card is matched otherwise
WANTED = {1: "mac_address", 2: "match: {macaddress: ...} and set-name"}


class ConfiguredInterface(NamedTuple):
    """An interface in a network-config."""

    version: int
    name: str
    mac: str
    place: Tuple[Any, ...]  # keys that lead to it


def physical_interfaces(config: Any) -> List[ConfiguredInterface]:
    """Return the interfaces that cloud-init has to find a network card for."""
    above = ("network",) if isinstance(config, dict) and "network" in config else ()
    body = value_at(config, above)
    if not isinstance(body, dict):
        return []
    if body.get("version") == 1:
        return list(interfaces_of_1(body.get("config"), (*above, "config")))
    if body.get("version") == 2:
        return list(interfaces_of_2(body.get("ethernets"), (*above, "ethernets")))
    return []


def interfaces_of_1(rows: Any, above: Tuple[Any, ...]) -> Iterator[ConfiguredInterface]:
    for number, row in enumerate(rows if isinstance(rows, list) else []):
        is_card = isinstance(row, dict) and row.get("type") == "physical"
        if is_card and isinstance(row.get("name"), str):
            mac = mac_of(row.get("mac_address"))
            yield ConfiguredInterface(1, row["name"], mac, (*above, number))


def interfaces_of_2(rows: Any, above: Tuple[Any, ...]) -> Iterator[ConfiguredInterface]:
    """Yield interfaces of version 2; without a match, the name is that of a card."""
    for name, row in rows.items() if isinstance(rows, dict) else []:
        if isinstance(name, str) and isinstance(row, dict) and row:
            match = row.get("match")
            mac = mac_of(match.get("macaddress")) if isinstance(match, dict) else ""
            is_matched = "match" in row or "set-name" in row
            mac = mac or (UNCERTAIN if is_matched else "")
            yield ConfiguredInterface(2, name, mac, (*above, name))


def mac_of(mac: Any) -> str:
    return mac.lower() if isinstance(mac, str) else UNCERTAIN if mac else ""


def without_card(
    interfaces: Iterable[ConfiguredInterface], names: Iterable[str]
) -> List[ConfiguredInterface]:
    """Return the interfaces without a MAC address whose name no card has."""
    known = set(names)
    return [one for one in interfaces if not one.mac and one.name not in known]


def name_the_card(document: bytes, system: System) -> Tuple[bytes, List[str]]:
    """Return the network-config with a missing MAC address filled in, and lines for people."""
    try:
        config = load(document.decode())
    except (ValueError, ImportError) as error:
        return document, [f"network-config was not checked: {printable(error)}"]
    interfaces = physical_interfaces(config)
    if not any(not interface.mac for interface in interfaces):
        return document, []
    system.settle()
    cards = system.cards
    lost = without_card(interfaces, [card.name for card in cards])
    if not lost:
        return document, []
    if len(lost) > 1 or len(cards) != 1 or is_taken(cards[0], interfaces):
        return document, [cannot_name(lost, cards)]
    return fill_in(document, config, lost[0], cards[0])


def is_taken(card: EthernetCard, interfaces: Iterable[ConfiguredInterface]) -> bool:
    """Return whether the card belongs, or may belong, to another interface."""
    return any(one.mac in (card.mac, UNCERTAIN) or one.name == card.name for one in interfaces)


def cannot_name(lost: Sequence[ConfiguredInterface], cards: Sequence[EthernetCard]) -> str:
    found = ", ".join("{} ({})".format(*card) for card in cards) or "none"
    names = ", ".join(printable(interface.name) for interface in lost)
    verb = "has" if len(lost) == 1 else "have"
    wanted = WANTED[lost[0].version]
    return (
        f"network-config: {names} {verb} no {wanted} and no card has that name (cards: {found}): "
        f"it will not be configured; add {wanted}"
    )


def matching_keys(interface: ConfiguredInterface, card: EthernetCard) -> Dict[str, Any]:
    """Return the keys by which cloud-init finds the card for the interface."""
    if interface.version == 1:
        return {"mac_address": card.mac}
    return {"match": {"macaddress": card.mac}, "set-name": interface.name}


def fill_in(
    document: bytes, config: Any, interface: ConfiguredInterface, card: EthernetCard
) -> Tuple[bytes, List[str]]:
    """Insert the card's MAC address, if nothing else in the document changes by that."""
    try:
        filled = insert_mac(document.decode(), interface, card)
        value_at(config, interface.place).update(matching_keys(interface, card))
        is_right = load(filled) == config
    except (ValueError, ImportError, *ODD):  # aliases can have effects not foreseen here
        is_right = False
    if not is_right:
        return document, [cannot_name([interface], [card])]
    line = "network-config: {} has no {}: using the only card, {} ({})"
    wanted = "mac_address" if interface.version == 1 else "match"
    return filled.encode(), [line.format(printable(interface.name), wanted, card.name, card.mac)]


def value_at(config: Any, place: Iterable[Any]) -> Any:
    for key in place:
        config = config[key]
    return config


def insert_mac(text: str, interface: ConfiguredInterface, card: EthernetCard) -> str:
    """Insert keys into the text as it is, so cloud-init reads everything else unchanged.

    Raise ValueError or ImportError.
    """
    node = compose_yaml(text)
    for key in interface.place:
        node = child_node(node, key)
    at = node.start_mark.index + bool(node.flow_style)  # behind a `{`
    between = ", " if node.flow_style else "\n" + " " * node.start_mark.column
    pairs = matching_keys(interface, card).items()
    added = "".join(f"{json.dumps(key)}: {json.dumps(value)}{between}" for key, value in pairs)
    return text[:at] + added + text[at:]


def child_node(node: Any, key: Any) -> Any:
    """Return the node that PyYAML takes; raise ValueError where a merge key hides it."""
    if isinstance(key, int):
        return node.value[key]
    for name, value in reversed(node.value):  # the last of two equal keys wins
        if name.value == key:
            return value
    raise ValueError(key)

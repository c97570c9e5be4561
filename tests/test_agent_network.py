"""An interface that cloud-init would not find: the guest agent says which card it is."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from tests.guest import QUICK, Guest, Serial, mostly_slow
from tests.process import LIMIT_S
from tests.uart import DOCUMENTS, server_of
from vmw_cloudinit_metadata.guest.agent.cardnames import fill_in, physical_interfaces, value_at
from vmw_cloudinit_metadata.guest.agent.system import EthernetCard

MAC = "00:50:56:ab:cd:ef"
BLOCK = """\
# of ours
version: 1
config:
- type: physical
  name: eth0  # the first one
  subnets: [{type: static, address: 192.168.1.1/24}]
- type: nameserver
  address: [8.8.8.8]
"""
FLOW = "{version: 1, config: [{type: physical, name: eth0}]}\n"
JSON = '{"version": 1, "config": [{"type": "physical", "name": "eth0"}]}'
INDENTED = json.dumps(json.loads(JSON), indent=1) + "\n"
VERSION_2 = """\
version: 2
# of ours
ethernets:
  eth0:  # the first one
    dhcp4: true
    nameservers: {addresses: [8.8.8.8]}
"""
FLOW_2 = "{version: 2, ethernets: {eth0: {dhcp4: true}}}\n"
JSON_2 = json.dumps({"version": 2, "ethernets": {"eth0": {"dhcp4": True}}}, indent=1)
WRAPPED_2 = "network:\n  ethernets:\n    'eth0': {dhcp4: true}\n  version: 2\n"
WRAPPED = "network:\n  version: 1\n  config:\n    -   name: eth0\n        type: physical\n"


def boot(guest: Guest, serial: Serial, config: str) -> str:
    serial(server_of({**DOCUMENTS, "NETWORKDATA": config.encode()}))
    return guest.fetch(*QUICK)


def config_of(guest: Guest) -> str:
    return guest.files["network-config"].decode()


def without_mac(text: str) -> str:
    """The text, without the key that was put in."""
    pair = f'"mac_address": "{MAC}"'
    assert text.count(pair) == 1
    before, _, after = text.partition(pair)
    return before + (after[2:] if after.startswith(", ") else after.lstrip())


@pytest.mark.parametrize("config", mostly_slow(BLOCK, FLOW, JSON, INDENTED, WRAPPED))
def test_only_card_is_named(guest: Guest, serial: Serial, config: str) -> None:
    guest.add_card("ens192", MAC)
    output = boot(guest, serial, config)
    assert f"eth0 has no mac_address: using the only card, ens192 ({MAC})" in output
    network = yaml.safe_load(config_of(guest))
    entry = network.get("network", network)["config"][0]
    assert entry["mac_address"] == MAC
    assert without_mac(config_of(guest)) == config


@pytest.mark.parametrize("config", mostly_slow(VERSION_2, FLOW_2, JSON_2, WRAPPED_2))
def test_only_card_is_matched_in_version_2(guest: Guest, serial: Serial, config: str) -> None:
    guest.add_card("ens192", MAC)
    output = boot(guest, serial, config)
    assert f"eth0 has no match: using the only card, ens192 ({MAC})" in output
    network = yaml.safe_load(config_of(guest))
    ethernet = network.get("network", network)["ethernets"]["eth0"]
    assert ethernet.pop("match") == {"macaddress": MAC}
    assert ethernet.pop("set-name") == "eth0"
    assert network == yaml.safe_load(config)
    assert [line for line in config_of(guest).splitlines() if "#" in line] == [
        line for line in config.splitlines() if "#" in line
    ]


@pytest.mark.parametrize(
    "config",
    mostly_slow(
        BLOCK.replace("  name", f"  mac_address: {MAC}\n  name"),
        BLOCK.replace("eth0", "ens192"),
        BLOCK.replace("physical", "loopback"),
        VERSION_2.replace("eth0:", "ens192:"),
        VERSION_2.replace("dhcp4", f"match: {{macaddress: '{MAC.upper()}'}}\n    dhcp4"),
        VERSION_2.replace("dhcp4", "match: {name: 'en*'}\n    dhcp4"),
        VERSION_2.replace("dhcp4", "set-name: lan\n    dhcp4"),
        "version: 2\nethernets: {eth0: }\n",
        "version: 2\nethernets: [eth0]\n",
        "version: 2\nethernets: {5: {dhcp4: true}}\n",
        "version: 1\nconfig: disabled\n",
        "config: 5\nversion: 1\n",
        "version: 1\nconfig: [5, {type: physical}]\n",
        "[]\n",
        "just words\n",
    ),
    ids=[
        "mac",
        "right-name",
        "loopback",
        "version-2-right-name",
        "version-2-mac",
        "version-2-match",
        "version-2-set-name",
        "version-2-nothing",
        "version-2-list",
        "version-2-number",
        "disabled",
        "number",
        "no-name",
        "list",
        "words",
    ],
)
def test_other_configurations_stay_as_they_are(guest: Guest, serial: Serial, config: str) -> None:
    guest.add_card("ens192", MAC)
    assert "network-config:" not in boot(guest, serial, config)
    assert config_of(guest) == config


@pytest.mark.parametrize(
    "config",
    mostly_slow(
        f"a: 1{':1' * 400}.5\n",  # a float of base 60 that no float holds
        *("{", "a: b: c\n", "\x00", "[" * 50_000, "!!timestamp x", "!!bool x", "!!int ''"),
    ),
    ids=lambda config: repr(config[:10]),
)
def test_configuration_that_cannot_be_read_stays_as_it_is(
    guest: Guest, serial: Serial, config: str
) -> None:
    guest.add_card("ens192", MAC)
    assert "network-config was not checked" in boot(guest, serial, config)
    assert config_of(guest) == config


SECOND = "- {type: physical, name: eth1}\n"
NAMED = f"- {{type: physical, name: x, mac_address: '{MAC.upper()}'}}\n"


@pytest.mark.parametrize(
    ("config", "cards"),
    [
        (BLOCK, ["ens192", "ens224"]),
        (BLOCK, []),
        (BLOCK + SECOND, ["ens192"]),
        (BLOCK + SECOND.replace("eth1", "ens192"), ["ens192"]),
        (BLOCK + NAMED, ["ens192"]),
        (BLOCK + "- {type: physical, name: x, mac_address: 5}\n", ["ens192"]),
        (VERSION_2, ["ens192", "ens224"]),
        (VERSION_2 + "  eth1: {dhcp4: true}\n", ["ens192"]),
        (VERSION_2 + "  all: {match: {name: 'en*'}}\n", ["ens192"]),
        (VERSION_2 + f"  x: {{match: {{macaddress: '{MAC.upper()}'}}}}\n", ["ens192"]),
        (VERSION_2 + "  x: {match: {macaddress: 5}}\n", ["ens192"]),
    ],
    ids=[
        *("two-cards", "no-card", "two-entries", "card-has-an-entry", "mac-has-an-entry"),
        *("mac-is-a-number", "version-2-two-cards", "version-2-two-entries", "version-2-match"),
        *("version-2-mac-has-an-entry", "version-2-number"),
    ],
)
def test_card_that_is_not_certain_is_reported_in_one_line(
    guest: Guest, serial: Serial, config: str, cards: list[str]
) -> None:
    for number, name in enumerate(cards):
        guest.add_card(name, MAC[:-1] + "f0"[number])
    output = boot(guest, serial, config)
    assert output.count("network-config:") == 1
    assert "eth0" in output
    wanted = "mac_address" if "version: 1" in config else "match: {macaddress: ...} and set-name"
    assert f"add {wanted}" in guest.console
    assert config_of(guest) == config


def test_cards_without_hardware_do_not_count(guest: Guest, serial: Serial) -> None:
    guest.add_card("ens192", MAC)
    guest.write("sys/class/net/lo/address", "00:00:00:00:00:00\n")
    guest.write("sys/class/net/docker0/address", "02:42:00:00:00:01\n")
    assert "the only card, ens192" in boot(guest, serial, BLOCK)


@pytest.mark.parametrize(
    "config",
    mostly_slow(
        JSON.replace(", ", ",\t"),
        "base: &b {config: [{type: physical, name: eth0}]}\nversion: 1\n<<: *b\n",
        "version: 1\nconfig: [&a {type: physical, name: eth0, x: *a}]\n",
    ),
    ids=["no-yaml", "merged", "endless"],
)
def test_riddle_is_left_alone(guest: Guest, serial: Serial, config: str) -> None:
    guest.add_card("ens192", MAC)
    assert "add mac_address" in boot(guest, serial, config)
    assert config_of(guest) == config


def test_json_without_pyyaml_stays_as_it_is(guest: Guest, serial: Serial, tmp_path: Path) -> None:
    guest.add_card("ens192", MAC)
    (tmp_path / "yaml.py").write_text("raise ImportError('none here')\n")
    serial(server_of({**DOCUMENTS, "NETWORKDATA": JSON.encode()}))
    process = guest.start(*QUICK, env={"PYTHONPATH": str(tmp_path)})
    _, output = process.communicate(timeout=LIMIT_S)
    assert process.returncode == 0, output
    assert "add mac_address" in output
    assert config_of(guest) == JSON


SCALARS = st.none() | st.booleans() | st.integers() | st.text(max_size=8) | st.dates()
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner),
    max_leaves=6,
)


def filled_in(config: Any, flow: bool | None) -> tuple[str, Any, tuple[Any, ...]]:
    """The text of a network-config, what it says with the card, and where its interface is."""
    text = yaml.safe_dump(config, default_flow_style=flow, allow_unicode=True)
    config = yaml.safe_load(text)  # PyYAML does not read back all that it writes
    (interface,) = physical_interfaces(config)
    document, _ = fill_in(text.encode(), config, interface, EthernetCard("ens192", MAC))
    return text, yaml.safe_load(document), interface.place


@given(
    st.dictionaries(st.text(max_size=5), VALUES, max_size=4),
    st.lists(VALUES, max_size=3),
    st.sampled_from([None, True, False]),
    st.booleans(),
)
def test_nothing_else_changes(
    row: dict[str, Any], others: list[Any], flow: bool | None, wrapped: bool
) -> None:
    row = {**row, "type": "physical", "name": "eth0"}
    row.pop("mac_address", None)
    others = [other for other in others if not isinstance(other, dict)]
    config: Any = {"version": 1, "config": [*others, row]}
    text, filled, place = filled_in({"network": config} if wrapped else config, flow)
    assert value_at(filled, place).pop("mac_address") == MAC
    assert filled == yaml.safe_load(text)


@pytest.mark.parametrize("first", ["", " text", " [1]", " {a: b}"])
def test_key_that_is_there_twice_holds_its_last_value(first: str) -> None:
    config = f"version: 1\nconfig:{first}\nconfig:\n- {{type: physical, name: eth0}}\n"
    value = yaml.safe_load(config)
    (entry,) = physical_interfaces(value)
    filled, _ = fill_in(config.encode(), value, entry, EthernetCard("ens192", MAC))
    assert yaml.safe_load(filled)["config"][0]["mac_address"] == MAC
    assert without_mac(filled.decode()) == config


@given(
    st.dictionaries(st.text(max_size=5), VALUES, min_size=1, max_size=4),
    st.text(st.characters(max_codepoint=0xFFFF, exclude_categories=["Cs"]), min_size=1, max_size=8),
    st.dictionaries(st.text(max_size=5), SCALARS, max_size=3),
    st.sampled_from([None, True, False]),
    st.booleans(),
)
def test_nothing_else_changes_in_version_2(
    row: dict[str, Any], name: str, others: dict[str, Any], flow: bool | None, wrapped: bool
) -> None:
    row = {key: value for key, value in row.items() if key not in ("match", "set-name")}
    config: Any = {"version": 2, "ethernets": {**others, name: {**row, "dhcp4": True}}}
    text, filled, place = filled_in({"network": config} if wrapped else config, flow)
    ethernet = value_at(filled, place)
    assert ethernet.pop("match") == {"macaddress": MAC}
    assert ethernet.pop("set-name") == place[-1]
    assert filled == yaml.safe_load(text)

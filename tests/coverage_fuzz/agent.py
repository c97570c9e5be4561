"""Targets: what the agent in the guest reads, from the server and from an image."""

from __future__ import annotations

import os
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path

from tests.coverage_fuzz.law import Pieces, kept_bytes, same_for_all_cuts
from vmw_cloudinit_metadata.guest.agent import cardnames, conf, documentset, responses, texts
from vmw_cloudinit_metadata.guest.agent.conf import CONFIG, SEED_DIR
from vmw_cloudinit_metadata.guest.agent.failures import Unusable
from vmw_cloudinit_metadata.guest.agent.obstacles import AGENT, UNIT, Image
from vmw_cloudinit_metadata.guest.agent.responses import (
    MAX_LINE_BYTES,
    MAX_NOISE_BYTES,
    GuestResponse,
    LineReader,
)
from vmw_cloudinit_metadata.guest.agent.seeddirectory import MEMORY, Memory
from vmw_cloudinit_metadata.guest.agent.system import EthernetCard, System

_CARD = EthernetCard("ens192", "00:50:56:ab:cd:ef")


def agent_line(data: bytes) -> None:
    same_for_all_cuts(data, _answers)
    for answer in _answers([data])[0]:
        assert responses.request(answer.name)


def _answers(pieces: Pieces) -> tuple[list[GuestResponse], int, bool]:
    reader = LineReader()
    answers: list[GuestResponse] = []
    for piece in pieces:
        answers += reader.receive(piece)
        bound = MAX_LINE_BYTES if reader.in_response else MAX_NOISE_BYTES
        assert kept_bytes(reader) <= bound, "the reader keeps too much"
    return answers, reader.noise, reader.in_response


def agent_documents(data: bytes) -> None:
    """Documents as a server sends them; `Unusable` and `ValueError` are documented."""
    refused = responses.parse_error(data, "METADATA") if _is_text(data) else None
    assert refused is None or str(refused).isprintable()
    if _is_text(data):
        digest = documentset.parse_digest(data)
        with suppress(Unusable):
            assert documentset.verified({"METADATA": data}, digest or {})
        _memory(data.decode())
    with suppress(Unusable):
        _metadata(data)
    if _is_text(data):
        _network(data)


def _is_text(data: bytes) -> bool:
    try:
        data.decode()
    except UnicodeDecodeError:
        return False
    return True


def _memory(text: str) -> None:
    memory = Memory.parse(text)
    if memory:
        assert Memory.parse(memory.serialize().decode()) == memory


def _metadata(data: bytes) -> None:
    assert texts.instance_id_of(data)
    held = texts.with_instance_id(data, "i-held")
    assert texts.instance_id_of(held) == "i-held"


def _network(data: bytes) -> None:
    """A network-config in which each interface without a card is given the only one."""
    try:
        config = texts.load(data.decode())
    except ValueError:
        return
    entries = cardnames.without_card(cardnames.physical_interfaces(config), [])
    for entry in entries[:3]:
        filled, told = cardnames.fill_in(data, config, entry, _CARD)
        assert told
        assert all(line.isprintable() for line in told)
        if filled != data:
            assert texts.load(filled.decode()) == config
        config = texts.load(data.decode())


def agent_texts(data: bytes) -> None:
    """Configuration of the agent and of an image, also where there is no PyYAML."""
    machine = _machine()
    Path(machine.at(CONFIG)).write_bytes(data)
    settings, faults = conf.read_config(machine.at(CONFIG))
    assert set(settings) <= set(conf.defaults())
    assert all("\n" not in fault for fault in faults), faults
    if len(data) % 4 == 0:  # PyYAML takes long, and has a target of its own
        _check(machine)
    with _without("yaml"):
        _check(machine)
        with suppress(ValueError):
            texts.load_mapping(data)


def _check(machine: System) -> None:
    image = Image(machine, conf.defaults(), CONFIG)
    assert all(isinstance(line, str) for line in image.findings())


# Files of an image that its check reads.
_PLACES = ("/etc/cloud/cloud.cfg", "/boot/grub/grub.cfg", "/etc/cloud/ds-identify.cfg",
           "/etc/systemd/system/" + UNIT, "/etc/selinux/config", "/proc/consoles",
           SEED_DIR + "/" + MEMORY, AGENT, "/usr/bin/cloud-init")  # fmt: skip


@cache
def _machine() -> System:
    """The tree of an image, in which all files are one: so one write fills them."""
    directory = tempfile.TemporaryDirectory()
    machine = System(directory.name)
    machine.directory = directory  # type: ignore[attr-defined] # it is removed with the machine
    config = Path(machine.at(CONFIG))
    config.parent.mkdir(parents=True)
    config.touch()
    for place in map(Path, map(machine.at, _PLACES)):
        place.parent.mkdir(parents=True, exist_ok=True)
        os.link(config, place)
    return machine


@contextmanager
def _without(name: str) -> Iterator[None]:
    """As where a library is not installed."""
    was = sys.modules[name]
    sys.modules[name] = None  # type: ignore[assignment]
    try:
        yield
    finally:
        sys.modules[name] = was

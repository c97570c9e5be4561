"""The ESXi side by itself, and wired back to back with the server's session: laws."""

from __future__ import annotations

import base64
import itertools
from collections.abc import Iterator
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.test_telnet import HOSTILE
from vmw_cloudinit_metadata.client import hypervisor as esxi
from vmw_cloudinit_metadata.client.hypervisor import ArrivingMove, Hypervisor
from vmw_cloudinit_metadata.protocol import authentication, events, packet, telnet, vmware
from vmw_cloudinit_metadata.protocol.packet import GuestRequest
from vmw_cloudinit_metadata.protocol.session import Policy, Session, TlsPolicy
from vmw_cloudinit_metadata.protocol.vmotion import Moves, RandomSecrets
from vmw_cloudinit_metadata.protocol.vmware import Machine, Suboption

UUID = "01234567-89ab-cdef-fedc-ba9800000001"
MACHINE = Machine(name="web1", vc_uuid=UUID, service_uri="my-metadata")
# The worst bytes for telnet, since IAC is to be doubled in them.
SECRET = bytes(range(0xF8, 0x100))
SIZES = st.lists(st.integers(1, 40), min_size=1).map(itertools.cycle)


class Wire:
    """A hypervisor and a session that hear each other in pieces."""

    def __init__(
        self,
        machine: Machine = MACHINE,
        *,
        policy: Policy | None = None,
        sizes: Iterator[int] | None = None,
        **settings: bool | ArrivingMove,
    ) -> None:
        self.policy = policy or new_policy()
        self.session = Session(self.policy, "10.0.0.1", datetime.now(UTC))
        self.vm = Hypervisor(machine, **settings)  # type: ignore[arg-type]
        self._sizes = sizes
        self.told: list[esxi.Event] = []
        self.heard: list[events.Event] = []
        self.run()

    def run(self) -> None:
        """Until both are silent, which has to come."""
        for _ in range(100):
            to_vm, to_server = self.session.data_to_send(), self.vm.data_to_send()
            if not to_vm and not to_server:
                return
            for piece in self._cut(to_vm):
                self.told += self.vm.receive_data(piece)
            for piece in self._cut(to_server):
                self.heard += self.session.receive_data(piece)
        raise AssertionError("they talk for ever")

    def _cut(self, data: bytes) -> Iterator[bytes]:
        while data:
            size = next(self._sizes) if self._sizes else len(data)
            yield data[:size]
            data = data[size:]

    @property
    def serial(self) -> bytes:
        return b"".join(event.payload for event in self.told if isinstance(event, esxi.SerialData))

    def last(self) -> esxi.Event:
        return self.told[-1]


def new_policy(tls: TlsPolicy = TlsPolicy.OFF) -> Policy:
    return Policy(frozenset({"my-metadata"}), Moves(10, RandomSecrets(lambda _size: SECRET)), tls)


@given(SIZES)
def test_vm_is_ready_and_identified_however_the_bytes_are_cut(sizes: Iterator[int]) -> None:
    wire = Wire(sizes=sizes)
    assert wire.told == [esxi.Ready()]
    assert [event for event in wire.heard if isinstance(event, events.Violation)] == []
    (identified,) = (event for event in wire.heard if isinstance(event, events.Identified))
    assert identified.machine.name == "web1"
    assert identified.machine.vc_uuid == UUID


@given(SIZES, st.binary(max_size=200))
def test_answer_arrives_as_it_was_sent(sizes: Iterator[int], document: bytes) -> None:
    wire = Wire(sizes=sizes)
    wire.vm.send_serial(b"!!REQUEST_METADATA#\n")
    wire.run()
    assert wire.heard[-1] == GuestRequest("METADATA")
    answer = packet.serialize(packet.Packet("RESPONSE_METADATA", document))
    wire.told += wire.vm.receive_data(wire.session.answer(answer + SECRET) or b"")
    assert wire.serial == answer + SECRET
    assert base64.b64encode(document) in wire.serial


@given(st.text(min_size=1, max_size=80).filter(lambda name: name.encode(errors="ignore")))
def test_name_is_sent_as_it_is(name: str) -> None:
    name = name.encode(errors="ignore").decode()
    machine = Machine(name=name, bios_uuid=UUID, service_uri="my-metadata", direction="server")
    told = Wire(machine).session.machine
    assert (told.name, told.vc_uuid, told.bios_uuid, told.location_uuid) == (name, None, UUID, None)
    assert told.direction == "server"


def test_question_without_an_answer_is_answered_as_unknown() -> None:
    vm = Hypervisor(MACHINE)
    vm.data_to_send()
    vm.receive_data(encoded(Suboption.GET_VM_BIOS_UUID))
    assert vm.data_to_send() == encoded(2, bytes([Suboption.GET_VM_BIOS_UUID]))
    assert vm.receive_data(encoded(200)) == [esxi.ServerViolation("unknown suboption")]
    assert vm.data_to_send() == encoded(2, bytes([200]))


def encoded(code: int, argument: bytes = b"") -> bytes:
    return telnet.encode_subnegotiation(vmware.suboption(code, argument))


def test_other_service_uri_is_refused() -> None:
    wire = Wire(Machine(name="web1", vc_uuid=UUID, service_uri="other"))
    assert wire.told == [esxi.ProxyRefused()]


@given(HOSTILE)
def test_hostile_server_causes_no_exception(data: bytes) -> None:
    for settings in ({}, {"offers_tls": True}, {"arrival": ArrivingMove(b"seq1", SECRET)}):
        vm = Hypervisor(MACHINE, **settings)  # type: ignore[arg-type]
        vm.receive_data(data)
        vm.data_to_send()


# TLS by AUTHENTICATION


@given(SIZES)
def test_tls_begins_when_both_want_it(sizes: Iterator[int]) -> None:
    wire = Wire(policy=new_policy(TlsPolicy.ALLOW), offers_tls=True, sizes=sizes)
    assert wire.told == [esxi.TlsAgreed()]
    assert wire.heard == [events.TlsAccepted()]
    assert wire.vm.is_mute


def test_server_without_tls_refuses_it_and_hears_nothing_more() -> None:
    wire = Wire(offers_tls=True)
    assert wire.told == [esxi.TlsRefused()]
    assert wire.heard == []


def test_plain_bytes_behind_the_begin_of_tls_are_a_fault() -> None:
    vm = Hypervisor(MACHINE, offers_tls=True)
    vm.receive_data(b"\xff\xfd\x25" + telnet.encode_subnegotiation(authentication.SEND))
    accepted = telnet.encode_subnegotiation(authentication.accepted(0))
    assert vm.receive_data(accepted + b"x") == [esxi.ServerViolation("plain bytes before TLS")]


# vMotion


@given(SIZES, st.binary(min_size=1, max_size=8))
def test_vm_moves_and_goes_on_at_the_target(sizes: Iterator[int], sequence: bytes) -> None:
    source = Wire(sizes=sizes)
    source.vm.send_serial(b"!!REQUEST_META")
    source.vm.begin_move(sequence)
    source.run()
    assert source.last() == esxi.GoAhead(ArrivingMove(sequence, SECRET))
    target = Wire(policy=source.policy, sizes=sizes, arrival=ArrivingMove(sequence, SECRET))
    assert target.told == [esxi.PeerAccepted()]
    target.vm.complete_move()
    target.run()
    assert isinstance(target.heard[-1], events.MoveCompleted)
    target.heard += target.session.take_over()
    target.vm.send_serial(b"DATA#\n")
    target.run()
    assert target.heard[-1] == GuestRequest("METADATA")
    assert not [event for event in target.heard if isinstance(event, events.Violation)]


def test_move_is_aborted_and_the_vm_stays() -> None:
    source = Wire()
    source.vm.begin_move(b"seq1")
    source.run()
    source.vm.abort_move()
    source.run()
    assert isinstance(source.heard[-1], events.MoveAborted)
    assert not source.session.is_moving


def test_move_that_the_server_declines_is_not_now() -> None:
    source = Wire(policy=Policy(frozenset({"my-metadata"}), Moves(0, RandomSecrets(bytes))))
    source.vm.begin_move(b"seq1")
    source.run()
    assert source.last() == esxi.NotNow()


@pytest.mark.parametrize(
    "arrival", [ArrivingMove(b"seq1", SECRET), ArrivingMove(b"", b"")], ids=str
)
def test_peer_of_an_unknown_move_is_refused(arrival: ArrivingMove) -> None:
    assert Wire(arrival=arrival).told == [esxi.PeerRefused()]

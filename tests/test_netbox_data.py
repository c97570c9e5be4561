"""What a virtual machine of NetBox becomes, what webhooks name, and the mirror: no server."""

from __future__ import annotations

import copy
import hmac
import json
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.fakenetbox import SECRET, recorded_answer, recorded_webhooks
from vmw_cloudinit_metadata.drivers.records.recordlayer import kept
from vmw_cloudinit_metadata.drivers.store import Key, Record
from vmw_cloudinit_metadata.drivers.stores.netbox import virtualmachine
from vmw_cloudinit_metadata.drivers.stores.netbox.hookevent import Touched, touched_by
from vmw_cloudinit_metadata.drivers.stores.netbox.inbox import Inbox
from vmw_cloudinit_metadata.drivers.stores.netbox.instancedata import Rules, data_of, key_of
from vmw_cloudinit_metadata.drivers.stores.netbox.mirror import (
    EVERYTHING,
    Doubt,
    FullError,
    Mirror,
    MirroredVm,
)
from vmw_cloudinit_metadata.drivers.stores.netbox.pagesize import MOST, PageSize
from vmw_cloudinit_metadata.drivers.stores.netbox.virtualmachine import (
    UnusableAnswerError,
    VirtualMachine,
)
from vmw_cloudinit_metadata.instance.fault import InvalidInstanceData
from vmw_cloudinit_metadata.instance.model import InstanceData

WEB, SPARE = 10001, 10006  # ids of recorded virtual machines
BY_NAME = {vm["name"]: vm for vm in recorded_answer()["data"]["found"]}

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3)
    ),
    max_leaves=8,
)


def vm_of(name: str, context: Any = None, **changes: Any) -> VirtualMachine:
    """Return a recorded one; `context` is what config context has for us."""
    found = {**copy.deepcopy(BY_NAME[name]), **changes}
    if context is not None:
        found["config_context"] = {"cloud-init": context}
    return VirtualMachine.model_validate(found)


def network_of(vm: VirtualMachine, **rules: Any) -> Any:
    return data_of(vm, Rules(**rules)).get("network")


# Mapping


def test_custom_field_and_config_context_may_spell_a_key_differently() -> None:
    vm = vm_of("bare", {"metadata": {"public-keys": ["b"]}}, custom_fields={"public_keys": ["a"]})
    assert data_of(vm, Rules())["metadata"]["public-keys"] == ["b"]


def test_recorded_virtual_machine_becomes_instance_data() -> None:
    """Not in it: a shared address, an interface that is off, one of a VLAN."""
    assert data_of(vm_of("web-ber-1"), Rules()) == {
        "metadata": {
            "site": "ber",
            "role": "web",
            "tenant": "shop",
            "platform": "debian-13",
            "hostname": "web-ber-1.example.com",
            "cluster": "vcenter-1",
            "tags": ["backup", "recorded"],
            "rack": "r7",
            "layer": 2,
            "instance-id": "web-ber-1-2026-01",
        },
        "network": [
            {
                "name": "eth0",
                "mac-address": "00:50:56:01:02:03",
                "address": ["10.0.0.21/24", "2001:db8:1::21/64"],
                "search": "example.com",
                "nameservers": ["10.0.0.53"],
                "gateway": ["10.0.0.1", "2001:db8:1::1"],
            },
            {"mac-address": "00:50:56:01:02:04", "mtu": 9000, "address": ["192.168.7.21/24"]},
        ],
        "userdata": {"packages": ["nginx"]},
    }


@pytest.mark.parametrize(
    ("name", "network"),
    [
        ("db/1", {"name": "eth0", "mac-address": "00:50:56:01:02:05", "dhcp": True}),
        ("spare", {"name": "eth0", "mac-address": "00:50:56:01:02:06", "dhcp": True}),
        ("bare", None),
    ],
)
def test_virtual_machine_without_addresses_uses_dhcp(name: str, network: Any) -> None:
    assert network_of(vm_of(name)) == network


def test_key_is_a_uuid_or_the_name_as_vcenter_writes_it() -> None:
    assert key_of(vm_of("web-ber-1"), Rules()) == (
        "vc-uuid",
        "42130a5c-1f2e-9d3b-5c77-0e1f2a3b4c5d",
    )
    assert key_of(vm_of("db/1"), Rules()) == ("name", "db%2f1")
    assert key_of(vm_of("spare"), Rules()) == ("name", "spare")
    rack = vm_of("spare", custom_fields={"vc": "42130A5C1F2E9D3B5C770E1F2A3B4C5D"})
    assert key_of(rack, Rules(uuid_field="vc")).kind == "vc-uuid"
    assert "vc" not in data_of(rack, Rules(uuid_field="vc"))["metadata"]
    assert key_of(vm_of("web-ber-1"), Rules(uuid_field="vc")) == ("name", "web-ber-1")


@pytest.mark.parametrize(
    ("rule", "address", "gateway"),
    [
        ("none", "10.0.0.31/24", None),
        ("first", "10.0.0.31/24", ["10.0.0.1"]),
        ("last", "10.0.0.31/24", ["10.0.0.254"]),
        ("first", "10.0.0.1/24", None),
        ("first", "10.0.0.31/32", None),
        ("first", "10.0.0.30/31", None),
        ("first", "2001:db8::31/64", ["2001:db8::1"]),
        ("last", "2001:db8::31/120", ["2001:db8::ff"]),
    ],
)
def test_gateway_by_the_rule(rule: str, address: str, gateway: Any) -> None:
    interface = copy.deepcopy(BY_NAME["db/1"]["interfaces"][0])
    interface["ip_addresses"][0] |= {"address": address, "status": "active"}
    vm = vm_of("db/1", interfaces=[interface])
    assert network_of(vm, gateway=rule).get("gateway") == gateway
    vm = vm_of("db/1", {"network": {"gateway": None}}, interfaces=[interface])
    assert network_of(vm, gateway=rule).get("gateway") is None


def test_config_context_lies_over_the_rest() -> None:
    context = {"metadata": {"rack": None, "tags+": ["x"], "site": {"a": 1}, "public_keys": []}}
    metadata = data_of(vm_of("web-ber-1", context), Rules())["metadata"]
    assert "rack" not in metadata
    assert metadata["tags"] == ["backup", "recorded", "x"]
    assert metadata["site"] == {"a": 1}
    assert metadata["public-keys"] == []
    conflict = {"metadata": {"tags": {"a": 1}, "site+": ["x"]}}
    metadata = data_of(vm_of("web-ber-1", conflict), Rules())["metadata"]
    assert (metadata["tags"], metadata["site"]) == ({"a": 1}, ["x"])


@pytest.mark.parametrize("network", [[{"dhcp": True}], {"version": 2}, {"config": "disabled"}])
def test_whole_network_of_config_context_replaces_all_interfaces(network: Any) -> None:
    assert network_of(vm_of("web-ber-1", {"network": network})) == network


def test_network_of_config_context_alone_may_have_an_address() -> None:
    own = {"address": "10.0.0.9/24", "nameservers": ["10.0.0.53"]}
    assert network_of(vm_of("bare", {"network": own}), gateway="first") == {
        **own,
        "gateway": ["10.0.0.1"],
    }
    assert network_of(vm_of("bare", {"network": {"mtu": 9000}})) == {"mtu": 9000, "dhcp": True}


@pytest.mark.parametrize(
    ("context", "fault"),
    [
        ("metadata: {x: 1}", "found a list, expected a mapping"),
        ({"metdata": {}}, "metdata: found"),
        ({"metadata": {"public-keys": [], "public_keys": []}}, "a duplicate key"),
        ({"metadata": {"tags": [], "tags+": []}}, "both 'tags' and 'tags+'"),
        ({"network": {"address": "10.0.0.300/24"}}, ""),
    ],
)
def test_fault_of_config_context_is_one_of_the_vm(context: Any, fault: str) -> None:
    key = Key("name", "bare")
    data = data_of(vm_of("bare", context), Rules(gateway="first"))
    found = kept(Record(key, data), key).layer()
    assert fault in "".join(map(str, found.faults))
    assert bool(found.faults) == bool(fault)


@given(JSON, JSON)
@settings(max_examples=40)
def test_any_config_context_makes_data_that_can_be_read(context: Any, network: Any) -> None:
    key = Key("name", "bare")
    for own in (context, {"network": network}, {"network": {"address": network}}):
        data = data_of(vm_of("web-ber-1", own), Rules(gateway="last"))
        assert kept(Record(key, json.loads(json.dumps(data))), key).layer() is not None


# Answers


def body(**changes: Any) -> bytes:
    answer = recorded_answer()
    return json.dumps({"data": answer["data"] | changes}).encode()


def test_recorded_answer_is_read() -> None:
    page = virtualmachine.parsed(body())
    assert len(page.found) == 6
    assert page.unseen == frozenset()
    assert virtualmachine.parsed(body(tag_list=[])).unseen == {"tag_list"}


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        (b"", "all of it: Invalid JSON"),
        (b"[]", "all of it: Input should be an object"),
        (b'{"data": null}', "the query failed: without a reason"),
        (b'{"data": {"found": []}, "errors": [{"message": "no\\nway"}]}', r"failed: no\nway"),
        (b'{"data": {}}', "found: Input should be a valid list"),
        (body(found=[{**BY_NAME["bare"], "name": None}]), "found.0.name: Input should be"),
        (b"[" * 100_000, "all of it: Invalid JSON"),
    ],
    ids=["empty", "list", "nothing", "errors", "no-list", "no-name", "deep"],
)
def test_answer_that_cannot_be_used_says_why(answer: bytes, reason: str) -> None:
    with pytest.raises(UnusableAnswerError) as raised:
        virtualmachine.parsed(answer)
    assert reason in str(raised.value)


def test_interfaces_that_are_not_seen_are_a_fault_of_the_vm() -> None:
    key = Key("name", "web-ber-1")
    data = data_of(vm_of("web-ber-1", interfaces=[]), Rules())
    layer = kept(Record(key, data), key).layer()
    with pytest.raises(InvalidInstanceData, match="found '0 of 4 interfaces that the token may v"):
        InstanceData.from_mapping(layer.mapping)
    assert isinstance(network_of(vm_of("web-ber-1", interface_count=3)), list)


# Webhooks


def test_recorded_webhooks_name_what_to_read_again() -> None:
    found = [touched_by(json.loads(hook["body"])) for hook in recorded_webhooks()]
    assert found[0] == Touched(frozenset({WEB}))
    created, moved, released, deleted = found[1:5]
    spare = next(iter(created.interfaces))
    assert created == Touched(frozenset({SPARE}), frozenset({spare}))
    assert moved == Touched(frozenset({WEB}), frozenset({spare, 10003}))
    assert released == Touched(frozenset(), frozenset({10003}))
    assert deleted == Touched()
    assert found[5] == found[6] == created
    assert found[7] == found[8] == Touched(frozenset({SPARE}))
    assert found[9] == Touched(all=True)  # a config context
    assert len(found[10].vms) == 1
    assert found[11] == found[10]


def test_recorded_webhooks_are_signed_as_we_check_it() -> None:
    for hook in recorded_webhooks():
        signature = hmac.digest(SECRET.encode(), hook["body"].encode(), "sha512").hex()
        assert signature == hook["signature"]


@given(JSON)
@settings(max_examples=40)
def test_any_webhook_names_something_or_everything(event: Any) -> None:
    kinds = ("virtualization.virtualmachine", "virtualization.vminterface", "ipam.ipaddress", "x")
    assert touched_by(event).all
    for kind in kinds:
        touched = touched_by({"object_type": kind, "data": event, "snapshots": {"a": event}})
        assert all(isinstance(one, int) for one in touched.vms | touched.interfaces)
        assert touched.all or kind != "x"


def test_inbox_holds_so_many_ids_and_then_everything() -> None:
    inbox = Inbox()
    inbox.put(Touched(frozenset({1})))
    inbox.put(Touched(interfaces=frozenset({2})))
    assert inbox.take(0) == Touched(frozenset({1}), frozenset({2}))
    assert inbox.take(0) == Touched()
    inbox.put(Touched(frozenset(range(9_000))))
    inbox.put(Touched(frozenset(range(8_000, 11_000))))
    assert inbox.take(0) == Touched(all=True)


def test_inbox_takes_offers_while_there_are_few_ids() -> None:
    inbox = Inbox()
    inbox.offer(frozenset({1, 2}), most=3)
    inbox.offer(frozenset({2, 3}), most=3)
    inbox.offer(frozenset({4}), most=3)
    assert inbox.take(0) == Touched(frozenset({1, 2, 3}))


# The mirror


def mirrored(name: str, text: bytes = b"{}", interfaces: tuple[int, ...] = ()) -> MirroredVm:
    return MirroredVm(Key("name", name), f"the one called {name}", text, interfaces)


VMS = st.dictionaries(
    st.integers(0, 9), st.builds(mirrored, st.sampled_from("abc"), st.sampled_from([b"{}", b"[]"]))
)
STEPS = st.lists(st.tuples(VMS, st.integers(0, 9), st.integers(0, 9) | st.just(EVERYTHING)))


@given(STEPS)
@settings(max_examples=40)
def test_mirror_is_what_was_read_last(
    steps: list[tuple[dict[int, MirroredVm], int, float]],
) -> None:
    mirror, model = Mirror(), dict[int, MirroredVm]()
    doubtful: set[int] = set()
    mirror.has_all()
    for number, (found, first, last) in enumerate(steps):
        before = dict(model)
        if number % 3 == 2:
            mirror.doubt()
            doubtful = set(model)
            changed: set[Key] = set()
        elif number % 3:
            found = {one: vm for one, vm in found.items() if first <= one <= last}
            changed = mirror.put_range(first, last, found)
            model = {one: vm for one, vm in model.items() if not first <= one <= last} | found
            doubtful = {one for one in doubtful if not first <= one <= last}
        else:
            asked = {*found, first}
            changed = mirror.put(asked, found)
            model = {one: vm for one, vm in model.items() if one not in asked} | found
            doubtful -= asked
        differing = [one for one in range(10) if before.get(one) != model.get(one)]
        states = [state.get(one) for one in differing for state in (before, model)]
        assert changed == {vm.key for vm in states if vm}
        for name in "abc":
            key = Key("name", name)
            wanted = sorted(vm.text for vm in model.values() if vm.key == key)
            assert sorted(json.dumps(r.data).encode() for r in mirror.records([key])) == wanted
            ids = {one for one, vm in model.items() if vm.key == key}
            assert (mirror.in_doubt([key]) or Doubt(frozenset(), 0)).ids == ids & doubtful
            versions = [r.version for r in mirror.records([key])]
            is_sure = len(ids) < 2 and ids.isdisjoint(doubtful)
            assert mirror.version_of(key) == ("".join(versions) if is_sure else None)
        assert len(list(mirror.all())) == len(mirror) == len(model)


def test_what_the_mirror_has_not_is_in_doubt_until_it_has_all() -> None:
    key, mirror = Key("name", "a"), Mirror()
    assert mirror.version_of(key) is None
    doubt = mirror.in_doubt([key])
    assert doubt == Doubt(frozenset(), 0)
    mirror.has_all()
    assert mirror.version_of(key) == ""
    mirror.wait([key], doubt, 60)
    mirror.doubt(absences=True)
    assert mirror.in_doubt([key]) == Doubt(frozenset(), 1)
    assert mirror.version_of(key) is None


def test_who_waits_for_an_entry_is_told_that_it_is_in_doubt_again() -> None:
    key, mirror = Key("name", "a"), Mirror()
    mirror.put([1], {1: mirrored("a")})
    mirror.doubt()
    doubt = mirror.in_doubt([key])
    assert doubt == Doubt(frozenset([1]), 1)
    mirror.put([1], {1: mirrored("a")})
    mirror.doubt()
    mirror.wait([key], doubt, 60)  # returns at once: it must be asked for again
    assert mirror.in_doubt([key]) == Doubt(frozenset([1]), 2)


def test_version_is_another_one_for_another_record() -> None:
    one = mirrored("a")
    others = [mirrored("a", b"[]"), mirrored("b"), replace(one, label="x"), replace(one, name="x")]
    assert len({vm.version for vm in [one, *others]}) == 5
    assert one.version == mirrored("a").version


def test_mirror_knows_whose_an_interface_was() -> None:
    mirror = Mirror()
    mirror.put([1], {1: mirrored("a", interfaces=(7, 8))})
    assert mirror.vms_of([7, 8, 9]) == {1}
    mirror.put([1], {1: mirrored("a", interfaces=(8,))})
    assert mirror.vms_of([7]) == set()
    mirror.put([1, 2], {2: mirrored("b", interfaces=(8,))})
    assert mirror.vms_of([8]) == {2}


def test_interface_that_moves_before_its_old_owner_is_read_again() -> None:
    mirror = Mirror()
    mirror.put([1], {1: mirrored("a", interfaces=(7,))})
    mirror.put([2], {2: mirrored("b", interfaces=(7,))})
    mirror.put([1], {})
    assert mirror.vms_of([7]) == {2}


def test_mirror_is_bounded_in_bytes(constants: Any) -> None:
    constants(drivers__stores__netbox__mirror__MAX_BYTES=5_000)
    mirror = Mirror()
    mirror.put([1], {1: mirrored("a", b"x" * 3_000)})
    with pytest.raises(FullError, match="more than 5,000 bytes of virtual machines: set filter"):
        mirror.put([2], {2: mirrored("b", b"x" * 3_000)})
    mirror.put([1], {})
    mirror.put([2], {2: mirrored("b", b"x" * 3_000)})


def test_mirror_counts_interfaces_and_names(constants: Any) -> None:
    constants(drivers__stores__netbox__mirror__MAX_BYTES=5_000)
    for large in (mirrored("a", interfaces=tuple(range(100))), mirrored("a" * 4_000)):
        with pytest.raises(FullError):
            Mirror().put([1], {1: large})


@given(st.lists(st.tuples(st.integers(1, 2000), st.floats(0, 1e6), st.integers(0, 2**40))))
def test_page_has_a_size_within_bounds(took: list[tuple[int, float, int]]) -> None:
    size = PageSize()
    for count, seconds, length in took:
        size.took(count, seconds, length)
        assert 1 <= size.of(0.4) <= size.of(2.0) <= MOST
    for _ in range(20):
        size.failed()
    assert size.of(0.1) == 1

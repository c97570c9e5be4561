"""The http store: addresses, freshness, layers, webhooks, and what VMs get in its trouble."""

from __future__ import annotations

import hashlib
import hmac
import json
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.httppeer import Asked, HttpPeer, reply
from tests.process import Constants, run
from tests.waiting import wait_until
from vmw_cloudinit_metadata import DriverError, Key, StoreDriver
from vmw_cloudinit_metadata.drivers.drivererror import NoWebhooksError, WebhookRefusedError
from vmw_cloudinit_metadata.drivers.stores.freshness import KEPT_S, MAX_AGE_S, age_s, conditions
from vmw_cloudinit_metadata.drivers.stores.httpstore import HttpStore
from vmw_cloudinit_metadata.drivers.stores.httptemplate import HttpTemplate
from vmw_cloudinit_metadata.instance.fault import InvalidInstanceData
from vmw_cloudinit_metadata.protocol.webhook import Webhook
from vmw_cloudinit_metadata.serving.hooks import taken
from vmw_cloudinit_metadata.testing import check_driver, machine

VC = "11111111-2222-3333-4444-555555555555"
WEB1 = machine("web1", VC)
KEY = b"0123456789abcdef"
STORE = "vmw_cloudinit_metadata.drivers.stores.httpstore:HttpStore"


class Cmdb:
    """Documents by target, with ETags; what is not there is 404."""

    def __init__(self) -> None:
        self.documents: dict[str, str | bytes] = {}
        self.headers: dict[str, str] = {}
        self.headers_of: dict[str, dict[str, str]] = {}  # of a target
        self.failing: list[bytes] | None = None  # answered instead

    def __call__(self, asked: Asked) -> Iterable[bytes]:
        if self.failing is not None:
            return self.failing
        document = self.documents.get(asked.target)
        headers = self.headers | self.headers_of.get(asked.target, {})
        if document is None:
            return reply("no such VM", "404 Not Found", **headers)
        etag = f'"{hashlib.sha256(repr(document).encode()).hexdigest()[:16]}"'
        if asked.headers.get("if-none-match") == etag:
            fields = {"etag": etag} | headers
            head = "".join(f"{name}: {value}\r\n" for name, value in fields.items())
            return [f"HTTP/1.1 304 Not Modified\r\n{head}\r\n".encode()]
        return reply(document, etag=etag, **headers)


@pytest.fixture
def cmdb() -> Cmdb:
    return Cmdb()


@pytest.fixture
def peer(cmdb: Cmdb) -> Iterator[HttpPeer]:
    with HttpPeer(cmdb) as peer:
        yield peer


Make = Callable[..., StoreDriver]


@pytest.fixture
def make(peer: HttpPeer) -> Iterator[Make]:
    """Makes a driver of the store; `/path` in its options stands for an address of the peer."""
    made = []

    def make(url: str = "/vms/{vc-uuid}", **options: Any) -> StoreDriver:
        given = {
            name: f"{peer.url}{value}" if name.endswith("url") else value
            for name, value in {"url": url, **options}.items()
        }
        driver = StoreDriver.of(HttpStore, given)
        driver.watch(lambda _: None)
        wait_until(lambda: driver.get_instance(machine("nobody")) is None)
        made.append(driver)
        return driver

    yield make
    for driver in made:
        driver.close()


def instance_id(driver: StoreDriver) -> Any:
    found = driver.get_instance(WEB1)
    return found and found.metadata["instance-id"]


def data(instance_id: str) -> str:
    return json.dumps({"metadata": {"instance-id": instance_id}})


def test_store_keeps_the_contract(cmdb: Cmdb, peer: HttpPeer) -> None:
    cmdb.documents[f"/vms/{VC}"] = data("i-1")
    options = {"url": peer.url + "/vms/{vc-uuid}"}
    check_driver(HttpStore, options, [WEB1], machine("other", VC.replace("1", "2")))


def test_json_and_yaml_are_served_and_404_is_not_found(cmdb: Cmdb, make: Make) -> None:
    driver = make()
    assert instance_id(driver) is None
    cmdb.documents[f"/vms/{VC}"] = data("i-1")
    assert instance_id(driver) == "i-1"
    cmdb.documents[f"/vms/{VC}"] = "metadata: {instance-id: i-2}\n"
    assert instance_id(driver) == "i-2"
    del cmdb.documents[f"/vms/{VC}"]
    assert instance_id(driver) is None


def test_identities_have_addresses_of_their_own_in_their_ranks(cmdb: Cmdb, peer: HttpPeer) -> None:
    by_name = f"{peer.url}/vms?name={{name}}"
    driver = StoreDriver.of(
        HttpStore, {"url": f"{peer.url}/vms/{{vc-uuid}}", "more-urls": [by_name]}
    )
    cmdb.documents["/vms?name=web1"] = data("by-name")
    assert instance_id(driver) == "by-name"
    cmdb.documents[f"/vms/{VC}"] = data("by-uuid")
    assert instance_id(driver) == "by-uuid"
    assert {asked.target for asked in peer.asked} == {f"/vms/{VC}", "/vms?name=web1"}


# Trouble

TROUBLE = {
    "status 500": reply("metadata: {}", "500 Internal Server Error"),
    "redirect": reply("", "302 Found", location="/login"),
    "no content": [b"HTTP/1.1 204 No Content\r\n\r\n"],
    "gone": reply("", "410 Gone"),
    "not modified unasked": [b"HTTP/1.1 304 Not Modified\r\n\r\n"],
    "cut off": [b"HTTP/1.1 200 OK\r\ncontent-length: 99\r\n\r\nmetadata: {}"],
}


@pytest.mark.parametrize("case", TROUBLE)
def test_trouble_is_never_not_found_and_the_last_good_answer_is_served(
    case: str, cmdb: Cmdb, make: Make, constants: Constants
) -> None:
    constants(drivers__stores__httpstore__REQUEST_S=0.3)
    driver = make()
    cmdb.failing = TROUBLE[case]
    with pytest.raises(DriverError, match=r"^http://127\.0\.0\.1:\d+: "):
        driver.get_instance(WEB1)
    cmdb.failing, cmdb.documents[f"/vms/{VC}"] = None, data("i-1")
    assert instance_id(driver) == "i-1"
    cmdb.failing = TROUBLE[case]
    found = driver.get_instance(WEB1)
    assert found
    assert (found.metadata["instance-id"], bool(found.problem)) == (
        "i-1",
        case != "not modified unasked",
    )


def test_page_instead_of_data_is_a_fault(cmdb: Cmdb, make: Make) -> None:
    driver = make()
    cmdb.documents[f"/vms/{VC}"] = "<html><body>Log in</body></html>"
    with pytest.raises(InvalidInstanceData):
        driver.get_instance(WEB1)


def test_check_fails_after_a_failure_until_the_address_answers(cmdb: Cmdb, make: Make) -> None:
    driver = make()
    driver.check()
    cmdb.failing = TROUBLE["status 500"]
    driver.check()  # nobody has noticed
    with pytest.raises(DriverError):
        driver.get_instance(WEB1)
    with pytest.raises(DriverError, match="found the HTTP status 500"):
        driver.check()
    cmdb.failing = None
    driver.check()


def test_check_asks_the_address_of_health(cmdb: Cmdb, make: Make, peer: HttpPeer) -> None:
    driver = make(health_url="/health")
    with pytest.raises(DriverError, match="found the HTTP status 404"):
        driver.check()
    cmdb.documents["/health"] = "fine"
    driver.check()
    peer.stop()
    with pytest.raises(DriverError, match="connection refused"):
        driver.check()
    peer.start()
    driver.check()


# Freshness


def holds(driver: StoreDriver, token: Any, in_s: float = 0.0) -> bool:
    return driver.held_at(token, time.monotonic() + in_s)


def token_of(driver: StoreDriver) -> Any:
    found = driver.get_instance(WEB1)
    assert found
    return found.token


def lasting_token_of(driver: StoreDriver) -> Any:
    """The same of an answer that holds: it does not until the store's listener has begun."""
    wait_until(lambda: token_of(driver) is not None)
    return token_of(driver)


@pytest.mark.parametrize(
    ("control", "kept_s"),
    [
        ("", KEPT_S),
        ("private", KEPT_S),
        ("max-age=60", 60),
        ("private, Max-Age=60, must-revalidate", 60),
        ("max-age=99999999", MAX_AGE_S),
        ("max-age=0", 0),
        ("no-cache", 0),
        ("no-store, max-age=60", 0),
        ("max-age=junk", KEPT_S),
        ("max-age=" + "9" * 5000, KEPT_S),
    ],
)
def test_answer_holds_as_long_as_the_server_says(
    control: str, kept_s: float, cmdb: Cmdb, make: Make
) -> None:
    cmdb.documents[f"/vms/{VC}"] = data("i-1")
    cmdb.headers = {"cache-control": control} if control else {}
    driver = make()
    began_s = time.monotonic()
    token = token_of(driver)
    if kept_s == 0:
        assert token is None
    else:
        took_s = time.monotonic() - began_s  # it counts from the answer on
        assert holds(driver, token, kept_s - 0.5 - took_s)
        assert not holds(driver, token, kept_s + 0.01)


@given(st.text(max_size=60), st.text(max_size=10))
def test_age_is_within_its_bounds_for_any_header(control: str, age: str) -> None:
    assert 0 <= age_s({"cache-control": f"max-age=7,{control}", "age": age}) <= MAX_AGE_S


def test_age_of_a_proxy_counts() -> None:
    assert age_s({"cache-control": "max-age=60", "age": "50"}) == 10
    assert age_s({"cache-control": "max-age=60", "age": "70"}) == 0


def test_absence_holds_no_longer_than_an_answer(cmdb: Cmdb, peer: HttpPeer) -> None:
    """An answer by name depends on there being none by UUID."""
    options = {"url": peer.url + "/vms/{vc-uuid}", "more_urls": [peer.url + "/n/{name}"]}
    cmdb.documents["/n/web1"] = data("by-name")
    driver = StoreDriver.of(HttpStore, options)
    driver.watch(lambda _: None)
    assert not holds(driver, lasting_token_of(driver), KEPT_S + 0.01)
    driver.close()


def test_unchanged_answer_is_confirmed_with_304(cmdb: Cmdb, make: Make, peer: HttpPeer) -> None:
    cmdb.documents[f"/vms/{VC}"] = data("i-1")
    driver = make()
    for _ in range(3):
        assert instance_id(driver) == "i-1"
    tags = [asked.headers.get("if-none-match") for asked in peer.asked]
    assert tags[-3] is None
    assert tags[-2:] == [tags[-1]] * 2
    assert tags[-1]


@pytest.mark.parametrize(
    ("date", "is_sent"),
    [
        ("Sat, 28 Nov 2026 22:31:09 GMT", True),
        ("Sat, 28 Nov 2026 22:31:08 GMT", False),  # it may change again within this second
        ("Sat, 28 Nov 2026 20:00:00 GMT", False),
        ("yesterday", False),
    ],
)
def test_last_modified_is_sent_back_if_it_is_old_enough(
    date: str, is_sent: bool, cmdb: Cmdb, make: Make, peer: HttpPeer
) -> None:
    modified = "Sat, 28 Nov 2026 22:31:07 GMT"
    cmdb.headers = {"last-modified": modified, "date": date}
    cmdb.documents[f"/vms/{VC}"] = data("i-1")
    driver = make()
    instance_id(driver)
    instance_id(driver)
    assert peer.asked[-1].headers.get("if-modified-since") == (modified if is_sent else None)
    assert ("if-none-match" in peer.asked[-1].headers) is is_sent


@given(st.text(max_size=60), st.text(max_size=60), st.text(max_size=60))
def test_conditions_are_header_fields_for_any_headers(etag: str, modified: str, date: str) -> None:
    headers = {"etag": etag, "last-modified": modified, "date": date}
    for value in conditions(headers).values():
        assert value.isascii()
        assert value.isprintable()


@pytest.mark.parametrize("time", ["Mon, 01 Jan {} 00:00:00 GMT", "Mon, 01 Jan 2024 00:00:00 +{}"])
def test_time_of_very_many_digits_is_no_time(time: str) -> None:
    headers = {"last-modified": "Sat, 28 Nov 2026 22:31:07 GMT", "date": time.format("9" * 60)}
    assert conditions(headers) == {}


def test_change_that_one_look_up_sees_counts_for_all_answers(cmdb: Cmdb, make: Make) -> None:
    cmdb.headers = {"cache-control": "max-age=60"}
    cmdb.documents[f"/vms/{VC}"] = data("i-1")
    driver = make()
    old = lasting_token_of(driver)
    assert holds(driver, old)
    cmdb.documents[f"/vms/{VC}"] = data("i-2")
    assert instance_id(driver) == "i-2"
    assert not holds(driver, old)
    assert holds(driver, lasting_token_of(driver))


def test_kept_answers_are_bounded(
    cmdb: Cmdb, make: Make, constants: Constants, peer: HttpPeer
) -> None:
    constants(drivers__stores__httpstore__MAX_KEPT_BYTES=2000)
    cmdb.documents[f"/vms/{VC}"] = json.dumps({"metadata": {}, "userdata": "#" * 3000})
    driver = make()
    for _ in range(2):
        assert driver.get_instance(WEB1)
    assert "if-none-match" not in peer.asked[-1].headers


@pytest.mark.parametrize(("query", "etag"), [("q" * 1500, '"e"'), ("q", '"' + "e" * 1500 + '"')])
def test_addresses_and_conditions_count_as_bytes(
    query: str, etag: str, cmdb: Cmdb, make: Make, constants: Constants, peer: HttpPeer
) -> None:
    constants(drivers__stores__httpstore__MAX_KEPT_BYTES=2000)
    driver = make(f"/vms/{{name}}?{query}")
    cmdb.failing = reply(data("i-1"), etag=etag)
    for _ in range(2):
        assert instance_id(driver) == "i-1"
    assert "if-none-match" not in peer.asked[-1].headers


# Layers and the list


def test_layers_lie_below(cmdb: Cmdb, make: Make) -> None:
    cmdb.headers = {"cache-control": "no-cache"}
    layers = [{"metadata": {"region": "low", "tags": {"a": "b"}}}, {"metadata": {"region": "high"}}]
    text = f"\ufeff{json.dumps(layers, indent=1)}"  # a mark with which some servers begin
    cmdb.documents |= {"/layers": text, f"/vms/{VC}": data("i-1")}
    driver = make(layers_url="/layers")
    found = driver.get_instance(WEB1)
    assert found
    assert found.metadata["region"] == "high"
    assert found.metadata["instance-id"] == "i-1"
    cmdb.documents["/layers"] = "[]"
    wait_until(lambda: "region" not in driver.get_instance(WEB1).metadata)  # type: ignore[union-attr]


@pytest.mark.parametrize(
    "body", ["{}", "[1", "x", "", "[" * 100_000, b"\xff", "[{}] x"], ids=lambda body: repr(body)[:9]
)
def test_layers_that_are_no_list_are_trouble(body: str | bytes, cmdb: Cmdb, make: Make) -> None:
    cmdb.headers = {"cache-control": "no-cache"}
    cmdb.documents |= {"/layers": "[]", f"/vms/{VC}": data("i-1")}
    driver = make(layers_url="/layers")
    cmdb.documents["/layers"] = body
    wait_until(lambda: "the layers are no JSON list" in trouble_of(driver))


def trouble_of(driver: StoreDriver) -> str:
    try:
        found = driver.get_instance(WEB1)
    except DriverError as error:
        return str(error)
    return found.problem if found else ""


def test_very_many_layers_are_a_fault_and_take_no_time(cmdb: Cmdb, make: Make) -> None:
    cmdb.headers = {"cache-control": "no-cache"}
    cmdb.documents |= {"/layers": "[" + "{}," * 1_000_000 + "{}]", f"/vms/{VC}": data("i-1")}
    driver = make(layers_url="/layers")
    with pytest.raises(InvalidInstanceData, match="101 layers, expected at most 100"):
        driver.get_instance(WEB1)


def test_answer_that_another_look_up_has_overtaken_is_not_kept(
    cmdb: Cmdb, make: Make, peer: HttpPeer
) -> None:
    """The older answer, which comes last, must not count as the present one."""
    cmdb.headers = {"cache-control": "max-age=60"}
    cmdb.documents[f"/vms/{VC}"] = data("i-1")
    driver = make()
    is_asked, may_answer = threading.Event(), threading.Event()

    def slowly(asked: Asked) -> Iterable[bytes]:
        answer = cmdb(asked)
        if not is_asked.is_set():
            is_asked.set()
            may_answer.wait(60)
        return answer

    with ThreadPoolExecutor() as threads:
        peer.answer = slowly
        older = threads.submit(token_of, driver)
        assert is_asked.wait(60)
        cmdb.documents[f"/vms/{VC}"] = data("i-2")
        newer = lasting_token_of(driver)
        may_answer.set()
        assert not holds(driver, older.result())
        assert not holds(driver, newer)  # which of both is the older one is not known


def test_missing_layers_are_trouble(cmdb: Cmdb, peer: HttpPeer) -> None:
    cmdb.documents[f"/vms/{VC}"] = data("i-1")
    options = {"url": peer.url + "/vms/{vc-uuid}", "layers-url": peer.url + "/layers"}
    with pytest.raises(DriverError, match="404 at the address of the layers"):
        StoreDriver.of(HttpStore, options).get_instance(WEB1)


def test_listed_vms_are_validated(cmdb: Cmdb, make: Make) -> None:
    other = VC.replace("1", "2")
    cmdb.documents |= {f"/vms/{VC}": data("i-1"), f"/vms/{other}": "metadata: [", "/list": "[]"}
    driver = make(list_url="/list")
    assert list(driver.validate()) == []
    cmdb.documents["/list"] = json.dumps([VC, other, VC.replace("1", "3")])
    (fault,) = driver.validate()
    assert fault.file.endswith(other)
    assert driver.revision() is None  # it is looked at again from time to time
    cmdb.documents["/list"] = "[1]"
    with pytest.raises(DriverError, match="list-url: expected a JSON list of texts"):
        list(driver.validate())


def test_layers_count_for_the_listed_vms(cmdb: Cmdb, make: Make) -> None:
    cmdb.documents |= {f"/vms/{VC}": data("i-1"), "/list": json.dumps([VC])}
    cmdb.documents["/layers"] = '[{"network": {"addres": "x"}}]'
    driver = make(list_url="/list", layers_url="/layers")
    assert {fault.file.partition("/layers ")[2] for fault in driver.validate()} == {"layer 1"}


def test_listed_vm_is_asked_for_once_as_it_is_looked_up(
    cmdb: Cmdb, make: Make, peer: HttpPeer
) -> None:
    cmdb.documents["/list"] = json.dumps(["a/b", "a%2Fb", "a%2fb", "c"])
    driver = make("/vms/{name}", list_url="/list")
    peer.asked.clear()
    assert list(driver.validate()) == []
    assert [asked.target for asked in peer.asked] == ["/list", "/vms/a%252fb", "/vms/c"]


def test_store_without_a_list_cannot_be_listed(make: Make) -> None:
    driver = make()
    assert not driver.can_validate
    with pytest.raises(DriverError, match="cannot list its records"):
        list(driver.validate())


# Addresses


@given(st.text())
def test_no_value_leaves_its_place(value: str) -> None:
    for url in (
        "https://h/a/{name}/b",
        "https://h/{name}",
        "https://h/a?x={name}&y",
        "https://h/.{name}",
    ):
        template = HttpTemplate.of(url)
        target = template.target(Key("name", value))
        if target is None:
            continue
        assert target.isascii()
        assert target.isprintable()
        assert target.startswith(template.before)
        inner = target.removeprefix(template.before).removesuffix(template.after)
        assert not set(inner) & set("/?#&=+ ;\\\"'<>")
        assert not {".", ".."} & set(target.partition("?")[0].split("/"))


@pytest.mark.parametrize("value", [".", "..", "\ud800"])
def test_value_that_has_no_place_is_not_asked_for(value: str) -> None:
    assert HttpTemplate.of("https://h/vms/{name}").target(Key("name", value)) is None


def test_slash_in_a_name_is_encoded_as_vcenter_writes_it() -> None:
    target = HttpTemplate.of("https://h/{name}.yaml").target(Key("name", "a%2fb c"))
    assert target == "/a%252fb%20c.yaml"


INVALID = {
    "no place": ({"url": "https://h/vms"}, r"an address with one of \{vc-uuid\}, \{bios-uuid\}, "),
    "unknown place": ({"url": "https://h/{uuid}"}, "an address with one of"),
    "two places": ({"url": "https://h/{name}/{vc-uuid}"}, "an address with one of"),
    "open place": ({"url": "https://h/{name}{"}, "an address with one of"),
    "place in the host": ({"url": "https://{name}/vms"}, "the name or the IP address of a host"),
    "place in the user": ({"url": "https://{name}@h/vms"}, "in the path or the query"),
    "another host": (
        {"url": "https://h/{name}", "layers-url": "https://i/layers"},
        "the same scheme, host, port",
    ),
    "the same identity": (
        {"url": "https://h/{name}", "more-urls": ["https://h/b/{name}"]},
        "another identity in each",
    ),
    "place in layers": (
        {"url": "https://h/{name}", "layers-url": "https://h/{name}"},
        "without { }",
    ),
    "cache_ttl": ({"url": "https://h/{name}", "cache_ttl": 3}, "cache_ttl"),
    "short key": (
        {"url": "https://h/{name}", "webhook-key-file": "/dev/null"},
        "webhook-key-file: /dev/null is not a regular file",
    ),
}


@pytest.mark.parametrize("case", INVALID)
def test_invalid_options_are_refused(case: str) -> None:
    options, reason = INVALID[case]
    with pytest.raises(DriverError, match=reason):
        StoreDriver.of(HttpStore, options)


# Webhooks


def signed(body: bytes, key: bytes = KEY) -> Webhook:
    signature = hmac.digest(key, body, "sha256").hex()
    return Webhook({"x-hub-signature-256": f"sha256={signature}"}, body)


@pytest.fixture
def key_file(tmp_path: Path) -> Path:
    path = tmp_path / "key"
    path.write_bytes(KEY + b"\n")
    return path


@pytest.mark.parametrize(
    ("body", "is_dropped"),
    [
        ({"all": True}, True),
        ({"vc-uuids": [VC]}, True),
        ({"vc-uuids": [VC.upper()], "names": ["other"]}, True),
        ({"vc-uuids": ["vm-123", VC], "bios-uuids": []}, True),
        ({"layers": True}, True),
        ({"names": ["other"]}, False),
        ({"names": ["other"] * 2000}, True),  # too many to tell apart
    ],
)
def test_signed_webhook_drops_what_it_names(
    body: dict[str, Any], is_dropped: bool, cmdb: Cmdb, make: Make, key_file: Path
) -> None:
    cmdb.headers = {"cache-control": "max-age=60"}
    cmdb.documents[f"/vms/{VC}"] = data("i-1")
    driver = make(webhook_key_file=str(key_file))
    token = lasting_token_of(driver)
    assert holds(driver, token)
    driver.hook(signed(json.dumps(body).encode()))
    assert holds(driver, token) is not is_dropped


@pytest.mark.parametrize(
    "webhook",
    [
        Webhook({}, b'{"all": true}'),
        Webhook({"x-hub-signature-256": ""}, b'{"all": true}'),
        Webhook({"x-hub-signature-256": "sha256="}, b'{"all": true}'),
        Webhook({"x-hub-signature-256": "0" * 64}, b'{"all": true}'),
        signed(b'{"all": true}', b"another key of 16"),
        Webhook(signed(b'{"all": true}').headers, b'{"all":true}'),
        Webhook({"x-hook-signature": signed(b"").headers["x-hub-signature-256"]}, b""),
    ],
)
def test_webhook_with_a_wrong_signature_is_refused(
    webhook: Webhook, cmdb: Cmdb, make: Make, key_file: Path
) -> None:
    cmdb.headers = {"cache-control": "max-age=60"}
    cmdb.documents[f"/vms/{VC}"] = data("i-1")
    driver = make(webhook_key_file=str(key_file))
    token = lasting_token_of(driver)
    with pytest.raises(WebhookRefusedError):
        driver.hook(webhook)
    assert holds(driver, token)
    assert taken(driver, webhook).status == 403


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{}",
        b"[]",
        b"x",
        b"\xff",
        b'{"all": false}',
        b'{"names": "a"}',
        b'{"names": [1]}',
        b'{"names": []}',
        b'{"vc-uuids": ["vm-123"]}',
        b'{"layers": 1}',
        b'{"vms": ["a"]}',
        b"[" * 90_000,
    ],
)
def test_signed_webhook_that_names_nothing_is_invalid(
    body: bytes, make: Make, key_file: Path
) -> None:
    driver = make(webhook_key_file=str(key_file))
    result = taken(driver, signed(body))
    assert result.status == 400
    assert 'must be {"all": true}' in result.text


NAMES_OF_HOOKS = st.sampled_from(["names", "vc-uuids", "layers", "all", "x"])
JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.text(),
    lambda some: st.lists(some) | st.dictionaries(NAMES_OF_HOOKS, some),
)


@given(st.binary(max_size=100) | JSON_VALUES.map(lambda value: json.dumps(value).encode()))
def test_any_signed_webhook_is_taken_or_invalid(keyed_store: HttpStore, body: bytes) -> None:
    try:
        keyed_store.hook(signed(body))
    except DriverError as error:
        text = str(error)
        assert 'must be {"all": true}' in text


@pytest.fixture(scope="module")
def keyed_store(tmp_path_factory: pytest.TempPathFactory) -> HttpStore:
    path = tmp_path_factory.mktemp("hooks") / "key"
    path.write_bytes(KEY)
    return HttpStore({"url": "http://h/{name}", "webhook-key-file": str(path)})


def test_webhooks_need_a_key(make: Make) -> None:
    driver = make()
    with pytest.raises(NoWebhooksError, match="set webhook-key-file"):
        driver.hook(signed(b'{"all": true}'))


def test_new_key_counts_at_once(make: Make, key_file: Path) -> None:
    driver = make(webhook_key_file=str(key_file))
    driver.hook(signed(b'{"all": true}'))
    key_file.write_bytes(b"another key of 16")
    assert taken(driver, signed(b'{"all": true}')).status == 403
    driver.hook(signed(b'{"all": true}', b"another key of 16"))
    key_file.unlink()
    assert taken(driver, signed(b'{"all": true}')).status == 503


# Credentials


def test_check_config_shows_no_credentials(tmp_path: Path) -> None:
    options = {
        "url": "https://user:s3cret-a@h/{name}?api_key=s3cret-b&x=shown",
        "headers": {"X-Team": "s3cret-c"},
    }
    config = tmp_path / "server.yaml"
    config.write_text(
        json.dumps({"uri": ["x"], "driver": STORE, "driver-opts": options, "admin-listen": "off"})
    )
    config.chmod(0o600)
    done = run("check-config", "--config", str(config))
    assert done.returncode == 0, done.stderr
    assert "s3cret" not in done.stdout + done.stderr
    assert "x=shown" in done.stdout
    assert "s3cret" not in repr(HttpStore(options).options)


def test_driver_without_its_extra_says_what_to_install(tmp_path: Path) -> None:
    (tmp_path / "urllib3.py").write_text("raise ModuleNotFoundError('no', name='urllib3')")
    options = json.dumps({"url": "https://h/{name}"})
    done = run(
        *("show", "web1", "--driver", STORE, "--driver-opts", options),
        env={"PYTHONPATH": str(tmp_path)},
    )
    assert done.returncode == 2
    expected = "the driver http needs the extra `http`: pip install 'vmw-cloudinit-metadata[http]'"
    assert expected in done.stderr

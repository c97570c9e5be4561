"""The NetBox store against a played NetBox: pages, webhooks, and what VMs get in its trouble."""

from __future__ import annotations

import hmac
import json
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing, suppress
from http.client import HTTPConnection
from pathlib import Path
from typing import Any

import pytest

from tests.fakenetbox import SECRET, TOKEN, FakeNetBox, recorded_webhooks
from tests.httppeer import reply
from tests.process import Constants, ServerProcess, run
from tests.test_admin import Admin
from tests.vm import Vm
from tests.waiting import wait_until
from vmw_cloudinit_metadata import Changes, DriverError, Key, Machine, StoreDriver
from vmw_cloudinit_metadata.drivers.catalogue import records
from vmw_cloudinit_metadata.drivers.drivererror import NoWebhooksError, WebhookRefusedError
from vmw_cloudinit_metadata.drivers.driveroptions import checked
from vmw_cloudinit_metadata.drivers.stores.httpextra import http_client
from vmw_cloudinit_metadata.drivers.stores.httpoptions import HttpOptions
from vmw_cloudinit_metadata.drivers.stores.netbox.following import Following
from vmw_cloudinit_metadata.drivers.stores.netbox.hookevent import Touched
from vmw_cloudinit_metadata.drivers.stores.netbox.inbox import Inbox
from vmw_cloudinit_metadata.drivers.stores.netbox.instancedata import Rules
from vmw_cloudinit_metadata.drivers.stores.netbox.mirror import Mirror
from vmw_cloudinit_metadata.drivers.stores.netbox.netboxstore import NetBoxStore
from vmw_cloudinit_metadata.drivers.stores.netbox.rounds import Rounds
from vmw_cloudinit_metadata.drivers.stores.netbox.vmreader import VmReader
from vmw_cloudinit_metadata.instance.fault import InvalidInstanceData
from vmw_cloudinit_metadata.protocol.webhook import Webhook
from vmw_cloudinit_metadata.testing import check_driver, machine

WEB1 = machine("web-ber-1", "42130a5c-1f2e-9d3b-5c77-0e1f2a3b4c5d")
VC = "11111111-2222-3333-4444-555555555555"  # not in NetBox
BARE, TWIN, STRANGER = (machine(name, VC) for name in ("bare", "twin", "stranger"))

Make = Callable[..., StoreDriver]


@pytest.fixture
def netbox(constants: Constants) -> Iterator[FakeNetBox]:
    place = "drivers__stores__netbox__"
    constants(
        **{f"{place}netboxstore__FIRST_RETRY_S": 0.05, f"{place}following__NEXT_PAGE_S": 0.05}
    )
    constants(drivers__stores__netbox__vmreader__READ_S=1.0)
    with FakeNetBox() as netbox:
        yield netbox


@pytest.fixture
def options(netbox: FakeNetBox, tmp_path: Path) -> dict[str, Any]:
    files = {"token-file": TOKEN, "webhook-key-file": SECRET}
    for name, text in files.items():
        (tmp_path / name).write_text(text)
        (tmp_path / name).chmod(0o600)
    return {"url": netbox.url, **{name: str(tmp_path / name) for name in files}}


@pytest.fixture
def make(options: dict[str, Any]) -> Iterator[Make]:
    """Makes a driver; it reads NetBox all the time unless `is_watched` is false."""
    made: list[StoreDriver] = []

    def make(*, is_watched: bool = True, **more: Any) -> StoreDriver:
        driver = StoreDriver.of(NetBoxStore, options | more)
        made.append(driver)
        if is_watched:
            driver.watch(reports.append)
            wait_until(lambda: is_ready(driver))
        return driver

    reports: list[str] = []
    yield make
    for driver in made:
        driver.close()


def is_ready(driver: StoreDriver) -> bool:
    try:
        driver.check()
    except DriverError:
        return False
    return True


def hook(body: str, key: str = SECRET) -> Webhook:
    signature = hmac.digest(key.encode(), body.encode(), "sha512").hex()
    return Webhook({"x-hook-signature": signature}, body.encode())


def changed(vm: dict[str, Any]) -> Webhook:
    data = {"id": int(vm["id"])}
    return hook(json.dumps({"object_type": "virtualization.virtualmachine", "data": data}))


def metadata(driver: StoreDriver, vm: Machine) -> Any:
    found = driver.get_instance(vm)
    return found and found.metadata


def cluster(driver: StoreDriver, vm: Machine = BARE) -> Any:
    found = metadata(driver, vm)
    return found and found["cluster"]


def test_store_keeps_the_contract(netbox: FakeNetBox, options: dict[str, Any]) -> None:
    del netbox.vms[10002]  # one of two that have the same name
    check_driver(NetBoxStore, options, [WEB1, BARE, machine("db/1", VC)], STRANGER)


def test_all_pages_are_read_even_if_netbox_makes_them_smaller(
    netbox: FakeNetBox, make: Make
) -> None:
    netbox.largest_page = 1
    for number in range(20_000, 20_050):
        netbox.add(number, name=f"vm-{number}")
    driver = make(is_watched=False)
    assert metadata(driver, WEB1)["instance-id"] == "web-ber-1-2026-01"
    for number in range(20_000, 20_050):
        assert metadata(driver, machine(f"vm-{number}"))
    assert driver.get_instance(STRANGER) is None
    assert [query["pagination"]["start"] for query in netbox.queries][-1] == 20_050


def test_two_virtual_machines_of_one_name_are_a_fault_that_names_both(make: Make) -> None:
    driver = make(is_watched=False)
    with pytest.raises(InvalidInstanceData) as raised:
        driver.get_instance(TWIN)
    assert "twin in cluster vcenter-1 (virtual machine 10002)" in str(raised.value)
    assert "twin in cluster vcenter-2 (virtual machine 10003)" in str(raised.value)
    assert len(list(driver.validate())) == 1


def test_values_are_explained_by_the_virtual_machine(make: Make) -> None:
    lines = list(make(is_watched=False).trace(WEB1))
    assert "metadata.rack: r7  # web-ber-1 in cluster vcenter-1 (virtual machine 10001)" in lines


def test_odd_virtual_machine_is_no_trouble_of_others(netbox: FakeNetBox, make: Make) -> None:
    netbox.called("spare")["config_context"] = {"cloud-init": {"metadata": {"n": 2**80}}}
    netbox.called("bare")["interface_count"] = 1  # NetBox's counters may be wrong
    driver = make(is_watched=False)
    assert metadata(driver, machine("spare", VC))["n"] == 2**80
    with pytest.raises(InvalidInstanceData, match="0 of 1 interfaces that the token may view"):
        driver.get_instance(BARE)
    assert driver.get_instance(WEB1)


def test_filter_is_in_each_query(netbox: FakeNetBox, make: Make) -> None:
    wanted = {"status": {"exact": "STATUS_ACTIVE"}}
    driver = make(filter=wanted)
    driver.hook(changed(netbox.called("bare")))
    wait_until(lambda: any(query["filters"] != wanted for query in netbox.queries))
    odd = next(query["filters"] for query in netbox.queries if query["filters"] != wanted)
    assert odd == {"id": {"in_list": [10005]}, "AND": wanted}


def test_check_reads_nothing_and_is_no_good_news_before_everything_is_read(
    netbox: FakeNetBox, options: dict[str, Any]
) -> None:
    driver = StoreDriver.of(NetBoxStore, options)
    driver.check()  # in a program that does not follow NetBox
    assert netbox.asked == []
    netbox.largest_page = 1
    for number in range(20_000, 20_300):
        netbox.add(number, name=f"vm-{number}")
    checked: list[bool] = []
    checking = threading.Thread(target=lambda: checked.append(is_ready(driver)))
    checking.start()  # before the driver is watched, as a server does
    driver.watch(lambda _: None)
    checking.join()
    assert checked == [False]
    wait_until(lambda: is_ready(driver))
    starts = [query["pagination"]["start"] for query in netbox.queries]
    assert starts.count(0) == 1
    driver.close()


@pytest.mark.parametrize(
    "ask",
    [lambda reader: reader.page(20_000, 1.0, 10), lambda reader: reader.these([20_000])],
    ids=["page", "these"],
)
def test_netbox_that_answers_with_others_than_asked_for_is_an_error(
    netbox: FakeNetBox, options: dict[str, Any], ask: Callable[[VmReader], object]
) -> None:
    """Reading on would never end."""
    everything = list(netbox.vms.values())
    netbox.failing = list(
        reply(json.dumps({"data": {**netbox.recorded["data"], "found": everything}}))
    )
    given = {name: options[name] for name in ("url", "token-file")}
    with (
        closing(http_client("netbox", checked(HttpOptions, given))) as client,
        pytest.raises(DriverError, match="virtual machines that were not asked for"),
    ):
        ask(VmReader(client, {}, Rules()))


# Changes


def test_webhook_has_a_virtual_machine_read_again(netbox: FakeNetBox, make: Make) -> None:
    driver = make(refresh_s=86_400)
    found = driver.get_instance(BARE)
    assert found
    assert next(driver.which_hold([found.token]))
    netbox.called("bare")["cluster"] = {"name": "other"}
    driver.hook(changed(netbox.called("bare")))
    wait_until(lambda: not next(driver.which_hold([found.token])))
    assert cluster(driver) == "other"


def test_virtual_machines_come_and_go_by_webhooks(netbox: FakeNetBox, make: Make) -> None:
    driver = make(refresh_s=86_400)
    assert driver.get_instance(STRANGER) is None
    stranger = netbox.add(20_000, name="stranger")
    driver.hook(changed(stranger))
    wait_until(lambda: driver.get_instance(STRANGER) is not None)
    stranger["name"] = "renamed"
    driver.hook(changed(stranger))
    wait_until(lambda: driver.get_instance(STRANGER) is None)
    assert driver.get_instance(machine("renamed"))
    del netbox.vms[20_000]
    driver.hook(changed(stranger))
    wait_until(lambda: driver.get_instance(machine("renamed")) is None)


def test_webhook_of_an_address_has_its_old_and_new_owner_read(
    netbox: FakeNetBox, make: Make
) -> None:
    make(refresh_s=86_400).hook(hook(recorded_webhooks()[2]["body"]))
    wait_until(lambda: any(query["filters"] for query in netbox.queries))
    filters = next(query["filters"] for query in netbox.queries if query["filters"])
    assert filters == {"id": {"in_list": [10001, 10006]}}


def test_webhook_of_a_config_context_has_everything_read(netbox: FakeNetBox, make: Make) -> None:
    driver = make(refresh_s=86_400)
    for vm in netbox.vms.values():
        vm["config_context"] = {"cloud-init": {"metadata": {"layer": 3}}}
    driver.hook(hook(recorded_webhooks()[9]["body"]))
    wait_until(lambda: metadata(driver, WEB1)["layer"] == 3)
    wait_until(lambda: metadata(driver, machine("spare"))["layer"] == 3)


def test_change_without_a_webhook_is_seen_by_reading_on(netbox: FakeNetBox, make: Make) -> None:
    driver = make(refresh_s=1)
    netbox.called("bare")["cluster"] = {"name": "other"}
    netbox.add(20_000, name="stranger")
    wait_until(lambda: cluster(driver) == "other" and driver.get_instance(STRANGER))


@pytest.mark.parametrize(
    "webhook",
    [
        Webhook({}, b"{}"),
        Webhook({"x-hook-signature": "0" * 128}, b"{}"),
        Webhook(hook("{}").headers, b"{ }"),
        hook("{}", key="the key of somebody else"),
    ],
    ids=["unsigned", "wrong", "other-body", "other-key"],
)
def test_webhook_with_a_wrong_signature_is_refused(
    webhook: Webhook, netbox: FakeNetBox, make: Make
) -> None:
    driver = make(is_watched=False)
    with pytest.raises(WebhookRefusedError):
        driver.hook(webhook)
    assert netbox.asked == []


def test_webhook_that_is_no_json_is_an_error_and_without_a_key_there_are_none(make: Make) -> None:
    with pytest.raises(DriverError, match="the body of the webhook must be JSON"):
        make(is_watched=False).hook(hook("{"))
    with pytest.raises(NoWebhooksError, match="set webhook-key-file"):
        make(is_watched=False, **{"webhook-key-file": None}).hook(hook("{}"))


# Doubt


MANY = range(20_000, 20_300)  # ids: they take many pages


def fill(netbox: FakeNetBox) -> Machine:
    """Let NetBox have many virtual machines, in small pages; return the last one."""
    netbox.largest_page = 1
    for number in MANY:
        netbox.add(number, name=f"vm-{number}")
    return machine(f"vm-{MANY[-1]}", VC)


def change(netbox: FakeNetBox) -> None:
    """Change all virtual machines, as a config context or a renamed cluster does."""
    for vm in netbox.vms.values():
        vm["cluster"] = {"name": "other"}


def pages_to_last(netbox: FakeNetBox, since: int) -> list[int]:
    starts = (query["pagination"].get("start", 0) for query in netbox.queries[since:])
    return [start for start in starts if start >= MANY[-1]]


def test_vm_that_asks_after_a_config_context_has_changed_does_not_wait_for_all(
    netbox: FakeNetBox, make: Make
) -> None:
    last = fill(netbox)
    driver = make(refresh_s=86_400)
    found = driver.get_instance(last)
    assert found
    change(netbox)
    before = len(netbox.queries)
    driver.hook(hook(recorded_webhooks()[9]["body"]))
    wait_until(lambda: not next(driver.which_hold([found.token])))
    assert cluster(driver, last) == "other"
    wait_until(lambda: pages_to_last(netbox, before))  # the others are read all the same


def test_vms_that_ask_after_an_outage_get_what_is_new(netbox: FakeNetBox, make: Make) -> None:
    last = fill(netbox)
    driver = make(refresh_s=86_400)
    netbox.failing = reply("", "502 Bad Gateway")
    driver.hook(changed(netbox.called("bare")))
    wait_until(lambda: not is_ready(driver))
    change(netbox)
    netbox.add(30_000, name="new")
    netbox.failing = None
    wait_until(lambda: is_ready(driver))
    assert cluster(driver, last) == "other"
    assert metadata(driver, machine("new", VC))


class Told(Changes):
    def __init__(self) -> None:
        self.told: list[object] = []

    def connected(self, silence_s: float = 0) -> None:
        raise NotImplementedError

    def alive(self) -> None:
        raise NotImplementedError

    def changed(self, keys: Iterable[tuple[str, str]]) -> None:
        self.told.append(set(keys))

    def everything(self) -> None:
        self.told.append("everything")

    def lost(self, reason: object) -> None:
        raise NotImplementedError


def test_named_ones_come_before_pages_and_pages_come_too(
    netbox: FakeNetBox, options: dict[str, Any], constants: Constants
) -> None:
    constants(drivers__stores__netbox__following__QUIET_S=60.0)
    fill(netbox)
    netbox.largest_page = 100
    given = {name: options[name] for name in ("url", "token-file")}
    inbox, mirror, told = Inbox(), Mirror(), Told()
    with closing(http_client("netbox", checked(HttpOptions, given))) as client:
        rounds = Rounds(VmReader(client, {}, Rules()), mirror)
        following = Following(rounds, inbox, mirror, 86_400)
        while not mirror.is_whole:
            following.turn(told)
        change(netbox)
        inbox.put(Touched(all=True))
        inbox.put(Touched(frozenset({MANY[-1]})))
        before = len(netbox.queries)
        following.turn(told)  # the last page is long ago, or was a moment ago
        first, *pages = netbox.queries[before:]
        assert MANY[-1] in first["filters"]["id"]["in_list"]
        assert len(first["filters"]["id"]["in_list"]) == 20  # others in doubt as well
        assert told.told[-1 - len(pages) - 1] == "everything"
        assert Key("name", f"vm-{MANY[-1]}") in told.told[-1 - len(pages)]
        constants(drivers__stores__netbox__following__BUSY_PAGE_S=0.0)
        following.turn(told)
        assert netbox.queries[-1]["pagination"]["limit"] == 20  # a small one, since others may ask
        constants(drivers__stores__netbox__following__QUIET_S=0.0)
        while rounds.is_behind:
            following.turn(told)
        assert mirror.in_doubt([Key("name", "bare")]) is None


def test_vm_is_not_found_only_after_an_outage_once_all_is_read(
    netbox: FakeNetBox, make: Make, constants: Constants
) -> None:
    constants(drivers__stores__netbox__netboxstore__ASKED_S=0.0)
    fill(netbox)
    driver = make(refresh_s=86_400)
    netbox.failing = reply("", "502 Bad Gateway")
    driver.hook(changed(netbox.called("bare")))
    wait_until(lambda: not is_ready(driver))
    netbox.failing = None
    before = len(netbox.queries)
    wait_until(lambda: is_ready(driver))
    with pytest.raises(DriverError, match="its virtual machines are read again"):
        driver.get_instance(STRANGER)
    wait_until(lambda: pages_to_last(netbox, before) and is_unknown(driver, STRANGER))


def is_unknown(driver: StoreDriver, vm: Machine) -> bool:
    with suppress(DriverError):
        return driver.get_instance(vm) is None
    return False


def test_answer_of_a_virtual_machine_in_doubt_is_not_kept(
    netbox: FakeNetBox, make: Make, constants: Constants
) -> None:
    """Nobody waits, as when too many others do."""
    constants(drivers__stores__netbox__netboxstore__MOST_ASKING=0)
    last = fill(netbox)
    driver = make(refresh_s=86_400)

    def is_kept() -> bool:
        found = driver.get_instance(last)
        assert found
        return found.token is not None and next(driver.which_hold([found.token]))

    assert is_kept()
    netbox.page_s = 0.02
    change(netbox)
    driver.hook(hook(recorded_webhooks()[9]["body"]))
    wait_until(lambda: not is_kept())
    wait_until(is_kept)  # it is read all the same
    assert cluster(driver, last) == "other"


def test_answer_is_prepared_once_the_catalogue_has_read_the_same(
    netbox: FakeNetBox, make: Make
) -> None:
    server, process = make(refresh_s=86_400), make(refresh_s=1)
    answers, preparing = server.prepared, process.prepared
    assert answers
    assert preparing
    answers.limit_bytes = 1024 * 1024

    def hear(line: bytes) -> None:
        record: Any = records.decode(line.removesuffix(b"\n"))
        answers.take(record)

    def prepared() -> Any:
        found = answers.find(BARE, time.monotonic())
        return found and found.metadata["cluster"]

    def is_prepared(name: str) -> bool:
        list(process.survey())
        return bool(prepared() == name)

    preparing.prepare(hear, answers.limit_bytes)
    assert is_prepared("vcenter-1")
    netbox.called("bare")["cluster"] = {"name": "other"}
    server.hook(changed(netbox.called("bare")))
    wait_until(lambda: cluster(server) == "other")
    assert prepared() != "vcenter-1"
    wait_until(lambda: is_prepared("other"))


# Trouble


@pytest.mark.parametrize(
    "failing",
    [
        reply("", "502 Bad Gateway"),
        reply('{"data": null, "errors": [{"message": "no"}]}'),
        reply('{"data": {"found": []}}'),
        [b"HTTP/1.1 200 OK\r\ncontent-length: 99\r\n\r\n{"],
        [b"nonsense\r\n\r\n"],
    ],
    ids=["status", "errors", "nothing-seen", "cut", "nonsense"],
)
def test_mirror_is_served_while_netbox_is_away_and_nothing_is_not_found(
    failing: list[bytes], netbox: FakeNetBox, make: Make
) -> None:
    driver = make()
    assert driver.get_instance(STRANGER) is None
    netbox.failing = failing
    wait_until(lambda: not is_ready(driver))
    with pytest.raises(DriverError, match=rf"NetBox at {netbox.url} is out of reach since 2"):
        driver.check()
    assert cluster(driver) == "vcenter-1"
    with pytest.raises(DriverError, match="is out of reach since"):
        driver.get_instance(STRANGER)
    netbox.called("bare")["cluster"] = {"name": "other"}
    netbox.failing = None
    wait_until(lambda: is_ready(driver))
    assert cluster(driver) == "other"
    assert driver.get_instance(STRANGER) is None


def test_mirror_is_served_for_so_long_only(netbox: FakeNetBox, make: Make) -> None:
    driver = make(max_age_s=0, last_good_max_age_s=0)
    assert driver.get_instance(BARE)
    netbox.stop()
    wait_until(lambda: not is_ready(driver))
    with pytest.raises(DriverError, match="connection refused"):
        driver.get_instance(BARE)


@pytest.mark.parametrize(
    ("kind", "text"),
    [
        ("virtual_machine_list", "no virtual machine is seen"),
        ("ip_address_list", "let the token's user view all ipam/ip-addresses: none is seen"),
        ("site_list", "let the token's user view all dcim/sites: none is seen"),
    ],
)
def test_permission_that_is_taken_away_changes_no_answer(
    kind: str, text: str, netbox: FakeNetBox, make: Make
) -> None:
    driver = make()
    before = driver.get_instance(WEB1)
    netbox.hidden = {kind}
    for vm in netbox.vms.values():  # as NetBox shows them then
        vm.update(site=None, primary_ip4=None, primary_ip6=None)
    wait_until(lambda: not is_ready(driver))
    with pytest.raises(DriverError, match=text):
        driver.check()
    after = driver.get_instance(WEB1)
    assert before
    assert after
    assert (before.metadata, before.network) == (after.metadata, after.network)


def test_kind_of_which_there_are_none_needs_no_permission_twice(
    netbox: FakeNetBox, make: Make
) -> None:
    netbox.recorded["data"]["tenant_list"] = []
    driver = make(is_watched=False)
    assert driver.get_instance(BARE)
    assert [one.target for one in netbox.asked if one.method == "GET"] == [
        "/api/tenancy/tenants/?limit=1&fields=id"
    ]


def test_token_that_is_refused_is_said_without_the_token(make: Make, options: Any) -> None:
    Path(options["token-file"]).write_text("nbt_secret.secret")
    with pytest.raises(DriverError, match="found the HTTP status 403: check the token") as raised:
        make(is_watched=False).get_instance(BARE)
    assert "secret" not in str(raised.value)


def test_vms_wait_for_the_first_round(netbox: FakeNetBox, options: dict[str, Any]) -> None:
    """Half of the virtual machines could be the wrong ones: of two of a name one is not found."""
    netbox.failing = reply("", "503 Service Unavailable")
    driver = StoreDriver.of(NetBoxStore, options)
    driver.watch(lambda _: None)
    wait_until(lambda: len(netbox.asked) > 2)
    with pytest.raises(DriverError, match="is out of reach since"):
        driver.get_instance(BARE)
    netbox.failing = None
    wait_until(lambda: is_ready(driver))
    assert driver.get_instance(BARE)
    driver.close()


def test_netbox_that_hangs_is_noticed(netbox: FakeNetBox, make: Make, constants: Constants) -> None:
    constants(drivers__stores__netbox__vmreader__READ_S=0.2)
    driver = make()
    netbox.failing = [b"HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\n"]
    begun_s = time.monotonic()
    wait_until(lambda: not is_ready(driver))
    assert time.monotonic() - begun_s < 10
    assert cluster(driver) == "vcenter-1"


@pytest.mark.parametrize(
    ("option", "value", "fault"),
    [
        ("gateway", "middle", "gateway: found 'middle', expected"),
        ("refresh_s", 0, "refresh_s: found"),
        ("filter", "tag", "filter: found"),
        ("url", "netbox", "url: found"),
    ],
)
def test_wrong_option_is_an_error(
    option: str, value: Any, fault: str, options: dict[str, Any]
) -> None:
    with pytest.raises(DriverError) as raised:
        StoreDriver.of(NetBoxStore, options | {option: value})
    assert fault in str(raised.value)


# A whole server

STORE = "vmw_cloudinit_metadata.drivers.stores.netbox.netboxstore:NetBoxStore"


def test_driver_without_its_extra_says_what_to_install(tmp_path: Path) -> None:
    (tmp_path / "urllib3.py").write_text("raise ModuleNotFoundError('no', name='urllib3')")
    words = ("--driver", STORE, "--driver-opts", '{"url": "http://127.0.0.1:1"}')
    done = run("show", "web1", *words, env={"PYTHONPATH": str(tmp_path)})
    assert done.returncode == 2
    extra = "pip install 'vmw-cloudinit-metadata[http]'"
    assert f"the driver netbox needs the extra `http`: {extra}" in done.stderr


def send(admin: Admin, webhook: Webhook) -> int:
    connection = HTTPConnection(admin.host, admin.port, timeout=60)
    connection.request("POST", "/hooks/changes", webhook.body, dict(webhook.headers))
    status = connection.getresponse().status
    connection.close()
    return status


@pytest.mark.slow
def test_server_serves_the_mirror_and_says_since_when_netbox_is_away(
    netbox: FakeNetBox, options: dict[str, Any], start: Callable[..., ServerProcess]
) -> None:
    admin = Admin(start("--driver", STORE, driver_opts=options))
    wait_until(lambda: admin.status("/readyz") == 200)

    def layer() -> Any:
        with closing(Vm(admin.server.port, "web-ber-1", vc_uuid=WEB1.vc_uuid)) as vm:
            return vm.metadata()["layer"]

    assert layer() == 2
    web = netbox.called("web-ber-1")
    web["config_context"] = {"cloud-init": {"metadata": {"layer": 7}}}
    assert send(admin, hook("{}", key="the key of somebody else")) == 403
    assert admin.metric("vmw_metadata_webhooks_total", outcome="refused") == 1
    assert send(admin, changed(web)) == 200
    wait_until(lambda: layer() == 7)
    netbox.stop()
    wait_until(lambda: admin.status("/readyz") == 503)
    problem = admin.request("/readyz")[1].decode()
    assert f"because of NetBox at {netbox.url}" in problem
    assert f"NetBox at {netbox.url} is out of reach since 2" in str(admin.json("/api/status"))
    assert layer() == 7
    netbox.start()
    wait_until(lambda: admin.status("/readyz") == 200)
    assert layer() == 7

"""etcd as a store, with the real etcd: keys, changes, members that hang or are gone, users, TLS."""

from __future__ import annotations

import os
import re
import ssl
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from itertools import count
from pathlib import Path
from typing import Any

import pytest

from tests.certificates import make_pair
from tests.process import CHECKOUT, Constants, ServerProcess
from tests.servers.etcdbackend import LOCALHOST, PREFIX, EtcdBackend, EtcdCluster, base64
from tests.storm import free_port
from tests.vm import Vm
from tests.waiting import wait_until
from vmw_cloudinit_metadata import LAYERS, DriverError, Key, Machine, StoreDriver
from vmw_cloudinit_metadata.drivers.stores.etcd import gateway
from vmw_cloudinit_metadata.drivers.stores.etcd.etcdstore import EtcdStore
from vmw_cloudinit_metadata.drivers.stores.etcd.keyspace import Keyspace
from vmw_cloudinit_metadata.drivers.stores.etcd.members import CompactedError, Members
from vmw_cloudinit_metadata.drivers.stores.httpclient import HttpClient
from vmw_cloudinit_metadata.drivers.stores.httpoptions import HttpOptions
from vmw_cloudinit_metadata.testing import check_driver, machine

pytestmark = pytest.mark.slow

VC = "01234567-89ab-cdef-fedc-ba9876543210"
WEB1 = Machine(name="web1", vc_uuid=VC)
SERVED_S = 1.0  # a change is told within this

Make = Callable[..., StoreDriver]


@pytest.fixture(scope="module")
def shared() -> Iterator[EtcdBackend]:
    with EtcdBackend() as backend:
        yield backend


@pytest.fixture
def etcd(shared: EtcdBackend) -> EtcdBackend:
    """The server of all tests that leave it as it was, without keys."""
    shared.clear()
    return shared


@pytest.fixture
def driver_of() -> Iterator[Make]:
    """Makes drivers whose listeners are connected."""
    made: list[StoreDriver] = []

    def make(backend: EtcdBackend, **options: Any) -> StoreDriver:
        driver = StoreDriver.of(EtcdStore, {**backend.options, **options})
        made.append(driver)
        driver.watch(lambda _: None)
        wait_until(lambda: driver.revision() is not None)
        return driver

    yield make
    for driver in made:
        driver.close()


def put(backend: EtcdBackend, name: str, version: object) -> None:
    backend.put_keys({f"{PREFIX}/{name}": f"metadata: {{version: {version}}}"})


def version_of(driver: StoreDriver, vm: Machine = WEB1) -> Any:
    found = driver.get_instance(vm)
    return found and found.metadata.get("version")


class Kept:
    """What a server keeps of a VM: its answer, for as long as the driver says that it holds."""

    def __init__(self, driver: StoreDriver, vm: Machine = WEB1) -> None:
        self._driver, self._vm = driver, vm
        self._token: Any = None
        self._version: Any = None

    def version(self) -> Any:
        is_kept = self._token is not None and self._driver.held_at(self._token, time.monotonic())
        if not is_kept:
            found = self._driver.get_instance(self._vm)
            self._version = found and found.metadata.get("version")
            self._token = found.token if found else None
        return self._version

    def is_kept(self) -> bool:
        self.version()
        return self._token is not None

    def becomes(self, version: object, limit_s: float = SERVED_S) -> None:
        wait_until(lambda: self.version() == version, limit_s)


# Keys


def test_store_keeps_the_contract_of_drivers(etcd: EtcdBackend) -> None:
    put(etcd, "web1", 1)
    check_driver(EtcdStore, etcd.options, [machine("web1", VC)], machine("no-such-vm"))


def test_keys_are_vms_and_layers_and_nothing_else(etcd: EtcdBackend, driver_of: Make) -> None:
    put(etcd, "web1", "by-name")
    put(etcd, "ci%2fbuild", "with-a-slash")
    etcd.put_keys(
        {
            f"{PREFIX}/layers/20-b": "metadata: {layer: b}",
            f"{PREFIX}/layers/10-a": "metadata: {layer: a, tags: [all]}",
            f"{PREFIX}/layers": "metadata: {version: of-a-vm}",
            f"{PREFIX}/sub/web1": "metadata: {version: wrong}",
            f"{PREFIX}/.web1": "metadata: {version: wrong}",
            f"{PREFIX}/{VC.upper()}": "metadata: {version: wrong}",
            f"{PREFIX}2/web1": "metadata: {version: wrong}",
            PREFIX: "metadata: {version: wrong}",
            f"{PREFIX}/".encode() + b"\xff": "metadata: {version: wrong}",
        }
    )
    driver = driver_of(etcd)
    found = driver.get_instance(WEB1)
    assert found
    assert found.metadata == {"version": "by-name", "layer": "b", "tags": ["all"]}
    assert found.sources == ("/vms/web1", "/vms/layers/20-b", "/vms/layers/10-a")
    assert version_of(driver, Machine(name="ci/build")) == "with-a-slash"
    assert version_of(driver, Machine(name="layers")) == "of-a-vm"
    assert driver.get_instance(Machine(name="web2")) is None
    assert driver.explain(Machine(name="web2")) == (
        f"no record named 'web2' in /vms/ of etcd at {etcd.urls[0]}"
    )
    unusable = [fault.file for fault in driver.validate()]
    assert unusable == ["/vms/.web1", f"/vms/{VC.upper()}", "/vms/sub/web1", "/vms/\\xff"]
    put(etcd, VC, "by-uuid")
    Kept(driver).becomes("by-uuid")


def test_all_keys_are_listed_in_pages_of_one_revision(
    etcd: EtcdBackend, constants: Constants
) -> None:
    constants(
        drivers__stores__etcd__etcdstore__PAGE_KEYS=7,
        drivers__stores__etcd__members__MAX_ANSWER_BYTES=20_000,
    )
    names = [f"vm{number:03}" for number in range(60)]
    etcd.put_keys({f"{PREFIX}/{name}": "x" * 50 for name in names})
    etcd.put_keys({f"{PREFIX}/vm030": "x" * 9000, f"{PREFIX}/vm031": "x" * 9000})
    listed = []
    for record in EtcdStore(etcd.options).all():
        listed.append(record.key)
        if len(listed) == 20:
            put(etcd, "vm999", "too late")
    assert listed == [Key("name", name) for name in names]
    etcd.put_keys({f"{PREFIX}/vm031": "x" * 20_000})
    with pytest.raises(DriverError, match="more than 20,000 bytes"):
        list(EtcdStore(etcd.options).all())


def test_store_without_its_list_at_one_revision_says_so(
    etcd: EtcdBackend, constants: Constants
) -> None:
    constants(drivers__stores__etcd__etcdstore__PAGE_KEYS=1)
    put(etcd, "web1", 1)
    put(etcd, "web2", 1)
    records = EtcdStore(etcd.options).all()
    next(records)
    put(etcd, "web2", 2)
    compact(etcd)
    with pytest.raises(DriverError, match="required revision has been compacted"):
        next(records)


# Changes


def test_each_change_is_told(etcd: EtcdBackend, driver_of: Make) -> None:
    kept = Kept(driver_of(etcd))
    assert kept.version() is None
    put(etcd, "web1", 1)
    kept.becomes(1)
    wait_until(kept.is_kept)
    etcd.delete("web1")
    kept.becomes(None)
    put(etcd, "web1", 2)
    kept.becomes(2)
    put(etcd, VC, 3)  # a key of a higher rank, which had no record
    kept.becomes(3)
    etcd.put_layer("10-all", {"metadata": {"version": "layer", "more": 1}})
    etcd.put_keys({f"{PREFIX}/{VC}": "metadata: {}"})
    kept.becomes("layer")


def test_changes_of_one_transaction_are_all_told(etcd: EtcdBackend, driver_of: Make) -> None:
    driver = driver_of(etcd)
    vms = [Kept(driver, Machine(name=f"vm{number}")) for number in range(100)]
    for version in (1, 2):
        values = {
            f"{PREFIX}/vm{number}": f"metadata: {{version: {version}}}" for number in range(100)
        }
        etcd.put_keys(values)
        for vm in vms:
            vm.becomes(version)


def test_record_of_a_lease_that_expires_is_gone(etcd: EtcdBackend, driver_of: Make) -> None:
    lease = etcd.ask("/v3/lease/grant", {"TTL": "1"})["ID"]
    key, value = base64(f"{PREFIX}/web1"), base64("metadata: {version: 1}")
    etcd.ask("/v3/kv/put", {"key": key, "value": value, "lease": lease})
    kept = Kept(driver_of(etcd))
    kept.becomes(1)
    kept.becomes(None, 30)


def test_large_values_are_told_and_served(etcd: EtcdBackend, driver_of: Make) -> None:
    kept = Kept(driver_of(etcd))
    for version in range(3):
        text = f"metadata: {{version: {version}}}\nuserdata: {'x' * 1_000_000}\n"
        etcd.put_keys({f"{PREFIX}/web1": text})
        kept.becomes(version)


def test_no_older_value_follows_in_a_storm_of_changes(etcd: EtcdBackend, driver_of: Make) -> None:
    """Other keys change too, watches end and begin, and history is compacted."""
    kept = Kept(driver_of(etcd))
    newest = -1
    end_s = time.monotonic() + 3
    for version in count():
        put(etcd, "web1", version)
        etcd.put_keys({"/other": str(version)})
        if version % 500 == 0:
            compact(etcd)
        seen = kept.version()
        assert seen >= newest
        newest = seen
        if version % 10 == 0:
            kept.becomes(version)
        if time.monotonic() > end_s:
            break


def compact(etcd: EtcdBackend) -> None:
    revision = etcd.ask("/v3/kv/range", {"key": base64("x")})["header"]["revision"]
    etcd.ask("/v3/kv/compaction", {"revision": revision, "physical": True})


def test_watch_of_a_compacted_revision_is_an_error_of_its_own(etcd: EtcdBackend) -> None:
    put(etcd, "web1", 1)
    put(etcd, "web1", 2)
    compact(etcd)
    client = HttpClient(HttpOptions(url=etcd.urls[0]))
    question = gateway.question_of_watch(Keyspace(PREFIX).all, 1)
    watching = Members([client], None, "").watch(question, max_bytes=10_000, silence_s=60)
    with watching as messages, pytest.raises(CompactedError):
        list(messages)


# A server that hangs, dies, and comes back as it was before


@pytest.fixture
def own() -> Iterator[EtcdBackend]:
    """A server of this test alone."""
    with EtcdBackend() as backend:
        yield backend


def test_server_that_hangs_is_noticed_and_its_changes_told_afterwards(
    own: EtcdBackend, driver_of: Make
) -> None:
    put(own, "web1", 1)
    driver = driver_of(own)
    kept = Kept(driver)
    assert kept.version() == 1
    token = driver.get_instance(WEB1).token  # type: ignore[union-attr]
    own.stop()
    wait_until(lambda: not driver.held_at(token, time.monotonic()), 2 * SERVED_S)
    with pytest.raises(DriverError, match=r"no whole answer within 2\.5 s"):
        driver.check()
    assert version_of(driver) == 1  # the last good answer
    with pytest.raises(DriverError):
        version_of(driver, Machine(name="web2", vc_uuid=VC.replace("0", "1")))
    own.cont()
    wait_until(lambda: driver.revision() is not None, 5)
    put(own, "web1", 2)
    kept.becomes(2)


def test_server_that_is_killed_is_asked_again_once_it_is_back(
    own: EtcdBackend, driver_of: Make
) -> None:
    put(own, "web1", 1)
    driver = driver_of(own)
    kept = Kept(driver)
    assert kept.version() == 1
    own.kill()
    wait_until(lambda: driver.revision() is None, 2 * SERVED_S)
    assert kept.version() == 1  # the last good answer
    with pytest.raises(DriverError, match="connection refused"):
        driver.check()
    own.start()
    put(own, "web1", 2)
    kept.becomes(2)
    wait_until(lambda: driver.revision() is not None, 5)
    put(own, "web1", 3)
    kept.becomes(3)


def test_backup_that_takes_the_place_of_the_cluster_is_served(
    own: EtcdBackend, driver_of: Make
) -> None:
    """Its revisions are older ones: a watch of a later one would tell nothing."""
    put(own, "web1", 1)
    member = own.members[0]
    backup, data = member.directory / "backup", member.directory / "data"
    member.daemon.run("etcdctl", "--endpoints", own.urls[0], "snapshot", "save", backup)
    for version in range(2, 50):
        put(own, "web1", version)
    driver = driver_of(own)
    kept = Kept(driver)
    assert kept.version() == 49
    own.kill()
    data.rename(member.directory / "before")
    member.daemon.run(
        *("etcdctl", "snapshot", "restore", backup, "--data-dir", data, "--name", member.name),
        *("--initial-cluster", member.peer),
        *("--initial-advertise-peer-urls", f"http://{LOCALHOST}:{member.peer_port}"),
    )
    own.start()
    kept.becomes(1, 30)
    wait_until(lambda: driver.revision() is not None)
    put(own, "web1", "new")
    kept.becomes("new")


# A cluster


def test_cluster_goes_on_without_the_member_that_is_asked(driver_of: Make) -> None:
    with EtcdCluster() as cluster:
        put(cluster, "web1", 1)
        driver = driver_of(cluster)
        kept = Kept(driver)
        assert kept.version() == 1
        for version, member in enumerate(cluster.members, 2):
            member.daemon.stop() if version % 2 else member.daemon.kill()
            wait_until(lambda: _is_written(cluster, version))  # noqa: B023 - it is called at once
            kept.becomes(version, 5)
            if version % 2:
                member.daemon.cont()
            cluster.start()
            assert kept.version() == version
        wait_until(kept.is_kept)
        token = driver.get_instance(WEB1).token  # type: ignore[union-attr]
        for member in cluster.members[1:]:  # the first one is alone, and may know nothing new
            member.daemon.stop()
        wait_until(lambda: not driver.held_at(token, time.monotonic()), 2 * SERVED_S)
        for member in cluster.members[1:]:
            member.daemon.cont()


def _is_written(cluster: EtcdCluster, version: int) -> bool:
    try:
        put(cluster, "web1", version)
    except OSError:
        return False
    return True


# Users and certificates


def test_user_is_known_by_password_also_when_tokens_expire_or_are_forgotten(
    driver_of: Make,
) -> None:
    class WithUsers(EtcdBackend):
        arguments = ("--auth-token-ttl", "1")

    with WithUsers() as etcd:
        options = {"user": "vmw", "password": "hunter2"}
        put(etcd, "web1", 1)
        before = driver_of(etcd, **options)
        assert version_of(before) == 1  # as nobody asks for a password
        enable_users(etcd)
        driver = driver_of(etcd, **options)
        kept = Kept(driver)
        for version in (2, 3):
            etcd.token = token_of_root(etcd)
            put(etcd, "web1", version)
            kept.becomes(version)
            assert version_of(before) == version
        silent = EtcdStore({**etcd.options, **options})
        assert list(silent.fetch([Key("name", "web1"), LAYERS]))
        time.sleep(2.5)  # its token expires, as it asks nothing
        assert list(silent.fetch([Key("name", "web1"), LAYERS]))
        etcd.token = ""
        etcd.kill()  # it forgets all tokens
        etcd.start()
        wait_until(lambda: kept.version() == 3 and driver.revision() is not None)
        for wrong, reason in (
            ({"user": "vmw", "password": "hunter3"}, "check the options user and password"),
            ({}, "set the options user and password"),
            ({**options, "prefix": "/others"}, "let the user's role read all keys"),
        ):
            with pytest.raises(DriverError, match=reason) as raised:
                EtcdStore({**etcd.options, **wrong}).check()
            assert "hunter" not in str(raised.value)


def enable_users(etcd: EtcdBackend) -> None:
    everything = {"key": base64(f"{PREFIX}/"), "range_end": base64(f"{PREFIX}0")}
    for path, question in (
        ("user/add", {"name": "root", "password": "rootpw"}),
        ("role/add", {"name": "root"}),
        ("user/grant", {"user": "root", "role": "root"}),
        ("user/add", {"name": "vmw", "password": "hunter2"}),
        ("role/add", {"name": "reads-vms"}),
        ("role/grant", {"name": "reads-vms", "perm": {"permType": "READ", **everything}}),
        ("user/grant", {"user": "vmw", "role": "reads-vms"}),
        ("enable", {}),
    ):
        etcd.ask(f"/v3/auth/{path}", question)


def token_of_root(etcd: EtcdBackend) -> str:
    etcd.token = ""
    found = etcd.ask("/v3/auth/authenticate", {"name": "root", "password": "rootpw"})["token"]
    assert isinstance(found, str)
    return found


class WithTls(EtcdBackend):
    """It knows its clients by their certificate."""

    scheme = "https"
    host = "localhost"

    def __init__(self, openssl: str) -> None:
        super().__init__()
        self.ours = make_pair(openssl, self.directory, "vmw")
        self.theirs = make_pair(openssl, self.directory, self.host)
        self.theirs.key.chmod(0o644)  # an unprivileged user reads it
        # etcd's gateway is a client of etcd itself, with etcd's own certificate.
        trusted = self.directory / "trusted"
        trusted.write_bytes(b"".join(p.certificate.read_bytes() for p in (self.ours, self.theirs)))
        self.arguments = (
            *("--cert-file", str(self.theirs.certificate), "--key-file", str(self.theirs.key)),
            *("--client-cert-auth", "--trusted-ca-file", str(trusted)),
        )
        self.tls = ssl.create_default_context(cafile=self.theirs.certificate)
        self.tls.load_cert_chain(self.ours.certificate, self.ours.key)

    @property
    def certificates(self) -> dict[str, str]:
        return {
            "ca-file": str(self.theirs.certificate),
            "client-certificate-file": str(self.ours.certificate),
            "client-key-file": str(self.ours.key),
        }


def test_members_and_clients_are_known_by_certificates(
    driver_of: Make, program: Callable[[str, str], str]
) -> None:
    with WithTls(program("openssl", "openssl")) as etcd:
        put(etcd, "web1", 1)
        kept = Kept(driver_of(etcd, **etcd.certificates))
        for version in (2, 3):
            put(etcd, "web1", version)
            kept.becomes(version)
        untrusted = EtcdStore(
            {**etcd.options, **etcd.certificates, "ca-file": str(etcd.ours.certificate)}
        )
        with pytest.raises(DriverError, match="its certificate is not trusted"):
            untrusted.check()
        unknown = EtcdStore({**etcd.options, "ca-file": str(etcd.theirs.certificate)})
        with pytest.raises(DriverError, match=r"TLS fails|closed the connection|reset"):
            unknown.check()


# The document, and the whole server


def test_recipe_of_the_document_works(tmp_path: Path) -> None:
    (tmp_path / "layers").mkdir()
    (tmp_path / "web2.yaml").write_text("metadata: {instance-id: i-2}\n")
    (tmp_path / "layers/20-more.yaml").write_text("metadata: {more: x}\n")
    document = (CHECKOUT / "docs/stores/etcd.md").read_text()
    begin, fill = re.findall(r"```bash\n(.*?)```", document, re.DOTALL)[:2]
    show_again = begin.partition("vmw-cloudinit-metadata")[2].replace("show web1", "show web2")
    script = f"""
        vmw-cloudinit-metadata() {{ {sys.executable} -m vmw_cloudinit_metadata "$@"; }}
        set -e
        trap 'kill %1; wait' EXIT
        {begin}
        {fill}
        vmw-cloudinit-metadata{show_again}
    """
    peer = f" --listen-peer-urls http://{LOCALHOST}:{free_port()} --listen-client-urls"
    text = script.replace(" --listen-client-urls", peer).replace("2379", str(free_port()))
    done = subprocess.run(
        ["bash", "-c", text],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(CHECKOUT)},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    printed = done.stdout.splitlines()
    assert "metadata.region: eu1  # /vms/layers/10-all:1" in printed
    assert "metadata.role: web  # /vms/web1:1" in printed
    assert "metadata.more: x  # /vms/layers/20-more:1" in printed
    assert "metadata.instance-id: i-2  # /vms/web2:1" in printed


def test_server_serves_vms_from_etcd(
    etcd: EtcdBackend, start: Callable[..., ServerProcess]
) -> None:
    put(etcd, "web1", 1)
    server = start("--driver", etcd.driver, driver_opts=etcd.options)
    vm = Vm(server.port)
    assert vm.metadata()["version"] == 1
    put(etcd, "web1", 2)
    wait_until(lambda: vm.metadata()["version"] == 2, 10)
    assert Vm(server.port, "unknown").error("METADATA") == "not-found"
